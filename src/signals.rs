//! Signals: SIGHUP and SIGUSR1 reload, SIGUSR2 upgrades, the first SIGINT, SIGTERM or SIGQUIT stops in order,
//! the second at once. Signals that would end a process although nobody wants that are caught and change
//! nothing.

use std::io;
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use hayate_state::access::TorrentList;
use hayate_state::store::{Lifeboat, Opened};
use signal_hook::consts::{SIGALRM, SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGUSR1, SIGUSR2};
use signal_hook::consts::{SIGVTALRM, SIGXCPU, SIGXFSZ};
use signal_hook::iterator::Signals;

use crate::logging;
use crate::reload::Planned;

/// What would end the process, or leave a core file, without an order to stop: a file beyond the limit of
/// its size (the write fails then, as on a full disk), a limit of processor time below the hard one, and
/// timers that whoever started it has left running.
const HARMLESS: [i32; 4] = [SIGXFSZ, SIGXCPU, SIGALRM, SIGVTALRM];
/// Wishes that wait at most; signals beyond wait in the system, where equal ones become one.
const WISHES_MAX: usize = 16;
/// Time in which rows are saved when the process ends at once.
const LAST_SECOND: Duration = Duration::from_secs(1);
/// Time that a start may still take when a stop is asked for.
const START_MAX: Duration = Duration::from_secs(5);

/// What is asked of the main thread.
#[derive(Debug)]
pub(crate) enum Wish {
    /// Read the configuration again.
    Reload,
    /// It was read again.
    Planned(Box<Planned>),
    /// Hand over to a new process.
    Upgrade,
    /// Stop in order.
    Stop,
    /// The registered torrents, as the store knows them now.
    Registered(Arc<TorrentList>),
    /// The predecessor has ended, the store is free.
    Inherited,
    /// The store was opened after that; `None` where there is none.
    Opened(Box<Option<Opened>>),
}

/// The way to the main thread.
#[derive(Clone, Debug)]
pub(crate) struct Wishes(SyncSender<Wish>);

impl Wishes {
    /// Sends a wish; one that comes too late is forgotten.
    pub(crate) fn send(&self, wish: Wish) {
        let _ = self.0.send(wish);
    }
}

/// What the main thread is at, as far as a stop must know.
#[derive(Clone, Debug, Default)]
pub(crate) struct Attention(Arc<Mutex<At>>);

#[derive(Debug, Default)]
struct At {
    /// The main thread takes wishes.
    attends: bool,
    stopping: bool,
    /// It waits for this.
    stream: Option<UnixStream>,
}

impl Attention {
    /// From now on wishes are taken.
    pub(crate) fn attends(&self) {
        self.at().attends = true;
    }

    /// From now on the main thread waits for what comes by this stream. A stop ends the stream.
    ///
    /// # Errors
    /// When a stop was asked for already, or too many files are open.
    pub(crate) fn waits_for(&self, stream: &UnixStream) -> io::Result<()> {
        let mut at = self.at();
        if at.stopping {
            return Err(io::Error::other("the tracker is stopping"));
        }
        at.stream = Some(stream.try_clone()?);
        Ok(())
    }

    /// It waits no more; false if a stop was asked for meanwhile.
    pub(crate) fn has_waited(&self) -> bool {
        let mut at = self.at();
        at.stream = None;
        !at.stopping
    }

    /// A stop is asked for. Before there is anything to stop it is given a little time, and then the process
    /// ends: whoever it starts with may hang.
    fn stop(&self) {
        let mut at = self.at();
        at.stopping = true;
        if let Some(stream) = at.stream.take() {
            // Its other end may be gone.
            let _ = stream.shutdown(Shutdown::Both);
        }
        if !at.attends {
            let own = self.clone();
            thread::spawn(move || {
                thread::sleep(START_MAX);
                if !own.at().attends {
                    log::warn!("stopped before the start was done");
                    logging::finish();
                    std::process::exit(0);
                }
            });
        }
    }

    fn at(&self) -> MutexGuard<'_, At> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What is saved when the process ends at once, as soon as there is something to save.
pub(crate) type Boat = Arc<Mutex<Option<Lifeboat>>>;

/// Listens from now on; each signal is one wish. A second SIGINT, SIGTERM or SIGQUIT has a thread save the
/// rows that are in memory for a second at most, and ends the process with exit code 130, 143 or 131, however
/// busy everything else is.
///
/// # Errors
/// When the system refuses handlers or a thread.
pub(crate) fn listen(boat: &Boat, attention: &Attention) -> io::Result<(Wishes, Receiver<Wish>)> {
    let mut signals =
        Signals::new([SIGHUP, SIGUSR1, SIGUSR2, SIGINT, SIGTERM, SIGQUIT].into_iter().chain(HARMLESS))?;
    let (sender, receiver) = sync_channel(WISHES_MAX);
    let (wishes, boat, attention) = (Wishes(sender), Arc::clone(boat), attention.clone());
    let forward = wishes.clone();
    thread::Builder::new().name("signals".into()).spawn(move || {
        let mut stopping = false;
        for signal in signals.forever() {
            match signal {
                SIGHUP | SIGUSR1 => forward.offer(Wish::Reload),
                SIGUSR2 => forward.offer(Wish::Upgrade),
                _ if HARMLESS.contains(&signal) => {}
                _ if stopping => end(&boat, 128 + signal),
                _ => {
                    stopping = true;
                    forward.offer(Wish::Stop);
                    attention.stop();
                }
            }
        }
    })?;
    Ok((wishes, receiver))
}

impl Wishes {
    /// Like [`send`](Self::send), but never waits: the next signal may be the one that ends the process.
    /// Where so many wishes wait already, a further reload says nothing new, and a stop is sent by a thread
    /// that can wait.
    fn offer(&self, wish: Wish) {
        if let Err(std::sync::mpsc::TrySendError::Full(wish @ Wish::Stop)) = self.0.try_send(wish) {
            let wishes = self.clone();
            thread::spawn(move || wishes.send(wish));
        }
    }
}

fn end(boat: &Boat, code: i32) -> ! {
    let (saved, done) = sync_channel(1);
    if let Some(boat) = boat.lock().ok().and_then(|mut boat| boat.take()) {
        thread::spawn(move || {
            boat.save();
            saved.send(())
        });
        // The disk may hang; then it is as if there were none.
        let _ = done.recv_timeout(LAST_SECOND);
    }
    logging::finish();
    std::process::exit(code)
}
