//! The timeouts of every connection: for a whole head, for a reply, between two requests.
//!
//! hyper's own head timer cannot tell a slow head from an idle connection, and costs a timer per connection.
//! Here the stream notes in which [`Stage`] its connection is and since when, by a coarse clock that costs
//! nothing to read, and one periodic check of all connections finds those whose time is up.
//!
//! A connection that many requests share (HTTP/2) is in no single stage: there each answer has its time, from
//! the request until the stream has taken its last octet.

use std::cell::{Cell, RefCell};
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::head::HeadProgress;
use crate::config::HttpConfig;
use crate::engine::metrics::Phase;

/// Octets that are still read, and dropped, after a refusal, so that the client can read why before a reset.
const LINGER_OCTETS_MAX: usize = 256 * 1024;
/// Time for reading and dropping such octets.
const LINGER_MILLISECONDS: u64 = 2000;
/// Octets read and dropped by one call.
const LINGER_CHUNK: usize = 4096;
/// Longest and shortest time between two checks.
const CHECK_INTERVAL_MAX: Duration = Duration::from_millis(500);
const CHECK_INTERVAL_MIN: Duration = Duration::from_millis(10);

/// Octets that an answer of a shared connection is assumed to need besides its own: for a stream, header
/// lines, a task.
const ANSWER_COST: usize = 3 * 1024;
/// The beginning of hyper's answer to a head that is larger than its buffer.
const HEAD_TOO_LARGE: &[u8] = b"HTTP/1.1 431 ";
/// The answer that replaces it where the request line is too long (RFC 9112, 3).
const LINE_TOO_LONG: &[u8] = b"HTTP/1.1 414 URI Too Long\r\nconnection: close\r\ncontent-length: 0\r\n\r\n";

/// The stage that a connection is in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stage {
    /// Its first request, or the rest of a further one, has not arrived.
    Head,
    /// A request is being answered.
    Reply,
    /// A request of the operator is being answered, which may take long.
    Work,
    /// Between two requests.
    Idle,
    /// Refused and answered; what the client still sends is dropped.
    Linger,
}

/// How a connection is to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum CloseOrder {
    /// It is to continue.
    None,
    /// It is to answer the request in flight, and then close.
    Finish,
    /// It is to close at once.
    Drop,
}

/// The longest times of a connection, in milliseconds, as configured when it was accepted.
#[derive(Clone, Copy, Debug)]
pub(super) struct ConnTimeouts {
    pub(super) read: u64,
    pub(super) write: u64,
    pub(super) idle: u64,
}

impl ConnTimeouts {
    pub(super) fn from_config(config: &HttpConfig) -> Self {
        let milliseconds = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        Self {
            read: milliseconds(config.read_timeout),
            write: milliseconds(config.write_timeout),
            idle: milliseconds(config.idle_timeout),
        }
    }

    /// The time between two checks for connections whose time is up.
    pub(super) fn check_interval(self) -> Duration {
        let shortest = self.read.min(self.write).min(self.idle);
        Duration::from_millis(shortest / 4).clamp(CHECK_INTERVAL_MIN, CHECK_INTERVAL_MAX)
    }
}

/// The state that all connections of one role share.
#[derive(Debug, Default)]
pub(super) struct TimerShared {
    /// The coarse clock, in milliseconds.
    pub(super) now: Cell<u64>,
    /// Octets of answers that their clients have not taken yet.
    pub(super) waiting: Cell<usize>,
}

