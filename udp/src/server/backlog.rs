//! [`Backlog`]: keeps the queue of one socket short while its worker is overloaded.
//!
//! The receive buffer is deep, so that bursts wait in it. Under overload that depth serves nobody: the
//! buffer stays full, every datagram that is read is as old as the buffer is deep, and cold in the cache. So
//! once the buffer has overflowed without a pause for a while, a socket filter admits only a random share of
//! what comes, as much as the worker can answer; the rest is dropped before it queues. The worker corrects
//! the share in short intervals, and removes the filter when the share is everything.

use std::io;
use std::os::fd::BorrowedFd;
use std::time::Duration;

use socket2::{SockFilter, SockRef};

use super::batch::{self, QueueState};

/// Time between two looks at a queue that stands.
const INTERVAL: Duration = Duration::from_millis(10);
/// Intervals in a row, all of them with overflows and without an empty queue, that make an overload. A burst
/// that the buffer holds has none.
const OVERFLOWS_MAX: u32 = 5;
/// Octets of kernel memory that the queue is to have under overload: some 600 datagrams, little enough for
/// the cache and enough for an interval in which fewer come than expected.
const TARGET: u32 = 512 << 10;
/// Distances from the target, in targets, that are worth the whole share.
const DISTANCES_MAX: u64 = 40;
/// Octets of kernel memory of a datagram, roughly: 768 to 2560 by driver and length.
const DATAGRAM_OCTETS: i64 = 1024;
/// Time without a filter after which an overload is over. Until then a standing queue is shortened at once.
const CALM: Duration = Duration::from_millis(250);

/// The share of datagrams that a socket admits, in parts of 2^32.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Share(u64);

/// What has happened to a queue between two looks.
#[derive(Clone, Copy, Debug)]
struct Interval {
    /// Datagrams that the worker received.
    received: u32,
    /// Datagrams that the socket dropped: because the buffer was full, or by the filter.
    dropped: u32,
    /// Octets of the queue at the beginning.
    before: u32,
    /// Octets of the queue at the end.
    after: u32,
    /// Whether the worker found the queue empty.
    emptied: bool,
    /// Datagrams that the worker could have received, by its speed when the queue was last never empty.
    capacity: u64,
}

/// The receive queue of one socket, as its worker sees it.
#[derive(Debug)]
pub(super) struct Backlog {
    /// Datagrams received since the last look.
    received: u32,
    /// Whether the queue was found empty since the last look.
    emptied: bool,
    /// The last look and its time; `None` while there is nothing to watch.
    last: Option<(Duration, QueueState)>,
    state: LoadState,
    /// Datagrams a second that the worker received in the last interval in which the queue was never empty.
    speed: u64,
    /// The share that the filter of the socket admits; [`Share::ALL`] without a filter.
    admitted: Share,
    /// Octets that the queue is to have under overload: [`TARGET`], except in tests.
    target: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum LoadState {
    /// The worker keeps up, but for the number of last intervals in a row that overflowed.
    KeepsUp(u32),
    /// More comes than the worker can answer. The time since which the share is everything, if it is.
    Overloaded(Option<Duration>),
}

/// The outcome of a look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Observed {
    /// The share to admit from now on.
    pub(super) share: Share,
    /// Datagrams dropped since the last look while a filter was attached.
    pub(super) shed: u32,
}

impl Share {
    /// Every datagram.
    pub(super) const ALL: Self = Self(1 << 32);
    /// The least share, so that something always comes by which the share can grow again.
    pub(super) const MIN: Self = Self(Self::ALL.0 / 64);

    fn clamped(parts: u64) -> Self {
        Self(parts).clamp(Self::MIN, Self::ALL)
    }

    /// Attaches a filter that admits this share at random, in place of another; for [`Share::ALL`] none.
    ///
    /// # Errors
    /// The error of the kernel; what was attached stays then.
    pub(super) fn attach(self, socket: BorrowedFd<'_>) -> io::Result<()> {
        let socket = SockRef::from(&socket);
        let Ok(parts) = u32::try_from(self.0) else { return detach(socket) };
        let [load, compare, end] = [
            libc::BPF_LD | libc::BPF_W | libc::BPF_ABS,
            libc::BPF_JMP | libc::BPF_JGE | libc::BPF_K,
            libc::BPF_RET | libc::BPF_K,
        ]
        .map(|code| u16::try_from(code).unwrap_or_default());
        let random = (libc::SKF_AD_OFF + libc::SKF_AD_RANDOM).cast_unsigned();
        socket.attach_filter(&[
            SockFilter::new(load, 0, 0, random),
            SockFilter::new(compare, 1, 0, parts),
            // Admits the datagram whole.
            SockFilter::new(end, 0, 0, u32::MAX),
            SockFilter::new(end, 0, 0, 0),
        ])
    }
}

