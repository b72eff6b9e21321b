//! The state actor: the thread that answers the gateway's announces and scrapes in batches, as they arrive in
//! its inbox, and does the periodic work on swarms. The gateway never touches a shard.

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle, Thread};
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender, TryRecvError, TrySendError, bounded};

use crate::admission::hooks::OwnedUrl;
use crate::announce::{Announce, Answer, Handout, PEER_V4_LEN, PEER_V6_LEN, PeerWriter, Refusal, Tally};
use crate::clock::{Clock, Now};
use crate::ids::{InfoHash, PeerId};
use crate::metrics::histogram::Histogram;
use crate::private::{PeerExpiry, Refused, User};
use crate::swarm::Sweeper;
use crate::tracker::Tracker;

/// Questions that wait in the inbox at most; beyond, the tracker counts as full.
pub const INBOX_MAX: usize = 16 * 1024;
/// Questions answered at one reading of the clock.
const BATCH_MAX: usize = 256;
/// Time between two slices of periodic work.
const SLICE_PERIOD: Duration = Duration::from_millis(100);
/// Time between two slices of periodic work in a large tracker.
const SLICE_PERIOD_SHORT: Duration = Duration::from_millis(10);
/// Longest time that one slice makes up for after the thread has waited for a processor.
const CATCH_UP_MAX: Duration = Duration::from_secs(1);

/// A request from the gateway, with what is needed to answer it.
#[derive(Debug)]
pub enum Question {
    /// An announce, and the form in which it wants peers.
    Announce(Announce, PeerForm, UrlForHooks),
    /// A scrape of these torrents, in this order.
    Scrape(Vec<InfoHash>, UrlForHooks),
    /// An announce of a user (mode private).
    UserAnnounce(User, Announce, PeerForm, UrlForHooks),
    /// A scrape of a user (mode private), of these torrents, in this order.
    UserScrape(User, Vec<InfoHash>, UrlForHooks),
}

/// The URL of the request; `None` where no hook is configured.
pub type UrlForHooks = Option<Box<OwnedUrl>>;

/// Whether peers are wanted with their ids.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PeerForm {
    /// Addresses and ports only (BEP 23).
    Compact,
    /// With peer ids, where the tracker keeps them (BEP 3).
    WithIds,
}

/// The actor's answer to a [`Question`].
#[derive(Debug)]
pub enum Reply {
    /// The answer to [`Question::Announce`] and [`Question::UserAnnounce`].
    Announce(Result<(Answer, PeerList), Refused>),
    /// The answer to [`Question::Scrape`]: one tally for each torrent, in order.
    Scrape(Result<Vec<Tally>, Refusal>),
    /// The answer to [`Question::UserScrape`]: one tally for each torrent, in order; `None` for those that
    /// are left out.
    UserScrape(Result<Vec<Option<Tally>>, Refusal>),
}

/// The peers of an answer, as they go on the wire. Ids are present only if they were requested and are kept.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct PeerList {
    /// IPv4 peers, 6 octets each.
    pub v4: Vec<u8>,
    /// IPv6 peers, 18 octets each.
    pub v6: Vec<u8>,
    /// One id for each IPv4 peer, or empty.
    pub v4_ids: Vec<PeerId>,
    /// One id for each IPv6 peer, or empty.
    pub v6_ids: Vec<PeerId>,
}

/// The way back to the connection that sent a question.
pub trait Respond: Send + Sized + 'static {
    /// Delivers the reply. Must not block; a client that is gone is ignored.
    fn respond(self, reply: Reply);

    /// Delivers the replies of a batch as they are made, so that one wake-up can serve all of them.
    fn respond_all(replies: impl Iterator<Item = (Self, Reply)>) {
        replies.for_each(|(reply_to, reply)| reply_to.respond(reply));
    }
}

/// The sending side of the actor's inbox. The actor stops when the last one is dropped.
#[derive(Debug)]
pub struct Inbox<R> {
    sender: Sender<(Question, R)>,
    // After the sender: the actor that is woken by the last drop finds the channel closed.
    wake_on_drop: WakeOnDrop,
}

impl<R> Clone for Inbox<R> {
    fn clone(&self) -> Self {
        Self { sender: self.sender.clone(), wake_on_drop: self.wake_on_drop.clone() }
    }
}

/// Wakes the actor when told to, and when dropped.
#[derive(Clone, Debug)]
struct WakeOnDrop(Thread);

impl Drop for WakeOnDrop {
    fn drop(&mut self) {
        self.0.unpark();
    }
}

