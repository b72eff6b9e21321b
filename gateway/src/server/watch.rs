//! Watches over the time of every connection: whole head, reply, idle.
//!
//! hyper's own head timer cannot tell a slow head from an idle connection, and costs a timer per connection.
//! Here the stream notes in which [`Stage`] its connection is and since when, by a coarse clock that costs
//! nothing to read, and one beat for all of them looks for those whose time is up.

use std::cell::{Cell, RefCell};
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::config::DoorConfig;
use crate::stats::Phase;

/// Octets that are still read, and dropped, after a refusal, so that the client can read why before a reset.
const LINGER_OCTETS_MAX: usize = 256 * 1024;
/// Time for that.
const LINGER_MILLISECONDS: u64 = 2000;
/// Octets dropped at once.
const LINGER_CHUNK: usize = 4096;
/// Longest and shortest time between two beats.
const BEAT_MAX: Duration = Duration::from_secs(1);
const BEAT_MIN: Duration = Duration::from_millis(10);

/// Where a connection is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stage {
    /// Its first request, or the rest of a further one, has not arrived.
    Head,
    /// A request is being answered.
    Reply,
    /// The operator has asked for what takes long.
    Work,
    /// Between two requests.
    Idle,
    /// Refused and answered; what the client still sends is dropped.
    Linger,
}

/// What a connection is told to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Order {
    /// Nothing special.
    None,
    /// Answer the request in flight, then close.
    Finish,
    /// Close at once.
    Drop,
}

/// Longest times of a connection, in milliseconds, as they were configured when it came.
#[derive(Clone, Copy, Debug)]
pub(super) struct Times {
    read: u64,
    write: u64,
    idle: u64,
}

impl Times {
    pub(super) fn of(config: &DoorConfig) -> Self {
        let milliseconds = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        Self {
            read: milliseconds(config.read_timeout),
            write: milliseconds(config.write_timeout),
            idle: milliseconds(config.idle_timeout),
        }
    }

    /// How often to look for connections whose time is up.
    pub(super) fn beat(self) -> Duration {
        let shortest = self.read.min(self.write).min(self.idle);
        Duration::from_millis(shortest / 4).clamp(BEAT_MIN, BEAT_MAX)
    }
}

/// One connection, as the watch sees it.
#[derive(Debug)]
pub(super) struct Watch {
    now: Rc<Cell<u64>>,
    times: Times,
    stage: Cell<Stage>,
    since: Cell<u64>,
    /// Something has come.
    heard: Cell<bool>,
    /// Octets of the reply were written.
    wrote: Cell<bool>,
    /// Unread octets may follow a refusal.
    linger: Cell<bool>,
    /// hyper refused a request that it did not show us.
    malformed: Cell<bool>,
    order: Cell<Order>,
    waker: RefCell<Option<Waker>>,
    seat: Cell<usize>,
    /// Many requests share the connection (HTTP/2): octets say nothing about one of them.
    multiplexed: Cell<bool>,
    /// The client must be told of the end (TLS).
    secure: Cell<bool>,
}

impl Watch {
    /// The connection has TLS, and HTTP/2 or not.
    pub(super) fn secured(&self, multiplexed: bool) {
        self.secure.set(true);
        self.multiplexed.set(multiplexed);
    }

    /// A request is answered; more of them may be, where many share the connection.
    pub(super) fn replied(&self) {
        if self.multiplexed.get() {
            self.begin(Stage::Idle);
        }
    }

    /// Waits for an answer that may take its time.
    pub(super) async fn patiently<T>(&self, answer: impl Future<Output = T>) -> T {
        self.begin(Stage::Work);
        let answer = answer.await;
        self.begin(Stage::Reply);
        answer
    }

    /// A request has arrived whole.
    pub(super) fn replying(&self) {
        self.begin(Stage::Reply);
    }

    /// The answer is a refusal, after which unread octets may come.
    pub(super) fn will_linger(&self) {
        self.linger.set(true);
    }

    /// The connection has ended, because hyper could not read what came or for another reason.
    pub(super) fn ended(&self, unreadable: bool) {
        self.malformed.set(self.malformed.get() || unreadable);
    }

    /// Did hyper refuse a request by itself?
    pub(super) fn malformed(&self) -> bool {
        self.malformed.get()
    }

    /// What to do; the task is woken when that changes.
    pub(super) fn order(&self, context: &Context<'_>) -> Order {
        let mut waker = self.waker.borrow_mut();
        if !waker.as_ref().is_some_and(|waker| waker.will_wake(context.waker())) {
            *waker = Some(context.waker().clone());
        }
        self.order.get()
    }

    fn tell(&self, order: Order) {
        self.order.set(order);
        if let Some(waker) = &*self.waker.borrow() {
            waker.wake_by_ref();
        }
    }

