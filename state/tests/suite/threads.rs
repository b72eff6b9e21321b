//! Several threads at once: workers and a sweep on the same swarms, and the actor with its inbox.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Duration;

use hayate_state::actor::{Actor, InboxFull, PeerForm, Question, Reply, Respond};
use hayate_state::swarm::{PeerCounts, Sweeper};
use hayate_state::{Announce, Clock, Event, Handout, Policy, Published, Swarms, Tick, Tracker};

use crate::test_tracker::{announce_from, info_hash};

const TORRENTS: u64 = 60;
const NOW: Tick = Tick(5000);
const SLICE_PERIOD: Duration = Duration::from_millis(100);
/// Longest wait for what should be there at once.
const WAIT_MAX: Duration = Duration::from_secs(60);

fn random_announce(random: &mut fastrand::Rng) -> Announce {
    // The first torrent is larger than a slice of the sweep.
    let torrent = random.u64(..TORRENTS) * u64::from(random.bool());
    let host = random.u16(..if torrent == 0 { 9000 } else { 40 });
    let address: IpAddr = match random.u8(..4) {
        0 => [0x2001, 0xdb8, 0, 0, 0, 0, 0, host].into(),
        _ => Ipv4Addr::from(0xC633_0000 + u32::from(host)).into(),
    };
    let event = random.choice([Event::None, Event::Started, Event::Stopped, Event::Paused]).unwrap();
    Announce { event, num_want: random.u16(..9), ..announce_from(torrent, address, 6881, random.u64(..2)) }
}

#[test]
fn workers_and_a_sweep_at_once_leave_true_counts_and_no_memory() {
    let seed = fastrand::u64(..);
    println!("seed {seed}");
    let (policy, swarms) = (Published::new(Policy::default()), Swarms::new(0));
    let (mut sweeper, done) = (Sweeper::new(Arc::clone(&swarms)), AtomicBool::new(false));
    std::thread::scope(|scope| {
        let work = |number: u64| {
            let mut tracker = Tracker::new(Arc::clone(&swarms), &policy, seed ^ number);
            let mut random = fastrand::Rng::with_seed(seed + number);
            move || {
                let (mut v4, mut v6) = ([0; 60], [0; 180]);
                for _ in 0..100_000 {
                    let announce = random_announce(&mut random);
                    tracker.announce(NOW, &announce, &mut Handout::new(&mut v4, &mut v6)).unwrap();
                }
            }
        };
        let workers = [0, 1, 2].map(|number| scope.spawn(work(number)));
        scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                sweeper.advance(NOW, &policy.current(), SLICE_PERIOD);
            }
        });
        workers.into_iter().for_each(|worker| worker.join().unwrap());
        done.store(true, Ordering::Relaxed);
    });
    let counts = swarms.peer_counts();
    let tallies: Vec<_> = (0..TORRENTS).map(|torrent| swarms.tally(&info_hash(torrent))).collect();
    let sum = |of: fn(&hayate_state::Tally) -> u32| tallies.iter().map(of).sum::<u32>();
    assert_eq!(counts.v4_seeders + counts.v6_seeders, sum(|tally| tally.seeders));
    assert_eq!(counts.v4_leechers + counts.v6_leechers, sum(|tally| tally.leechers));
    assert!(tallies[0].leechers > 2048 && swarms.live() > 50, "{} {}", tallies[0].leechers, swarms.live());
    sweeper.sweep_all(Tick(NOW.0 + 4201), &policy.current());
    assert_eq!((swarms.live(), swarms.idle(), swarms.peer_counts()), (0, 0, PeerCounts::default()));
    assert!(swarms.memory() < 64 << 10, "what was counted in is counted out: {}", swarms.memory());
}

/// Keeps the actor busy until it is released, if there is a channel for that.
struct TestRequester {
    reply: Sender<Reply>,
    gate: Option<Receiver<()>>,
}

