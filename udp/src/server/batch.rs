//! [`Batch`]: many datagrams with one system call. The only `unsafe` of the crate: three system calls that
//! take pointers, and a message header of zeros.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsRawFd, BorrowedFd};
use std::ptr;

use libc::{c_int, c_uint, iovec, mmsghdr, socklen_t};

use super::layout::{ControlMessages, Destination, SockAddr};
use crate::config::REPLY_MAX;
use crate::dropped::Dropped;
use crate::wire::reply::Buffer;

/// Most datagrams received, and most replies sent, with one system call.
pub(super) const BATCH_MAX: usize = 64;
/// Octets of the longest datagram that is accepted; a scrape of 74 torrents has 1496
/// (`rules/udp.md#datagram-size`).
pub(super) const DATAGRAM_MAX: usize = 2048;

/// Buffers for one batch of datagrams and their replies, reused by one worker for every batch.
#[derive(Debug)]
pub(super) struct Batch {
    slots: Vec<Slot>,
    messages: Vec<mmsghdr>,
    vectors: Vec<iovec>,
    /// Slots with a reply to send, and the octets of each; at most [`BATCH_MAX`].
    replies: Vec<(usize, usize)>,
    drops: Option<u32>,
}

/// One datagram and its reply.
#[derive(Debug)]
struct Slot {
    datagram: [u8; DATAGRAM_MAX],
    reply: Buffer,
    source: SockAddr,
    source_len: socklen_t,
    control: ControlMessages,
    destination: Option<Destination>,
}

/// A datagram that arrived whole, and the buffer for its reply.
#[derive(Debug)]
pub(super) struct ReceivedDatagram<'b> {
    pub(super) source: SocketAddr,
    /// The address to which it was sent, if the socket reports that.
    pub(super) destination: Option<IpAddr>,
    pub(super) octets: &'b [u8],
    pub(super) reply: &'b mut Buffer,
}

impl Batch {
    pub(super) fn new() -> Self {
        let slot = |_| Slot {
            datagram: [0; DATAGRAM_MAX],
            reply: [0; REPLY_MAX],
            source: SockAddr::EMPTY,
            source_len: 0,
            control: ControlMessages::EMPTY,
            destination: None,
        };
        let vector = iovec { iov_base: ptr::null_mut(), iov_len: 0 };
        Self {
            slots: (0..BATCH_MAX).map(slot).collect(),
            messages: vec![empty_message(); BATCH_MAX],
            vectors: vec![vector; BATCH_MAX],
            replies: Vec::with_capacity(BATCH_MAX),
            drops: None,
        }
    }

    /// Receives what is waiting on a socket, without blocking. Returns the number of datagrams; fewer than
    /// [`BATCH_MAX`] means that none is left.
    ///
    /// # Errors
    /// Fails as the system call does: with `WouldBlock` when nothing is waiting.
    pub(super) fn receive(&mut self, socket: BorrowedFd<'_>) -> io::Result<usize> {
        self.replies.clear();
        for ((message, vector), slot) in self.messages.iter_mut().zip(&mut self.vectors).zip(&mut self.slots)
        {
            *vector = vector_over(&mut slot.datagram);
            fill_header(message, vector, &mut slot.source, SockAddr::EMPTY.0.len());
            message.msg_hdr.msg_control = slot.control.0.as_mut_ptr().cast();
            message.msg_hdr.msg_controllen = slot.control.0.len() as _;
        }
        // SAFETY: `messages` has BATCH_MAX headers. Each was just pointed at one vector over the datagram of
        // its own slot, and at that slot's address and control octets, with their lengths; all of them are
        // borrowed mutably through `self`, do not move during the call and are not kept by the kernel. A null
        // timeout is allowed.
        let received = unsafe {
            let messages = self.messages.as_mut_ptr();
            libc::recvmmsg(
                socket.as_raw_fd(),
                messages,
                BATCH_COUNT,
                libc::MSG_DONTWAIT as _,
                ptr::null_mut(),
            )
        };
        usize::try_from(received).map_err(|_| io::Error::last_os_error())
    }

    /// Iterates over the octets of the `received` datagrams that were received last.
    pub(super) fn datagrams(&self, received: usize) -> impl Iterator<Item = &[u8]> {
        let slots = self.slots.iter().zip(&self.messages).take(received);
        slots.map(|(slot, message)| slot.datagram.get(..message.msg_len as usize).unwrap_or_default())
    }

