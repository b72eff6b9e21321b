//! The sockets of a server: opened or adopted at the start, duplicated for a successor, exchanged by a
//! reload.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::unix::net::UnixListener;

use super::sockets::{self, OpenError, UnixSocket};
use crate::config::ListenConfig;

/// The open sockets of the gateway, before anything is accepted. [`start`](Self::start) consumes them.
#[derive(Debug)]
pub struct Server {
    pub(super) tcp: Vec<TcpListener>,
    pub(super) tls: Vec<TcpListener>,
    pub(super) unix: Option<UnixSocket>,
    pub(super) operator: Vec<TcpListener>,
}

impl Server {
    /// Opens every socket, or none.
    ///
    /// # Errors
    /// Fails when an address cannot be listened on; the error names it.
    pub fn open(config: &ListenConfig) -> Result<Self, OpenError> {
        Ok(Self {
            tcp: sockets::open_tcp(&config.addresses)?,
            tls: sockets::open_tcp(&config.https_addresses)?,
            unix: sockets::open_unix(config)?,
            operator: sockets::open_tcp(&config.metrics_addresses)?,
        })
    }

    /// Opens the unix socket as well. [`open`](Self::open) does so too, where the configuration names one; a
    /// process that changes its user opens it afterwards, with the rights of the user that owns its folder.
    ///
    /// # Errors
    /// Fails when the socket cannot be made, or another process answers there.
    pub fn open_unix(&mut self, config: &ListenConfig) -> Result<(), OpenError> {
        self.unix = sockets::open_unix(config)?;
        Ok(())
    }

    /// Adopts listeners that a predecessor has opened by the same configuration.
    ///
    /// # Errors
    /// Fails when the listeners are not those of `config`.
    pub fn adopt(config: &ListenConfig, inherited: InheritedSockets) -> Result<Self, OpenError> {
        Ok(Self {
            tcp: sockets::adopt_tcp(&config.addresses, inherited.tcp)?,
            tls: sockets::adopt_tcp(&config.https_addresses, inherited.tls)?,
            unix: sockets::adopt_unix(config.unix_socket.as_deref(), inherited.unix)?,
            operator: sockets::adopt_tcp(&config.metrics_addresses, inherited.operator)?,
        })
    }

    /// Duplicates the listeners, for a successor that takes them over while these are in use.
    ///
    /// # Errors
    /// Fails when the process may open no more files.
    pub fn clone_sockets(&self) -> io::Result<InheritedSockets> {
        Ok(InheritedSockets {
            tcp: clone_listeners(&self.tcp)?,
            tls: clone_listeners(&self.tls)?,
            unix: self.unix.as_ref().map(UnixSocket::try_clone_listener).transpose()?,
            operator: clone_listeners(&self.operator)?,
        })
    }

    /// Whether there is no listener.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.tcp.is_empty() && self.tls.is_empty() && self.unix.is_none() && self.operator.is_empty()
    }

    /// The addresses of the gateway, with the ports the system chose.
    #[must_use]
    pub fn addresses(&self) -> Vec<SocketAddr> {
        self.tcp.iter().filter_map(|listener| listener.local_addr().ok()).collect()
    }

    /// The addresses of the gateway with TLS, with the ports the system chose.
    #[must_use]
    pub fn https_addresses(&self) -> Vec<SocketAddr> {
        self.tls.iter().filter_map(|listener| listener.local_addr().ok()).collect()
    }

    /// The addresses of the operator's pages, with the ports the system chose.
    #[must_use]
    pub fn metrics_addresses(&self) -> Vec<SocketAddr> {
        self.operator.iter().filter_map(|listener| listener.local_addr().ok()).collect()
    }
}

/// Listeners on their way from a tracker to its successor.
#[derive(Debug, Default)]
pub struct InheritedSockets {
    /// The gateway's TCP listeners.
    pub tcp: Vec<TcpListener>,
    /// The gateway's TCP listeners for connections with TLS.
    pub tls: Vec<TcpListener>,
    /// The gateway's listener on a unix socket.
    pub unix: Option<UnixListener>,
    /// The TCP listeners of the operator's pages.
    pub operator: Vec<TcpListener>,
}

/// Listeners that take the place of others while a server runs; `None` where nothing changes.
#[derive(Debug, Default)]
pub struct ListenerChange {
    pub(super) tcp: Option<Vec<TcpListener>>,
    pub(super) tls: Option<Vec<TcpListener>>,
    pub(super) unix: Option<Option<UnixSocket>>,
    pub(super) operator: Option<Vec<TcpListener>>,
}

impl ListenerChange {
    /// Opens what `new` has and `old` has not; the same addresses keep their sockets.
    ///
    /// # Errors
    /// Fails when an address cannot be listened on; the error names it.
    pub fn open(old: &ListenConfig, new: &ListenConfig) -> Result<Self, OpenError> {
        let tcp = |old: &Vec<SocketAddr>, new: &Vec<SocketAddr>| {
            (old != new).then(|| sockets::open_tcp(new)).transpose()
        };
        Ok(Self {
            tcp: tcp(&old.addresses, &new.addresses)?,
            tls: tcp(&old.https_addresses, &new.https_addresses)?,
            unix: (old.unix_socket != new.unix_socket).then(|| sockets::open_unix(new)).transpose()?,
            operator: tcp(&old.metrics_addresses, &new.metrics_addresses)?,
        })
    }

    /// Puts copies of the new listeners in the place of the old ones among those for a successor.
    ///
    /// # Errors
    /// Fails when the process may open no more files.
    pub fn clone_sockets_into(&self, inherited: &mut InheritedSockets) -> io::Result<()> {
        for (new, old) in [
            (&self.tcp, &mut inherited.tcp),
            (&self.tls, &mut inherited.tls),
            (&self.operator, &mut inherited.operator),
        ] {
            if let Some(new) = new {
                *old = clone_listeners(new)?;
            }
        }
        if let Some(new) = &self.unix {
            inherited.unix = new.as_ref().map(UnixSocket::try_clone_listener).transpose()?;
        }
        Ok(())
    }
}

fn clone_listeners(listeners: &[TcpListener]) -> io::Result<Vec<TcpListener>> {
    listeners.iter().map(TcpListener::try_clone).collect()
}
