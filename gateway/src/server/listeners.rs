//! The listeners of a running server: opened, changed by a reload, closed.

use std::io;
use std::rc::Rc;

use tokio::task::{JoinHandle, spawn_local, yield_now};

use super::accept::{accept_connections, accept_waiting};
use super::shared::{ListenerRole, Shared};
use super::socket_set::{ListenerChange, Server};
use super::sockets::{SocketFile, UnixSocket};
use super::stream::Listener;

/// All listeners of the running server, in the groups that a reload changes together.
pub(super) struct Listeners {
    tcp: ListenerGroup,
    tls: ListenerGroup,
    unix: ListenerGroup,
    operator: ListenerGroup,
    file: Option<SocketFile>,
}

impl Listeners {
    pub(super) fn open(shared: &Rc<Shared>, server: Server) -> io::Result<Self> {
        let (unix, file) = server.unix.map(UnixSocket::into_parts).unzip();
        shared.has_operator_listeners.set(!server.operator.is_empty());
        Ok(Self {
            tcp: ListenerGroup::open(
                shared,
                ListenerRole::Gateway,
                server.tcp.into_iter().map(tcp_listener),
            )?,
            tls: ListenerGroup::open(
                shared,
                ListenerRole::Gateway,
                server.tls.into_iter().map(tls_listener),
            )?,
            unix: ListenerGroup::open(
                shared,
                ListenerRole::Gateway,
                unix.into_iter().map(self::unix_listener),
            )?,
            operator: ListenerGroup::open(
                shared,
                ListenerRole::Operator,
                server.operator.into_iter().map(tcp_listener),
            )?,
            file,
        })
    }

    /// Listens on the new sockets, and then closes those they replace. Open connections stay.
    pub(super) async fn apply_change(
        &mut self,
        shared: &Rc<Shared>,
        change: ListenerChange,
    ) -> io::Result<()> {
        let mut old = Vec::new();
        if let Some(listeners) = change.tcp {
            let new =
                ListenerGroup::open(shared, ListenerRole::Gateway, listeners.into_iter().map(tcp_listener))?;
            old.push(std::mem::replace(&mut self.tcp, new));
        }
        if let Some(listeners) = change.tls {
            let new =
                ListenerGroup::open(shared, ListenerRole::Gateway, listeners.into_iter().map(tls_listener))?;
            old.push(std::mem::replace(&mut self.tls, new));
        }
        if let Some(socket) = change.unix {
            let (listener, file) = socket.map(UnixSocket::into_parts).unzip();
            let new =
                ListenerGroup::open(shared, ListenerRole::Gateway, listener.into_iter().map(unix_listener))?;
            old.push(std::mem::replace(&mut self.unix, new));
            self.file = file;
        }
        if let Some(listeners) = change.operator {
            shared.has_operator_listeners.set(!listeners.is_empty());
            let new =
                ListenerGroup::open(shared, ListenerRole::Operator, listeners.into_iter().map(tcp_listener))?;
            old.push(std::mem::replace(&mut self.operator, new));
        }
        for entry in old {
            entry.close(shared).await;
        }
        Ok(())
    }

    /// Leaves the file of the unix socket where it is, for a successor.
    pub(super) fn keep_file(&mut self) {
        self.file.take().into_iter().for_each(SocketFile::keep);
    }

    /// Closes the gateway's listeners. Returns those of the operator's pages.
    pub(super) async fn close_gateway(self, shared: &Rc<Shared>) -> ListenerGroup {
        for entry in [self.tcp, self.tls, self.unix] {
            entry.close(shared).await;
        }
        self.operator
    }
}

fn tcp_listener(listener: std::net::TcpListener) -> io::Result<Listener> {
    tokio::net::TcpListener::from_std(listener).map(Listener::Tcp)
}

fn tls_listener(listener: std::net::TcpListener) -> io::Result<Listener> {
    tokio::net::TcpListener::from_std(listener).map(Listener::Tls)
}

fn unix_listener(listener: std::os::unix::net::UnixListener) -> io::Result<Listener> {
    tokio::net::UnixListener::from_std(listener).map(Listener::Unix)
}

/// Listeners of one role, and the tasks that accept from them.
pub(super) struct ListenerGroup {
    role: ListenerRole,
    listeners: Vec<(Rc<Listener>, JoinHandle<()>)>,
}

impl ListenerGroup {
    fn open(
        shared: &Rc<Shared>,
        role: ListenerRole,
        listeners: impl Iterator<Item = io::Result<Listener>>,
    ) -> io::Result<Self> {
        let accepted = |listener: io::Result<Listener>| {
            let listener = Rc::new(listener?);
            let task = spawn_local(accept_connections(Rc::clone(shared), role, Rc::clone(&listener)));
            Ok((listener, task))
        };
        Ok(Self { role, listeners: listeners.map(accepted).collect::<io::Result<_>>()? })
    }

    /// Closes the listeners. A client in a backlog is connected already, so it is accepted first.
    pub(super) async fn close(self, shared: &Rc<Shared>) {
        // The runtime polls once more for clients that have come.
        yield_now().await;
        for (listener, task) in self.listeners {
            task.abort();
            // The task holds the listener until it is gone.
            let _ = task.await;
            accept_waiting(shared, self.role, &listener).await;
        }
        // And for what they have sent already.
        yield_now().await;
    }
}
