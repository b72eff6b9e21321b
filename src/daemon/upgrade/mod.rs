//! An upgrade without a lost datagram: the running tracker starts its successor, gives it the open sockets
//! and all swarms, keeps serving until the successor knows all of them, and only then stops.
//!
//! | module | what is in it |
//! |---|---|
//! | `start` | the running tracker starts its successor |
//! | `successor` | the successor takes over from its predecessor |
//! | `wire` | the manifest, and the sockets that travel with it |
//!
//! ```text
//! running                                   successor (the same program file, the same arguments)
//!   starts it, its stdin being a socket
//!   manifest, sockets, lock, a stream
//!   of signals                        ->    reads the configuration, adopts the sockets
//!                                     <-    READY
//!   swarms, and what changes meanwhile ->   restores and applies it
//!   stops its UDP workers
//!   the last changes, GO              ->    serves
//!                                     <-    SERVING
//!   finishes its HTTP requests, further changes, END -> applies them
//!   writes its queues to the store, ends -> opens the store
//! ```
//! Datagrams that come in between wait in the sockets, connections in their backlog.
//!
//! Who owns sockets and swarms if one of the two processes ends or falls silent:
//! - Until SERVING it is the running tracker. A successor that ends, or is silent for too long, is killed and
//!   waited for, so that there are never two; then the UDP workers start again on the same sockets. No
//!   datagram is lost, for nobody has read the sockets meanwhile. If the tracker itself ends, so does the
//!   successor, unless it has received GO.
//! - From SERVING on it is the successor, whatever becomes of the other. A successor that has received GO
//!   serves even if it can no longer say so. It opens the store when the other has closed its end of the
//!   stream, which the kernel does for a process that was killed.
//!
//! In mode private only one process credits at a time, so the state travels by the disk, as at a restart, and
//! only the sockets by the stream:
//!
//! ```text
//! running                                   successor
//!                                           reads the site
//!                                     <-    READY
//!   finishes its HTTP requests, stops its UDP workers
//!   writes rows, totals and snapshot, closes the store
//!   GO                                ->    opens the store, restores the snapshot, serves
//!                                     <-    SERVING
//! ```
//! If the successor fails after GO, the other starts again in the same process, with the same sockets, from
//! what it has written itself.
//!
//! A stop before GO ends both. From shortly before GO on, the running tracker forwards its signals to the
//! successor on the stream of signals, so that no later stop or reload is lost.

mod start;
mod successor;
mod wire;

use std::io::{self, BufWriter, ErrorKind, Read, Write};
use std::net::UdpSocket;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::process::Child;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{anyhow, bail};
use hayate_gateway::InheritedSockets as InheritedHttp;
use hayate_state::snapshot::container::SnapshotWriter;
use hayate_state::snapshot::delta::write_deltas;
use hayate_state::{Clock, Swarms};
use hayate_udp::InheritedSockets as InheritedUdp;

pub(crate) use start::{StartingSuccessor, SuccessorInputs};
pub(crate) use successor::{DeltaStream, Inherited, Predecessor};

use crate::config::{RememberedFiles, Settings};
use crate::process::lock::StateLock;
use wire::Manifest;

/// The environment variable that is set for a successor: its stdin is the socket.
const VARIABLE: &str = "HAYATE_HANDOVER";
/// The tag of the block after which the successor serves.
const TAG_GO: u8 = 3;
/// What the successor sends when it has its sockets and a valid configuration.
const READY: u8 = b'R';
/// What the successor sends when it serves.
const SERVING: u8 = b'S';
/// Longest time that the successor may take for its next answer, or to receive what is sent.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(60);
/// Longest silence of the successor once the UDP workers have stopped.
const GO_TIMEOUT: Duration = Duration::from_secs(20);
/// Longest silence of the successor in mode private, where it has to read what was written.
const RESTORE_TIMEOUT: Duration = Duration::from_secs(120);

/// The sockets of a running tracker, to be handed over.
#[derive(Debug)]
pub(crate) struct Sockets {
    /// The sockets of the UDP server.
    pub(crate) udp: Vec<InheritedUdp>,
    /// The sockets of the gateway.
    pub(crate) http: InheritedHttp,
}

/// A successor that knows all swarms and does not serve yet. Dropped before it serves, it is killed.
#[derive(Debug)]
pub(crate) struct Successor {
    writer: SnapshotWriter<BufWriter<UnixStream>>,
    /// The stream on which signals are forwarded to the successor.
    signal_stream: UnixStream,
    process: SuccessorProcess,
    clock: Clock,
    /// The settings with which this process starts again if the successor fails; `None` except in mode
    /// private.
    restart_settings: Option<Settings>,
}

impl Successor {
    /// The process.
    pub(crate) fn pid(&self) -> u32 {
        self.process.child.id()
    }

    /// Takes the settings with which this process starts again if the successor fails; `None` except in mode
    /// private.
    pub(crate) fn take_restart_settings(&mut self) -> Option<Settings> {
        self.restart_settings.take()
    }

    /// Returns a copy of the stream on which signals are forwarded to the successor.
    ///
    /// # Errors
    /// Fails when too many files are open.
    pub(crate) fn signal_stream(&self) -> io::Result<UnixStream> {
        self.signal_stream.try_clone()
    }

    /// Sends what changed since the last time, while this process serves.
    ///
    /// # Errors
    /// Fails when the successor does not receive them.
    pub(crate) fn send_changes(&mut self) -> anyhow::Result<()> {
        let sent = write_deltas(&self.process.swarms, &mut self.writer);
        sent.and_then(|_| self.writer.flush()).map_err(stream_error)
    }