    /// Returns the datagram at `index` of those that were received last.
    ///
    /// # Errors
    /// Fails when the datagram was cut off, or its source cannot be answered.
    pub(super) fn datagram(&mut self, index: usize) -> Result<ReceivedDatagram<'_>, Dropped> {
        let (Some(slot), Some(message)) = (self.slots.get_mut(index), self.messages.get(index)) else {
            return Err(Dropped::SourcePortZero);
        };
        let ancillary = slot.control.parse(message.msg_hdr.msg_controllen);
        slot.source_len = message.msg_hdr.msg_namelen;
        slot.destination = ancillary.destination;
        self.drops = ancillary.drops.or(self.drops);
        if message.msg_hdr.msg_flags & libc::MSG_TRUNC != 0 {
            return Err(Dropped::Oversized);
        }
        Ok(ReceivedDatagram {
            source: slot.source.socket_addr().ok_or(Dropped::SourcePortZero)?,
            destination: slot.destination.map(|destination| destination.address),
            octets: slot.datagram.get(..message.msg_len as usize).unwrap_or_default(),
            reply: &mut slot.reply,
        })
    }

    /// Queues the first `len` octets of the reply at `index` for the next [`send`](Self::send).
    pub(super) fn queue(&mut self, index: usize, len: usize) {
        if index < BATCH_MAX && self.replies.len() < BATCH_MAX {
            self.replies.push((index, len));
        }
    }

    /// Returns the number of datagrams that the socket of the last batch has dropped since it was opened,
    /// modulo 2^32, if the kernel has reported it since the last call.
    pub(super) fn take_drops(&mut self) -> Option<u32> {
        self.drops.take()
    }

    /// Sends what was queued; returns the number of replies that the kernel did not take.
    pub(super) fn send(&mut self, socket: BorrowedFd<'_>) -> usize {
        let headers = self.messages.iter_mut().zip(&mut self.vectors);
        for ((message, vector), &(index, len)) in headers.zip(&self.replies) {
            let Some(slot) = self.slots.get_mut(index) else { continue };
            *vector = vector_over(slot.reply.get_mut(..len).unwrap_or_default());
            fill_header(message, vector, &mut slot.source, slot.source_len as usize);
            let control_len =
                slot.destination.map_or(0, |destination| slot.control.write_source(destination));
            message.msg_hdr.msg_control = slot.control.0.as_mut_ptr().cast();
            message.msg_hdr.msg_controllen = control_len as _;
        }
        let (mut done, mut failed) = (0, 0);
        // Every round sends or skips at least one reply, unless a signal came.
        while done < self.replies.len() {
            match self.send_from(socket, done) {
                Ok(sent) => done += sent,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    failed += self.replies.len() - done;
                    break;
                }
                Err(_) => {
                    done += 1;
                    failed += 1;
                }
            }
        }
        self.replies.clear();
        failed
    }

    /// Sends queued replies from number `start` on; returns how many were sent, at least one.
    fn send_from(&mut self, socket: BorrowedFd<'_>, start: usize) -> io::Result<usize> {
        let messages = self.messages.get_mut(start..self.replies.len()).unwrap_or_default();
        let count = c_uint::try_from(messages.len()).unwrap_or(BATCH_COUNT);
        // SAFETY: `messages` has `count` headers, all of them pointed in `send` at the reply, address and
        // control octets of their slots, with their lengths; all of that lives in `self`, borrowed mutably,
        // and nothing of it has moved or been written since. The kernel reads it during the call only.
        let sent = unsafe {
            libc::sendmmsg(socket.as_raw_fd(), messages.as_mut_ptr(), count, libc::MSG_DONTWAIT as _)
        };
        usize::try_from(sent).map(|sent| sent.max(1)).map_err(|_| io::Error::last_os_error())
    }
}

/// [`BATCH_MAX`] in the type of the system calls.
const BATCH_COUNT: c_uint = 64;
const _: () = assert!(BATCH_COUNT as usize == BATCH_MAX);

fn vector_over(octets: &mut [u8]) -> iovec {
    iovec { iov_base: octets.as_mut_ptr().cast(), iov_len: octets.len() }
}

/// Points a header at one vector and one address.
fn fill_header(message: &mut mmsghdr, vector: &mut iovec, address: &mut SockAddr, address_len: usize) {
    message.msg_hdr.msg_name = address.0.as_mut_ptr().cast();
    message.msg_hdr.msg_namelen = socklen_t::try_from(address_len).unwrap_or_default();
    message.msg_hdr.msg_iov = vector;
    message.msg_hdr.msg_iovlen = 1;
    message.msg_hdr.msg_flags = 0;
}

fn empty_message() -> mmsghdr {
    // SAFETY: `mmsghdr` is a C struct of integers and pointers, for all of which zero is a value.
    unsafe { std::mem::zeroed() }
}

/// Options that neither the standard library nor socket2 can set.
#[derive(Clone, Copy, Debug)]
pub(super) enum SocketOption {
    /// Report with each datagram how many were dropped.
    CountDrops,
    /// Report with each datagram to which of our addresses it came (IPv4).
    PacketInfoV4,
    /// Report with each datagram to which of our addresses it came (IPv6).
    PacketInfoV6,
    /// Never let a reply be fragmented on its way, and ignore what routers report about the path (IPv4; over
    /// IPv6 routers never fragment). A path narrower than a reply loses it.
    NoFragments,
    /// A receive buffer of this size beyond the system's limit, for privileged processes.
    ReceiveBufferForce(c_int),
    /// A send buffer of this size beyond the system's limit, for privileged processes.
    SendBufferForce(c_int),
}