impl Respond for TestRequester {
    fn respond(self, reply: Reply) {
        // A `Respond` must not block; this one does, to keep the actor busy.
        let gate = self.gate;
        self.reply.send(reply).unwrap();
        if let Some(gate) = gate {
            gate.recv().unwrap();
        }
    }
}

fn tracker() -> Tracker {
    Tracker::new(Swarms::new(0), &Published::new(Policy::default()), 7)
}

fn question(port: u16) -> Question {
    Question::Announce(announce_from(1, [192, 0, 2, 7], port, 9), PeerForm::Compact, None)
}

#[test]
fn a_full_inbox_refuses_at_once_and_what_it_took_is_answered_in_order() {
    let (actor, inbox) = Actor::start_bounded(tracker(), Clock::start(), 7).unwrap();
    let ((reply, replies), (release, gate)) = (channel(), channel());
    let requester = |gate| TestRequester { reply: reply.clone(), gate };
    let leechers = || match replies.recv_timeout(WAIT_MAX).unwrap() {
        Reply::Announce(Ok((answer, _))) => answer.tally.leechers,
        other => panic!("{other:?}"),
    };
    inbox.send(question(1000), requester(Some(gate))).unwrap();
    assert_eq!(leechers(), 1);
    for port in 1001..1008 {
        inbox.send(question(port), requester(None)).unwrap();
    }
    assert_eq!((inbox.depth(), inbox.send(question(1008), requester(None))), (7, Err(InboxFull)));
    release.send(()).unwrap();
    assert_eq!([2, 3, 4, 5, 6, 7, 8].map(|_| leechers()), [2, 3, 4, 5, 6, 7, 8]);
    inbox.send(Question::Scrape(vec![info_hash(1), info_hash(2)], None), requester(None)).unwrap();
    let Reply::Scrape(Ok(tallies)) = replies.recv_timeout(WAIT_MAX).unwrap() else { panic!("no tallies") };
    assert_eq!(
        (tallies[0].leechers, tallies[1].leechers, tallies.len()),
        (8, 0, 2),
        "nobody was lost or added"
    );
    drop(inbox);
    actor.join();
}

#[test]
fn the_actor_counts_slices_and_ends_with_its_last_inbox() {
    let clock = Clock::start();
    let (actor, inbox) = Actor::start::<TestRequester>(tracker(), clock).unwrap();
    let slices = actor.turn_counter();
    while slices.load(Ordering::Relaxed) < 2 {
        assert!(clock.uptime() < WAIT_MAX, "no slice");
        std::thread::yield_now();
    }
    let other = inbox.clone();
    drop(inbox);
    assert_eq!(other.depth(), 0);
    drop(other);
    actor.join();
}

/// Panics in the actor when it is answered, and reports when it is dropped.
struct PanickingRequester {
    number: u32,
    dropped: Sender<u32>,
}

impl Respond for PanickingRequester {
    fn respond(self, _: Reply) {
        panic!("on purpose");
    }
}

impl Drop for PanickingRequester {
    fn drop(&mut self) {
        self.dropped.send(self.number).unwrap();
    }
}

#[test]
fn after_a_panic_of_the_actor_nobody_waits_for_an_answer() {
    let (actor, inbox) = Actor::start_bounded(tracker(), Clock::start(), 16).unwrap();
    let (dropped, drops) = channel();
    let ask =
        |number| inbox.send(question(1000), PanickingRequester { number, dropped: dropped.clone() }).unwrap();
    (0..7).for_each(ask);
    let mut numbers = [0; 7].map(|_| drops.recv_timeout(WAIT_MAX).unwrap());
    numbers.sort_unstable();
    assert_eq!(numbers, [0, 1, 2, 3, 4, 5, 6]);
    ask(7);
    assert_eq!(drops.recv_timeout(WAIT_MAX), Ok(7), "later questions are refused, too");
    assert!(!actor.is_alive());
    drop(inbox);
    actor.join();
}
