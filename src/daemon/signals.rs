//! Signals: SIGHUP and SIGUSR1 reload, SIGUSR2 upgrades, the first SIGINT, SIGTERM or SIGQUIT stops in order,
//! the second at once. One thread takes them; in all others they are blocked, so that they interrupt nothing.
//! Signals that would end a process although nobody wants that are caught and change nothing.

use std::io::{self, ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use hayate_state::admission::access::TorrentList;
use hayate_state::store::{Lifeboat, Opened};
use nix::sys::signal::{SigSet, Signal};
use signal_hook::consts::{SIGALRM, SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGUSR1, SIGUSR2};
use signal_hook::consts::{SIGVTALRM, SIGXCPU, SIGXFSZ};
use signal_hook::iterator::Signals;

use crate::daemon::reload::Planned;
use crate::process::logging;

/// The signals that are taken.
const TAKEN: [i32; 6] = [SIGHUP, SIGUSR1, SIGUSR2, SIGINT, SIGTERM, SIGQUIT];
/// What would end the process, or leave a core file, without an order to stop: a file beyond the limit of
/// its size (the write fails then, as on a full disk), a limit of processor time below the hard one, and
/// timers that whoever started it has left running.
const HARMLESS: [i32; 4] = [SIGXFSZ, SIGXCPU, SIGALRM, SIGVTALRM];
/// Wishes that wait at most; signals beyond wait in the system, where equal ones become one.
const WISHES_MAX: usize = 16;
/// Time in which rows are saved when the process ends at once.
const LAST_SECOND: Duration = Duration::from_secs(1);
/// How long a successor may take to hear of a signal; it reads at once, unless it is frozen.
const HEARD_WITHIN: Duration = Duration::from_secs(1);
/// What a successor hears where its predecessor was asked to reload.
const RELOAD: u8 = b'H';
/// What it hears where its predecessor was asked to stop.
const STOP: u8 = b'T';
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
    /// A successor is ready, or there will be none.
    Raised,
    /// The store was opened after that; `None` where there is none.
    Opened(Box<Option<Opened>>),
}

/// The way to the main thread.
#[derive(Clone, Debug)]
pub(crate) struct Wishes {
    main: SyncSender<Wish>,
    /// A stop was asked for.
    stop: Arc<AtomicBool>,
    /// The main thread takes wishes: the start is done.
    attends: Arc<AtomicBool>,
    /// A reload waits: another one would say nothing new, and take a place from a wish that does.
    reload_waits: Arc<AtomicBool>,
    /// The successor, who hears of reloads and stops too.
    heir: Arc<Mutex<Option<UnixStream>>>,
}

impl Wishes {
    fn new() -> (Self, Receiver<Wish>) {
        let (main, receiver) = sync_channel(WISHES_MAX);
        let (stop, attends, reload_waits) = (Arc::default(), Arc::default(), Arc::default());
        (Self { main, stop, attends, reload_waits, heir: Arc::default() }, receiver)
    }

    /// Sends a wish; one that comes too late is forgotten.
    pub(crate) fn send(&self, wish: Wish) {
        let _ = self.main.send(wish);
    }

    /// Was a stop asked for, whether the main thread knows of it yet or not?
    pub(crate) fn stop_is_asked(&self) -> bool {
        self.stop.load(Ordering::Acquire)
    }

    /// From now on the main thread takes wishes.
    pub(crate) fn are_attended(&self) {
        self.attends.store(true, Ordering::Release);
    }

    /// A stop is asked for. Before there is anything to stop the start is given a little time, and then the
    /// process ends: what it starts with may hang.
    fn end_a_start(&self) {
        if self.attends.load(Ordering::Acquire) {
            return;
        }
        let attends = Arc::clone(&self.attends);
        thread::spawn(move || {
            thread::sleep(START_MAX);
            if !attends.load(Ordering::Acquire) {
                log::warn!("stopped before the start was done");
                logging::finish();
                std::process::exit(0);
            }
        });
    }

    /// From now on the successor behind `ear`, or nobody, hears of reloads and stops as well.
    pub(crate) fn share_with(&self, ear: Option<UnixStream>) {
        let ear = ear.filter(|ear| ear.set_write_timeout(Some(HEARD_WITHIN)).is_ok());
        if let Ok(mut heir) = self.heir.lock() {
            *heir = ear;
        }
    }

    /// Tells the successor, if there is one, to reload.
    pub(crate) fn hand_on_reload(&self) {
        self.hand_on(RELOAD);
    }

    /// Tells it to stop.
    pub(crate) fn hand_on_stop(&self) {
        self.hand_on(STOP);
    }

    fn hand_on(&self, word: u8) {
        if let Ok(heir) = self.heir.lock()
            && let Some(mut ear) = heir.as_ref()
            // Retries where a signal comes in between.
            && let Err(error) = ear.write_all(&[word])
        {
            log::warn!("the new process did not hear of a signal: {error}");
        }
    }