    /// Sends the last changes, after the UDP workers have stopped, and lets the successor serve.
    ///
    /// # Errors
    /// Fails when the successor does not confirm that it serves; then it has been killed, and nobody serves.
    pub(crate) fn start_serving(self) -> anyhow::Result<ServingSuccessor> {
        self.serve_within(GO_TIMEOUT)
    }

    /// Lets the successor serve in mode private, where everything is on the disk, and the store is closed.
    ///
    /// # Errors
    /// Fails when the successor does not confirm that it serves; then it has been killed, and nobody serves.
    pub(crate) fn serve_from_disk(self) -> anyhow::Result<ServingSuccessor> {
        self.serve_within(RESTORE_TIMEOUT)
    }

    fn serve_within(mut self, timeout: Duration) -> anyhow::Result<ServingSuccessor> {
        let start = self.clock.uptime();
        let mut stream = self.writer.get_ref().get_ref();
        for limit in [UnixStream::set_read_timeout, UnixStream::set_write_timeout] {
            limit(stream, Some(timeout))?;
        }
        self.send_changes()?;
        self.writer.write_block(TAG_GO, &[]).and_then(|()| self.writer.flush()).map_err(stream_error)?;
        stream = self.writer.get_ref().get_ref();
        if read_answer(&mut stream)? != SERVING {
            bail!("the new process does not serve");
        }
        self.process.serves = true;
        let pause = (self.clock.uptime() - start).as_millis();
        log::info!("process {} serves {pause} ms after GO", self.pid());
        Ok(ServingSuccessor { pid: self.pid(), writer: self.writer, process: self.process })
    }
}

/// A successor that serves.
#[derive(Debug)]
pub(crate) struct ServingSuccessor {
    /// The process.
    pub(crate) pid: u32,
    writer: SnapshotWriter<BufWriter<UnixStream>>,
    process: SuccessorProcess,
}

impl ServingSuccessor {
    /// Sends the last changes, when nothing changes swarms here any more.
    ///
    /// # Errors
    /// Fails when the successor does not receive them.
    pub(crate) fn send_last_changes(mut self) -> anyhow::Result<StoreHold> {
        write_deltas(&self.process.swarms, &mut self.writer).map_err(stream_error)?;
        Ok(StoreHold { _stream: self.writer.finish().map_err(stream_error)? })
    }
}

/// Keeps the successor from opening the store until it is dropped.
#[derive(Debug)]
pub(crate) struct StoreHold {
    _stream: BufWriter<UnixStream>,
}

/// The process of a successor; killed when this is dropped, unless it serves.
#[derive(Debug)]
struct SuccessorProcess {
    child: Child,
    swarms: Arc<Swarms>,
    serves: bool,
}

impl Drop for SuccessorProcess {
    fn drop(&mut self) {
        self.swarms.stop_deltas();
        if !self.serves {
            // It may have ended by itself.
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}

impl Sockets {
    fn send(
        &self,
        stream: &UnixStream,
        lock: &StateLock,
        signal_stream: &UnixStream,
        private: bool,
        kept: &RememberedFiles,
    ) -> io::Result<()> {
        let kept = kept.files();
        let InheritedHttp { tcp, tls, unix, operator: metrics } = &self.http;
        let manifest = Manifest {
            version: wire::VERSION,
            udp: self.udp.iter().map(|listener| (listener.address, listener.sockets.len())).collect(),
            http: tcp.len(),
            https: tls.len(),
            unix: unix.is_some(),
            metrics: metrics.len(),
            private,
            kept: kept.iter().map(|(key, path, octets)| (key.clone(), path.clone(), octets.len())).collect(),
        };
        let udp = self.udp.iter().flat_map(|listener| listener.sockets.iter().map(UdpSocket::as_fd));
        let tcp = tcp.iter().map(AsFd::as_fd);
        let tls = tls.iter().map(AsFd::as_fd);
        let unix = unix.iter().map(AsFd::as_fd);
        let metrics = metrics.iter().map(AsFd::as_fd);
        let all = udp.chain(tcp).chain(tls).chain(unix).chain(metrics);
        let all = all.chain([lock.file().as_fd(), signal_stream.as_fd()]);
        wire::send(stream, &manifest, &all.collect::<Vec<BorrowedFd<'_>>>())?;
        kept.iter().try_for_each(|(_, _, octets)| { &*stream }.write_all(octets))
    }
}

/// Returns the next answer of the successor.
fn read_answer(stream: &mut impl Read) -> anyhow::Result<u8> {
    let mut answer = [0];
    match stream.read_exact(&mut answer) {
        Ok(()) => Ok(u8::from_le_bytes(answer)),
        Err(error) if error.kind() == ErrorKind::UnexpectedEof => Err(ended_error()),
        Err(error) => Err(stream_error(error)),
    }
}

/// Returns why the successor does not answer, or does not receive what is sent.
fn stream_error(error: io::Error) -> anyhow::Error {
    match error.kind() {
        ErrorKind::WouldBlock | ErrorKind::TimedOut => {
            anyhow!("the new process has been silent for too long; its log lines may say why")
        }
        // Reset, if the successor has not even read what was sent.
        ErrorKind::ConnectionReset | ErrorKind::BrokenPipe => ended_error(),
        _ => anyhow::Error::new(error).context("talking to the new process"),
    }
}

fn ended_error() -> anyhow::Error {
    anyhow!("the new process has ended; its log lines say why")
}
