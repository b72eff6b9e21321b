//! The successor's side: what it inherits, and how it receives the swarms.

use std::cell::Cell;
use std::fs::File;
use std::io::{self, BufReader, ErrorKind, Read, Write};
use std::net::TcpListener;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail};
use hayate_gateway::InheritedSockets as InheritedHttp;
use hayate_state::cluster::saved::{ClusterRestore, SavedCluster, TAG_CLUSTER};
use hayate_state::snapshot::container::{SnapshotError, SnapshotReader};
use hayate_state::snapshot::delta::{TAG_DELTAS, decode_deltas};
use hayate_state::snapshot::load::RestoreTarget;
use hayate_state::snapshot::swarms::{CompletedFrom, Restore, TAG_SWARMS};
use hayate_state::{Clock, Policy, Swarms};
use hayate_udp::InheritedSockets as InheritedUdp;

use crate::config::RememberedFiles;
use crate::daemon::signals::{MainEvent, MainEvents};
use crate::daemon::storage::Storage;

use super::{ANSWER_TIMEOUT, READY, SERVING, TAG_GO, VARIABLE, wire};

/// Time between two checks for a signal while this process waits for its predecessor.
const POLL_INTERVAL: Duration = Duration::from_millis(100);

/// What a predecessor hands over.
#[derive(Debug)]
pub(crate) struct Inherited {
    /// The sockets of the UDP server.
    pub(crate) udp: Vec<InheritedUdp>,
    /// The sockets of the gateway.
    pub(crate) http: InheritedHttp,
    /// The lock on `state_dir`.
    pub(crate) lock: File,
    /// Whether the predecessor is in mode private.
    pub(crate) private: bool,
    /// The streams from the predecessor.
    pub(crate) predecessor: Predecessor,
}

/// The streams from a predecessor.
#[derive(Debug)]
pub(crate) struct Predecessor {
    stream: UnixStream,
    /// The stream on which the predecessor forwards signals.
    signal_stream: UnixStream,
}

impl Inherited {
    /// Receives what a predecessor hands over, if this process was started by one. The contents of files that
    /// it has read go to `kept`.
    ///
    /// # Errors
    /// Fails when the predecessor does not hand over what it should.
    pub(crate) fn receive(kept: &RememberedFiles) -> anyhow::Result<Option<Self>> {
        if std::env::var_os(VARIABLE).is_none() {
            return Ok(None);
        }
        let stdin = io::stdin().as_fd().try_clone_to_owned().context("the socket of the predecessor")?;
        let stream = UnixStream::from(stdin);
        stream
            .set_read_timeout(Some(ANSWER_TIMEOUT))
            .context("this process was not started by a predecessor")?;
        let (manifest, fds) = wire::receive(&stream).context("what the predecessor hands over")?;
        for (key, path, octets) in manifest.kept {
            kept.insert(&key, path, wire::receive_file(&stream, octets).context("what it has read")?);
        }
        let mut fds = fds.into_iter();
        let udp = manifest.udp.into_iter().map(|(address, count)| {
            let sockets = fds.by_ref().take(count).map(Into::into).collect();
            InheritedUdp { address, sockets }
        });
        let udp = udp.collect();
        let tcp = fds.by_ref().take(manifest.http).map(TcpListener::from).collect();
        let tls = fds.by_ref().take(manifest.https).map(TcpListener::from).collect();
        let unix = if manifest.unix { fds.next().map(UnixListener::from) } else { None };
        let metrics = fds.by_ref().take(manifest.metrics).map(TcpListener::from).collect();
        let lock = fds.next().map(|fd: OwnedFd| File::from(fd)).context("the lock is missing")?;
        let signal_stream = fds.next().map(UnixStream::from).context("the stream of signals is missing")?;
        let (http, predecessor) =
            (InheritedHttp { tcp, tls, unix, operator: metrics }, Predecessor { stream, signal_stream });
        Ok(Some(Self { udp, http, lock, private: manifest.private, predecessor }))
    }
}

