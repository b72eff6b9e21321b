//! Accepting connections, and refusing them where there is no room.

use std::future::poll_fn;
use std::io;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::task::{spawn_local, unconstrained};

use super::connection::{Connection, http1_builder};
use super::shared::{ListenerRole, Shared};
use super::sockets::BACKLOG;
use super::stream::{Listener, Stream};
use super::timeouts::ConnTimeouts;
use crate::engine::client_address::Source;

/// The largest number of connections to the operator's pages.
const OPERATOR_CONNECTIONS_MAX: usize = 64;
/// Pause after an accept that failed for lack of a resource, such as file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// Time between two log lines about failing accepts.
const WARNING_INTERVAL: Duration = Duration::from_secs(60);

/// Accepts until the task is aborted. Nothing ends it.
pub(super) async fn accept_connections(shared: Rc<Shared>, role: ListenerRole, listener: Rc<Listener>) {
    loop {
        match poll_fn(|context| listener.poll_accept(context)).await {
            Ok((stream, source)) => admit_connection(&shared, role, &listener, stream, source),
            Err(error) => accept_failed(&shared, &error).await,
        }
    }
}

/// Accepts every connection that waits: a listener that closes would reset it, with the request it carries.
pub(super) async fn accept_waiting(shared: &Rc<Shared>, role: ListenerRole, listener: &Listener) {
    let take = |context: &mut Context<'_>| {
        for _ in 0..BACKLOG {
            match listener.poll_accept(context) {
                Poll::Ready(Ok((stream, source))) => admit_connection(shared, role, listener, stream, source),
                Poll::Ready(Err(_)) | Poll::Pending => break,
            }
        }
        Poll::Ready(())
    };
    unconstrained(poll_fn(take)).await;
}

fn admit_connection(
    shared: &Rc<Shared>,
    role: ListenerRole,
    listener: &Listener,
    stream: Stream,
    source: Source,
) {
    // A new certificate applies to connections that come after the reload.
    shared.engine.borrow_mut().refresh();
    let engine = shared.engine.borrow();
    let config = engine.config();
    let connections = shared.connections_of(role);
    let most = match role {
        ListenerRole::Gateway => config.max_connections,
        ListenerRole::Operator => OPERATOR_CONNECTIONS_MAX,
    };
    if connections.len() >= most {
        if !connections.make_room() {
            shared.metrics.refused.add(1);
            return;
        }
        shared.metrics.displaced.add(1);
    }
    shared.metrics.opened.add(1);
    let connection = Connection {
        shared: Rc::clone(shared),
        role,
        timer: connections.add(ConnTimeouts::from_config(config)),
    };
    let builder = http1_builder(config);
    match (listener, stream) {
        (Listener::Tls(_), Stream::Tcp(stream)) => {
            let Some(tls) = &config.tls else { return };
            spawn_local(connection.serve_tls(tls.acceptor(), stream, source, builder));
        }
        (_, stream) => _ = spawn_local(connection.serve(stream, source, builder)),
    }
}

async fn accept_failed(shared: &Shared, error: &io::Error) {
    shared.metrics.accept_errors.add(1);
    let now = shared.clock.uptime();
    if shared.last_accept_warning.get().is_none_or(|last| now.saturating_sub(last) > WARNING_INTERVAL) {
        shared.last_accept_warning.set(Some(now));
        let count = shared.metrics.accept_errors.value();
        log::warn!("http: cannot accept a connection: {error} ({count} since the start)");
    }
    use io::ErrorKind::{ConnectionAborted, ConnectionReset, Interrupted};
    if !matches!(error.kind(), ConnectionAborted | ConnectionReset | Interrupted) {
        tokio::time::sleep(ACCEPT_PAUSE).await;
    }
}
