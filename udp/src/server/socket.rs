//! Opens the sockets: one for each address and worker, all those of one address on one port.

use std::io;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::os::fd::AsFd;

use libc::c_int;
use socket2::{Domain, Protocol, SockRef, Socket, Type};

use super::batch::{self, SocketOption};
use crate::config::SocketConfig;

/// The number of further attempts to find a port that is free in both families, where the configuration says
/// port 0.
const SAME_PORT_TRIES: usize = 16;

/// The reason for which the server could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Another process, perhaps another hayate, already listens there.
    #[error("udp {address}: another process already listens on this address and port")]
    InUse {
        /// The configured address.
        address: SocketAddr,
    },
    /// The address cannot be listened on.
    #[error("udp {address}: cannot {attempt}: {source}")]
    Failed {
        /// The configured address.
        address: SocketAddr,
        /// The attempted step.
        attempt: &'static str,
        /// The error of the system.
        source: io::Error,
    },
    /// The sockets of the predecessor are not those of the configuration.
    #[error(
        "udp {address}: the running tracker has other addresses or another number of workers; an upgrade \
         keeps them, a restart changes them"
    )]
    NotInherited {
        /// The address that is missing, superfluous, or has another number of sockets.
        address: SocketAddr,
    },
    /// No address is configured, or none of them exists here.
    #[error("udp: there is no address to listen on")]
    NoAddress,
}

/// The sockets of one address, one for each worker.
#[derive(Debug)]
pub(super) struct Listener {
    /// The address, with the port that the system chose if none was configured.
    pub(super) address: SocketAddr,
    pub(super) sockets: Vec<UdpSocket>,
}

/// The sockets of one address, one for each worker, on their way from a tracker to its successor.
#[derive(Debug)]
pub struct InheritedSockets {
    /// The address to which they are bound.
    pub address: SocketAddr,
    /// The sockets.
    pub sockets: Vec<UdpSocket>,
}

impl Listener {
    /// Duplicates the sockets.
    pub(super) fn clone_sockets(&self) -> io::Result<InheritedSockets> {
        let sockets = self.sockets.iter().map(UdpSocket::try_clone).collect::<io::Result<_>>()?;
        Ok(InheritedSockets { address: self.address, sockets })
    }
}

/// Takes over sockets; see [`Server::adopt`](super::Server::adopt).
pub(super) fn adopt_sockets(
    config: &SocketConfig,
    mut inherited: Vec<InheritedSockets>,
) -> Result<Vec<Listener>, OpenError> {
    let mut listeners = Vec::new();
    for &configured in &config.addresses {
        let fits = |candidate: &InheritedSockets| {
            let same_port = configured.port() == 0 || configured.port() == candidate.address.port();
            same_port
                && configured.ip() == candidate.address.ip()
                && candidate.sockets.len() == config.workers.max(1)
        };
        match inherited.iter().position(fits) {
            Some(index) => {
                let InheritedSockets { address, sockets } = inherited.swap_remove(index);
                listeners.push(Listener { address, sockets });
            }
            None if is_optional(configured, config) => {}
            None => return Err(OpenError::NotInherited { address: configured }),
        }
    }
    match inherited.first() {
        Some(other) => Err(OpenError::NotInherited { address: other.address }),
        None if listeners.is_empty() => Err(OpenError::NoAddress),
        None => Ok(listeners),
    }
}

/// Opens all sockets.
///
/// # Errors
/// Fails when a socket cannot be opened; a missing `[::]` beside `0.0.0.0` is no error.
pub(super) fn open_sockets(config: &SocketConfig) -> Result<Vec<Listener>, OpenError> {
    let mut tries = SAME_PORT_TRIES;
    loop {
        match try_open_sockets(config) {
            Err(OpenFailure::SharedPortTaken(address)) if tries == 0 => {
                return Err(OpenError::InUse { address });
            }
            Err(OpenFailure::SharedPortTaken(_)) => tries -= 1,
            Err(OpenFailure::Final(error)) => return Err(error),
            Ok(listeners) if listeners.is_empty() => return Err(OpenError::NoAddress),
            Ok(listeners) => return Ok(listeners),
        }
    }
}

