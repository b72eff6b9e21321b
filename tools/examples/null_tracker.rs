//! Answers connects and announces over UDP (BEP 15) with fixed replies, and does no other work: the limit of
//! plain sockets on this machine, to compare a tracker with.
//!
//! `cargo run --release -p hayate-tools --example null_tracker -- PORT [ADDRESS]`, on 127.0.0.1 unless there
//! is another address: `::1` for IPv6, `::` for both families. Port 0 lets the system choose. It prints its
//! address and answers until it is killed. It receives and sends in batches, as a tracker does.

use std::io::{IoSlice, IoSliceMut};
use std::net::{IpAddr, UdpSocket};
use std::os::fd::{AsRawFd, RawFd};

use anyhow::Context;
use nix::errno::Errno;
use nix::sys::socket::{
    MsgFlags, MultiHeaders, SockaddrIn, SockaddrIn6, SockaddrLike, recvmmsg, sendmmsg, setsockopt, sockopt,
};

/// Datagrams of one system call.
const BATCH: usize = 64;
/// Octets of the longest datagram that is read whole.
const DATAGRAM_MAX: usize = 2048;
/// Octets asked for as the socket's buffers.
const SOCKET_BUFFER: usize = 8 << 20;

/// Octets of the shortest request, a connect.
const CONNECT_LEN: usize = 16;
/// Octets of the shortest announce.
const ANNOUNCE_LEN: usize = 98;
/// Octets of a connect reply, which every request shorter than an announce gets.
const CONNECTED_LEN: usize = 16;
/// Octets of an announce reply: its head and two peers of the family.
const ANNOUNCED_V4_LEN: usize = 20 + 2 * 6;
const ANNOUNCED_V6_LEN: usize = 20 + 2 * 18;

fn main() -> anyhow::Result<()> {
    let mut words = std::env::args().skip(1);
    let port = words.next().context("usage: null_tracker PORT [ADDRESS]")?;
    let address: IpAddr = words.next().as_deref().unwrap_or("127.0.0.1").parse()?;
    let socket = UdpSocket::bind((address, port.parse()?))?;
    setsockopt(&socket, sockopt::RcvBuf, &SOCKET_BUFFER)?;
    setsockopt(&socket, sockopt::SndBuf, &SOCKET_BUFFER)?;
    println!("{}", socket.local_addr()?);
    match address {
        IpAddr::V4(_) => serve::<SockaddrIn>(socket.as_raw_fd()),
        IpAddr::V6(_) => serve::<SockaddrIn6>(socket.as_raw_fd()),
    }
}

fn serve<S: Sender>(socket: RawFd) -> anyhow::Result<()> {
    let mut requests = Box::new([[0; DATAGRAM_MAX]; BATCH]);
    let mut replies = [Reply::<S>::EMPTY; BATCH];
    let mut received = MultiHeaders::preallocate(BATCH, None);
    let mut sent = MultiHeaders::preallocate(BATCH, None);
    loop {
        let count = receive(socket, &mut received, &mut requests, &mut replies)?;
        send(socket, &mut sent, replies.get(..count).unwrap_or_default());
    }
}

/// Waits for a request, takes all that are there, and writes the replies. Returns their number.
fn receive<S: Sender>(
    socket: RawFd,
    headers: &mut MultiHeaders<S>,
    requests: &mut [[u8; DATAGRAM_MAX]; BATCH],
    replies: &mut [Reply<S>; BATCH],
) -> nix::Result<usize> {
    let mut buffers = requests.each_mut().map(|request| [IoSliceMut::new(request)]);
    let messages = match recvmmsg(socket, headers, &mut buffers, MsgFlags::MSG_WAITFORONE, None) {
        Err(Errno::EINTR) => return Ok(0),
        result => result?,
    };
    let mut count = 0;
    for message in messages {
        let request = message.iovs().next().unwrap_or_default();
        if let Some(reply) = replies.get_mut(count)
            && let Some(sender) = message.address
            && reply.write(request, &sender)
        {
            reply.to = Some(sender);
            count += 1;
        }
    }
    Ok(count)
}

/// Sends all replies except those for which the kernel has no buffer.
fn send<S: Sender>(socket: RawFd, headers: &mut MultiHeaders<S>, replies: &[Reply<S>]) {
    let mut octets = [[IoSlice::new(&[])]; BATCH];
    let mut addresses = [None; BATCH];
    for ((octets, address), reply) in octets.iter_mut().zip(&mut addresses).zip(replies) {
        *octets = [IoSlice::new(reply.octets.get(..reply.len).unwrap_or_default())];
        *address = reply.to;
    }
    let mut done = 0;
    while let (Some(octets), Some(addresses)) =
        (octets.get(done..replies.len()), addresses.get(done..replies.len()))
        && !octets.is_empty()
    {
        match sendmmsg(socket, headers, octets, addresses, [], MsgFlags::empty()) {
            Ok(sent) => done += sent.count(),
            Err(_) => return,
        }
    }
}

/// The address of a client.
trait Sender: SockaddrLike + Copy {
    /// Octets of its announce replies.
    fn announced_len(&self) -> usize;
}

impl Sender for SockaddrIn {
    fn announced_len(&self) -> usize {
        ANNOUNCED_V4_LEN
    }
}

impl Sender for SockaddrIn6 {
    fn announced_len(&self) -> usize {
        if self.ip().to_ipv4_mapped().is_some() { ANNOUNCED_V4_LEN } else { ANNOUNCED_V6_LEN }
    }
}

/// A reply and its receiver.
#[derive(Clone, Copy)]
struct Reply<S> {
    to: Option<S>,
    octets: [u8; ANNOUNCED_V6_LEN],
    len: usize,
}

impl<S: Sender> Reply<S> {
    const EMPTY: Self = Self { to: None, octets: [0; ANNOUNCED_V6_LEN], len: 0 };

    /// Writes the reply to `request`. Returns false if the request is shorter than any: then there is no
    /// reply.
    fn write(&mut self, request: &[u8], sender: &S) -> bool {
        let Some(transaction_id) = request.get(12..CONNECT_LEN) else { return false };
        let connects = request.len() < ANNOUNCE_LEN;
        self.len = if connects { CONNECTED_LEN } else { sender.announced_len() };
        let (action, rest) = self.octets.split_at_mut(4);
        let (transaction, words) = rest.split_at_mut(4);
        action.copy_from_slice(&u32::from(!connects).to_be_bytes());
        transaction.copy_from_slice(transaction_id);
        words.fill(if connects { 7 } else { 1 });
        true
    }
}
