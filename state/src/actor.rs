//! The state actor: a thread that owns the inbox through which the gateway's announces and scrapes arrive,
//! answers them in batches, and runs everything periodic. The gateway never touches a shard.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, TrySendError, bounded};

use crate::announce::{Announce, Answer, Handout, Lane, PEER_V4_LEN, PEER_V6_LEN, Refusal, Tally};
use crate::clock::{Clock, Now};
use crate::ids::{InfoHash, PeerId};
use crate::swarms::Sweeper;
use crate::tracker::Tracker;

/// Questions that wait in the inbox at most; beyond, askers are told that the tracker is full.
pub const INBOX_MAX: usize = 16 * 1024;
/// Questions answered at one reading of the clock.
const BATCH_MAX: usize = 256;
/// Time between two slices of periodic work.
const BEAT: Duration = Duration::from_millis(100);
/// Most time that one slice makes up for, after the thread had to wait for a processor.
const BEAT_LATEST: Duration = Duration::from_secs(1);

/// What the gateway asks.
#[derive(Debug)]
pub enum Question {
    /// An announce, and which form of peers it wants.
    Announce(Announce, PeerForm),
    /// A scrape of these torrents, in this order.
    Scrape(Vec<InfoHash>),
}

/// Whether peers are wanted with their ids.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PeerForm {
    /// Addresses and ports only (BEP 23).
    Compact,
    /// With peer ids, where the tracker keeps them (BEP 3).
    WithIds,
}

/// What the actor answers.
#[derive(Debug)]
pub enum Reply {
    /// To [`Question::Announce`].
    Announce(Result<(Answer, PeerList), Refusal>),
    /// To [`Question::Scrape`]: one tally for each torrent asked.
    Scrape(Result<Vec<Tally>, Refusal>),
}

/// The peers of an answer, as they go on the wire. Ids are there only if they were asked for and are kept.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct PeerList {
    /// IPv4 peers, 6 octets each.
    pub v4: Vec<u8>,
    /// IPv6 peers, 18 octets each.
    pub v6: Vec<u8>,
    /// One id for each IPv4 peer, or none at all.
    pub v4_ids: Vec<PeerId>,
    /// One id for each IPv6 peer, or none at all.
    pub v6_ids: Vec<PeerId>,
}

/// The way back to whoever asked.
pub trait Respond: Send + 'static {
    /// Delivers the reply; must not block. An asker who has gone is ignored.
    fn respond(self, reply: Reply);
}

/// The sending side of the actor's inbox.
#[derive(Debug)]
pub struct Inbox<R> {
    sender: Sender<(Question, R)>,
}

impl<R> Clone for Inbox<R> {
    fn clone(&self) -> Self {
        Self { sender: self.sender.clone() }
    }
}

/// The inbox is full or the actor has stopped; the question was not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the tracker is full")]
pub struct Full;

impl<R: Respond> Inbox<R> {
    /// Puts a question into the inbox, or refuses at once.
    ///
    /// # Errors
    /// [`Full`] when [`INBOX_MAX`] questions wait already, or the actor has stopped.
    pub fn ask(&self, question: Question, asker: R) -> Result<(), Full> {
        match self.sender.try_send((question, asker)) {
            Ok(()) => Ok(()),
            Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) => Err(Full),
        }
    }

    /// Questions waiting.
    #[must_use]
    pub fn depth(&self) -> usize {
        self.sender.len()
    }
}

/// A running actor. It stops when the last [`Inbox`] is dropped.
#[derive(Debug)]
pub struct Actor {
    thread: JoinHandle<()>,
    beats: Arc<AtomicU64>,
}

impl Actor {
    /// Starts the thread.
    ///
    /// # Errors
    /// When the system gives no thread.
    pub fn start<R: Respond>(tracker: Tracker, clock: Clock) -> std::io::Result<(Self, Inbox<R>)> {
        Self::start_bounded(tracker, clock, INBOX_MAX)
    }

