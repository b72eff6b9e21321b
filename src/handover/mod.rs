//! An upgrade without a lost datagram: the running tracker starts its successor, gives it the open sockets
//! and all swarms, serves on until the successor knows all of them, and then only stops.
//!
//! ```text
//! running                                   successor (the same program file, the same arguments)
//!   starts it, its stdin being a socket
//!   manifest, sockets, lock           ->    reads the configuration, adopts the sockets
//!                                     <-    READY
//!   swarms, then what changed meanwhile ->  restores and applies it
//!   stops its UDP workers
//!   the last changes, GO              ->    serves
//!                                     <-    SERVING
//!   finishes its HTTP requests, further changes, END -> applies them
//!   writes its queues to the store, ends -> opens the store
//! ```
//! Datagrams that come in between wait in the sockets, connections in their backlog. Whatever fails before GO
//! ends the successor, and the running tracker has never ceased to serve.

mod heir;
mod wire;

use std::io::{BufWriter, Read, Write};
use std::net::UdpSocket;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Child, Command};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail};
use hayate_gateway::Handed as HttpHanded;
use hayate_state::snapshot::container::Writer;
use hayate_state::snapshot::delta::TAG_DELTAS;
use hayate_state::snapshot::swarms::{self, Walk};
use hayate_state::{Clock, Swarms};
use hayate_udp::Handed as UdpHanded;

pub(crate) use heir::{Inheritance, Reception};

use crate::lock::StateLock;
use crate::signals::Attention;
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
/// Changes after which a round is small enough to stop for the rest.
const ROUND_SMALL: usize = 2000;
/// Rounds of changes at most before the tracker stops for the rest.
const ROUNDS_MAX: usize = 50;
/// Changes in one block; far below the longest one.
const DELTAS_IN_BLOCK: usize = 10_000;

/// The sockets of a running tracker, to be handed over.
#[derive(Debug)]
pub(crate) struct Estate {
    /// Of the UDP door.
    pub(crate) udp: Vec<UdpHanded>,
    /// Of the gateway.
    pub(crate) http: HttpHanded,
}

/// A successor that has not begun to serve.
pub(crate) struct Successor {
    child: Child,
    writer: Writer<BufWriter<UnixStream>>,
    swarms: Arc<Swarms>,
    clock: Clock,
}

impl Successor {
    /// Starts the successor and brings it as far as it comes while this process serves.
    ///
    /// # Errors
    /// When it does not start, does not like its configuration or its sockets, or is too slow, or when a stop
    /// is asked for. It is ended then.
    pub(crate) fn raise(
        program: &Path,
        estate: &Estate,
        lock: &StateLock,
        swarms: &Arc<Swarms>,
        clock: Clock,
        attention: &Attention,
    ) -> anyhow::Result<Self> {
        let (mut stream, theirs) = UnixStream::pair().context("a socket for the successor")?;
        attention.waits_for(&stream)?;
        for limit in [UnixStream::set_read_timeout, UnixStream::set_write_timeout] {
            limit(&stream, Some(PATIENCE))?;
        }
        let child = Command::new(program)
            .args(std::env::args_os().skip(1))
            .env(VARIABLE, "1")
            .stdin(OwnedFd::from(theirs))
            .spawn()
            .with_context(|| format!("starting {}", program.display()))?;
        let mut guard = Guard { child: Some(child), swarms };
        estate.send(&stream, lock).context("handing over the sockets")?;
        if listen(&mut stream)? != READY {
            bail!("the new process does not speak our language");
        }
        swarms.note_deltas();
        let unix_seconds = i64::try_from(clock.now().unix_seconds).unwrap_or(i64::MAX);
        let mut writer = Writer::new(BufWriter::with_capacity(1 << 18, stream), unix_seconds)?;
        let mut walk = Walk::new(Arc::clone(swarms), clock.now().tick);
        swarms::write(&mut walk, &mut writer, || clock.now().tick, || Ok(()))
            .context("handing over the swarms")?;
        for _ in 0..ROUNDS_MAX {
            if send_deltas(&mut writer, swarms)? < ROUND_SMALL {
                break;
            }
        }
        if !attention.has_waited() {
            bail!("the tracker is stopping");
        }
        let Some(child) = guard.child.take() else { bail!("the new process is gone") };
        Ok(Self { child, writer, swarms: Arc::clone(swarms), clock })
    }