fn detach(socket: SockRef<'_>) -> io::Result<()> {
    match socket.detach_filter() {
        // There was none.
        Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(()),
        other => other,
    }
}

impl Interval {
    /// Returns the share with which the queue comes to its target, after an interval in which `share` was
    /// admitted.
    fn next_share(&self, share: Share, target: u32) -> Share {
        if self.emptied && self.after < target {
            // The worker could have done more: as much as before, perhaps even more than that.
            let offered = u64::from(self.received) + u64::from(self.dropped);
            let known = (self.capacity.min(offered) << 32) / offered.max(1);
            let more = if self.dropped == 0 { Share::ALL.0 } else { known.max(share.0 + share.0 / 4) };
            return Share::clamped(more);
        }
        let [received, dropped, before, after] =
            [self.received, self.dropped, self.before, self.after].map(i64::from);
        let offered = (received + dropped + (after - before) / DATAGRAM_OCTETS).max(dropped + 1);
        let answered = (u64::from(self.received) << 32) / offered.cast_unsigned();
        // In parts of 2^16: 1 at the target, more below, less above.
        let target = u64::from(target);
        let distance = ((DISTANCES_MAX + 1) * target).saturating_sub(u64::from(self.after));
        let correction = ((distance << 16) / (DISTANCES_MAX * target)).max(1 << 13);
        Share::clamped((answered.min(Share::ALL.0) * correction) >> 16)
    }
}

impl Default for Backlog {
    fn default() -> Self {
        Self {
            received: 0,
            emptied: false,
            last: None,
            state: LoadState::KeepsUp(0),
            speed: 0,
            admitted: Share::ALL,
            target: TARGET,
        }
    }
}

impl Backlog {
    /// Makes one that is content with a queue of `target` octets, which fits into every receive buffer.
    #[cfg(test)]
    pub(super) fn with_target(target: u32) -> Self {
        Self { target, ..Self::default() }
    }

    /// Records a receive call, and whether it left nothing behind.
    pub(super) fn record(&mut self, received: usize, emptied: bool) {
        self.received = self.received.saturating_add(u32::try_from(received).unwrap_or(u32::MAX));
        self.emptied |= emptied;
    }

    /// Whether a filter keeps datagrams out. The worker must not rest then: the queue is short, and what does
    /// not fit is lost.
    pub(super) fn is_shedding(&self) -> bool {
        self.admitted < Share::ALL
    }

    /// Ends a turn of the worker; returns whether it is time to look at the queue.
    pub(super) fn end_turn(&mut self, now: Duration) -> bool {
        match self.last {
            Some((at, _)) => now.saturating_sub(at) >= INTERVAL,
            None if self.emptied || self.received == 0 => {
                (self.received, self.emptied) = (0, false);
                false
            }
            None => true,
        }
    }

    /// Takes a look at the queue into account.
    pub(super) fn observe(&mut self, now: Duration, queue: QueueState) -> Observed {
        let last = self.last.replace((now, queue));
        let (received, emptied) = (std::mem::take(&mut self.received), std::mem::take(&mut self.emptied));
        let Some((at, before)) = last else { return Observed { share: self.admitted, shed: 0 } };
        let dropped = queue.drops.wrapping_sub(before.drops);
        let microseconds = u64::try_from(now.saturating_sub(at).as_micros()).unwrap_or(u64::MAX).max(1);
        if !emptied {
            self.speed = u64::from(received) * 1_000_000 / microseconds;
        }
        let capacity = self.speed.saturating_mul(microseconds) / 1_000_000;
        let (before, after) = (before.octets, queue.octets);
        let interval = Interval { received, dropped, before, after, emptied, capacity };
        let shed = if self.is_shedding() { dropped } else { 0 };
        let share = match self.state {
            LoadState::KeepsUp(overflows) => self.keep_up(overflows, interval),
            LoadState::Overloaded(calm_since) => self.shorten(now, calm_since, interval),
        };
        Observed { share, shed }
    }

    fn keep_up(&mut self, overflows: u32, interval: Interval) -> Share {
        let overflowed = !interval.emptied && interval.dropped > 0 && interval.after > self.target;
        let overflows = if overflowed { overflows + 1 } else { 0 };
        if interval.emptied {
            self.last = None;
        }
        if overflows < OVERFLOWS_MAX {
            self.state = LoadState::KeepsUp(overflows);
            return Share::ALL;
        }
        self.state = LoadState::Overloaded(None);
        interval.next_share(Share::ALL, self.target)
    }

    fn shorten(&mut self, now: Duration, calm_since: Option<Duration>, interval: Interval) -> Share {
        let share = interval.next_share(self.admitted, self.target);
        let calm_since = (share == Share::ALL).then_some(calm_since.unwrap_or(now));
        self.state = LoadState::Overloaded(calm_since);
        if calm_since.is_some_and(|since| now.saturating_sub(since) >= CALM) {
            (self.state, self.last) = (LoadState::KeepsUp(0), None);
        }
        share
    }