    fn begin(&self, stage: Stage) {
        self.stage.set(stage);
        self.since.set(self.now.get());
        self.wrote.set(false);
    }

    fn arrived(&self, octets: usize) {
        self.heard.set(self.heard.get() || octets > 0);
        if octets > 0 && self.stage.get() == Stage::Idle && !self.multiplexed.get() {
            self.begin(Stage::Head);
        }
    }

    fn written(&self) {
        if self.multiplexed.get() {
            return;
        }
        if matches!(self.stage.get(), Stage::Head | Stage::Idle) {
            self.begin(Stage::Reply);
            self.malformed.set(true);
            self.will_linger();
        }
        self.wrote.set(true);
    }

    fn flushed(&self) {
        if self.stage.get() == Stage::Reply && self.wrote.get() {
            self.begin(Stage::Idle);
        }
    }

    /// Closes the connection if its time is up, and says which time that was. `since` may be early by
    /// `slack`.
    fn expire(&self, slack: u64) -> Option<Phase> {
        let (longest, phase) = match self.stage.get() {
            Stage::Head => (self.times.read, Phase::Head),
            Stage::Reply => (self.times.write, Phase::Reply),
            Stage::Work => return None,
            Stage::Linger => (LINGER_MILLISECONDS, Phase::Reply),
            Stage::Idle => (self.times.idle, Phase::Idle),
        };
        let age = self.now.get().saturating_sub(self.since.get());
        if age < longest.saturating_add(slack) || self.order.get() == Order::Drop {
            return None;
        }
        self.tell(Order::Drop);
        Some(phase)
    }
}

/// All connections of one kind.
#[derive(Debug, Default)]
pub(super) struct Crowd {
    now: Rc<Cell<u64>>,
    watches: RefCell<Vec<Rc<Watch>>>,
}

impl Crowd {
    /// Connections there are.
    pub(super) fn len(&self) -> usize {
        self.watches.borrow().len()
    }

    /// Takes one more.
    pub(super) fn enter(&self, times: Times) -> Rc<Watch> {
        let mut watches = self.watches.borrow_mut();
        let watch = Rc::new(Watch {
            now: Rc::clone(&self.now),
            times,
            stage: Cell::new(Stage::Head),
            since: Cell::new(self.now.get()),
            heard: Cell::new(false),
            wrote: Cell::new(false),
            linger: Cell::new(false),
            malformed: Cell::new(false),
            order: Cell::new(Order::None),
            waker: RefCell::new(None),
            seat: Cell::new(watches.len()),
            multiplexed: Cell::new(false),
            secure: Cell::new(false),
        });
        watches.push(Rc::clone(&watch));
        watch
    }

    /// Lets one go.
    pub(super) fn leave(&self, watch: &Watch) {
        let mut watches = self.watches.borrow_mut();
        let seat = watch.seat.get();
        if seat < watches.len() {
            watches.swap_remove(seat);
        }
        if let Some(moved) = watches.get(seat) {
            moved.seat.set(seat);
        }
    }

    /// Sets the coarse clock and closes every connection whose time is up. `now` is since an arbitrary start.
    pub(super) fn beat(&self, now: Duration, mut expired: impl FnMut(Phase)) {
        let now = u64::try_from(now.as_millis()).unwrap_or(u64::MAX);
        // The clock stood still since the last beat, so that nobody pays for a beat that came late.
        let slack = now.saturating_sub(self.now.replace(now));
        self.watches.borrow().iter().filter_map(|watch| watch.expire(slack)).for_each(&mut expired);
    }

    /// Tells every connection to finish but those from which nothing has come yet.
    pub(super) fn finish_known(&self) {
        self.tell_to_finish(|watch| watch.heard.get());
    }

    /// Tells every connection to finish, unless it is to close at once anyway.
    pub(super) fn finish(&self) {
        self.tell_to_finish(|_| true);
    }

    fn tell_to_finish(&self, which: impl Fn(&Watch) -> bool) {
        let watches = self.watches.borrow();
        let told = watches.iter().filter(|watch| watch.order.get() == Order::None && which(watch));
        told.for_each(|watch| watch.tell(Order::Finish));
    }
}

/// A stream that tells its [`Watch`] what happens on it.
#[derive(Debug)]
pub(super) struct Watched<S> {
    stream: S,
    watch: Rc<Watch>,
    dropped: usize,
}

