//! The first message from a tracker to its successor: which sockets there are, and the sockets themselves.

use std::io::{self, IoSlice, IoSliceMut, Read, Write};
use std::mem::MaybeUninit;
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;

use rustix::io::retry_on_intr;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags, recvmsg, sendmsg,
};
use serde::{Deserialize, Serialize};

/// Version of the protocol. A successor that speaks another one ends, and the tracker keeps serving.
pub(super) const VERSION: u32 = 3;
/// Sockets in one message; the kernel takes 253.
const FDS_MAX: usize = 64;
/// Longest manifest, in octets.
const MANIFEST_MAX: u32 = 1 << 20;
/// Longest file that is handed over, in octets; a list of torrents is the longest.
const FILE_MAX: usize = 1 << 30;

/// What is handed over, in this order.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Manifest {
    /// [`VERSION`].
    pub(super) version: u32,
    /// Addresses of the UDP server, and how many sockets each has.
    pub(super) udp: Vec<(SocketAddr, usize)>,
    /// Listeners of the gateway.
    pub(super) http: usize,
    /// Listeners of the gateway with TLS.
    pub(super) https: usize,
    /// Whether there is a unix socket.
    pub(super) unix: bool,
    /// Listeners of the operator's pages.
    pub(super) metrics: usize,
    /// Whether the predecessor is in mode private.
    pub(super) private: bool,
    /// Files that the successor may not be able to read: key, path, and length in octets. Their contents
    /// follow the sockets.
    pub(super) kept: Vec<(String, PathBuf, usize)>,
}

impl Manifest {
    fn sockets(&self) -> usize {
        let udp = self.udp.iter().map(|(_, sockets)| sockets).sum::<usize>();
        // The lock and the stream of signals come last.
        udp + self.http + self.https + usize::from(self.unix) + self.metrics + 2
    }
}

/// Sends the manifest and the sockets that it names.
pub(super) fn send(mut stream: &UnixStream, manifest: &Manifest, fds: &[BorrowedFd<'_>]) -> io::Result<()> {
    let text = serde_json::to_vec(manifest)?;
    let len = u32::try_from(text.len()).map_err(io::Error::other)?;
    stream.write_all(&len.to_le_bytes())?;
    stream.write_all(&text)?;
    for fds in fds.chunks(FDS_MAX) {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(FDS_MAX))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        control.push(SendAncillaryMessage::ScmRights(fds));
        let octet = [IoSlice::new(&[0])];
        retry_on_intr(|| sendmsg(stream.as_fd(), &octet, &mut control, SendFlags::NOSIGNAL))?;
    }
    Ok(())
}

/// Receives the manifest and the sockets that it names.
pub(super) fn receive(mut stream: &UnixStream) -> io::Result<(Manifest, Vec<OwnedFd>)> {
    let mut len = [0; 4];
    stream.read_exact(&mut len)?;
    let len = u32::from_le_bytes(len);
    if len > MANIFEST_MAX {
        return Err(io::Error::other("the predecessor speaks another protocol"));
    }
    let mut text = vec![0; len as usize];
    stream.read_exact(&mut text)?;
    let manifest: Manifest = serde_json::from_slice(&text)?;
    if manifest.version != VERSION {
        let version = manifest.version;
        return Err(io::Error::other(format!("the predecessor speaks version {version}, not {VERSION}")));
    }
    let mut fds = Vec::new();
    while fds.len() < manifest.sockets() {
        let before = fds.len();
        receive_some(stream, &mut fds)?;
        if fds.len() == before {
            return Err(io::Error::other("the predecessor has handed over too few sockets"));
        }
    }
    Ok((manifest, fds))
}

/// Receives the contents of one file.
pub(super) fn receive_file(stream: &UnixStream, octets: usize) -> io::Result<Vec<u8>> {
    if octets > FILE_MAX {
        return Err(io::Error::other("the predecessor speaks another protocol"));
    }
    let mut file = Vec::new();
    stream.take(octets as u64).read_to_end(&mut file)?;
    if file.len() < octets {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    Ok(file)
}

fn receive_some(stream: &UnixStream, fds: &mut Vec<OwnedFd>) -> io::Result<()> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(FDS_MAX))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut octet = [0];
    let mut octet = [IoSliceMut::new(&mut octet)];
    retry_on_intr(|| recvmsg(stream.as_fd(), &mut octet, &mut control, RecvFlags::CMSG_CLOEXEC))?;
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(received) = message {
            fds.extend(received);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sockets_arrive_in_their_order_however_many_there_are() {
        let (here, there) = UnixStream::pair().unwrap();
        let sockets: Vec<_> = (0..150).map(|_| std::net::UdpSocket::bind("127.0.0.1:0").unwrap()).collect();
        let manifest = Manifest {
            version: VERSION,
            udp: vec![(sockets[0].local_addr().unwrap(), 148)],
            ..Manifest::default()
        };
        let fds: Vec<_> = sockets.iter().map(AsFd::as_fd).collect();
        send(&here, &manifest, &fds).unwrap();
        let (received, fds) = receive(&there).unwrap();
        assert_eq!(received, manifest);
        let ports = |socket: &std::net::UdpSocket| socket.local_addr().unwrap().port();
        let arrived: Vec<_> = fds.into_iter().map(|fd| ports(&fd.into())).collect();
        assert_eq!(arrived, sockets.iter().map(ports).collect::<Vec<_>>());
    }

    #[test]
    fn another_version_and_a_closed_stream_are_errors() {
        let (here, there) = UnixStream::pair().unwrap();
        let manifest = Manifest { version: 7, ..Manifest::default() };
        send(&here, &manifest, &[]).unwrap();
        assert!(receive(&there).unwrap_err().to_string().contains("version 7"));
        drop(here);
        assert!(receive(&there).is_err());
    }
}