/// The reason for which one attempt failed.
enum OpenFailure {
    /// The port that the system chose for the other family is taken in this one.
    SharedPortTaken(SocketAddr),
    Final(OpenError),
}

fn try_open_sockets(config: &SocketConfig) -> Result<Vec<Listener>, OpenFailure> {
    let mut listeners: Vec<Listener> = Vec::new();
    // The first address whose port the system chose.
    let mut chosen: Option<SocketAddr> = None;
    for &configured in &config.addresses {
        let first =
            chosen.filter(|chosen| configured.port() == 0 && chosen.is_ipv4() != configured.is_ipv4());
        let address = SocketAddr::new(configured.ip(), first.map_or(configured.port(), |first| first.port()));
        match open_listener(address, config) {
            Ok(listener) => {
                if configured.port() == 0 {
                    chosen = chosen.or(Some(listener.address));
                }
                listeners.push(listener);
            }
            Err(OpenError::InUse { address }) if first.is_some() => {
                return Err(OpenFailure::SharedPortTaken(address));
            }
            Err(OpenError::Failed { source, .. })
                if is_optional(configured, config) && lacks_family(&source) =>
            {
                log::warn!("udp {configured}: this host has no IPv6, serving IPv4 only ({source})");
            }
            Err(error) => return Err(OpenFailure::Final(error)),
        }
    }
    Ok(listeners)
}

/// Whether the address may be missing: `[::]` beside `0.0.0.0` is for hosts with IPv6.
fn is_optional(address: SocketAddr, config: &SocketConfig) -> bool {
    let any_v4 = |other: &SocketAddr| other.is_ipv4() && other.ip().is_unspecified();
    address.is_ipv6() && address.ip().is_unspecified() && config.addresses.iter().any(any_v4)
}

fn lacks_family(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EAFNOSUPPORT | libc::EADDRNOTAVAIL | libc::EPFNOSUPPORT))
}

/// Opens the sockets of one address.
///
/// The first socket is bound without SO_REUSEPORT, so that it fails if any process has the port, even one
/// that would share it. Only then is the port shared with the other workers
/// (`rules/udp.md#one-tracker-per-port`). Of two daemons that start at once at most one wins.
fn open_listener(address: SocketAddr, config: &SocketConfig) -> Result<Listener, OpenError> {
    let failed = |attempt| move |source| OpenError::Failed { address, attempt, source };
    let first = new_socket(address, config)?;
    bind_socket(&first, address)?;
    let local = first.local_addr().map_err(failed("read the port"))?;
    let local = local.as_socket().unwrap_or(address);
    let mut sockets = vec![first];
    if config.workers > 1 {
        share_port(&sockets, address)?;
    }
    for _ in 1..config.workers {
        let socket = new_socket(address, config)?;
        share_port(std::slice::from_ref(&socket), address)?;
        bind_socket(&socket, local)?;
        sockets.push(socket);
    }
    log_buffers(local, &sockets, config);
    let sockets = sockets.into_iter().map(UdpSocket::from).collect();
    Ok(Listener { address: local, sockets })
}

fn new_socket(address: SocketAddr, config: &SocketConfig) -> Result<Socket, OpenError> {
    let failed = |attempt| move |source| OpenError::Failed { address, attempt, source };
    let socket = Socket::new(Domain::for_address(address), Type::DGRAM.nonblocking(), Some(Protocol::UDP))
        .map_err(failed("open a socket"))?;
    if address.is_ipv6() {
        socket.set_only_v6(true).map_err(failed("keep IPv4 off the IPv6 socket"))?;
    }
    if address.ip().is_unspecified() {
        let option = if address.is_ipv4() { SocketOption::PacketInfoV4 } else { SocketOption::PacketInfoV6 };
        batch::set_option(socket.as_fd(), option).map_err(failed("ask for the address datagrams come to"))?;
    }
    // Without these options the server works all the same: drops are not counted, or replies may be
    // fragmented.
    let _ = batch::set_option(socket.as_fd(), SocketOption::CountDrops);
    if address.is_ipv4() {
        let _ = batch::set_option(socket.as_fd(), SocketOption::NoFragments);
    }
    request_buffers(&socket, config);
    Ok(socket)
}

