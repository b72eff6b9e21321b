//! Signals: SIGHUP and SIGUSR1 reload, SIGUSR2 upgrades, the first SIGINT or SIGTERM stops in order, the
//! second at once.

use std::io;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use hayate_state::access::TorrentList;
use hayate_state::store::Lifeboat;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM, SIGUSR1, SIGUSR2};
use signal_hook::iterator::Signals;

/// Wishes that wait at most; signals beyond wait in the system, where equal ones become one.
const WISHES_MAX: usize = 16;
/// Time in which rows are saved when the process ends at once.
const LAST_SECOND: Duration = Duration::from_secs(1);

/// What is asked of the main thread.
#[derive(Clone, Debug)]
pub(crate) enum Wish {
    /// Read the configuration again.
    Reload,
    /// Hand over to a new process.
    Upgrade,
    /// Stop in order.
    Stop,
    /// The registered torrents, as the store knows them now.
    Registered(Arc<TorrentList>),
    /// The predecessor has ended, the store is free.
    Inherited,
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

/// What is saved when the process ends at once, as soon as there is something to save.
pub(crate) type Boat = Arc<Mutex<Option<Lifeboat>>>;

/// Listens from now on; each signal is one wish. A second SIGINT or SIGTERM has a thread save the rows that
/// are in memory for a second at most, and ends the process with exit code 130 or 143, however busy
/// everything else is.
///
/// # Errors
/// When the system refuses handlers or a thread.
pub(crate) fn listen(boat: &Boat) -> io::Result<(Wishes, Receiver<Wish>)> {
    let mut signals = Signals::new([SIGHUP, SIGUSR1, SIGUSR2, SIGINT, SIGTERM])?;
    let (sender, receiver) = sync_channel(WISHES_MAX);
    let (wishes, boat) = (Wishes(sender), Arc::clone(boat));
    let forward = wishes.clone();
    thread::Builder::new().name("signals".into()).spawn(move || {
        let mut stopping = false;
        for signal in signals.forever() {
            match signal {
                SIGHUP | SIGUSR1 => forward.offer(Wish::Reload),
                SIGUSR2 => forward.offer(Wish::Upgrade),
                _ if stopping => end(&boat, 128 + signal),
                _ => {
                    stopping = true;
                    forward.offer(Wish::Stop);
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
    std::process::exit(code)
}
