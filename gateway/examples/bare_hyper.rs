//! The limit of HTTP on a machine: hyper on one thread of tokio, with the gateway's settings, answers every
//! request with the same announce reply and does no work. The gateway is measured against it, in one run.
//!
//! ```text
//! cargo run --release -p hayate-gateway --example bare_hyper -- PORT
//! ```
//!
//! It listens on 127.0.0.1 until it is killed.

use std::convert::Infallible;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};

use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::header::{CONTENT_TYPE, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::TcpListener;
use tokio::runtime::{Builder, LocalOptions};
use tokio::task::spawn_local;

/// The most connections that wait to be accepted, the same as of the gateway.
const BACKLOG: i32 = 4096;
/// The answer to every client: the reply to a seeder that is alone, 102 octets.
const REPLY: &[u8] = b"d8:completei1e10:downloadedi0e11:external ip4:\x7f\x00\x00\x0110:incompletei0e\
    8:intervali1800e12:min intervali900e5:peers0:e";

fn main() -> io::Result<()> {
    let port = std::env::args().nth(1).and_then(|port| port.parse().ok());
    let port = port.ok_or_else(|| io::Error::other("usage: bare_hyper PORT"))?;
    let listener = listen(port)?;
    let runtime = Builder::new_current_thread().enable_all().build_local(LocalOptions::default())?;
    runtime.block_on(async {
        let listener = TcpListener::from_std(listener)?;
        loop {
            let (stream, _) = listener.accept().await?;
            spawn_local(builder().serve_connection(TokioIo::new(stream), service_fn(reply)));
        }
    })
}

fn listen(port: u16) -> io::Result<std::net::TcpListener> {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    socket.set_tcp_nodelay(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&SocketAddr::from((Ipv4Addr::LOCALHOST, port)).into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

fn builder() -> http1::Builder {
    let mut builder = http1::Builder::new();
    builder.half_close(true).header_read_timeout(None).writev(false);
    builder
}

async fn reply(_request: Request<Incoming>) -> Result<Response<Full<Bytes>>, Infallible> {
    let mut response = Response::new(Full::new(Bytes::from_static(REPLY)));
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/plain"));
    Ok(response)
}