/// The question was not taken: the inbox is full, or the actor has stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the tracker is full")]
pub struct InboxFull;

impl<R: Respond> Inbox<R> {
    /// Puts a question into the inbox and wakes the actor, or refuses at once.
    ///
    /// # Errors
    /// Fails with [`InboxFull`] when [`INBOX_MAX`] questions are waiting, or the actor has stopped.
    pub fn send(&self, question: Question, reply_to: R) -> Result<(), InboxFull> {
        self.push(question, reply_to)?;
        self.wake();
        Ok(())
    }

    /// Puts a question into the inbox like [`send`](Self::send), but does not wake the actor. Waking a thread
    /// is a system call: a caller with many questions calls [`wake`](Self::wake) once, after the last.
    ///
    /// # Errors
    /// Fails with [`InboxFull`] when [`INBOX_MAX`] questions are waiting, or the actor has stopped.
    pub fn push(&self, question: Question, reply_to: R) -> Result<(), InboxFull> {
        match self.sender.try_send((question, reply_to)) {
            Ok(()) => Ok(()),
            Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) => Err(InboxFull),
        }
    }

    /// Wakes the actor if it sleeps.
    pub fn wake(&self) {
        self.wake_on_drop.0.unpark();
    }

    /// Returns the number of questions waiting.
    #[must_use]
    pub fn depth(&self) -> usize {
        self.sender.len()
    }
}

/// A running actor. It stops when the last [`Inbox`] is dropped.
#[derive(Debug)]
pub struct Actor {
    thread: JoinHandle<()>,
    turns: Arc<AtomicU64>,
    /// Set when the thread has panicked and only drops questions.
    has_panicked: Arc<AtomicBool>,
}

impl Actor {
    /// Starts the thread, with room for [`INBOX_MAX`] questions.
    ///
    /// # Errors
    /// Fails when the thread cannot be started.
    pub fn start<R: Respond>(tracker: Tracker, clock: Clock) -> std::io::Result<(Self, Inbox<R>)> {
        Self::start_bounded(tracker, clock, INBOX_MAX)
    }

    /// Starts the thread with room for `capacity` questions, for tests of a full inbox.
    ///
    /// # Errors
    /// Fails when the thread cannot be started.
    pub fn start_bounded<R: Respond>(
        tracker: Tracker,
        clock: Clock,
        capacity: usize,
    ) -> std::io::Result<(Self, Inbox<R>)> {
        let (sender, receiver) = bounded(capacity);
        let turns = Arc::new(AtomicU64::new(0));
        let sweep_durations = Arc::clone(tracker.swarms().sweep_durations());
        let actor = ActorLoop {
            sweeper: Sweeper::new(Arc::clone(tracker.swarms())),
            expiry: tracker.peer_expiry(),
            tracker,
            clock,
            buffers: PeerBuffers::default(),
            turns: Arc::clone(&turns),
            sweep_time: Duration::ZERO,
            sweep_durations,
        };
        let has_panicked = Arc::new(AtomicBool::new(false));
        let panicked = Arc::clone(&has_panicked);
        let thread = thread::Builder::new().name("state".into()).spawn(move || {
            if let Err(panic) = catch_unwind(AssertUnwindSafe(|| actor.run(&receiver))) {
                panicked.store(true, Ordering::Relaxed);
                // The channel keeps its contents until the last sender is gone. Dropping a `reply_to` tells
                // its connection, so no client waits for an answer that does not come.
                receiver.iter().for_each(drop);
                resume_unwind(panic);
            }
        })?;
        let wake_on_drop = WakeOnDrop(thread.thread().clone());
        Ok((Self { thread, turns, has_panicked }, Inbox { sender, wake_on_drop }))
    }

    /// Returns the count of slices of periodic work, which grows as long as the actor is alive.
    #[must_use]
    pub fn turn_counter(&self) -> Arc<AtomicU64> {
        Arc::clone(&self.turns)
    }

    /// Whether the thread still answers: false after a panic, and when the last inbox is gone.
    #[must_use]
    pub fn is_alive(&self) -> bool {
        !self.has_panicked.load(Ordering::Relaxed) && !self.thread.is_finished()
    }

    /// Waits until the last inbox is gone and the last question is answered.
    pub fn join(self) {
        if self.thread.join().is_err() {
            log::error!("the state actor ended with a panic");
        }
    }
}

struct ActorLoop {
    tracker: Tracker,
    sweeper: Sweeper,
    /// The expiry of the site's peers; `None` except in mode private.
    expiry: Option<PeerExpiry>,
    clock: Clock,
    buffers: PeerBuffers,
    turns: Arc<AtomicU64>,
    /// Working time of the current round of the sweep.
    sweep_time: Duration,
    sweep_durations: Arc<Histogram>,
}