    /// Looks at the queue of `socket`, and has it admit as much as the worker can answer. Returns what the
    /// kernel said about the queue, and how many datagrams were dropped on purpose.
    ///
    /// # Errors
    /// The error of the kernel; the socket admits what it did before.
    pub(super) fn look(&mut self, now: Duration, socket: BorrowedFd<'_>) -> io::Result<(QueueState, u32)> {
        let queue = batch::queue_state(socket)?;
        let Observed { share, shed } = self.observe(now, queue);
        if share != self.admitted {
            share.attach(socket)?;
            self.admitted = share;
        }
        Ok((queue, shed))
    }

    /// Leaves the socket without a filter, for whoever reads it next.
    pub(super) fn release(&mut self, socket: BorrowedFd<'_>) -> io::Result<()> {
        self.admitted = Share::ALL;
        Share::ALL.attach(socket)
    }
}

#[cfg(test)]
mod tests {
    use std::net::UdpSocket;
    use std::os::fd::AsFd;

    use super::*;

    /// An interval in which the queue neither grew nor ran empty.
    const STEADY: Interval = Interval {
        received: 3000,
        dropped: 9000,
        before: TARGET,
        after: TARGET,
        emptied: false,
        capacity: 0,
    };

    fn parts(share: Share) -> f64 {
        share.0 as f64 / Share::ALL.0 as f64
    }

    fn assert_near(share: Share, expected: f64) {
        assert!((parts(share) - expected).abs() < 0.001, "{} instead of {expected}", parts(share));
    }

    #[test]
    fn the_share_is_what_the_worker_answers_of_what_comes() {
        assert_near(STEADY.next_share(Share::ALL, TARGET), 0.25);
        assert_near(Interval { dropped: 0, ..STEADY }.next_share(Share::MIN, TARGET), 1.0);
        assert_near(Interval { received: 0, ..STEADY }.next_share(Share::ALL, TARGET), 1.0 / 64.0);
        // What was read from a longer queue did not come in this interval: 2000 came, not 3000.
        let shrunk = Interval { dropped: 6000, before: TARGET + (1000 << 10), ..STEADY };
        assert_near(shrunk.next_share(Share::ALL, TARGET), 3.0 / 8.0);
    }

    #[test]
    fn a_queue_beyond_its_target_lowers_the_share_and_a_shorter_one_raises_it() {
        let of_length =
            |octets: u32| Interval { before: octets, after: octets, ..STEADY }.next_share(Share::ALL, TARGET);
        assert_near(of_length(0), 0.25 * 41.0 / 40.0);
        assert_near(of_length(5 * TARGET), 0.25 * 36.0 / 40.0);
        assert_near(of_length(100 * TARGET), 0.25 / 8.0);
    }

    #[test]
    fn an_empty_queue_raises_the_share_whatever_was_answered() {
        let empty = Interval { received: 100, after: 0, emptied: true, ..STEADY };
        assert_near(empty.next_share(Share(Share::ALL.0 / 2), TARGET), 0.625);
        assert_eq!(empty.next_share(Share(Share::ALL.0 / 10 * 9), TARGET), Share::ALL);
        assert_eq!(Interval { dropped: 0, ..empty }.next_share(Share::MIN, TARGET), Share::ALL);
        // 9100 came, and of those the worker could answer 7000 before.
        assert_near(Interval { capacity: 7000, ..empty }.next_share(Share::MIN, TARGET), 7.0 / 9.1);
        assert_eq!(Interval { capacity: 70_000, ..empty }.next_share(Share::MIN, TARGET), Share::ALL);
    }

    #[test]
    fn every_share_is_within_its_bounds() {
        let seed = fastrand::u64(..);
        println!("seed {seed}");
        let mut random = fastrand::Rng::with_seed(seed);
        for _ in 0..20_000 {
            let [received, dropped, before, after] = [(); 4].map(|()| random.u32(..) >> random.u32(..32));
            let capacity = random.u64(..) >> random.u32(..64);
            let interval = Interval { received, dropped, before, after, emptied: random.bool(), capacity };
            let share = interval.next_share(Share::clamped(random.u64(..=Share::ALL.0)), TARGET);
            assert!((Share::MIN..=Share::ALL).contains(&share), "{interval:?} {share:?}");
        }
    }

    /// A queue in virtual time: what comes, what a worker answers, and what the socket drops.
    struct QueueModel {
        backlog: Backlog,
        now: Duration,
        share: Share,
        /// Datagrams that wait, and those dropped so far.
        waiting: u32,
        drops: u32,
        shed: u32,
    }

