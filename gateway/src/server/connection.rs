//! One connection: its handshake, its requests, its end.

use std::borrow::Cow;
use std::convert::Infallible;
use std::future::poll_fn;
use std::io::Cursor;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::Poll;

use http_body_util::Full;
use hyper::body::{Body as _, Buf, Incoming};
use hyper::header::{ALLOW, CONNECTION, CONTENT_LENGTH, CONTENT_TYPE, HOST, HeaderValue};
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper::{HeaderMap, Method, Request, StatusCode};
use hyper_util::rt::TokioIo;
use rustls::ServerConnection;
use tokio::net::TcpStream;
use tokio::task::spawn_local;
use tokio_rustls::TlsAcceptor;

use super::shared::{ListenerRole, Shared};
use super::stream::Stream;
use super::timeouts::{AnswerGuard, CloseOrder, ConnTimer, TimedStream};
use crate::config::HttpConfig;
use crate::engine::client_address::Source;
use crate::engine::message::Response;
use crate::operator::routes::Routes;
use crate::tls::H2;

/// The most octets that hyper collects of one request head. More than line and header block may have
/// together, so that whichever is too long is answered by its own status: 414 or 431.
const HEAD_OCTETS_MAX: usize = 32 * 1024;
/// The most header lines that a map kept for a connection's next request has room for.
const HEADERS_KEPT_MAX: usize = 24;
/// Requests of one HTTP/2 connection that are answered at the same time.
const STREAMS_MAX: u32 = 32;
/// Octets of a request's body that an HTTP/2 client may send before it is answered. They are never read.
const STREAM_WINDOW: u32 = 1024;
/// Octets of the bodies of all requests of an HTTP/2 connection; it cannot be less (RFC 9113, 6.9.2).
const CONNECTION_WINDOW: u32 = 65_535;
/// Octets of an answer that HTTP/2 buffers before its client has room for them.
const SEND_BUFFER: usize = 16 * 1024;
/// Octets that TLS buffers for a client that does not take them; a record has 16 KiB.
const TLS_BUFFER: usize = 16 * 1024;
/// Octets of the header lines of one HTTP/2 request; more than are served, so that 431 can be answered.
const HEADER_LIST_OCTETS_MAX: u32 = 32 * 1024;

/// Runs the tasks of an HTTP/2 connection on this thread.
#[derive(Clone, Copy, Debug)]
struct LocalExecutor;

impl<F: Future<Output = ()> + 'static> hyper::rt::Executor<F> for LocalExecutor {
    fn execute(&self, future: F) {
        spawn_local(future);
    }
}

/// The body of an answer.
type ResponseBody = Full<BodyOctets>;

/// The octets of an answer as the engine wrote them. Dropped when the stream has taken the last one.
struct BodyOctets {
    octets: Cursor<Cow<'static, [u8]>>,
    _guard: Option<AnswerGuard>,
}

impl Buf for BodyOctets {
    fn remaining(&self) -> usize {
        self.octets.remaining()
    }

    fn chunk(&self) -> &[u8] {
        self.octets.chunk()
    }

    fn advance(&mut self, count: usize) {
        self.octets.advance(count);
    }
}

/// One open connection. Dropping it removes it from the connections of its role.
pub(super) struct Connection {
    pub(super) shared: Rc<Shared>,
    pub(super) role: ListenerRole,
    pub(super) timer: Rc<ConnTimer>,
}

impl Connection {
    pub(super) async fn serve(self, stream: Stream, source: Source, builder: http1::Builder) {
        let stream = TokioIo::new(TimedStream::new(stream, Rc::clone(&self.timer)));
        let service = service_fn(|request| self.answer(source, request));
        let connection = pin!(builder.serve_connection(stream, service));
        self.run(connection, http1::Connection::graceful_shutdown).await;
    }

    /// Serves a connection with TLS. Its first request must arrive within the time of the handshake.
    pub(super) async fn serve_tls(
        self,
        acceptor: TlsAcceptor,
        stream: TcpStream,
        source: Source,
        builder: http1::Builder,
    ) {
        let bound = |session: &mut ServerConnection| session.set_buffer_limit(Some(TLS_BUFFER));
        let mut handshake = pin!(acceptor.accept_with(stream, bound));
        let finished = poll_fn(|context| match self.timer.poll_order(context) {
            CloseOrder::Drop => Poll::Ready(None),
            CloseOrder::None | CloseOrder::Finish => handshake.as_mut().poll(context).map(Some),
        });
        let stream = match finished.await {
            Some(Ok(stream)) => stream,
            Some(Err(error)) => {
                self.shared.metrics.tls_failures.add(1);
                return log::debug!("http: a TLS handshake failed: {error}");
            }
            None => return,
        };
        let multiplexed = stream.get_ref().1.alpn_protocol() == Some(H2);
        self.timer.set_tls(multiplexed);
        let stream = Stream::Tls(Box::new(stream));
        if !multiplexed {
            return self.serve(stream, source, builder).await;
        }
        let this = Rc::new(self);
        let stream = TokioIo::new(TimedStream::new(stream, Rc::clone(&this.timer)));
        let service = service_fn(|request| {
            let this = Rc::clone(&this);
            async move { this.answer(source, request).await }
        });
        let connection = pin!(http2_builder().serve_connection(stream, service));
        this.run(connection, http2::Connection::graceful_shutdown).await;
    }