impl ActorLoop {
    fn run<R: Respond>(mut self, inbox: &Receiver<(Question, R)>) {
        let mut last_slice = self.clock.uptime();
        loop {
            let period = if self.sweeper.is_large() { SLICE_PERIOD_SHORT } else { SLICE_PERIOD };
            match inbox.try_recv() {
                Ok(first) => self.answer_batch(first, inbox),
                // Not the channel's own waiting: every question would wake the thread, which would spin
                // before that.
                Err(TryRecvError::Empty) => {
                    thread::park_timeout((last_slice + period).saturating_sub(self.clock.uptime()));
                }
                Err(TryRecvError::Disconnected) => return,
            }
            let elapsed = self.clock.uptime().saturating_sub(last_slice);
            if elapsed >= period {
                last_slice += elapsed;
                self.run_periodic(elapsed.min(CATCH_UP_MAX));
            }
        }
    }

    fn answer_batch<R: Respond>(&mut self, first: (Question, R), inbox: &Receiver<(Question, R)>) {
        let now = self.clock.now();
        self.tracker.refresh();
        let batch = std::iter::once(first).chain(inbox.try_iter()).take(BATCH_MAX);
        R::respond_all(batch.map(|(question, reply_to)| {
            (reply_to, answer_with_buffers(&mut self.buffers, &mut self.tracker, now, question))
        }));
    }

    fn run_periodic(&mut self, elapsed: Duration) {
        self.tracker.refresh();
        let (now, policy) = (self.clock.now(), self.tracker.policy());
        match &mut self.expiry {
            Some(expiry) => expiry.advance(&self.clock, policy, elapsed),
            None => {
                let begun = self.clock.uptime();
                let round_is_done = self.sweeper.advance(now.tick, policy, elapsed);
                self.sweep_time += self.clock.uptime().saturating_sub(begun);
                if round_is_done {
                    self.sweep_durations.record(std::mem::take(&mut self.sweep_time));
                }
            }
        }
        self.turns.fetch_add(1, Ordering::Relaxed);
    }
}

/// Answers one question without a thread: what the actor does for each question, for tests.
pub fn answer_question(tracker: &mut Tracker, now: Now, question: Question) -> Reply {
    answer_with_buffers(&mut PeerBuffers::default(), tracker, now, question)
}

/// Buffers in which peers are collected before their number is known. The actor keeps them from one question
/// to the next: they are zeroed once, and each reply is allocated at its exact size.
#[derive(Default)]
struct PeerBuffers {
    v4: Vec<u8>,
    v6: Vec<u8>,
}

impl PeerBuffers {
    /// Returns room for `peers` peers of each family.
    fn room_for(&mut self, peers: usize) -> (&mut [u8], &mut [u8]) {
        (first_octets(&mut self.v4, peers * PEER_V4_LEN), first_octets(&mut self.v6, peers * PEER_V6_LEN))
    }
}

fn first_octets(octets: &mut Vec<u8>, len: usize) -> &mut [u8] {
    if octets.len() < len {
        octets.resize(len, 0);
    }
    octets.get_mut(..len).unwrap_or_default()
}

fn answer_with_buffers(
    buffers: &mut PeerBuffers,
    tracker: &mut Tracker,
    now: Now,
    question: Question,
) -> Reply {
    match question {
        Question::Announce(announce, form, url) => {
            let with_ids = form == PeerForm::WithIds && tracker.policy().keep_peer_ids;
            Reply::Announce(fill_peer_list(buffers, announce.num_want, with_ids, |handout| {
                let answer = match &url {
                    None => tracker.announce(now.tick, &announce, handout),
                    Some(url) => tracker.announce_with_hooks(now, &announce, url.as_url(), handout),
                };
                answer.map_err(Refused::from)
            }))
        }
        Question::UserAnnounce(user, announce, form, url) => {
            let with_ids = form == PeerForm::WithIds;
            Reply::Announce(fill_peer_list(buffers, announce.num_want, with_ids, |handout| {
                let url = url.as_deref().map(OwnedUrl::as_url);
                tracker.announce_user(now, user, &announce, url, handout)
            }))
        }
        Question::Scrape(hashes, url) => Reply::Scrape(
            run_scrape_hooks(tracker, now, &hashes, url)
                .and_then(|()| hashes.iter().map(|hash| tracker.scrape(hash)).collect()),
        ),
        Question::UserScrape(user, hashes, url) => Reply::UserScrape(
            run_scrape_hooks(tracker, now, &hashes, url)
                .map(|()| hashes.iter().map(|hash| tracker.scrape_user(user, hash)).collect()),
        ),
    }
}