fn bind_socket(socket: &Socket, address: SocketAddr) -> Result<(), OpenError> {
    socket.bind(&address.into()).map_err(|source| match source.kind() {
        io::ErrorKind::AddrInUse => OpenError::InUse { address },
        _ => OpenError::Failed { address, attempt: "listen", source },
    })
}

fn share_port(sockets: &[Socket], address: SocketAddr) -> Result<(), OpenError> {
    let failed = |source| OpenError::Failed { address, attempt: "share the port among workers", source };
    sockets.iter().try_for_each(|socket| socket.set_reuse_port(true).map_err(failed))
}

/// Requests buffers, if need be beyond the system's limit. What is granted in the end is logged; it is not an
/// error.
fn request_buffers(socket: &Socket, config: &SocketConfig) {
    let force = |octets| c_int::try_from(octets).unwrap_or(c_int::MAX / 2);
    let _ = socket.set_recv_buffer_size(config.receive_buffer);
    if granted(socket.recv_buffer_size()) < config.receive_buffer {
        let _ =
            batch::set_option(socket.as_fd(), SocketOption::ReceiveBufferForce(force(config.receive_buffer)));
    }
    let _ = socket.set_send_buffer_size(config.send_buffer);
    if granted(socket.send_buffer_size()) < config.send_buffer {
        let _ = batch::set_option(socket.as_fd(), SocketOption::SendBufferForce(force(config.send_buffer)));
    }
}

/// Returns what Linux has granted: it reports twice as much, the other half being for its own bookkeeping.
fn granted(reported: io::Result<usize>) -> usize {
    reported.unwrap_or_default() / 2
}

/// Octets of buffers that the kernel has granted.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct GrantedBuffers {
    pub(super) receive: u64,
    pub(super) send: u64,
}

/// Returns what was granted to all sockets of these listeners together.
pub(super) fn granted_buffers(listeners: &[Listener]) -> GrantedBuffers {
    let sockets = listeners.iter().flat_map(|listener| &listener.sockets).map(SockRef::from);
    sockets.fold(GrantedBuffers::default(), |sum, socket| GrantedBuffers {
        receive: sum.receive + granted(socket.recv_buffer_size()) as u64,
        send: sum.send + granted(socket.send_buffer_size()) as u64,
    })
}

/// Logs what the kernel has granted to each socket.
fn log_buffers(address: SocketAddr, sockets: &[Socket], config: &SocketConfig) {
    let receive = sockets.iter().map(|socket| granted(socket.recv_buffer_size())).min().unwrap_or_default();
    let send = sockets.iter().map(|socket| granted(socket.send_buffer_size())).min().unwrap_or_default();
    let workers = sockets.len();
    log::info!(
        "udp {address}: listening, {workers} workers, receive buffer {receive}, send buffer {send} octets"
    );
    if receive < config.receive_buffer {
        let requested = config.receive_buffer;
        log::warn!(
            "udp {address}: receive buffer is {receive} octets, not {requested}; bursts may be lost: \
             raise the sysctl net.core.rmem_max to {requested}"
        );
    }
}

