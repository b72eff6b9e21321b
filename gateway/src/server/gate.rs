//! What runs on the door's thread: accept loops, connections, the beat. Everything here belongs to that one
//! thread.

use std::borrow::Cow;
use std::cell::{Cell, RefCell};
use std::convert::Infallible;
use std::future::poll_fn;
use std::io::{self, Cursor};
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll};
use std::time::Duration;

use hayate_state::Clock;
use hayate_state::actor::Inbox;
use http_body_util::Full;
use hyper::body::{Body as _, Incoming};
use hyper::header::{ALLOW, CONNECTION, CONTENT_TYPE, HeaderValue, TRANSFER_ENCODING};
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper::{HeaderMap, Request, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::sync::Notify;
use tokio::task::{spawn_local, unconstrained};
use tokio_rustls::TlsAcceptor;

use super::open::BACKLOG;
use super::post::{Asker, Post};
use super::stream::{Listener, Stream};
use super::watch::{Crowd, Order, Times, Watch, Watched};
use crate::address::{Headers, Source};
use crate::config::DoorConfig;
use crate::engine::{Engine, Head, Page, Response, Step, check, origin_form};
use crate::pages::Pages;
use crate::stats::Stats;
use crate::tls::H2;

/// Octets hyper collects of one request head, at most. More than line and header block may have together, so
/// that what is too long can be told by its own status: 414 or 431.
const HEAD_OCTETS_MAX: usize = 32 * 1024;
/// So many questions wake the state actor before a turn ends, so that it does not stand still in a long one.
const UNHEARD_MAX: usize = 64;
/// Header lines that a map kept for a connection's next request has room for, at most.
const HEADERS_KEPT_MAX: usize = 24;
/// Between two readings of how many requests there are.
const MINUTE: Duration = Duration::from_secs(60);
/// Connections to the operator's pages at most.
const OPERATOR_CONNECTIONS_MAX: usize = 64;
/// Pause after an accept that failed for want of something, such as file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// Time that connections without a request get to send one when the door stops.
const NEWCOMERS_GRACE: Duration = Duration::from_millis(500);
/// Time between two log lines about failing accepts.
const COMPLAINT_PAUSE: Duration = Duration::from_secs(60);

/// Requests of one HTTP/2 connection that are answered at once.
const STREAMS_MAX: u32 = 100;
/// Octets of the header lines of one HTTP/2 request; more than are served, so that 431 can be told.
const HEADER_LIST_OCTETS_MAX: u32 = 32 * 1024;

/// Runs what an HTTP/2 connection wants run, on this thread.
#[derive(Clone, Copy, Debug)]
struct LocalExecutor;

impl<F: Future<Output = ()> + 'static> hyper::rt::Executor<F> for LocalExecutor {
    fn execute(&self, future: F) {
        spawn_local(future);
    }
}

/// The body of an answer: the octets as the engine wrote them.
type Body = Full<Cursor<Cow<'static, [u8]>>>;

/// What a listener is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Role {
    /// Announces and scrapes.
    Gateway,
    /// The operator's pages.
    Operator,
}

/// All that the connections share.
pub(super) struct Gate {
    pub(super) engine: RefCell<Engine>,
    pub(super) stats: Arc<Stats>,
    pub(super) inbox: Inbox<Asker>,
    /// Questions that the state actor has not been woken for.
    pub(super) unheard: Cell<usize>,
    pub(super) turn_ends: Notify,
    pub(super) post: Rc<Post>,
    pub(super) pages: Pages,
    pub(super) clock: Clock,
    /// Whether the operator's pages have addresses of their own.
    pub(super) pages_apart: Cell<bool>,
    pub(super) crowds: [Crowd; 2],
    pub(super) emptied: Notify,
    pub(super) complained: Cell<Option<Duration>>,
}

impl Gate {
    /// Accepts until the task is aborted. Nothing ends it.
    pub(super) async fn accept(self: Rc<Self>, role: Role, listener: Rc<Listener>) {
        loop {
            match poll_fn(|context| listener.poll_accept(context)).await {
                Ok((stream, source)) => self.admit(role, &listener, stream, source),
                Err(error) => self.accept_failed(&error).await,
            }
        }
    }

