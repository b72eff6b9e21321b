//! Answers connects and announces over UDP (BEP 15) with fixed replies, and does no other work: the limit of
//! plain sockets on this machine, to compare a tracker with.
//!
//! `cargo run --release -p hayate-tools --example null_tracker -- PORT`, on 127.0.0.1; port 0 lets the system
//! choose. It prints its address and answers until it is killed. It receives and sends in batches, as
//! a tracker does.

use std::io::{IoSlice, IoSliceMut};
use std::net::{Ipv4Addr, UdpSocket};
use std::os::fd::{AsRawFd, RawFd};

use anyhow::Context;
use nix::errno::Errno;
use nix::sys::socket::{MsgFlags, MultiHeaders, SockaddrIn, recvmmsg, sendmmsg, setsockopt, sockopt};

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
/// Octets of an announce reply: its head and two IPv4 peers.
const ANNOUNCED_LEN: usize = 20 + 2 * 6;

fn main() -> anyhow::Result<()> {
    let port = std::env::args().nth(1).context("usage: null_tracker PORT")?;
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, port.parse()?))?;
    setsockopt(&socket, sockopt::RcvBuf, &SOCKET_BUFFER)?;
    setsockopt(&socket, sockopt::SndBuf, &SOCKET_BUFFER)?;
    println!("{}", socket.local_addr()?);
    serve(socket.as_raw_fd())
}

fn serve(socket: RawFd) -> anyhow::Result<()> {
    let mut requests = Box::new([[0; DATAGRAM_MAX]; BATCH]);
    let mut replies = [Reply::EMPTY; BATCH];
    let mut received = MultiHeaders::preallocate(BATCH, None);
    let mut sent = MultiHeaders::preallocate(BATCH, None);
    loop {
        let count = receive(socket, &mut received, &mut requests, &mut replies)?;
        send(socket, &mut sent, replies.get(..count).unwrap_or_default());
    }
}

/// Waits for a request, takes all that are there, and writes the replies. Returns their number.
fn receive(
    socket: RawFd,
    headers: &mut MultiHeaders<SockaddrIn>,
    requests: &mut [[u8; DATAGRAM_MAX]; BATCH],
    replies: &mut [Reply; BATCH],
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
            && reply.write(request)
        {
            reply.to = message.address;
            count += 1;
        }
    }
    Ok(count)
}

/// Sends all replies except those for which the kernel has no buffer.
fn send(socket: RawFd, headers: &mut MultiHeaders<SockaddrIn>, replies: &[Reply]) {
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

/// A reply and its receiver.
#[derive(Clone, Copy)]
struct Reply {
    to: Option<SockaddrIn>,
    octets: [u8; ANNOUNCED_LEN],
    len: usize,
}

impl Reply {
    const EMPTY: Self = Self { to: None, octets: [0; ANNOUNCED_LEN], len: 0 };

    /// Writes the reply to `request`. Returns false if the request is shorter than any: then there is no
    /// reply.
    fn write(&mut self, request: &[u8]) -> bool {
        let Some(transaction_id) = request.get(12..CONNECT_LEN) else { return false };
        let connects = request.len() < ANNOUNCE_LEN;
        self.len = if connects { CONNECTED_LEN } else { ANNOUNCED_LEN };
        let (action, rest) = self.octets.split_at_mut(4);
        let (transaction, words) = rest.split_at_mut(4);
        action.copy_from_slice(&u32::from(!connects).to_be_bytes());
        transaction.copy_from_slice(transaction_id);
        words.fill(if connects { 7 } else { 1 });
        true
    }
}