/// Whether `source` is one of our own endpoints, as seen by a socket that was reached at `destination`.
pub(super) fn is_own_endpoint(own: &[SocketAddr], source: SocketAddr, destination: Option<IpAddr>) -> bool {
    own.iter().any(|own| {
        let same_address =
            own.ip() == source.ip() || own.ip().is_unspecified() && destination == Some(source.ip());
        own.port() == source.port() && same_address
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(addresses: &[&str], workers: usize) -> SocketConfig {
        let addresses = addresses.iter().map(|address| address.parse().unwrap()).collect();
        SocketConfig { addresses, workers, receive_buffer: 1 << 16, send_buffer: 1 << 16 }
    }

    #[test]
    fn both_families_get_the_same_port() {
        for pair in [["0.0.0.0:0", "[::]:0"], ["[::1]:0", "127.0.0.1:0"]] {
            let listeners = open_sockets(&config(&pair, 2)).unwrap();
            let ports: Vec<u16> = listeners.iter().map(|listener| listener.address.port()).collect();
            assert!(ports[0] != 0 && ports.iter().all(|port| *port == ports[0]), "{ports:?}");
            assert!(listeners.iter().all(|listener| listener.sockets.len() == 2));
        }
    }

    #[test]
    fn a_second_server_on_the_same_port_is_refused() {
        for workers in [1, 3] {
            let first = open_sockets(&config(&["127.0.0.1:0"], workers)).unwrap();
            let taken = first[0].address;
            let any = SocketAddr::new("0.0.0.0".parse().unwrap(), taken.port());
            for address in [taken, any] {
                let error = open_sockets(&config(&[&address.to_string()], workers)).unwrap_err();
                let expected =
                    format!("udp {address}: another process already listens on this address and port");
                assert_eq!(error.to_string(), expected);
            }
        }
    }

    #[test]
    fn a_successor_takes_over_the_same_sockets_or_none() {
        let first = open_sockets(&config(&["127.0.0.1:0", "[::1]:0"], 3)).unwrap();
        let handed = || first.iter().map(|listener| listener.clone_sockets().unwrap()).collect::<Vec<_>>();
        let port = first[0].address.port();
        let (v4, v6) = (format!("127.0.0.1:{port}"), format!("[::1]:{port}"));
        let adopted = adopt_sockets(&config(&[&v6, "127.0.0.1:0"], 3), handed()).unwrap();
        assert_eq!(adopted.iter().map(|listener| listener.sockets.len()).sum::<usize>(), 6);
        let granted = granted_buffers(&adopted);
        assert!(granted.receive > 0 && granted.send > 0);
        for (addresses, workers) in
            [(vec![v4.as_str(), &v6], 2), (vec![v4.as_str()], 3), (vec![v4.as_str(), &v6, "127.0.0.2:7"], 3)]
        {
            let error = adopt_sockets(&config(&addresses, workers), handed()).unwrap_err();
            assert!(error.to_string().contains("a restart changes them"), "{error}");
        }
    }

    #[test]
    fn an_address_of_another_host_is_named_in_the_error() {
        let error = open_sockets(&config(&["192.0.2.7:0"], 1)).unwrap_err();
        assert!(error.to_string().starts_with("udp 192.0.2.7:0: cannot listen: "), "{error}");
        assert!(matches!(open_sockets(&config(&[], 1)), Err(OpenError::NoAddress)));
    }

    #[test]
    fn our_own_endpoints_are_recognised() {
        let address = |text: &str| -> SocketAddr { text.parse().unwrap() };
        let own = [address("0.0.0.0:6969"), address("[::1]:6969")];
        let to = |text: &str| Some(text.parse().unwrap());
        assert!(is_own_endpoint(&own, address("[::1]:6969"), None));
        assert!(is_own_endpoint(&own, address("10.0.0.1:6969"), to("10.0.0.1")));
        assert!(!is_own_endpoint(&own, address("10.0.0.2:6969"), to("10.0.0.1")));
        assert!(!is_own_endpoint(&own, address("10.0.0.1:6970"), to("10.0.0.1")));
        assert!(!is_own_endpoint(&own, address("10.0.0.1:6969"), None));
    }
}
