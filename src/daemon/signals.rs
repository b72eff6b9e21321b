//! Signals: SIGHUP and SIGUSR1 reload, SIGUSR2 upgrades, the first SIGINT, SIGTERM or SIGQUIT stops in order,
//! the second at once. One thread takes them; in all others they are blocked, so that they interrupt nothing.
//! Signals that end a process by default, but are no request to stop, are caught and change nothing.

use std::io::{self, ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use hayate_state::admission::access::TorrentList;
use hayate_state::store::{EmergencyFlush, OpenedStore};
use nix::sys::signal::{SigSet, Signal};
use signal_hook::consts::{SIGALRM, SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGUSR1, SIGUSR2};
use signal_hook::consts::{SIGVTALRM, SIGXCPU, SIGXFSZ};
use signal_hook::iterator::Signals;

use crate::daemon::reload::ReloadOutcome;
use crate::process::logging;

/// The signals that are taken.
const TAKEN: [i32; 6] = [SIGHUP, SIGUSR1, SIGUSR2, SIGINT, SIGTERM, SIGQUIT];
/// Signals that would end the process, or leave a core file, without an order to stop: for a file beyond the
/// limit of its size (the write fails then, as on a full disk), for a limit of processor time below the hard
/// one, and from timers that the parent process has left running.
const HARMLESS: [i32; 4] = [SIGXFSZ, SIGXCPU, SIGALRM, SIGVTALRM];
/// Most events that wait; further signals wait in the system, where equal ones become one.
const EVENTS_MAX: usize = 16;
/// Longest time in which rows are saved when the process ends at once.
const LAST_SECOND: Duration = Duration::from_secs(1);
/// Longest time that a successor may take to receive a signal; it reads at once, unless it is frozen.
const FORWARD_MAX: Duration = Duration::from_secs(1);
/// The code that is forwarded to a successor when this process is asked to reload.
const RELOAD: u8 = b'H';
/// The code that is forwarded to a successor when this process is asked to stop.
const STOP: u8 = b'T';
/// Time that a start may still take after a stop was asked for.
const START_MAX: Duration = Duration::from_secs(5);

/// An event for the main thread: something to do, or something that has happened elsewhere.
#[derive(Debug)]
pub(crate) enum MainEvent {
    /// Read the configuration again.
    Reload,
    /// A reload has read the configuration.
    ReloadRead(Box<ReloadOutcome>),
    /// Hand over to a new process.
    Upgrade,
    /// Stop in order.
    Stop,
    /// The registered torrents, as the store knows them now.
    Registered(Arc<TorrentList>),
    /// The predecessor has ended: the store is free.
    PredecessorEnded,
    /// A successor is ready, or there will be none.
    SuccessorStarted,
    /// The store was opened after the predecessor had ended; `None` without a database.
    StoreOpened(Box<Option<OpenedStore>>),
}

/// The sending side of the main thread's events.
#[derive(Clone, Debug)]
pub(crate) struct MainEvents {
    main: SyncSender<MainEvent>,
    /// Whether a stop was asked for.
    stop: Arc<AtomicBool>,
    /// Whether the main thread takes events: the start is done.
    main_is_ready: Arc<AtomicBool>,
    /// Whether a reload waits: another one would add nothing, and take the place of an event that does.
    reload_waits: Arc<AtomicBool>,
    /// The successor, to which reloads and stops are forwarded.
    successor: Arc<Mutex<Option<UnixStream>>>,
}

impl MainEvents {
    fn new() -> (Self, Receiver<MainEvent>) {
        let (main, receiver) = sync_channel(EVENTS_MAX);
        let (stop, main_is_ready, reload_waits) = (Arc::default(), Arc::default(), Arc::default());
        (Self { main, stop, main_is_ready, reload_waits, successor: Arc::default() }, receiver)
    }

    /// Sends an event; one that comes too late is dropped.
    pub(crate) fn send(&self, event: MainEvent) {
        let _ = self.main.send(event);
    }

    /// Whether a stop was asked for, even if the main thread does not know of it yet.
    pub(crate) fn stop_requested(&self) -> bool {
        self.stop.load(Ordering::Acquire)
    }

    /// Notes that the main thread takes events from now on.
    pub(crate) fn set_ready(&self) {
        self.main_is_ready.store(true, Ordering::Release);
    }

    /// Limits the time of a start after a stop was asked for: what it waits for may hang, so the process ends
    /// after [`START_MAX`].
    fn limit_start(&self) {
        if self.main_is_ready.load(Ordering::Acquire) {
            return;
        }
        let main_is_ready = Arc::clone(&self.main_is_ready);
        thread::spawn(move || {
            thread::sleep(START_MAX);
            if !main_is_ready.load(Ordering::Acquire) {
                log::warn!("stopped before the start was done");
                logging::finish();
                std::process::exit(0);
            }
        });
    }

    /// Forwards reloads and stops to the successor behind `signal_stream` from now on; with `None`, to
    /// nobody.
    pub(crate) fn forward_to(&self, signal_stream: Option<UnixStream>) {
        let signal_stream =
            signal_stream.filter(|signal_stream| signal_stream.set_write_timeout(Some(FORWARD_MAX)).is_ok());
        if let Ok(mut successor) = self.successor.lock() {
            *successor = signal_stream;
        }
    }

    /// Forwards a reload to the successor, if there is one.
    pub(crate) fn forward_reload(&self) {
        self.forward_signal(RELOAD);
    }

    /// Forwards a stop to the successor, if there is one.
    pub(crate) fn forward_stop(&self) {
        self.forward_signal(STOP);
    }

    fn forward_signal(&self, code: u8) {
        if let Ok(successor) = self.successor.lock()
            && let Some(mut signal_stream) = successor.as_ref()
            // `write_all` tries again when a signal interrupts it.
            && let Err(error) = signal_stream.write_all(&[code])
        {
            log::warn!("the new process did not receive a signal: {error}");
        }
    }

    /// Receives what a predecessor forwards, until it has ended.
    pub(crate) fn receive_forwarded(&self, mut signal_stream: UnixStream) {
        // Many octets count as one: they are read faster than events are handled.
        let mut codes = [0; 64];
        loop {
            let received = match signal_stream.read(&mut codes) {
                Ok(0) => return,
                Ok(count) => codes.get(..count).unwrap_or_default(),
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(_) => return,
            };
            if received.contains(&RELOAD) {
                self.offer_reload();
            }
            if received.contains(&STOP) {
                self.stop.store(true, Ordering::Release);
                self.offer(MainEvent::Stop);
            }
        }
    }

    /// Sends an event without ever waiting: the next signal may be the one that ends the process.
    /// If the queue is full, a thread that can wait sends the event.
    pub(crate) fn offer(&self, event: MainEvent) {
        if let Err(TrySendError::Full(event)) = self.main.try_send(event) {
            let main_events = self.clone();
            thread::spawn(move || main_events.send(event));
        }
    }

    fn offer_reload(&self) {
        if !self.reload_waits.swap(true, Ordering::AcqRel) {
            self.offer(MainEvent::Reload);
        }
    }

    /// Notes that the main thread has taken the reload that waited; the next request is another one.
    pub(crate) fn reload_received(&self) {
        self.reload_waits.store(false, Ordering::Release);
    }
}

/// What saves the rows in memory when the process ends at once; empty until there is something to save.
pub(crate) type FlushSlot = Arc<Mutex<Option<EmergencyFlush>>>;

/// Blocks the signals that are [taken](start_listening) in this thread and all that it starts from now on,
/// and in a successor, which starts with them blocked: signals that come before a thread takes them wait in
/// the system. To be called before any other thread is started.
///
/// # Errors
/// Fails when the system refuses.
pub(crate) fn block_signals() -> io::Result<()> {
    Ok(taken_signals()?.thread_block()?)
}

/// Starts the thread that makes an event of each signal. A second SIGINT, SIGTERM or SIGQUIT saves the rows
/// in memory, for a second at most, and ends the process with exit code 130, 143 or 131, however busy
/// everything else is.
///
/// # Errors
/// Fails when the system refuses the handlers, or the thread cannot be started.
pub(crate) fn start_listening(flush_slot: &FlushSlot) -> io::Result<(MainEvents, Receiver<MainEvent>)> {
    let mut signals = Signals::new(TAKEN.into_iter().chain(HARMLESS))?;
    let (main_events, receiver) = MainEvents::new();
    let (events, flush_slot, taken) = (main_events.clone(), Arc::clone(flush_slot), taken_signals()?);
    thread::Builder::new().name("signals".into()).spawn(move || {
        if let Err(error) = taken.thread_unblock() {
            log::error!("signals are not taken: {error}");
        }
        let mut stopping = false;
        for signal in signals.forever() {
            match signal {
                SIGHUP | SIGUSR1 => {
                    events.forward_signal(RELOAD);
                    events.offer_reload();
                }
                SIGUSR2 => events.offer(MainEvent::Upgrade),
                _ if HARMLESS.contains(&signal) => {}
                _ if stopping => exit_now(&flush_slot, 128 + signal),
                _ => {
                    stopping = true;
                    events.stop.store(true, Ordering::Release);
                    events.forward_signal(STOP);
                    events.offer(MainEvent::Stop);
                    events.limit_start();
                }
            }
        }
    })?;
    Ok((main_events, receiver))
}

fn taken_signals() -> io::Result<SigSet> {
    let signals: Result<Vec<Signal>, _> = TAKEN.into_iter().map(Signal::try_from).collect();
    Ok(signals?.into_iter().collect())
}

fn exit_now(flush_slot: &FlushSlot, code: i32) -> ! {
    let (saved, done) = sync_channel(1);
    if let Some(flush_slot) = flush_slot.lock().ok().and_then(|mut flush_slot| flush_slot.take()) {
        thread::spawn(move || {
            flush_slot.flush_to_disk();
            saved.send(())
        });
        // The disk may hang; then the rows are lost.
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
        let (main_events, _receiver) = MainEvents::new();
        let (sender, signal_stream) = UnixStream::pair().unwrap();
        main_events.forward_signal(STOP);
        main_events.forward_to(Some(sender));
        (0..100).for_each(|_| main_events.forward_signal(RELOAD));
        main_events.forward_signal(STOP);
        main_events.forward_to(None);
        let (successor, receiver) = MainEvents::new();
        (0..EVENTS_MAX).for_each(|_| successor.offer(MainEvent::SuccessorStarted));
        successor.receive_forwarded(signal_stream);
        assert!(successor.stop_requested());
        // There is no place for either: both wait for one, in any order.
        let heard: Vec<MainEvent> =
            std::iter::from_fn(|| receiver.recv_timeout(Duration::from_secs(20)).ok())
                .take(EVENTS_MAX + 2)
                .collect();
        let has = |wanted: fn(&MainEvent) -> bool| heard.iter().any(wanted);
        assert!(
            has(|event| matches!(event, MainEvent::Stop)) && has(|event| matches!(event, MainEvent::Reload)),
            "{heard:?}"
        );
    }

    #[test]
    fn reloads_that_wait_are_one_and_leave_room_for_an_upgrade() {
        let (main_events, receiver) = MainEvents::new();
        (0..3 * EVENTS_MAX).for_each(|_| main_events.offer_reload());
        main_events.offer(MainEvent::Upgrade);
        let first: Vec<MainEvent> = receiver.try_iter().collect();
        assert!(matches!(first[..], [MainEvent::Reload, MainEvent::Upgrade]), "{first:?}");
        main_events.reload_received();
        main_events.offer_reload();
        assert!(matches!(receiver.try_recv(), Ok(MainEvent::Reload)), "one that is asked for later counts");
    }
}