    /// The same with an inbox of another size, for tests of what happens when it is full.
    ///
    /// # Errors
    /// When the system gives no thread.
    pub fn start_bounded<R: Respond>(
        tracker: Tracker,
        clock: Clock,
        capacity: usize,
    ) -> std::io::Result<(Self, Inbox<R>)> {
        let (sender, receiver) = bounded(capacity);
        let beats = Arc::new(AtomicU64::new(0));
        let desk = Desk {
            sweeper: Sweeper::new(Arc::clone(tracker.swarms())),
            tracker,
            clock,
            beats: Arc::clone(&beats),
        };
        let thread = std::thread::Builder::new().name("state".into()).spawn(move || desk.run(&receiver))?;
        Ok((Self { thread, beats }, Inbox { sender }))
    }

    /// Slices of periodic work done so far; it grows as long as the actor is alive.
    #[must_use]
    pub fn beats(&self) -> Arc<AtomicU64> {
        Arc::clone(&self.beats)
    }

    /// False once the thread has ended, which it does when the last inbox is gone, or by a panic.
    #[must_use]
    pub fn is_alive(&self) -> bool {
        !self.thread.is_finished()
    }

    /// Waits until the last inbox is gone and the last question answered.
    pub fn join(self) {
        if self.thread.join().is_err() {
            log::error!("the state actor ended with a panic");
        }
    }
}

struct Desk {
    tracker: Tracker,
    sweeper: Sweeper,
    clock: Clock,
    beats: Arc<AtomicU64>,
}

impl Desk {
    fn run<R: Respond>(mut self, inbox: &Receiver<(Question, R)>) {
        let mut last_beat = self.clock.uptime();
        loop {
            let wait = (last_beat + BEAT).saturating_sub(self.clock.uptime());
            match inbox.recv_timeout(wait) {
                Ok(first) => self.answer_batch(first, inbox),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return,
            }
            let elapsed = self.clock.uptime().saturating_sub(last_beat);
            if elapsed >= BEAT {
                last_beat += elapsed;
                self.beat(elapsed.min(BEAT_LATEST));
            }
        }
    }

    fn answer_batch<R: Respond>(&mut self, first: (Question, R), inbox: &Receiver<(Question, R)>) {
        let now = self.clock.now();
        self.tracker.refresh();
        for (question, asker) in std::iter::once(first).chain(inbox.try_iter()).take(BATCH_MAX) {
            asker.respond(answer(&mut self.tracker, now, question));
        }
    }

    fn beat(&mut self, elapsed: Duration) {
        self.tracker.refresh();
        self.sweeper.beat(self.clock.now().tick, self.tracker.policy(), elapsed);
        self.beats.fetch_add(1, Ordering::Relaxed);
    }
}

/// Answers one question at once, without a thread: what the actor does for each, and what tests do.
pub fn answer(tracker: &mut Tracker, now: Now, question: Question) -> Reply {
    match question {
        Question::Announce(announce, form) => Reply::Announce(answer_announce(tracker, now, &announce, form)),
        Question::Scrape(hashes) => Reply::Scrape(hashes.iter().map(|hash| tracker.scrape(hash)).collect()),
    }
}

fn answer_announce(
    tracker: &mut Tracker,
    now: Now,
    announce: &Announce,
    form: PeerForm,
) -> Result<(Answer, PeerList), Refusal> {
    let room = usize::from(announce.num_want);
    let mut list =
        PeerList { v4: vec![0; room * PEER_V4_LEN], v6: vec![0; room * PEER_V6_LEN], ..PeerList::default() };
    let mut handout = Handout { v4: Lane::new(&mut list.v4), v6: Lane::new(&mut list.v6) };
    if form == PeerForm::WithIds && tracker.policy().keep_peer_ids {
        handout.v4 = handout.v4.with_ids(&mut list.v4_ids);
        handout.v6 = handout.v6.with_ids(&mut list.v6_ids);
    }
    let answer = tracker.announce(now.tick, announce, &mut handout)?;
    let (v4_used, v6_used) = (handout.v4.used(), handout.v6.used());
    list.v4.truncate(v4_used);
    list.v6.truncate(v6_used);
    Ok((answer, list))
}