    /// The process.
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Nobody changes swarms by UDP any more: the successor is told the rest, and serves from now on.
    ///
    /// # Errors
    /// When it does not say that it does.
    pub(crate) fn go(&mut self) -> anyhow::Result<()> {
        let start = self.clock.uptime();
        send_deltas(&mut self.writer, &self.swarms)?;
        self.writer.block(TAG_GO, &[])?;
        self.writer.flush()?;
        let mut stream = self.writer.get_ref().get_ref();
        if listen(&mut stream)? != SERVING {
            bail!("the new process does not serve");
        }
        let pause = (self.clock.uptime() - start).as_millis();
        log::info!("process {} serves; datagrams waited {pause} ms", self.pid());
        Ok(())
    }

    /// Nothing changes swarms here any more.
    ///
    /// # Errors
    /// When the successor does not take it.
    pub(crate) fn finish(mut self) -> anyhow::Result<Farewell> {
        send_deltas(&mut self.writer, &self.swarms)?;
        Ok(Farewell { _stream: self.writer.finish()? })
    }
}

/// As long as this is there, the successor does not open the store.
pub(crate) struct Farewell {
    _stream: BufWriter<UnixStream>,
}

/// Ends a successor that did not come so far as to serve.
struct Guard<'a> {
    child: Option<Child>,
    swarms: &'a Swarms,
}

impl Drop for Guard<'_> {
    fn drop(&mut self) {
        if let Some(child) = &mut self.child {
            self.swarms.forget_deltas();
            // It may have ended by itself.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

impl Estate {
    fn send(&self, stream: &UnixStream, lock: &StateLock) -> std::io::Result<()> {
        let HttpHanded { tcp, tls, unix, metrics } = &self.http;
        let manifest = Manifest {
            version: wire::VERSION,
            udp: self.udp.iter().map(|handed| (handed.address, handed.sockets.len())).collect(),
            http: tcp.len(),
            https: tls.len(),
            unix: unix.is_some(),
            metrics: metrics.len(),
        };
        let udp = self.udp.iter().flat_map(|handed| handed.sockets.iter().map(UdpSocket::as_fd));
        let tcp = tcp.iter().map(AsFd::as_fd);
        let tls = tls.iter().map(AsFd::as_fd);
        let unix = unix.iter().map(AsFd::as_fd);
        let metrics = metrics.iter().map(AsFd::as_fd);
        let all = udp.chain(tcp).chain(tls).chain(unix).chain(metrics).chain([lock.file().as_fd()]);
        wire::send(stream, &manifest, &all.collect::<Vec<BorrowedFd<'_>>>())
    }
}

/// The next word of the successor.
fn listen(stream: &mut impl Read) -> anyhow::Result<u8> {
    let mut word = [0];
    match stream.read(&mut word) {
        // Reset, where it has not even read what it was sent.
        Err(error) if error.kind() != std::io::ErrorKind::ConnectionReset => {
            Err(error).context("waiting for the new process")
        }
        Err(_) | Ok(0) => bail!("the new process has ended; its log lines say why"),
        Ok(_) => Ok(u8::from_le_bytes(word)),
    }
}

/// Sends what was announced since the last call; gives how much that was.
fn send_deltas<W: Write>(writer: &mut Writer<W>, swarms: &Swarms) -> anyhow::Result<usize> {
    let deltas = swarms.take_deltas()?;
    let mut payload = Vec::new();
    for some in deltas.chunks(DELTAS_IN_BLOCK) {
        payload.clear();
        some.iter().for_each(|delta| delta.write(&mut payload));
        writer.block(TAG_DELTAS, &payload)?;
    }
    writer.flush()?;
    Ok(deltas.len())
}
