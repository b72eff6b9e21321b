//! Starts a successor, in a thread of its own: the main thread handles its events meanwhile.

use std::io::BufWriter;
use std::net::Shutdown;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

use anyhow::{Context, anyhow, bail};
use hayate_state::cluster::running::Cluster;
use hayate_state::cluster::saved::TAG_CLUSTER;
use hayate_state::snapshot::container::SnapshotWriter;
use hayate_state::snapshot::delta::stream_swarms;
use hayate_state::snapshot::swarms::Walk;
use hayate_state::{Clock, Swarms};

use super::{
    ANSWER_TIMEOUT, READY, Sockets, Successor, SuccessorProcess, VARIABLE, read_answer, stream_error,
};
use crate::config::{Config, NOT_READ};
use crate::daemon::jwk_fetch::JwkSets;
use crate::daemon::signals::{MainEvent, MainEvents};
use crate::process::lock::StateLock;

/// Everything that starting a successor needs.
#[derive(Debug)]
pub(crate) struct SuccessorInputs {
    /// The program file.
    pub(crate) program: PathBuf,
    /// The sockets.
    pub(crate) sockets: Arc<Mutex<Sockets>>,
    /// The lock on `state_dir`.
    pub(crate) lock: Arc<StateLock>,
    /// The links of this node, if it is one of a cluster.
    pub(crate) cluster: Option<Arc<Cluster>>,
    /// The swarms that the successor will know.
    pub(crate) swarms: Arc<Swarms>,
    /// The configuration, with the files that the successor may not be able to read again.
    pub(crate) config: Config,
    /// Whether this tracker is in mode private: it then reads its settings once more, to start again if the
    /// successor fails after everything is on the disk.
    pub(crate) is_private: bool,
    /// The JWK sets in use, for those settings.
    pub(crate) jwk_sets: JwkSets,
    /// The clock of this process.
    pub(crate) clock: Clock,
}

/// A successor that is starting.
#[derive(Debug)]
pub(crate) struct StartingSuccessor {
    thread: JoinHandle<anyhow::Result<Successor>>,
    stream: UnixStream,
}

impl StartingSuccessor {
    /// Starts the successor and prepares it as far as possible while this process serves. The main thread is
    /// sent [`MainEvent::SuccessorStarted`] when that is done.
    ///
    /// # Errors
    /// Fails when the socket cannot be made or the thread cannot be started.
    pub(crate) fn begin(inputs: SuccessorInputs, main_events: &MainEvents) -> anyhow::Result<Self> {
        let (ours, theirs) = UnixStream::pair().context("a socket for the successor")?;
        for limit in [UnixStream::set_read_timeout, UnixStream::set_write_timeout] {
            limit(&ours, Some(ANSWER_TIMEOUT))?;
        }
        let (stream, main_events) = (ours.try_clone()?, main_events.clone());
        let thread = std::thread::Builder::new().name("upgrade".into()).spawn(move || {
            let successor = inputs.start_successor(ours, theirs);
            // If the queue is full, the main thread is awake anyway.
            main_events.offer(MainEvent::SuccessorStarted);
            successor
        })?;
        Ok(Self { thread, stream })
    }

    /// Whether it is known that there is a successor, or that there will be none.
    pub(crate) fn is_done(&self) -> bool {
        self.thread.is_finished()
    }

    /// Waits for the successor and returns it.
    ///
    /// # Errors
    /// Fails when it does not start, does not accept its configuration or its sockets, or is too slow. Then
    /// it has been killed.
    pub(crate) fn finish(self) -> anyhow::Result<Successor> {
        self.thread.join().unwrap_or_else(|_| Err(anyhow!("the thread that starts it has panicked")))
    }

    /// Kills the successor, however far it has come.
    pub(crate) fn give_up(self) {
        // Whatever the thread waits for now fails.
        let _ = self.stream.shutdown(Shutdown::Both);
        drop(self.finish());
    }
}

impl SuccessorInputs {
    fn start_successor(self, mut stream: UnixStream, theirs: UnixStream) -> anyhow::Result<Successor> {
        let Self { program, sockets, lock, swarms, config, is_private, jwk_sets, clock, cluster } = self;
        let (signal_stream, their_signal_stream) =
            UnixStream::pair().context("a socket for the successor")?;
        let child = spawn_process(&program, theirs)?;
        let process = SuccessorProcess { child, swarms: Arc::clone(&swarms), serves: false };
        let sockets = sockets.lock().map_err(|_| anyhow!("a thread has panicked"))?;
        sockets
            .send(&stream, &lock, &their_signal_stream, is_private, config.remembered())
            .map_err(stream_error)?;
        drop(sockets);
        drop(their_signal_stream);
        if read_answer(&mut stream)? != READY {
            bail!("the new process speaks another protocol");
        }
        // In this thread, for what it reads from may hang.
        let restart_settings =
            is_private.then(|| config.read_settings(&jwk_sets)).transpose().context(NOT_READ)?;
        swarms.start_deltas();
        let unix_seconds = i64::try_from(clock.now().unix_seconds).unwrap_or(i64::MAX);
        let to = BufWriter::with_capacity(1 << 18, stream);
        let mut writer = SnapshotWriter::new(to, unix_seconds).map_err(stream_error)?;
        if let Some(cluster) = &cluster {
            // Before the swarms are copied: no more may count as read than what is in them.
            let positions = cluster.saved().to_block(clock.now().tick);
            writer.write_block(TAG_CLUSTER, &positions).map_err(stream_error)?;
        }
        let mut walk = Walk::new(Arc::clone(&swarms), clock.now().tick);
        let now = || clock.now().tick;
        stream_swarms(&mut walk, &swarms, &mut writer, now)
            .and_then(|()| writer.flush())
            .map_err(stream_error)?;
        Ok(Successor { writer, signal_stream, process, clock, restart_settings })
    }
}

/// Starts the program with the socket as its stdin. It starts with the signals blocked that this thread
/// blocks, and takes them when it is able to: none ends it before.
fn spawn_process(program: &Path, theirs: UnixStream) -> anyhow::Result<std::process::Child> {
    let mut command = Command::new(program);
    command.args(std::env::args_os().skip(1)).env(VARIABLE, "1").stdin(OwnedFd::from(theirs));
    command.spawn().with_context(|| format!("starting {}", program.display()))
}