    /// Serves a connection until it ends or its time is up; `finish` makes it end after the requests in
    /// flight.
    async fn run<C: Future<Output = hyper::Result<()>>>(
        &self,
        mut connection: Pin<&mut C>,
        finish: fn(Pin<&mut C>),
    ) {
        poll_fn(|context| {
            let order = self.timer.poll_order(context);
            if order == CloseOrder::Drop {
                return Poll::Ready(());
            }
            let mut done = connection.as_mut().poll(context);
            if order == CloseOrder::Finish && done.is_pending() {
                // Only now: a request that waited in the socket has been read, and will be answered.
                finish(connection.as_mut());
                done = connection.as_mut().poll(context);
            }
            // How a connection ended is its client's business, unless it was not HTTP.
            done.map(|end| self.timer.note_end(end.is_err_and(|error| error.is_parse())))
        })
        .await;
    }

    async fn answer(
        &self,
        source: Source,
        mut request: Request<Incoming>,
    ) -> Result<hyper::Response<ResponseBody>, Infallible> {
        let open = self.timer.begin_reply();
        self.shared.metrics.handled.add(1);
        let response = match self.role {
            _ if names_two_hosts(request.headers()) => {
                self.shared.metrics.count_response(Response::text(400, "Bad Request\n"))
            }
            ListenerRole::Gateway => {
                let begun = self.shared.clock.uptime();
                let response = self.shared.answer_gateway(source, &request).await;
                // No other request comes in between: the labels noted last are those of this one.
                self.shared.metrics.record_duration(self.shared.clock.uptime().saturating_sub(begun));
                response
            }
            ListenerRole::Operator => {
                self.timer.without_timeout(self.shared.answer_operator(source, &request)).await
            }
        };
        if response.close {
            self.timer.set_linger();
        }
        if let Some(open) = &open {
            open.add_octets(response.body.len());
        }
        self.shared.close_stalled();
        let path = request.uri().path().as_bytes();
        let allowed = (response.status == 405).then(|| Routes::methods(path).allow());
        // Over HTTP/1 hyper itself leaves the body out.
        let head_only = open.is_some() && request.method() == Method::HEAD;
        let mut written = to_hyper_response(response, std::mem::take(request.headers_mut()), allowed, open);
        if head_only {
            let octets = written.body().size_hint().exact().unwrap_or_default();
            written.headers_mut().insert(CONTENT_LENGTH, HeaderValue::from(octets));
            *written.body_mut() = ResponseBody::default();
        }
        Ok(written)
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        let connections = self.shared.connections_of(self.role);
        connections.remove(&self.timer);
        if connections.len() == 0 {
            self.shared.last_one_closed.notify_one();
        }
        let metrics = &self.shared.metrics;
        metrics.closed.add(1);
        if self.timer.is_malformed() {
            metrics.malformed.add(1);
        }
    }
}

pub(super) fn http1_builder(config: &HttpConfig) -> http1::Builder {
    let mut builder = http1::Builder::new();
    builder
        .keep_alive(config.enable_keepalive)
        // A client that closes its sending side still gets its reply, and no read watches for the close.
        .half_close(true)
        .header_read_timeout(None)
        // Head and body in one buffer: a reply is small, and copying it costs less than two slices.
        .writev(false)
        .max_buf_size(HEAD_OCTETS_MAX);
    builder
}

fn http2_builder() -> http2::Builder<LocalExecutor> {
    let mut builder = http2::Builder::new(LocalExecutor);
    builder
        .max_concurrent_streams(STREAMS_MAX)
        .max_header_list_size(HEADER_LIST_OCTETS_MAX)
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_send_buf_size(SEND_BUFFER);
    builder
}

/// Whether the request has several Host lines (RFC 9112, 3.2). Few requests have any line twice, which is
/// checked first.
fn names_two_hosts(headers: &HeaderMap) -> bool {
    headers.len() > headers.keys_len() && headers.get_all(HOST).iter().count() > 1
}

/// Returns the answer for hyper. It reuses the map of the request's headers, which hyper keeps for the
/// connection's next request, so that no map is made for each.
fn to_hyper_response(
    response: Response,
    mut headers: HeaderMap,
    allowed: Option<&'static str>,
    guard: Option<AnswerGuard>,
) -> hyper::Response<ResponseBody> {
    headers.clear();
    if headers.capacity() > HEADERS_KEPT_MAX {
        headers = HeaderMap::new();
    }
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(response.content_type));
    if let Some(allowed) = allowed {
        headers.insert(ALLOW, HeaderValue::from_static(allowed));
    }
    if response.close {
        headers.insert(CONNECTION, HeaderValue::from_static("close"));
    }
    let mut written =
        hyper::Response::new(Full::new(BodyOctets { octets: Cursor::new(response.body), _guard: guard }));
    *written.status_mut() =
        StatusCode::from_u16(response.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    *written.headers_mut() = headers;
    written
}

#[cfg(test)]
mod tests {
    use hyper::header::HeaderName;

    use super::*;

    #[test]
    fn the_map_of_the_request_carries_the_answer_unless_it_is_large() {
        let name = |n: usize| HeaderName::try_from(format!("x-{n}")).unwrap();
        for (lines, kept) in [(7, true), (100, false)] {
            let headers: HeaderMap = (0..lines).map(|n| (name(n), HeaderValue::from_static("7"))).collect();
            let capacity = headers.capacity();
            let answer = to_hyper_response(Response::text(405, "no"), headers, Some("GET"), None);
            assert_eq!(answer.headers().len(), 2);
            assert_eq!(answer.headers().get(ALLOW), Some(&HeaderValue::from_static("GET")));
            assert_eq!(answer.headers().capacity() == capacity, kept, "{lines}");
        }
    }
}
