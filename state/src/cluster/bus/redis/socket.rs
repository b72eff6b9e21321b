//! [`RedisStream`]: a socket with deadlines, plain or with TLS. The timeouts of a socket begin anew with each
//! octet, so a server that sends one now and then would hold a link for ever; hence a deadline beside them.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream, ToSocketAddrs};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};

use super::settings::{RedisSettings, RedisSettingsError, ServerPlace};
use crate::clock::Clock;

/// An answer may take this many times the longest silence.
const PATIENCE: u32 = 10;

/// A connected socket.
enum RawSocket {
    Tcp(TcpStream),
    Unix(UnixStream),
}

/// A socket of which each call ends in time.
pub(super) struct TimedSocket {
    socket: RawSocket,
    clock: Clock,
    read_timeout: Duration,
    write_timeout: Duration,
    /// The uptime when the exchange in hand must be over.
    deadline: Duration,
}

impl TimedSocket {
    fn left(&self) -> io::Result<Duration> {
        let left = self.deadline.saturating_sub(self.clock.uptime());
        if left.is_zero() { Err(timed_out()) } else { Ok(left) }
    }
}

impl Read for TimedSocket {
    fn read(&mut self, octets: &mut [u8]) -> io::Result<usize> {
        let timeout = Some(self.read_timeout.min(self.left()?));
        let read = match &mut self.socket {
            RawSocket::Tcp(socket) => socket.set_read_timeout(timeout).and_then(|()| socket.read(octets)),
            RawSocket::Unix(socket) => socket.set_read_timeout(timeout).and_then(|()| socket.read(octets)),
        };
        read.map_err(plain)
    }
}

impl Write for TimedSocket {
    fn write(&mut self, octets: &[u8]) -> io::Result<usize> {
        let timeout = Some(self.write_timeout.min(self.left()?));
        let written = match &mut self.socket {
            RawSocket::Tcp(socket) => socket.set_write_timeout(timeout).and_then(|()| socket.write(octets)),
            RawSocket::Unix(socket) => socket.set_write_timeout(timeout).and_then(|()| socket.write(octets)),
        };
        written.map_err(plain)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Says in words what the system calls "resource temporarily unavailable".
fn plain(error: io::Error) -> io::Error {
    if error.kind() == io::ErrorKind::WouldBlock { timed_out() } else { error }
}

fn timed_out() -> io::Error {
    io::Error::new(io::ErrorKind::TimedOut, "no answer in time")
}

/// A connection to a server.
pub(super) enum RedisStream {
    Plain(TimedSocket),
    Tls(Box<StreamOwned<ClientConnection, TimedSocket>>),
}

impl RedisStream {
    /// Connects, in `connect_timeout` for all addresses of the host together.
    pub(super) fn connect(
        place: &ServerPlace,
        settings: &RedisSettings,
        tls: Option<&Arc<ClientConfig>>,
        clock: Clock,
    ) -> io::Result<Self> {
        let socket = match place {
            // It has no timeout, but only waits where as many others wait as the server lets queue.
            ServerPlace::Unix(path) => RawSocket::Unix(UnixStream::connect(path)?),
            ServerPlace::Tcp { address, .. } => {
                let addresses: Vec<_> = (address.host.as_str(), address.port).to_socket_addrs()?.collect();
                RawSocket::Tcp(connect_to_first(&addresses, settings.connect_timeout, clock)?)
            }
        };
        let socket = TimedSocket {
            socket,
            clock,
            read_timeout: settings.read_timeout,
            write_timeout: settings.write_timeout,
            deadline: Duration::ZERO,
        };
        let (ServerPlace::Tcp { address, tls: true }, Some(config)) = (place, tls) else {
            return Ok(Self::Plain(socket));
        };
        let name = ServerName::try_from(address.host.clone()).map_err(io::Error::other)?;
        let session = ClientConnection::new(Arc::clone(config), name).map_err(io::Error::other)?;
        Ok(Self::Tls(Box::new(StreamOwned::new(session, socket))))
    }

    /// Begins an exchange: from now on its time runs.
    pub(super) fn begin(&mut self) {
        let socket = match self {
            Self::Plain(socket) => socket,
            Self::Tls(stream) => &mut stream.sock,
        };
        socket.deadline = socket.clock.uptime() + socket.read_timeout * PATIENCE;
    }
}

impl Read for RedisStream {
    fn read(&mut self, octets: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Plain(socket) => socket.read(octets),
            Self::Tls(stream) => stream.read(octets),
        }
    }
}

impl Write for RedisStream {
    fn write(&mut self, octets: &[u8]) -> io::Result<usize> {
        match self {
            Self::Plain(socket) => socket.write(octets),
            Self::Tls(stream) => stream.write(octets),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Self::Plain(socket) => socket.flush(),
            Self::Tls(stream) => stream.flush(),
        }
    }
}

/// Connects to the first address that answers. Each has an equal share of what is left of the time, so that
/// one that is silent leaves some for the next.
fn connect_to_first(addresses: &[SocketAddr], timeout: Duration, clock: Clock) -> io::Result<TcpStream> {
    let deadline = clock.uptime() + timeout;
    let mut last = io::Error::new(io::ErrorKind::NotFound, "its name has no address");
    for (tried, address) in addresses.iter().enumerate() {
        let left = deadline.saturating_sub(clock.uptime());
        let share = left / u32::try_from(addresses.len() - tried).unwrap_or(u32::MAX);
        // A microsecond is the shortest time that the system can wait for.
        let connected = TcpStream::connect_timeout(address, share.max(Duration::from_micros(1)));
        match connected {
            Ok(socket) => {
                socket.set_nodelay(true)?;
                return Ok(socket);
            }
            Err(error) => last = error,
        }
    }
    Err(last)
}

/// Makes what TLS needs, with the certificates of `ca_pem` or, without it, those of the system.
pub(super) fn tls_config(ca_pem: Option<&[u8]>) -> Result<Arc<ClientConfig>, RedisSettingsError> {
    let mut roots = RootCertStore::empty();
    if let Some(pem) = ca_pem {
        for certificate in CertificateDer::pem_slice_iter(pem) {
            let certificate = certificate.map_err(|_| RedisSettingsError::Certificates)?;
            roots.add(certificate).map_err(|_| RedisSettingsError::Certificates)?;
        }
    } else {
        // Some systems have certificates that cannot be read; the rest is enough.
        roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    }
    if roots.is_empty() {
        return Err(RedisSettingsError::Certificates);
    }
    // Named here: the process may have no default provider, or another.
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(Arc::new(config))
}