    /// Takes all who wait to be accepted: a listener that closes would reset them, and what they asked.
    pub(super) async fn accept_waiting(self: &Rc<Self>, role: Role, listener: &Listener) {
        let take = |context: &mut Context<'_>| {
            for _ in 0..BACKLOG {
                match listener.poll_accept(context) {
                    Poll::Ready(Ok((stream, source))) => self.admit(role, listener, stream, source),
                    Poll::Ready(Err(_)) | Poll::Pending => break,
                }
            }
            Poll::Ready(())
        };
        unconstrained(poll_fn(take)).await;
    }

    /// Watches over the connections' time until the task is aborted.
    pub(super) async fn watch(self: Rc<Self>) {
        let mut minute = (self.clock.uptime(), 0);
        loop {
            self.beat();
            let now = self.clock.uptime();
            if now.saturating_sub(minute.0) >= MINUTE {
                let handled = self.stats.handled.value();
                self.stats.per_minute.store(handled - minute.1, Ordering::Relaxed);
                log::debug!("{} HTTP requests in the last minute", handled - minute.1);
                minute = (now, handled);
            }
            self.engine.borrow_mut().refresh();
            let period = Times::of(self.engine.borrow().config()).beat();
            tokio::time::sleep(period).await;
        }
    }

    /// Sets the coarse clock, and closes connections whose time is up.
    pub(super) fn beat(&self) {
        let now = self.clock.uptime();
        for crowd in &self.crowds {
            crowd.beat(now, |phase| self.stats.timeout(phase));
        }
    }

    /// Wakes the state actor after the questions of each turn, until the task is aborted. The runtime polls
    /// this task after those that were ready before it.
    pub(super) async fn call(self: Rc<Self>) {
        loop {
            self.turn_ends.notified().await;
            self.wake_actor();
        }
    }

    /// Tells all connections of a role to finish and waits until they have, or `longest` is over.
    pub(super) async fn finish(&self, role: Role, longest: Duration) {
        let crowd = self.crowd(role);
        let mut all = pin!(async {
            while crowd.len() > 0 {
                self.emptied.notified().await;
            }
        });
        // Who has just been accepted has not sent his request yet: closed now, he would have been refused.
        crowd.finish_known();
        if tokio::time::timeout(NEWCOMERS_GRACE, &mut all).await.is_ok() {
            return;
        }
        crowd.finish();
        if tokio::time::timeout(longest, all).await.is_err() {
            log::warn!("http: closing connections that did not finish in time");
        }
    }

    fn admit(self: &Rc<Self>, role: Role, listener: &Listener, stream: Stream, source: Source) {
        // A new certificate counts for whoever comes after the reload.
        self.engine.borrow_mut().refresh();
        let engine = self.engine.borrow();
        let config = engine.config();
        let crowd = self.crowd(role);
        let most = match role {
            Role::Gateway => config.max_connections,
            Role::Operator => OPERATOR_CONNECTIONS_MAX,
        };
        if crowd.len() >= most {
            self.stats.refused.add(1);
            return;
        }
        self.stats.opened.add(1);
        let seat = Seat { gate: Rc::clone(self), role, watch: crowd.enter(Times::of(config)) };
        let builder = builder(config);
        match (listener, stream) {
            (Listener::Tls(_), Stream::Tcp(stream)) => {
                let Some(tls) = &config.tls else { return };
                spawn_local(seat.serve_tls(tls.acceptor(), stream, source, builder));
            }
            (_, stream) => _ = spawn_local(seat.serve(stream, source, builder)),
        }
    }

    async fn accept_failed(&self, error: &io::Error) {
        self.stats.accept_errors.add(1);
        let now = self.clock.uptime();
        if self.complained.get().is_none_or(|last| now.saturating_sub(last) > COMPLAINT_PAUSE) {
            self.complained.set(Some(now));
            let count = self.stats.accept_errors.value();
            log::warn!("http: cannot accept a connection: {error} ({count} since the start)");
        }
        use io::ErrorKind::{ConnectionAborted, ConnectionReset, Interrupted};
        if !matches!(error.kind(), ConnectionAborted | ConnectionReset | Interrupted) {
            tokio::time::sleep(ACCEPT_PAUSE).await;
        }
    }

    async fn answer(&self, source: Source, request: &Request<Incoming>) -> Response {
        let step = with_head(request, source, |head| self.engine.borrow_mut().read(self.clock.now(), head));
        let (question, context) = match step {
            Step::Ask(question, context) => (question, context),
            Step::Answer(response) => return response,
            // Then the gateway has `/alive` only (`spec` ruling 21).
            Step::Page(Page::Health | Page::Metrics) if self.pages_apart.get() => {
                return self.stats.counted(self.engine.borrow().nothing());
            }
            Step::Page(page) => return self.show(page),
        };
        // A full inbox drops the asker, and then there is no reply.
        let ask = |asker| {
            self.inbox.put(question, asker).unwrap_or(());
            self.asked();
        };
        let reply = self.post.ask(ask).await;
        let engine = self.engine.borrow();
        match reply {
            Some(reply) => engine.write(reply, context),
            None => engine.overloaded(context),
        }
    }

    /// A question lies in the inbox. Connections that are ready now are read first, since one wake-up serves
    /// all their questions, but not too many of them.
    fn asked(&self) {
        self.unheard.set(self.unheard.get() + 1);
        if self.unheard.get() < UNHEARD_MAX {
            self.turn_ends.notify_one();
        } else {
            self.wake_actor();
        }
    }

    fn wake_actor(&self) {
        if self.unheard.replace(0) > 0 {
            self.inbox.wake();
        }
    }

    async fn answer_operator(&self, source: Source, request: &Request<Incoming>) -> Response {
        let (path, query) = {
            let asked = with_head(request, source, |head| {
                check(head)?;
                let mut parts = origin_form(head.target).splitn(2, |&octet| octet == b'?');
                let mut part = || parts.next().unwrap_or_default().to_vec();
                Ok((part(), part()))
            });
            match asked {
                Ok(asked) => asked,
                Err(response) => return self.stats.counted(response),
            }
        };
        if let Some(page) = Page::at(&path) {
            return self.show(page);
        }
        let Some(admin) = self.pages.admin.clone() else {
            return self.stats.counted(Response::not_found());
        };
        let from = match source {
            Source::Address(address) => address.to_string(),
            Source::Unix => "a unix socket".to_owned(),
        };
        // It waits for the database, which this thread must not.
        let answer = tokio::task::spawn_blocking(move || admin.answer(&path, &query, &from)).await;
        self.stats.counted(match answer {
            Ok(Some((status, text))) => Response::said(status, text),
            Ok(None) => Response::not_found(),
            Err(_) => Response::text(500, "internal server error\n"),
        })
    }

    fn show(&self, page: Page) -> Response {
        let engine = self.engine.borrow();
        let config = engine.config();
        if page == Page::Metrics && !config.enable_metrics {
            return self.stats.counted(engine.nothing());
        }
        let prefix = config.enable_metrics.then_some(config.metrics_prefix.as_str());
        self.stats.counted(self.pages.show(page, prefix))
    }

    fn crowd(&self, role: Role) -> &Crowd {
        let [gateway, operator] = &self.crowds;
        match role {
            Role::Gateway => gateway,
            Role::Operator => operator,
        }
    }
}