fn run_scrape_hooks(
    tracker: &Tracker,
    now: Now,
    hashes: &[InfoHash],
    url: UrlForHooks,
) -> Result<(), Refusal> {
    url.map_or(Ok(()), |url| tracker.scrape_with_hooks(now, hashes, url.as_url()))
}

/// Runs `announce` and returns its answer with the peers that it has handed out.
fn fill_peer_list(
    buffers: &mut PeerBuffers,
    num_want: u16,
    with_ids: bool,
    announce: impl FnOnce(&mut Handout<'_>) -> Result<Answer, Refused>,
) -> Result<(Answer, PeerList), Refused> {
    let mut list = PeerList::default();
    let (v4, v6) = buffers.room_for(usize::from(num_want));
    let mut handout = Handout { v4: PeerWriter::new(v4), v6: PeerWriter::new(v6) };
    if with_ids {
        handout.v4 = handout.v4.with_ids(&mut list.v4_ids);
        handout.v6 = handout.v6.with_ids(&mut list.v6_ids);
    }
    let answer = announce(&mut handout)?;
    let (v4_used, v6_used) = (handout.v4.used(), handout.v6.used());
    list.v4 = buffers.v4.get(..v4_used).unwrap_or_default().to_vec();
    list.v6 = buffers.v6.get(..v6_used).unwrap_or_default().to_vec();
    Ok((answer, list))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc;

    use crate::{Published, Swarms};

    /// Reports the size of its batch, once it is released.
    struct BatchProbe(mpsc::Sender<usize>, Option<mpsc::Receiver<()>>);

    impl Respond for BatchProbe {
        fn respond(self, _: Reply) {
            unreachable!("the actor answers in batches");
        }

        fn respond_all(replies: impl Iterator<Item = (Self, Reply)>) {
            let batch: Vec<_> = replies
                .inspect(|(reply_to, _)| reply_to.1.iter().for_each(|release| release.recv().unwrap()))
                .collect();
            batch.iter().for_each(|(reply_to, _)| reply_to.0.send(batch.len()).unwrap());
        }
    }

    #[test]
    fn questions_that_wait_are_answered_in_one_batch_and_the_actor_ends_with_its_inbox() {
        let tracker = Tracker::new(Swarms::new(0), &Published::new(crate::Policy::default()), 7);
        let (actor, inbox) = Actor::start(tracker, Clock::start()).unwrap();
        let (sender, batches) = mpsc::channel();
        let (release, released) = mpsc::channel();
        let question = || Question::Scrape(Vec::new(), None);
        inbox.send(question(), BatchProbe(sender.clone(), Some(released))).unwrap();
        for _ in 0..6 {
            inbox.push(question(), BatchProbe(sender.clone(), None)).unwrap();
        }
        release.send(()).unwrap();
        assert_eq!(batches.iter().take(7).collect::<Vec<_>>(), [7; 7]);
        inbox.push(question(), BatchProbe(sender, None)).unwrap();
        inbox.wake();
        assert_eq!(batches.iter().collect::<Vec<_>>(), [1]);
        drop(inbox);
        actor.join();
    }

    #[test]
    fn a_reply_is_as_large_as_what_is_in_it() {
        let mut tracker = Tracker::new(Swarms::new(0), &Published::new(crate::Policy::default()), 7);
        let mut buffers = PeerBuffers::default();
        for (num_want, port) in [(50, 7), (0, 11), (200, 13)] {
            let announce = Announce {
                info_hash: crate::InfoHash([7; 20]),
                peer_id: PeerId::default(),
                address: [192, 0, 2, 7].into(),
                port,
                uploaded: 0,
                downloaded: 0,
                left: 9,
                event: crate::Event::None,
                num_want,
            };
            let question = Question::Announce(announce, PeerForm::Compact, None);
            let reply = answer_with_buffers(&mut buffers, &mut tracker, Now::at(0), question);
            let Reply::Announce(Ok((answer, peers))) = reply else { panic!("refused") };
            let others = usize::try_from(answer.tally.leechers - 1).unwrap().min(usize::from(num_want));
            assert_eq!((peers.v4.len(), peers.v4.capacity()), (others * PEER_V4_LEN, others * PEER_V4_LEN));
            assert_eq!(peers.v6.capacity(), 0);
        }
    }
}
