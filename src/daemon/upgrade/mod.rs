//! An upgrade without a lost datagram: the running tracker starts its successor, gives it the open sockets
//! and all swarms, serves on until the successor knows all of them, and only then stops.
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
//! Who owns sockets and swarms, if one of the two ends or says nothing:
//! - Until SERVING it is the running tracker. A successor that ends, or is silent for too long, is ended and
//!   waited for, so that there are never two; then the UDP workers start again on the same sockets. Nothing
//!   was lost, for they were read by nobody meanwhile. If the tracker itself ends, so does the successor,
//!   unless it has heard GO.
//! - From SERVING on it is the successor, whatever becomes of the other. A successor that has heard GO
//!   serves, also where it can tell nobody. It opens the store when the other has closed its end, which the
//!   kernel does for one that was killed.
//!
//! In mode private one process credits at a time, so the state goes by the disk, as at a restart, and only
//! the sockets by the stream:
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
//! If the successor fails after GO, the other starts once more in the same process, with the same sockets,
//! from what it has written itself.
//!
//! A stop before GO ends both. From shortly before GO on, the running tracker forwards its signals to the
//! successor by the stream of signals, so that no later stop or reload is lost.

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
use hayate_gateway::InheritedSockets as HttpHanded;
use hayate_state::snapshot::container::SnapshotWriter;
use hayate_state::snapshot::delta::write_deltas;
use hayate_state::{Clock, Swarms};
use hayate_udp::InheritedSockets as UdpHanded;

pub(crate) use start::{StartingSuccessor, SuccessorInputs};
pub(crate) use successor::{DeltaStream, Inherited, Predecessor};

use crate::config::{RememberedFiles, Settings};
use crate::process::lock::StateLock;
use wire::Manifest;

/// Set for a successor: its stdin is the socket.
const VARIABLE: &str = "HAYATE_HANDOVER";
/// A block after which the successor serves.
const TAG_GO: u8 = 3;
/// What the successor says when it has its sockets and a good configuration.
const READY: u8 = b'R';
/// What it says when it serves.
const SERVING: u8 = b'S';
/// How long the successor may take for its next word, or to take what is sent.
const PATIENCE: Duration = Duration::from_secs(60);
/// The same once the UDP workers have stopped.
const GO_PATIENCE: Duration = Duration::from_secs(20);
/// The same in mode private, where the successor has to read what was written.
const RESTORE_PATIENCE: Duration = Duration::from_secs(120);

/// The sockets of a running tracker, to be handed over.
#[derive(Debug)]
pub(crate) struct Sockets {
    /// Of the UDP door.
    pub(crate) udp: Vec<UdpHanded>,
    /// Of the gateway.
    pub(crate) http: HttpHanded,
}

/// A successor that knows all swarms and has not begun to serve. Dropped before it does, it is ended.
#[derive(Debug)]
pub(crate) struct Successor {
    writer: SnapshotWriter<BufWriter<UnixStream>>,
    /// Where it hears of signals.
    signal_stream: UnixStream,
    process: SuccessorProcess,
    clock: Clock,
    /// What this process would start from once more, in mode private.
    restart_settings: Option<Settings>,
}

impl Successor {
    /// The process.
    pub(crate) fn pid(&self) -> u32 {
        self.process.child.id()
    }

    /// In mode private: what this process starts from once more if the successor fails. It is there once.
    pub(crate) fn take_restart_settings(&mut self) -> Option<Settings> {
        self.restart_settings.take()
    }

    /// Where the successor will hear of signals.
    ///
    /// # Errors
    /// When no more files may be open.
    pub(crate) fn signal_stream(&self) -> io::Result<UnixStream> {
        self.signal_stream.try_clone()
    }

    /// Sends what changed since the last time, while this process serves.
    ///
    /// # Errors
    /// When the successor does not take it.
    pub(crate) fn send_changes(&mut self) -> anyhow::Result<()> {
        let sent = write_deltas(&self.process.swarms, &mut self.writer);
        sent.and_then(|_| self.writer.flush()).map_err(stream_error)
    }