/// One connection's place among all; whoever drops it leaves.
struct Seat {
    gate: Rc<Gate>,
    role: Role,
    watch: Rc<Watch>,
}

impl Seat {
    async fn serve(self, stream: Stream, source: Source, builder: http1::Builder) {
        let stream = TokioIo::new(Watched::new(stream, Rc::clone(&self.watch)));
        let service = service_fn(|request| self.reply(source, request));
        let connection = pin!(builder.serve_connection(stream, service));
        self.drive(connection, http1::Connection::graceful_shutdown).await;
    }

    /// The same after a handshake, in whose time the first request must come too.
    async fn serve_tls(
        self,
        acceptor: TlsAcceptor,
        stream: TcpStream,
        source: Source,
        builder: http1::Builder,
    ) {
        let mut handshake = pin!(acceptor.accept(stream));
        let shaken = poll_fn(|context| match self.watch.order(context) {
            Order::Drop => Poll::Ready(None),
            Order::None | Order::Finish => handshake.as_mut().poll(context).map(Some),
        });
        let stream = match shaken.await {
            Some(Ok(stream)) => stream,
            Some(Err(error)) => {
                self.gate.stats.tls_failures.add(1);
                return log::debug!("http: a TLS handshake failed: {error}");
            }
            None => return,
        };
        let multiplexed = stream.get_ref().1.alpn_protocol() == Some(H2);
        self.watch.secured(multiplexed);
        let stream = Stream::Tls(Box::new(stream));
        if !multiplexed {
            return self.serve(stream, source, builder).await;
        }
        let seat = Rc::new(self);
        let stream = TokioIo::new(Watched::new(stream, Rc::clone(&seat.watch)));
        let service = service_fn(|request| {
            let seat = Rc::clone(&seat);
            async move { seat.reply(source, request).await }
        });
        let mut builder = http2::Builder::new(LocalExecutor);
        builder.max_concurrent_streams(STREAMS_MAX).max_header_list_size(HEADER_LIST_OCTETS_MAX);
        let connection = pin!(builder.serve_connection(stream, service));
        seat.drive(connection, http2::Connection::graceful_shutdown).await;
    }