    impl QueueModel {
        const CAPACITY: u32 = 20_000;
        const OCTETS: u32 = 832;

        fn new() -> Self {
            let backlog = Backlog::default();
            Self { backlog, now: Duration::ZERO, share: Share::ALL, waiting: 0, drops: 0, shed: 0 }
        }

        /// One millisecond in which `offered` datagrams come, for a worker that can answer 400.
        fn step(&mut self, offered: u32) {
            let admitted = u32::try_from(u64::from(offered) * self.share.0 / Share::ALL.0).unwrap();
            let waiting = self.waiting + admitted;
            let kept = waiting.min(Self::CAPACITY);
            self.drops += offered - admitted + waiting - kept;
            let received = kept.min(400);
            self.waiting = kept - received;
            self.backlog.record(received as usize, self.waiting == 0);
            self.now += Duration::from_millis(1);
            if self.backlog.end_turn(self.now) {
                let queue = QueueState { octets: self.waiting * Self::OCTETS, drops: self.drops };
                let observed = self.backlog.observe(self.now, queue);
                (self.share, self.shed) = (observed.share, self.shed + observed.shed);
                self.backlog.admitted = self.share;
            }
        }

        fn steps(&mut self, milliseconds: u32, offered: u32) {
            (0..milliseconds).for_each(|_| self.step(offered));
        }
    }

    #[test]
    fn an_overload_makes_the_queue_short_and_leaves_the_worker_no_pause() {
        for offered in [440, 800, 4000] {
            let mut queue = QueueModel::new();
            queue.steps(700, offered);
            assert!(queue.backlog.is_shedding(), "{offered}");
            for _ in 0..1000 {
                queue.step(offered);
                let octets = queue.waiting * QueueModel::OCTETS;
                assert!((TARGET / 4..TARGET * 2).contains(&octets), "{offered}: {octets}");
            }
            // 400 of each millisecond are answered.
            assert!(queue.shed >= (offered - 400) * 1000, "{}", queue.shed);
            // It is over: nothing is dropped any more, and after a while the buffer may fill again.
            queue.steps(20, 100);
            let drops = queue.drops;
            queue.steps(300, 100);
            assert_eq!((queue.share, queue.drops), (Share::ALL, drops));
            assert_eq!(queue.backlog.state, LoadState::KeepsUp(0));
        }
    }

    #[test]
    fn bursts_and_a_queue_that_does_not_overflow_are_let_alone() {
        // Bursts that fill the buffer, even beyond its end, but are answered soon.
        let mut bursts = QueueModel::new();
        for _ in 0..20 {
            bursts.step(QueueModel::CAPACITY + 5000);
            bursts.steps(99, 100);
            assert_eq!(bursts.share, Share::ALL);
        }
        // As many as can be answered, behind a queue that stands.
        let mut full = QueueModel::new();
        full.step(QueueModel::CAPACITY - 1);
        full.steps(1000, 400);
        assert_eq!((full.share, full.shed), (Share::ALL, 0));
    }

    #[test]
    fn a_short_overload_is_none() {
        let mut queue = QueueModel::new();
        queue.step(QueueModel::CAPACITY);
        for _ in 0..10 {
            queue.steps(30, 800);
            assert_eq!((queue.share, queue.shed), (Share::ALL, 0));
            // Long enough for one whole interval.
            queue.steps(20, 0);
            queue.step(8800);
        }
        queue.steps(70, 800);
        assert!(queue.backlog.is_shedding());
    }

    #[test]
    fn a_filter_admits_its_share_and_the_kernel_counts_the_rest() {
        const SENT: u32 = 4000;
        let [server, client] = [0, 0].map(|_| UdpSocket::bind("127.0.0.1:0").unwrap());
        client.connect(server.local_addr().unwrap()).unwrap();
        server.set_nonblocking(true).unwrap();
        Share(Share::ALL.0 / 4).attach(server.as_fd()).unwrap();
        let (mut admitted, mut dropped) = (0, 0);
        for sent in 1..=SENT {
            client.send(&[7; 16]).unwrap();
            // One at a time, so that none is lost for lack of room.
            while admitted + dropped < sent {
                admitted += u32::from(server.recv(&mut [0; 64]).is_ok());
                dropped = batch::queue_state(server.as_fd()).unwrap().drops;
            }
        }
        // Seven standard deviations.
        assert!((800..=1200).contains(&admitted), "{admitted}");
        Share::ALL.attach(server.as_fd()).unwrap();
        Share::ALL.attach(server.as_fd()).expect("none was attached");
        server.set_nonblocking(false).unwrap();
        for _ in 0..100 {
            client.send(&[7]).unwrap();
            assert_eq!(server.recv(&mut [0; 64]).unwrap(), 1);
        }
    }
}