impl<S> Watched<S> {
    pub(super) fn new(stream: S, watch: Rc<Watch>) -> Self {
        Self { stream, watch, dropped: 0 }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Watched<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let done = Pin::new(&mut self.stream).poll_read(context, buffer);
        self.watch.arrived(buffer.filled().len() - before);
        done
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Watched<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, octets: &[u8]) -> Poll<io::Result<usize>> {
        self.watch.written();
        Pin::new(&mut self.stream).poll_write(cx, octets)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.watch.written();
        Pin::new(&mut self.stream).poll_write_vectored(context, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(Pin::new(&mut self.stream).poll_flush(context))?;
        self.watch.flushed();
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        if !self.watch.linger.get() && self.watch.secure.get() {
            return Pin::new(&mut self.stream).poll_shutdown(context);
        }
        if !self.watch.linger.get() {
            // hyper drops the stream next, and closing it tells the client the same: one call less.
            return Poll::Ready(Ok(()));
        }
        if self.watch.stage.get() != Stage::Linger {
            ready!(Pin::new(&mut self.stream).poll_shutdown(context))?;
            self.watch.begin(Stage::Linger);
        }
        loop {
            let mut chunk = [0; LINGER_CHUNK];
            let mut buffer = ReadBuf::new(&mut chunk);
            ready!(Pin::new(&mut self.stream).poll_read(context, &mut buffer))?;
            let len = buffer.filled().len();
            self.dropped += len;
            if len == 0 || self.dropped > LINGER_OCTETS_MAX {
                return Poll::Ready(Ok(()));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn crowd() -> (Crowd, Rc<Watch>) {
        let crowd = Crowd::default();
        let watch = crowd.enter(Times { read: 10_000, write: 20_000, idle: 60_000 });
        (crowd, watch)
    }

    /// Beats every second until `end`, and says when whose time was up.
    fn beat_until(crowd: &Crowd, end: u64) -> Vec<(u64, Phase)> {
        let mut phases = Vec::new();
        for second in crowd.now.get() / 1000 + 1..=end {
            crowd.beat(Duration::from_secs(second), |phase| phases.push((second, phase)));
        }
        phases
    }

    #[test]
    fn a_head_that_does_not_come_is_given_up() {
        let (crowd, watch) = crowd();
        assert_eq!(beat_until(&crowd, 5), []);
        watch.arrived(7);
        assert_eq!(beat_until(&crowd, 99), [(11, Phase::Head)]);
        assert_eq!(watch.order.get(), Order::Drop);
    }

    #[test]
    fn dripping_octets_do_not_prolong_a_head() {
        let (crowd, watch) = crowd();
        for second in 0..11 {
            watch.arrived(1);
            assert_eq!(beat_until(&crowd, second), []);
        }
        assert_eq!(beat_until(&crowd, 11), [(11, Phase::Head)]);
    }

    #[test]
    fn every_stage_has_its_own_time() {
        let (crowd, watch) = crowd();
        watch.replying();
        watch.flushed();
        assert_eq!(watch.stage.get(), Stage::Reply, "nothing was written yet");
        assert_eq!(beat_until(&crowd, 20), []);
        watch.written();
        watch.flushed();
        assert_eq!(watch.stage.get(), Stage::Idle);
        assert_eq!(beat_until(&crowd, 80), []);
        watch.arrived(1);
        assert_eq!(watch.stage.get(), Stage::Head);
        assert_eq!(beat_until(&crowd, 99), [(91, Phase::Head)]);
        assert!(!watch.malformed());
    }

    #[test]
    fn a_finish_takes_back_no_drop_and_time_still_runs_out() {
        let (crowd, watch) = crowd();
        let other = crowd.enter(Times { read: 99_000, write: 20_000, idle: 60_000 });
        assert_eq!(beat_until(&crowd, 11), [(11, Phase::Head)]);
        crowd.finish();
        assert_eq!((watch.order.get(), other.order.get()), (Order::Drop, Order::Finish));
        assert_eq!(beat_until(&crowd, 200), [(100, Phase::Head)]);
    }

    #[test]
    fn nobody_pays_for_a_late_beat() {
        let (crowd, _watch) = crowd();
        let mut expired = 0;
        crowd.beat(Duration::from_secs(100), |_| expired += 1);
        assert_eq!(expired, 0);
        crowd.beat(Duration::from_secs(101), |_| expired += 1);
        assert_eq!(expired, 1);
    }

    #[test]
    fn an_answer_without_a_request_is_hypers_own() {
        let (_crowd, watch) = crowd();
        watch.written();
        assert!(watch.malformed() && watch.linger.get());
    }

    #[test]
    fn whoever_leaves_frees_his_own_seat() {
        let crowd = Crowd::default();
        let times = Times { read: 1, write: 1, idle: 1 };
        let watches: Vec<_> = (0..7).map(|_| crowd.enter(times)).collect();
        for at in [2, 6, 0, 5, 1] {
            crowd.leave(&watches[at]);
        }
        let left: Vec<_> = crowd.watches.borrow().iter().map(Rc::as_ptr).collect();
        assert_eq!(left.len(), 2);
        assert!(left.contains(&Rc::as_ptr(&watches[3])) && left.contains(&Rc::as_ptr(&watches[4])));
    }
}