/// The stage of one connection, and since when it is in it. The connection and the list of all share it.
#[derive(Debug)]
pub(super) struct ConnTimer {
    shared: Rc<TimerShared>,
    timeouts: ConnTimeouts,
    stage: Cell<Stage>,
    since: Cell<u64>,
    /// Whether anything has been received.
    has_received: Cell<bool>,
    /// Whether octets of the reply have been written.
    has_written: Cell<bool>,
    /// Whether unread octets may follow, because the answer is a refusal.
    linger: Cell<bool>,
    /// Whether hyper refused a request by itself.
    malformed: Cell<bool>,
    order: Cell<CloseOrder>,
    waker: RefCell<Option<Waker>>,
    pub(super) index: Cell<usize>,
    /// Whether many requests share the connection (HTTP/2): octets say nothing about a single one.
    multiplexed: Cell<bool>,
    /// Whether the client must be told of the end (TLS).
    secure: Cell<bool>,
    /// How the octets received so far end.
    head_progress: Cell<HeadProgress>,
    /// Answers of a shared connection that have not been sent yet, the oldest first.
    unsent_answers: RefCell<Vec<UnsentAnswer>>,
    next_answer: Cell<u64>,
    /// Since when the stream has taken no octets, and the number that waits.
    blocked: Cell<Option<(u64, usize)>>,
    /// The share of this connection in [`TimerShared::waiting`].
    waiting: Cell<usize>,
}

/// An answer of a shared connection that has not been sent yet.
#[derive(Clone, Copy, Debug)]
struct UnsentAnswer {
    number: u64,
    begun: u64,
    octets: usize,
}

/// Keeps an answer of a shared connection open; the last octet to leave drops it.
#[derive(Debug)]
pub(super) struct AnswerGuard {
    timer: Rc<ConnTimer>,
    number: u64,
}

impl AnswerGuard {
    /// Adds `octets` to the size of the answer.
    pub(super) fn add_octets(&self, octets: usize) {
        let mut open = self.timer.unsent_answers.borrow_mut();
        if let Some(answer) = open.iter_mut().find(|answer| answer.number == self.number) {
            answer.octets += octets;
            self.timer.adjust_waiting(octets, 0);
        }
    }
}

impl Drop for AnswerGuard {
    fn drop(&mut self) {
        self.timer.remove_answer(self.number);
    }
}

impl ConnTimer {
    pub(super) fn new(shared: &Rc<TimerShared>, times: ConnTimeouts, index: usize) -> Rc<Self> {
        Rc::new(Self {
            shared: Rc::clone(shared),
            timeouts: times,
            stage: Cell::new(Stage::Head),
            since: Cell::new(shared.now.get()),
            has_received: Cell::new(false),
            has_written: Cell::new(false),
            linger: Cell::new(false),
            malformed: Cell::new(false),
            order: Cell::new(CloseOrder::None),
            waker: RefCell::new(None),
            index: Cell::new(index),
            multiplexed: Cell::new(false),
            secure: Cell::new(false),
            head_progress: Cell::default(),
            unsent_answers: RefCell::default(),
            next_answer: Cell::new(0),
            blocked: Cell::new(None),
            waiting: Cell::new(0),
        })
    }

    /// Marks the connection as one with TLS; `multiplexed` if many requests share it (HTTP/2).
    pub(super) fn set_tls(&self, multiplexed: bool) {
        self.secure.set(true);
        self.multiplexed.set(multiplexed);
    }

    /// Waits for an answer that no timeout limits.
    pub(super) async fn without_timeout<T>(&self, answer: impl Future<Output = T>) -> T {
        self.enter_stage(Stage::Work);
        let answer = answer.await;
        self.enter_stage(Stage::Reply);
        answer
    }

    /// Whether anything has been received.
    pub(super) fn has_received(&self) -> bool {
        self.has_received.get()
    }

    /// Whether the connection has no order to close.
    pub(super) fn has_no_order(&self) -> bool {
        self.order.get() == CloseOrder::None
    }

    /// Begins the reply to a request that has arrived whole. On a shared connection the answer is open until
    /// the returned guard is dropped.
    pub(super) fn begin_reply(self: &Rc<Self>) -> Option<AnswerGuard> {
        if !self.multiplexed.get() {
            self.enter_stage(Stage::Reply);
            return None;
        }
        self.enter_stage(Stage::Idle);
        let number = self.next_answer.get();
        self.next_answer.set(number + 1);
        self.unsent_answers.borrow_mut().push(UnsentAnswer {
            number,
            begun: self.since.get(),
            octets: ANSWER_COST,
        });
        self.adjust_waiting(ANSWER_COST, 0);
        Some(AnswerGuard { timer: Rc::clone(self), number })
    }

