//! The listeners of a door that serves: opened, changed by a reload, closed.

use std::io;
use std::rc::Rc;

use tokio::task::{JoinHandle, spawn_local, yield_now};

use super::shared::{Gate, Role};
use super::sockets::{UnixDoor, UnixFile};
use super::stream::Listener;
use super::{Change, Door};

/// All listeners, by what a reload changes together.
pub(super) struct Entries {
    tcp: Entry,
    tls: Entry,
    unix: Entry,
    operator: Entry,
    file: Option<UnixFile>,
}

impl Entries {
    pub(super) fn open(gate: &Rc<Gate>, door: Door) -> io::Result<Self> {
        let (unix, file) = door.unix.map(UnixDoor::into_parts).unzip();
        gate.pages_apart.set(!door.metrics.is_empty());
        Ok(Self {
            tcp: Entry::open(gate, Role::Gateway, door.tcp.into_iter().map(tcp))?,
            tls: Entry::open(gate, Role::Gateway, door.tls.into_iter().map(tls))?,
            unix: Entry::open(gate, Role::Gateway, unix.into_iter().map(self::unix))?,
            operator: Entry::open(gate, Role::Operator, door.metrics.into_iter().map(tcp))?,
            file,
        })
    }

    /// Listens to what is new, and then no more to what it replaces. Connections stay.
    pub(super) async fn change(&mut self, gate: &Rc<Gate>, change: Change) -> io::Result<()> {
        let mut old = Vec::new();
        if let Some(listeners) = change.tcp {
            let new = Entry::open(gate, Role::Gateway, listeners.into_iter().map(tcp))?;
            old.push(std::mem::replace(&mut self.tcp, new));
        }
        if let Some(listeners) = change.tls {
            let new = Entry::open(gate, Role::Gateway, listeners.into_iter().map(tls))?;
            old.push(std::mem::replace(&mut self.tls, new));
        }
        if let Some(door) = change.unix {
            let (listener, file) = door.map(UnixDoor::into_parts).unzip();
            let new = Entry::open(gate, Role::Gateway, listener.into_iter().map(unix))?;
            old.push(std::mem::replace(&mut self.unix, new));
            self.file = file;
        }
        if let Some(listeners) = change.metrics {
            gate.pages_apart.set(!listeners.is_empty());
            let new = Entry::open(gate, Role::Operator, listeners.into_iter().map(tcp))?;
            old.push(std::mem::replace(&mut self.operator, new));
        }
        for entry in old {
            entry.close(gate).await;
        }
        Ok(())
    }

    /// The file of the unix socket stays, for a successor.
    pub(super) fn keep_file(&mut self) {
        self.file.take().into_iter().for_each(UnixFile::keep);
    }

    /// Closes the gateway's listeners. Gives those of the operator's pages.
    pub(super) async fn close_gateway(self, gate: &Rc<Gate>) -> Entry {
        for entry in [self.tcp, self.tls, self.unix] {
            entry.close(gate).await;
        }
        self.operator
    }
}

fn tcp(listener: std::net::TcpListener) -> io::Result<Listener> {
    tokio::net::TcpListener::from_std(listener).map(Listener::Tcp)
}

fn tls(listener: std::net::TcpListener) -> io::Result<Listener> {
    tokio::net::TcpListener::from_std(listener).map(Listener::Tls)
}

fn unix(listener: std::os::unix::net::UnixListener) -> io::Result<Listener> {
    tokio::net::UnixListener::from_std(listener).map(Listener::Unix)
}

/// Some listeners of a role, and the tasks that accept from them.
pub(super) struct Entry {
    role: Role,
    listeners: Vec<(Rc<Listener>, JoinHandle<()>)>,
}

impl Entry {
    fn open(
        gate: &Rc<Gate>,
        role: Role,
        listeners: impl Iterator<Item = io::Result<Listener>>,
    ) -> io::Result<Self> {
        let accepted = |listener: io::Result<Listener>| {
            let listener = Rc::new(listener?);
            let task = spawn_local(Rc::clone(gate).accept(role, Rc::clone(&listener)));
            Ok((listener, task))
        };
        Ok(Self { role, listeners: listeners.map(accepted).collect::<io::Result<_>>()? })
    }

    /// Closes the listeners. Who waits in a backlog has been told that he is connected, so he is taken first.
    pub(super) async fn close(self, gate: &Rc<Gate>) {
        // The runtime looks once more at who has come.
        yield_now().await;
        for (listener, task) in self.listeners {
            task.abort();
            // Only when the task is gone its hold on the listener is.
            let _ = task.await;
            gate.accept_waiting(self.role, &listener).await;
        }
        // And at what those have sent already.
        yield_now().await;
    }
}