    /// Serves a connection until it ends, or its time does; `finish` has it end with what is in flight.
    async fn drive<C: Future<Output = hyper::Result<()>>>(
        &self,
        mut connection: Pin<&mut C>,
        finish: fn(Pin<&mut C>),
    ) {
        poll_fn(|context| {
            let order = self.watch.order(context);
            if order == Order::Drop {
                return Poll::Ready(());
            }
            let mut done = connection.as_mut().poll(context);
            if order == Order::Finish && done.is_pending() {
                // Only now: a request that lay in the socket has been read, and will be answered.
                finish(connection.as_mut());
                done = connection.as_mut().poll(context);
            }
            // How a connection ended is its client's business, unless it was no HTTP.
            done.map(|end| self.watch.ended(end.is_err_and(|error| error.is_parse())))
        })
        .await;
    }

    async fn reply(
        &self,
        source: Source,
        mut request: Request<Incoming>,
    ) -> Result<hyper::Response<Body>, Infallible> {
        self.watch.replying();
        self.gate.stats.handled.add(1);
        let response = match self.role {
            Role::Gateway => self.gate.answer(source, &request).await,
            Role::Operator => self.watch.patiently(self.gate.answer_operator(source, &request)).await,
        };
        if response.close {
            self.watch.will_linger();
        }
        self.watch.replied();
        Ok(written(response, std::mem::take(request.headers_mut())))
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let crowd = self.gate.crowd(self.role);
        crowd.leave(&self.watch);
        if crowd.len() == 0 {
            self.gate.emptied.notify_one();
        }
        let stats = &self.gate.stats;
        stats.closed.add(1);
        if self.watch.malformed() {
            stats.malformed.add(1);
        }
    }
}

impl Headers for HeaderMap {
    fn lines<'h>(&'h self, name: &'h str) -> impl DoubleEndedIterator<Item = &'h [u8]> {
        self.get_all(name).iter().map(HeaderValue::as_bytes)
    }
}

fn builder(config: &DoorConfig) -> http1::Builder {
    let mut builder = http1::Builder::new();
    builder
        .keep_alive(config.enable_keepalive)
        // A client that closes its sending side still gets its reply, and no read looks for that.
        .half_close(true)
        .header_read_timeout(None)
        // Head and body in one buffer: a reply is small, and copying it costs less than two slices.
        .writev(false)
        .max_buf_size(HEAD_OCTETS_MAX);
    builder
}

fn with_head<T>(
    request: &Request<Incoming>,
    source: Source,
    look: impl FnOnce(&Head<'_, HeaderMap>) -> T,
) -> T {
    let uri = request.uri();
    let whole = uri.authority().map(|_| uri.to_string());
    let target = match &whole {
        Some(whole) => whole.as_str(),
        None => uri.path_and_query().map_or("", |target| target.as_str()),
    };
    let headers = request.headers();
    look(&Head {
        method: request.method().as_str().as_bytes(),
        target: target.as_bytes(),
        source,
        headers,
        header_octets: headers.iter().map(|(name, value)| name.as_str().len() + value.len() + 4).sum(),
        has_body: !request.body().is_end_stream() || headers.contains_key(TRANSFER_ENCODING),
    })
}

/// The answer for hyper. It is given the map of the request's headers, which hyper keeps for the connection's
/// next request: so no map is made for each.
fn written(response: Response, mut headers: HeaderMap) -> hyper::Response<Body> {
    headers.clear();
    if headers.capacity() > HEADERS_KEPT_MAX {
        headers = HeaderMap::new();
    }
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(response.content_type));
    if response.status == 405 {
        headers.insert(ALLOW, HeaderValue::from_static("GET"));
    }
    if response.close {
        headers.insert(CONNECTION, HeaderValue::from_static("close"));
    }
    let mut written = hyper::Response::new(Full::new(Cursor::new(response.body)));
    *written.status_mut() =
        StatusCode::from_u16(response.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    *written.headers_mut() = headers;
    written
}

#[cfg(test)]
mod tests {
    use super::*;
    use hyper::header::HeaderName;

    #[test]
    fn the_map_of_the_request_carries_the_answer_unless_it_is_large() {
        let name = |n: usize| HeaderName::try_from(format!("x-{n}")).unwrap();
        for (lines, kept) in [(7, true), (100, false)] {
            let headers: HeaderMap = (0..lines).map(|n| (name(n), HeaderValue::from_static("7"))).collect();
            let capacity = headers.capacity();
            let answer = written(Response::text(405, "no"), headers);
            assert_eq!(answer.headers().len(), 2);
            assert_eq!(answer.headers().get(ALLOW), Some(&HeaderValue::from_static("GET")));
            assert_eq!(answer.headers().capacity() == capacity, kept, "{lines}");
        }
    }
}