impl Predecessor {
    /// Tells the predecessor that this process is ready, and receives the swarms until it stops. In mode
    /// private that may take long: it writes everything to the disk first.
    ///
    /// # Errors
    /// Fails when the predecessor ends, what it sends is not valid, or a signal asks this process to stop.
    /// Then the predecessor, if it lives, keeps serving.
    pub(crate) fn receive_swarms(
        mut self,
        swarms: &Swarms,
        policy: &Policy,
        clock: Clock,
        main_events: &MainEvents,
        private: bool,
    ) -> anyhow::Result<(DeltaStream, SavedCluster)> {
        self.stream.write_all(&[READY])?;
        self.stream.set_read_timeout(Some(POLL_INTERVAL))?;
        let silence_max = if private { Duration::MAX } else { ANSWER_TIMEOUT };
        let reader = PredecessorReader {
            stream: self.stream,
            main_events: main_events.clone(),
            silence_max,
            serves: Cell::new(false),
        };
        let mut reader = SnapshotReader::new(BufReader::with_capacity(1 << 18, reader))?;
        let mut restore = Restore::new(swarms, policy, CompletedFrom::Snapshot);
        let (written_at, mut cluster) = (reader.written_at(), ClusterRestore::default());
        while let Some((tag, payload)) = reader.next_block()? {
            let now = clock.now();
            match tag {
                TAG_SWARMS => restore.restore_swarms(now, written_at, payload)?,
                TAG_DELTAS => apply_deltas(swarms, policy, clock, payload)?,
                TAG_CLUSTER => cluster.restore_block(now, written_at, tag, payload)?,
                TAG_GO => {
                    reader.get_ref().get_ref().serves.set(true);
                    if !private {
                        log::info!("taken over: {}", restore.summary());
                    }
                    return Ok((DeltaStream { reader, signal_stream: self.signal_stream }, cluster.0));
                }
                _ => bail!("the predecessor sends a block of an unknown kind"),
            }
        }
        bail!("the predecessor has ended before this process could serve")
    }
}

/// The stream of the predecessor. It is read with a short timeout, so that a signal does not wait for it.
#[derive(Debug)]
struct PredecessorReader {
    stream: UnixStream,
    /// Knows whether a stop was asked for.
    main_events: MainEvents,
    /// Longest silence of the predecessor before GO.
    silence_max: Duration,
    /// Whether GO was received: then the main thread handles a stop, and the predecessor may take its time.
    serves: Cell<bool>,
}

impl Read for PredecessorReader {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let mut silent = Duration::ZERO;
        loop {
            if !self.serves.get() && self.main_events.stop_requested() {
                return Err(io::Error::other("a signal asked this process to stop"));
            }
            match self.stream.read(into) {
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                    silent += POLL_INTERVAL;
                    if !self.serves.get() && silent >= self.silence_max {
                        return Err(io::Error::other("the predecessor has been silent for too long"));
                    }
                }
                result => return result,
            }
        }
    }
}

/// The stream of the changes that the predecessor still sends while this process serves.
#[derive(Debug)]
pub(crate) struct DeltaStream {
    reader: SnapshotReader<BufReader<PredecessorReader>>,
    signal_stream: UnixStream,
}

impl DeltaStream {
    /// Tells the predecessor that this process serves, continues to receive its changes, and sends an event
    /// when it has ended. From here on this process serves whatever becomes of the predecessor.
    ///
    /// # Errors
    /// Fails when a thread cannot be started; then the predecessor was not told, and keeps serving.
    pub(crate) fn start_receiving(
        self,
        storage: &Storage,
        policy: Arc<Policy>,
        clock: Clock,
        main_events: &MainEvents,
    ) -> anyhow::Result<()> {
        let Self { reader, signal_stream } = self;
        let mut stream = reader.get_ref().get_ref().stream.try_clone()?;
        let (swarms, events) = (Arc::clone(&storage.swarms), main_events.clone());
        std::thread::Builder::new().name("predecessor".into()).spawn(move || {
            apply_remaining(reader, &swarms, &policy, clock);
            events.send(MainEvent::PredecessorEnded);
        })?;
        let events = main_events.clone();
        std::thread::Builder::new()
            .name("signals-in".into())
            .spawn(move || events.receive_forwarded(signal_stream))?;
        if let Err(error) = stream.write_all(&[SERVING]) {
            log::warn!("the predecessor is gone: {error}");
        }
        if let Err(error) = storage.lock.mark_serving().and_then(|()| storage.lock.record_refusal("")) {
            log::warn!("the lock on state_dir does not show this process: {error}");
        }
        Ok(())
    }
}

/// Applies the last changes of the predecessor, and returns when it has closed the store.
fn apply_remaining(
    mut reader: SnapshotReader<BufReader<PredecessorReader>>,
    swarms: &Swarms,
    policy: &Policy,
    clock: Clock,
) {
    loop {
        match reader.next_block() {
            Ok(Some((TAG_DELTAS, payload))) => {
                if let Err(error) = apply_deltas(swarms, policy, clock, payload) {
                    log::warn!("the last changes of the predecessor: {error}");
                }
            }
            Ok(Some(_)) => {}
            Ok(None) => break,
            Err(error) => {
                log::warn!("the predecessor broke off: {error}");
                break;
            }
        }
    }
    // It closes its end of the stream when the store is closed.
    let _ = io::copy(&mut reader.into_inner(), &mut io::sink());
}

fn apply_deltas(swarms: &Swarms, policy: &Policy, clock: Clock, payload: &[u8]) -> Result<(), SnapshotError> {
    let now = clock.now().tick;
    decode_deltas(payload)?.iter().for_each(|delta| swarms.apply_delta(now, policy, delta));
    Ok(())
}