    fn remove_answer(&self, number: u64) {
        let mut open = self.unsent_answers.borrow_mut();
        let Some(index) = open.iter().position(|answer| answer.number == number) else { return };
        let answer = open.remove(index);
        self.adjust_waiting(0, answer.octets);
        self.since.set(self.shared.now.get());
    }

    /// Adds `more` to the octets that wait for the client, and takes `less` off.
    fn adjust_waiting(&self, more: usize, less: usize) {
        // The octets of a connection that is to close are no longer counted.
        if self.order.get() == CloseOrder::Drop {
            return;
        }
        let changed = |octets: usize| (octets + more).saturating_sub(less);
        self.waiting.set(changed(self.waiting.get()));
        self.shared.waiting.set(changed(self.shared.waiting.get()));
    }

    /// Notes whether the stream took the octets it was given.
    fn note_write(&self, octets: usize, taken: bool) {
        let blocked = self.blocked.get();
        if taken && blocked.is_none() {
            return;
        }
        let (since, before) = blocked.unwrap_or((self.shared.now.get(), 0));
        self.blocked.set((!taken).then_some((since, octets)));
        self.adjust_waiting(if taken { 0 } else { octets }, before);
    }

    /// Notes that the answer is a refusal, after which unread octets may come.
    pub(super) fn set_linger(&self) {
        self.linger.set(true);
    }

    /// Notes that the connection has ended; `unreadable` if hyper could not read what came.
    pub(super) fn note_end(&self, unreadable: bool) {
        self.malformed.set(self.malformed.get() || unreadable);
    }

    /// Whether hyper refused a request by itself.
    pub(super) fn is_malformed(&self) -> bool {
        self.malformed.get()
    }

    /// Returns the order in force; the task is woken when it changes.
    pub(super) fn poll_order(&self, context: &Context<'_>) -> CloseOrder {
        let mut waker = self.waker.borrow_mut();
        if !waker.as_ref().is_some_and(|waker| waker.will_wake(context.waker())) {
            *waker = Some(context.waker().clone());
        }
        self.order.get()
    }

    pub(super) fn set_order(&self, order: CloseOrder) {
        if order == CloseOrder::Drop {
            self.adjust_waiting(0, self.waiting.get());
        }
        self.order.set(order);
        if let Some(waker) = &*self.waker.borrow() {
            waker.wake_by_ref();
        }
    }

    fn enter_stage(&self, stage: Stage) {
        self.stage.set(stage);
        self.since.set(self.shared.now.get());
        self.has_written.set(false);
    }

    fn note_octets_in(&self, octets: &[u8]) {
        if octets.is_empty() {
            return;
        }
        self.has_received.set(true);
        if self.multiplexed.get() {
            return;
        }
        self.head_progress.set(self.head_progress.get().after(octets));
        if self.stage.get() == Stage::Idle {
            self.enter_stage(Stage::Head);
        }
    }

    fn note_octets_out(&self) {
        if self.multiplexed.get() {
            return;
        }
        if matches!(self.stage.get(), Stage::Head | Stage::Idle) {
            self.enter_stage(Stage::Reply);
            self.malformed.set(true);
            self.set_linger();
        }
        self.has_written.set(true);
    }

    fn note_flush(&self) {
        if self.stage.get() == Stage::Reply && self.has_written.get() {
            // Part of the next head may have come together with the last one.
            self.enter_stage(if self.head_progress.get() == HeadProgress::Whole {
                Stage::Idle
            } else {
                Stage::Head
            });
        }
    }

    /// Since when an answer waits for the client, and its number of octets.
    pub(super) fn stalled_since(&self) -> Option<(u64, usize)> {
        let oldest = self.unsent_answers.borrow().first().map(|answer| answer.begun);
        let blocked = self.blocked.get().map(|(since, _)| since);
        let since = oldest.into_iter().chain(blocked).min()?;
        (self.order.get() != CloseOrder::Drop).then_some((since, self.waiting.get()))
    }