    /// Nobody changes swarms by UDP any more: the successor is told the rest, and serves from now on.
    ///
    /// # Errors
    /// When it does not say that it does; then it has been ended, and nobody serves.
    pub(crate) fn start_serving(self) -> anyhow::Result<ServingSuccessor> {
        self.serve_within(GO_PATIENCE)
    }

    /// The same in mode private: everything is on the disk, and the store is closed.
    ///
    /// # Errors
    /// When the successor does not say that it serves; then it has been ended, and nobody serves.
    pub(crate) fn serve_from_disk(self) -> anyhow::Result<ServingSuccessor> {
        self.serve_within(RESTORE_PATIENCE)
    }

    fn serve_within(mut self, patience: Duration) -> anyhow::Result<ServingSuccessor> {
        let start = self.clock.uptime();
        let mut stream = self.writer.get_ref().get_ref();
        for limit in [UnixStream::set_read_timeout, UnixStream::set_write_timeout] {
            limit(stream, Some(patience))?;
        }
        self.send_changes()?;
        self.writer.write_block(TAG_GO, &[]).and_then(|()| self.writer.flush()).map_err(stream_error)?;
        stream = self.writer.get_ref().get_ref();
        if read_answer(&mut stream)? != SERVING {
            bail!("the new process does not serve");
        }
        self.process.serves = true;
        let pause = (self.clock.uptime() - start).as_millis();
        log::info!("process {} serves {pause} ms after it was told to", self.pid());
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
    /// Nothing changes swarms here any more.
    ///
    /// # Errors
    /// When the successor does not take it.
    pub(crate) fn send_last_changes(mut self) -> anyhow::Result<StoreHold> {
        write_deltas(&self.process.swarms, &mut self.writer).map_err(stream_error)?;
        Ok(StoreHold { _stream: self.writer.finish().map_err(stream_error)? })
    }
}

/// As long as this is there, the successor does not open the store.
#[derive(Debug)]
pub(crate) struct StoreHold {
    _stream: BufWriter<UnixStream>,
}

/// The process of a successor, ended with this unless it serves.
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
        let HttpHanded { tcp, tls, unix, operator: metrics } = &self.http;
        let manifest = Manifest {
            version: wire::VERSION,
            udp: self.udp.iter().map(|handed| (handed.address, handed.sockets.len())).collect(),
            http: tcp.len(),
            https: tls.len(),
            unix: unix.is_some(),
            metrics: metrics.len(),
            private,
            kept: kept.iter().map(|(key, path, octets)| (key.clone(), path.clone(), octets.len())).collect(),
        };
        let udp = self.udp.iter().flat_map(|handed| handed.sockets.iter().map(UdpSocket::as_fd));
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

/// The next word of the successor.
fn read_answer(stream: &mut impl Read) -> anyhow::Result<u8> {
    let mut word = [0];
    match stream.read_exact(&mut word) {
        Ok(()) => Ok(u8::from_le_bytes(word)),
        Err(error) if error.kind() == ErrorKind::UnexpectedEof => Err(ended_error()),
        Err(error) => Err(stream_error(error)),
    }
}

/// Why the successor says nothing, or does not take what is sent.
fn stream_error(error: io::Error) -> anyhow::Error {
    match error.kind() {
        ErrorKind::WouldBlock | ErrorKind::TimedOut => {
            anyhow!("the new process is silent for too long; its log lines may say why")
        }
        // Reset, where it has not even read what it was sent.
        ErrorKind::ConnectionReset | ErrorKind::BrokenPipe => ended_error(),
        _ => anyhow::Error::new(error).context("speaking with the new process"),
    }
}

fn ended_error() -> anyhow::Error {
    anyhow!("the new process has ended; its log lines say why")
}