    /// Hears what a predecessor hands on, until it has ended.
    pub(crate) fn hear(&self, mut ear: UnixStream) {
        // Many words are one: it is read faster than wishes are carried out.
        let mut words = [0; 64];
        loop {
            let heard = match ear.read(&mut words) {
                Ok(0) => return,
                Ok(count) => words.get(..count).unwrap_or_default(),
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(_) => return,
            };
            if heard.contains(&RELOAD) {
                self.offer_reload();
            }
            if heard.contains(&STOP) {
                self.stop.store(true, Ordering::Release);
                self.offer(Wish::Stop);
            }
        }
    }

    /// Like [`send`](Self::send), but never waits: the next signal may be the one that ends the process.
    /// Where so many wishes wait already, it is sent by a thread that can wait.
    pub(crate) fn offer(&self, wish: Wish) {
        if let Err(TrySendError::Full(wish)) = self.main.try_send(wish) {
            let wishes = self.clone();
            thread::spawn(move || wishes.send(wish));
        }
    }

    fn offer_reload(&self) {
        if !self.reload_waits.swap(true, Ordering::AcqRel) {
            self.offer(Wish::Reload);
        }
    }

    /// The main thread has taken the reload that waited; what is asked for from now on is another one.
    pub(crate) fn reload_is_taken(&self) {
        self.reload_waits.store(false, Ordering::Release);
    }
}

/// What is saved when the process ends at once, as soon as there is something to save.
pub(crate) type Boat = Arc<Mutex<Option<Lifeboat>>>;

/// Blocks the signals that are [taken](listen) in this thread and all that it starts from now on, and in a
/// successor, which is born with them blocked: what comes before a thread takes them waits in the system. To
/// be called before any other thread is there.
///
/// # Errors
/// When the system refuses.
pub(crate) fn hold() -> io::Result<()> {
    Ok(taken()?.thread_block()?)
}

/// Listens from now on; each signal is one wish. A second SIGINT, SIGTERM or SIGQUIT has a thread save the
/// rows that are in memory for a second at most, and ends the process with exit code 130, 143 or 131, however
/// busy everything else is.
///
/// # Errors
/// When the system refuses handlers or a thread.
pub(crate) fn listen(boat: &Boat) -> io::Result<(Wishes, Receiver<Wish>)> {
    let mut signals = Signals::new(TAKEN.into_iter().chain(HARMLESS))?;
    let (wishes, receiver) = Wishes::new();
    let (forward, boat, taken) = (wishes.clone(), Arc::clone(boat), taken()?);
    thread::Builder::new().name("signals".into()).spawn(move || {
        if let Err(error) = taken.thread_unblock() {
            log::error!("signals are not taken: {error}");
        }
        let mut stopping = false;
        for signal in signals.forever() {
            match signal {
                SIGHUP | SIGUSR1 => {
                    forward.hand_on(RELOAD);
                    forward.offer_reload();
                }
                SIGUSR2 => forward.offer(Wish::Upgrade),
                _ if HARMLESS.contains(&signal) => {}
                _ if stopping => end(&boat, 128 + signal),
                _ => {
                    stopping = true;
                    forward.stop.store(true, Ordering::Release);
                    forward.hand_on(STOP);
                    forward.offer(Wish::Stop);
                    forward.end_a_start();
                }
            }
        }
    })?;
    Ok((wishes, receiver))
}

fn taken() -> io::Result<SigSet> {
    let signals: Result<Vec<Signal>, _> = TAKEN.into_iter().map(Signal::try_from).collect();
    Ok(signals?.into_iter().collect())
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_successor_hears_of_what_its_predecessor_was_asked() {
        let (wishes, _receiver) = Wishes::new();
        let (mouth, ear) = UnixStream::pair().unwrap();
        wishes.hand_on(STOP);
        wishes.share_with(Some(mouth));
        (0..100).for_each(|_| wishes.hand_on(RELOAD));
        wishes.hand_on(STOP);
        wishes.share_with(None);
        let (successor, receiver) = Wishes::new();
        (0..WISHES_MAX).for_each(|_| successor.offer(Wish::Raised));
        successor.hear(ear);
        assert!(successor.stop_is_asked());
        // There is no place for either: they wait for one, in no order.
        let heard: Vec<Wish> = std::iter::from_fn(|| receiver.recv_timeout(Duration::from_secs(20)).ok())
            .take(WISHES_MAX + 2)
            .collect();
        let has = |wanted: fn(&Wish) -> bool| heard.iter().any(wanted);
        assert!(
            has(|wish| matches!(wish, Wish::Stop)) && has(|wish| matches!(wish, Wish::Reload)),
            "{heard:?}"
        );
    }

    #[test]
    fn reloads_that_wait_are_one_and_leave_room_for_an_upgrade() {
        let (wishes, receiver) = Wishes::new();
        (0..3 * WISHES_MAX).for_each(|_| wishes.offer_reload());
        wishes.offer(Wish::Upgrade);
        let first: Vec<Wish> = receiver.try_iter().collect();
        assert!(matches!(first[..], [Wish::Reload, Wish::Upgrade]), "{first:?}");
        wishes.reload_is_taken();
        wishes.offer_reload();
        assert!(matches!(receiver.try_recv(), Ok(Wish::Reload)), "one that is asked for later counts");
    }
}
