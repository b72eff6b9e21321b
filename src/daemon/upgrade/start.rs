//! Raises a successor in a thread of its own: the main thread looks after its main_events meanwhile.

use std::io::BufWriter;
use std::net::Shutdown;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

use anyhow::{Context, anyhow, bail};
use hayate_state::snapshot::container::SnapshotWriter;
use hayate_state::snapshot::delta::stream_swarms;
use hayate_state::snapshot::swarms::Walk;
use hayate_state::{Clock, Swarms};

use super::{PATIENCE, READY, Sockets, Successor, SuccessorProcess, VARIABLE, read_answer, stream_error};
use crate::config::{Config, NOT_READ};
use crate::daemon::jwk_fetch::JwkSets;
use crate::daemon::signals::{MainEvent, MainEvents};
use crate::process::lock::StateLock;

/// What a successor is raised from.
#[derive(Debug)]
pub(crate) struct SuccessorInputs {
    /// The program file.
    pub(crate) program: PathBuf,
    /// The sockets.
    pub(crate) sockets: Arc<Mutex<Sockets>>,
    /// The lock on `state_dir`.
    pub(crate) lock: Arc<StateLock>,
    /// What the successor is to know.
    pub(crate) swarms: Arc<Swarms>,
    /// The configuration, with the files that the successor may not be able to read again.
    pub(crate) config: Config,
    /// In mode private: what this process needs to start once more, if the successor fails when this process
    /// has put everything on the disk.
    pub(crate) keyrings: Option<JwkSets>,
    /// The time.
    pub(crate) clock: Clock,
}

/// A successor on its way.
#[derive(Debug)]
pub(crate) struct StartingSuccessor {
    thread: JoinHandle<anyhow::Result<Successor>>,
    stream: UnixStream,
}

impl StartingSuccessor {
    /// Starts the successor and brings it as far as it comes while this process serves. The main thread gets
    /// [`Wish::Raised`] when that is done.
    ///
    /// # Errors
    /// When the system gives no socket or no thread.
    pub(crate) fn begin(inputs: SuccessorInputs, main_events: &MainEvents) -> anyhow::Result<Self> {
        let (ours, theirs) = UnixStream::pair().context("a socket for the successor")?;
        for limit in [UnixStream::set_read_timeout, UnixStream::set_write_timeout] {
            limit(&ours, Some(PATIENCE))?;
        }
        let (stream, main_events) = (ours.try_clone()?, main_events.clone());
        let thread = std::thread::Builder::new().name("upgrade".into()).spawn(move || {
            let successor = inputs.start_successor(ours, theirs);
            // Where so many main_events wait, the main thread is awake anyway.
            main_events.offer(MainEvent::SuccessorStarted);
            successor
        })?;
        Ok(Self { thread, stream })
    }

    /// Is the successor there, or will there be none?
    pub(crate) fn is_done(&self) -> bool {
        self.thread.is_finished()
    }

    /// The successor; waits for it.
    ///
    /// # Errors
    /// When it does not start, does not like its configuration or its sockets, or is too slow. It is ended
    /// then.
    pub(crate) fn finish(self) -> anyhow::Result<Successor> {
        self.thread.join().unwrap_or_else(|_| Err(anyhow!("the thread that raises it has panicked")))
    }

    /// Ends the successor, however far it has come.
    pub(crate) fn give_up(self) {
        // Whatever the thread waits for fails now.
        let _ = self.stream.shutdown(Shutdown::Both);
        drop(self.finish());
    }
}

impl SuccessorInputs {
    fn start_successor(self, mut stream: UnixStream, theirs: UnixStream) -> anyhow::Result<Successor> {
        let Self { program, sockets, lock, swarms, config, keyrings, clock } = self;
        let (signal_stream, heard) = UnixStream::pair().context("a socket for the successor")?;
        let child = spawn_process(&program, theirs)?;
        let process = SuccessorProcess { child, swarms: Arc::clone(&swarms), serves: false };
        let sockets = sockets.lock().map_err(|_| anyhow!("a thread has panicked"))?;
        sockets
            .send(&stream, &lock, &heard, keyrings.is_some(), config.remembered())
            .map_err(stream_error)?;
        drop(sockets);
        drop(heard);
        if read_answer(&mut stream)? != READY {
            bail!("the new process does not speak our language");
        }
        // Here, for what it reads may hang.
        let again = keyrings.map(|keyrings| config.read_settings(&keyrings)).transpose().context(NOT_READ)?;
        swarms.start_deltas();
        let unix_seconds = i64::try_from(clock.now().unix_seconds).unwrap_or(i64::MAX);
        let to = BufWriter::with_capacity(1 << 18, stream);
        let mut writer = SnapshotWriter::new(to, unix_seconds).map_err(stream_error)?;
        let mut walk = Walk::new(Arc::clone(&swarms), clock.now().tick);
        let now = || clock.now().tick;
        stream_swarms(&mut walk, &swarms, &mut writer, now)
            .and_then(|()| writer.flush())
            .map_err(stream_error)?;
        Ok(Successor { writer, signal_stream, process, clock, restart_settings: again })
    }
}

/// Starts the program with the socket as its stdin. It is born with the signals blocked that this thread
/// blocks, and takes them when it can: none ends it before.
fn spawn_process(program: &Path, theirs: UnixStream) -> anyhow::Result<std::process::Child> {
    let mut command = Command::new(program);
    command.args(std::env::args_os().skip(1)).env(VARIABLE, "1").stdin(OwnedFd::from(theirs));
    command.spawn().with_context(|| format!("starting {}", program.display()))
}
