//! Many datagrams in one system call: sent as one large packet that the kernel splits (UDP_SEGMENT), received
//! by recvmmsg.

use std::io::{self, ErrorKind, IoSlice, IoSliceMut};
use std::net::UdpSocket;
use std::os::fd::AsRawFd;
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::socket::{ControlMessage, MsgFlags, MultiHeaders, recvmmsg, sendmsg};
use socket2::{Domain, Socket, Type};

use super::wire::{self, REPLY_HEAD, ReplyKind};
use crate::load::LoadError;
use crate::load::routes::Route;

/// Most requests of a burst: kernels split a packet into at most 64.
pub const BURST_MAX: usize = 60;
/// Most octets of a burst: what fits into one packet before it is split.
const BURST_OCTETS_MAX: usize = 65_000;
/// Replies received by one call.
const RECEIVE_MAX: usize = 128;
/// The receive buffer that is requested; the kernel grants what `net.core.rmem_max` allows.
const BUFFER_SIZE: usize = 8 << 20;
/// Time and number of tries for the first connect.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);
const CONNECT_TRIES: u32 = 4;
/// Pause after a connect that was refused at once.
const REFUSED_PAUSE: Duration = Duration::from_millis(100);

/// Requests of equal length, one after the other.
#[derive(Debug, Default)]
pub struct Burst {
    /// The octets of all requests.
    pub octets: Vec<u8>,
    /// The length of each request.
    pub request_len: usize,
}

/// Returns how many requests of a length fit into one burst.
#[must_use]
pub fn burst_max(request_len: usize) -> usize {
    BURST_MAX.min(BURST_OCTETS_MAX / request_len.max(1)).max(1)
}

/// Opens a socket from the source address to the tracker.
///
/// # Errors
/// Fails when the system refuses.
pub fn open(route: &Route) -> Result<UdpSocket, LoadError> {
    let Route { from, to, .. } = *route;
    let open = || {
        let socket = Socket::new(Domain::for_address(to), Type::DGRAM, None)?;
        socket.set_recv_buffer_size(BUFFER_SIZE)?;
        route.bind(&socket)?;
        socket.connect(&to.into())?;
        Ok(socket.into())
    };
    open().map_err(|reason| LoadError::Socket { from, to, reason })
}

/// Requests the first connection id, for some seconds; after that the socket does not block.
///
/// # Errors
/// Fails when there is no reply.
pub fn connect(socket: &UdpSocket, transaction: u32) -> Result<u64, LoadError> {
    let mut request = Vec::new();
    wire::connect(&mut request, transaction);
    socket.set_read_timeout(Some(CONNECT_TIMEOUT))?;
    for _ in 0..CONNECT_TRIES {
        // A refusal by ICMP is reported by one of the two calls.
        let reply = socket.send(&request).and_then(|_| receive_one(socket));
        match reply {
            Ok(Some(reply)) if reply.transaction == transaction => {
                if let ReplyKind::Connected(id) = reply.kind {
                    socket.set_nonblocking(true)?;
                    return Ok(id);
                }
            }
            Err(error) if error.kind() == ErrorKind::ConnectionRefused => std::thread::sleep(REFUSED_PAUSE),
            _ => {}
        }
    }
    Err(LoadError::NoConnect(socket.peer_addr()?))
}

fn receive_one(socket: &UdpSocket) -> io::Result<Option<wire::UdpReply>> {
    let mut buffer = [0; 64];
    let len = socket.recv(&mut buffer)?;
    Ok(buffer.get(..len).and_then(wire::read_reply))
}

/// Sends a burst. Returns the number of requests sent; `may_split` becomes false if the kernel splits no
/// packets.
pub fn send(socket: &UdpSocket, burst: &Burst, may_split: &mut bool) -> usize {
    let count = burst.octets.len() / burst.request_len.max(1);
    if count > 1 && *may_split {
        let segment = u16::try_from(burst.request_len).unwrap_or(u16::MAX);
        let (octets, split) = ([IoSlice::new(&burst.octets)], [ControlMessage::UdpGsoSegments(&segment)]);
        match sendmsg::<()>(socket.as_raw_fd(), &octets, &split, MsgFlags::MSG_DONTWAIT, None) {
            Ok(_) => return count,
            Err(Errno::EINVAL | Errno::EIO | Errno::EMSGSIZE | Errno::EOPNOTSUPP) => *may_split = false,
            Err(_) => return 0,
        }
    }
    burst.octets.chunks(burst.request_len.max(1)).take_while(|request| socket.send(request).is_ok()).count()
}

/// Buffers of replies, shared by all sockets.
#[derive(Debug)]
pub struct Receiver {
    heads: [[u8; REPLY_HEAD]; RECEIVE_MAX],
    messages: MultiHeaders<()>,
}

impl Default for Receiver {
    fn default() -> Self {
        Self { heads: [[0; REPLY_HEAD]; RECEIVE_MAX], messages: MultiHeaders::preallocate(RECEIVE_MAX, None) }
    }
}

impl Receiver {
    /// Receives the replies that are there, up to 128; only the head of each is copied.
    pub fn receive(&mut self, socket: &UdpSocket, mut on_reply: impl FnMut(wire::UdpReply)) -> usize {
        let mut slices = self.heads.each_mut().map(|head| [IoSliceMut::new(head)]);
        let flags = MsgFlags::MSG_DONTWAIT;
        let Ok(received) = recvmmsg(socket.as_raw_fd(), &mut self.messages, slices.iter_mut(), flags, None)
        else {
            // There is none, or an ICMP error about a request that is lost anyway.
            return 0;
        };
        let mut count = 0;
        for message in received {
            count += 1;
            if let Some(reply) = message.iovs().next().and_then(wire::read_reply) {
                on_reply(reply);
            }
        }
        count
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pair() -> (UdpSocket, UdpSocket) {
        let tracker = UdpSocket::bind("127.0.0.1:0").unwrap();
        let route = Route::new("127.0.0.2:0".parse().unwrap(), tracker.local_addr().unwrap());
        let client = open(&route).unwrap();
        tracker.connect(client.local_addr().unwrap()).unwrap();
        tracker.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        (tracker, client)
    }

    #[test]
    fn a_burst_arrives_as_single_datagrams_split_by_the_kernel_or_not() {
        let (tracker, client) = pair();
        let burst = Burst { octets: (0..48).collect(), request_len: 16 };
        for may_split in [true, false] {
            assert_eq!(send(&client, &burst, &mut may_split.clone()), 3);
            for first in [0, 16, 32] {
                let mut buffer = [0; 100];
                assert_eq!(tracker.recv(&mut buffer).unwrap(), 16);
                assert_eq!(buffer[0], first);
            }
        }
    }

    #[test]
    fn replies_are_received_together() {
        let (tracker, client) = pair();
        for transaction in [7, 11, 13] {
            let reply = [&[0, 0, 0, 1, 0, 0, 0, transaction][..], &[0; 1000]].concat();
            tracker.send(&reply).unwrap();
        }
        tracker.send(b"short").unwrap();
        let (mut receiver, mut transactions) = (Receiver::default(), Vec::new());
        let mut count = 0;
        while count < 4 {
            count += receiver.receive(&client, |reply| transactions.push(reply.transaction));
        }
        assert_eq!((count, transactions), (4, vec![7, 11, 13]));
        assert_eq!(receiver.receive(&client, |_| panic!("nothing is there")), 0);
    }

    #[test]
    fn bursts_fit_into_one_packet() {
        assert_eq!([burst_max(16), burst_max(1496), burst_max(70_000)], [60, 43, 1]);
    }
}