/// Sets an option.
///
/// # Errors
/// Fails when the kernel refuses.
pub(super) fn set_option(socket: BorrowedFd<'_>, option: SocketOption) -> io::Result<()> {
    let (level, name, value): (c_int, c_int, c_int) = match option {
        SocketOption::CountDrops => (libc::SOL_SOCKET, libc::SO_RXQ_OVFL, 1),
        SocketOption::PacketInfoV4 => (libc::IPPROTO_IP, libc::IP_PKTINFO, 1),
        SocketOption::PacketInfoV6 => (libc::IPPROTO_IPV6, libc::IPV6_RECVPKTINFO, 1),
        SocketOption::NoFragments => (libc::IPPROTO_IP, libc::IP_MTU_DISCOVER, libc::IP_PMTUDISC_PROBE),
        SocketOption::ReceiveBufferForce(octets) => (libc::SOL_SOCKET, libc::SO_RCVBUFFORCE, octets),
        SocketOption::SendBufferForce(octets) => (libc::SOL_SOCKET, libc::SO_SNDBUFFORCE, octets),
    };
    let len = socklen_t::try_from(size_of::<c_int>()).unwrap_or_default();
    // SAFETY: the kernel reads `len` octets of `value`, a `c_int` of that size that outlives the call.
    let result =
        unsafe { libc::setsockopt(socket.as_raw_fd(), level, name, ptr::from_ref(&value).cast(), len) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

#[cfg(test)]
mod tests {
    use std::net::UdpSocket;
    use std::os::fd::AsFd;
    use std::os::unix::net::UnixDatagram;
    use std::time::Duration;

    use super::*;

    fn pair() -> (UdpSocket, UdpSocket) {
        let [server, client] = [0, 0].map(|_| UdpSocket::bind("127.0.0.1:0").unwrap());
        client.connect(server.local_addr().unwrap()).unwrap();
        client.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        (server, client)
    }

    fn answer(batch: &mut Batch, index: usize) {
        let received = batch.datagram(index).unwrap();
        let len = received.octets.len();
        received.reply[..len].copy_from_slice(received.octets);
        batch.queue(index, len);
    }

    #[test]
    fn a_reply_that_cannot_be_sent_does_not_hold_back_the_others() {
        let ((server, client), mut batch) = (pair(), Batch::new());
        for octet in [7, 11, 13, 17] {
            client.send(&[octet]).unwrap();
        }
        assert_eq!(batch.receive(server.as_fd()).unwrap(), 4);
        (0..4).for_each(|index| answer(&mut batch, index));
        // The kernel does not send to port 0.
        for index in [0, 2] {
            batch.slots[index].source.0[2..4].fill(0);
        }
        assert_eq!(batch.send(server.as_fd()), 2);
        for octet in [11, 17] {
            let mut reply = [0; 8];
            assert_eq!((client.recv(&mut reply).unwrap(), reply[0]), (1, octet));
        }
        assert_eq!(batch.send(server.as_fd()), 0, "nothing is sent twice");
    }

    #[test]
    fn replies_that_would_have_to_wait_are_dropped_and_counted() {
        // A local socket that is not read is full after a few datagrams; a network socket rarely is in a
        // test.
        let ((ours, theirs), mut batch) = (UnixDatagram::pair().unwrap(), Batch::new());
        socket2::SockRef::from(&ours).set_send_buffer_size(0).unwrap();
        theirs.set_nonblocking(true).unwrap();
        for index in 0..BATCH_MAX {
            batch.queue(index, REPLY_MAX);
        }
        let failed = batch.send(ours.as_fd());
        let arrived = std::iter::from_fn(|| theirs.recv(&mut [0; 8]).ok()).count();
        assert!(failed > 0 && arrived > 0, "{failed} {arrived}");
        assert_eq!(failed + arrived, BATCH_MAX);
        batch.queue(7, 7);
        assert_eq!(batch.send(ours.as_fd()), 0, "there is room again, and nothing is sent late");
        assert_eq!(theirs.recv(&mut [0; 8]).unwrap(), 7);
        assert_eq!(theirs.recv(&mut [0; 8]).unwrap_err().kind(), io::ErrorKind::WouldBlock);
    }

    #[test]
    fn a_cut_datagram_is_refused_and_an_empty_queue_would_block() {
        let ((server, client), mut batch) = (pair(), Batch::new());
        assert_eq!(batch.receive(server.as_fd()).unwrap_err().kind(), io::ErrorKind::WouldBlock);
        client.send(&[7; DATAGRAM_MAX]).unwrap();
        client.send(&[7; DATAGRAM_MAX + 1]).unwrap();
        client.send(&[]).unwrap();
        assert_eq!(batch.receive(server.as_fd()).unwrap(), 3);
        assert_eq!(batch.datagram(0).unwrap().octets.len(), DATAGRAM_MAX);
        assert_eq!(batch.datagram(1).unwrap_err(), Dropped::Oversized);
        assert_eq!(batch.datagram(2).unwrap().source, client.local_addr().unwrap());
        assert!(batch.datagram(2).unwrap().octets.is_empty());
    }
}