    /// Since when no request is in progress, and whether that may change soon: part of a head has come.
    pub(super) fn idle_since(&self) -> Option<(bool, u64)> {
        if self.order.get() == CloseOrder::Drop || self.stalled_since().is_some() {
            return None;
        }
        match self.stage.get() {
            Stage::Idle | Stage::Linger => Some((false, self.since.get())),
            Stage::Head => Some((self.has_received.get() && !self.multiplexed.get(), self.since.get())),
            Stage::Reply | Stage::Work => None,
        }
    }

    /// Closes the connection if its time is up, and returns which one. `since` may be early by `slack`.
    pub(super) fn close_if_expired(&self, slack: u64) -> Option<Phase> {
        let begun = self.since.get();
        let (since, longest, phase) = match (self.stalled_since(), self.stage.get()) {
            (_, Stage::Reply) => (begun, self.timeouts.write, Phase::Reply),
            (Some((since, _)), _) => (since, self.timeouts.write, Phase::Reply),
            (None, Stage::Head) => (begun, self.timeouts.read, Phase::Head),
            (None, Stage::Work) => return None,
            (None, Stage::Linger) => (begun, LINGER_MILLISECONDS, Phase::Reply),
            (None, Stage::Idle) => (begun, self.timeouts.idle, Phase::Idle),
        };
        let age = self.shared.now.get().saturating_sub(since);
        if age < longest.saturating_add(slack) || self.order.get() == CloseOrder::Drop {
            return None;
        }
        self.set_order(CloseOrder::Drop);
        Some(phase)
    }
}

/// A stream that tells its [`ConnTimer`] what happens on it.
#[derive(Debug)]
pub(super) struct TimedStream<S> {
    stream: S,
    timer: Rc<ConnTimer>,
    dropped: usize,
}

impl<S> TimedStream<S> {
    pub(super) fn new(stream: S, timer: Rc<ConnTimer>) -> Self {
        Self { stream, timer, dropped: 0 }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for TimedStream<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let done = Pin::new(&mut self.stream).poll_read(context, buffer);
        self.timer.note_octets_in(buffer.filled().get(before..).unwrap_or_default());
        done
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for TimedStream<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, octets: &[u8]) -> Poll<io::Result<usize>> {
        if octets.starts_with(HEAD_TOO_LARGE) && self.timer.head_progress.get().is_long_line() {
            self.timer.note_octets_out();
            let written = ready!(Pin::new(&mut self.stream).poll_write(cx, LINE_TOO_LONG))?;
            // The socket has room for a first answer; where it has none, the client reads nothing.
            let whole = written == LINE_TOO_LONG.len();
            return Poll::Ready(if whole { Ok(octets.len()) } else { Err(io::ErrorKind::WriteZero.into()) });
        }
        self.timer.note_octets_out();
        let done = Pin::new(&mut self.stream).poll_write(cx, octets);
        self.timer.note_write(octets.len(), done.is_ready());
        done
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.timer.note_octets_out();
        let done = Pin::new(&mut self.stream).poll_write_vectored(context, slices);
        let octets = || slices.iter().map(|slice| slice.len()).sum();
        self.timer.note_write(if done.is_pending() { octets() } else { 0 }, done.is_ready());
        done
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let done = Pin::new(&mut self.stream).poll_flush(context);
        self.timer.note_write(0, done.is_ready());
        ready!(done)?;
        self.timer.note_flush();
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        if !self.timer.linger.get() && self.timer.secure.get() {
            return Pin::new(&mut self.stream).poll_shutdown(context);
        }
        if !self.timer.linger.get() {
            // hyper drops the stream next, and closing it tells the client the same: one call less.
            return Poll::Ready(Ok(()));
        }
        if self.timer.stage.get() != Stage::Linger {
            ready!(Pin::new(&mut self.stream).poll_shutdown(context))?;
            self.timer.enter_stage(Stage::Linger);
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
mod tests;
