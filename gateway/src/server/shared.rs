//! What the connections share, and the tasks that run beside them: the timer, and the wake-up of the state
//! actor. Everything here belongs to the server's one thread.

use std::cell::{Cell, RefCell};
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use hayate_state::Clock;
use hayate_state::actor::Inbox;
use hyper::Request;
use hyper::body::Incoming;
use tokio::sync::Notify;

use super::connections::Connections;
use super::head::with_head;
use super::replies::{PendingReplies, ReplyTo};
use super::timeouts::ConnTimeouts;
use crate::engine::client_address::Source;
use crate::engine::message::Response;
use crate::engine::metrics::Metrics;
use crate::engine::{Engine, Step};
use crate::operator::OperatorPages;
use crate::operator::routes::Routes;

/// The number of questions that wakes the state actor before a turn ends, so that it is not idle in a long
/// one.
const UNWOKEN_MAX: usize = 64;
/// Time between two readings of the number of requests.
const MINUTE: Duration = Duration::from_secs(60);
/// Time that connections without a request get to send one when the server stops.
pub(super) const NEW_CONNECTION_GRACE: Duration = Duration::from_millis(500);

/// The purpose of a listener.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ListenerRole {
    /// Announces and scrapes.
    Gateway,
    /// The operator's pages.
    Operator,
}

/// The state that all connections share. The server's thread owns it, until the last connection ends.
pub(super) struct Shared {
    pub(super) engine: RefCell<Engine>,
    pub(super) metrics: Arc<Metrics>,
    pub(super) inbox: Inbox<ReplyTo>,
    /// The number of questions in the inbox for which the state actor has not been woken.
    pub(super) unwoken_questions: Cell<usize>,
    pub(super) turn_ends: Notify,
    pub(super) replies: Rc<PendingReplies>,
    pub(super) pages: OperatorPages,
    pub(super) clock: Clock,
    /// Whether the operator's pages have addresses of their own.
    pub(super) has_operator_listeners: Cell<bool>,
    pub(super) connections: [Connections; 2],
    pub(super) last_one_closed: Notify,
    pub(super) last_accept_warning: Cell<Option<Duration>>,
}

impl Shared {
    /// Checks the timeouts of the connections until the task is aborted.
    pub(super) async fn run_timer(self: Rc<Self>) {
        let mut minute = (self.clock.uptime(), 0);
        loop {
            self.check_timeouts();
            let now = self.clock.uptime();
            if now.saturating_sub(minute.0) >= MINUTE {
                let handled = self.metrics.handled.value();
                self.metrics.per_minute.store(handled - minute.1, Ordering::Relaxed);
                log::debug!("{} HTTP requests in the last minute", handled - minute.1);
                minute = (now, handled);
            }
            self.engine.borrow_mut().refresh();
            let period = ConnTimeouts::from_config(self.engine.borrow().config()).check_interval();
            tokio::time::sleep(period).await;
        }
    }

    /// Sets the coarse clock, and closes connections whose time is up.
    pub(super) fn check_timeouts(&self) {
        let now = self.clock.uptime();
        for connections in &self.connections {
            connections.close_expired(now, |phase| self.metrics.count_timeout(phase));
        }
        self.close_stalled();
    }

    /// Keeps the answers that clients do not take within bounds. Those to the operator have none: one may be
    /// a list of all torrents.
    pub(super) fn close_stalled(&self) {
        let closed = self.connections_of(ListenerRole::Gateway).close_stalled();
        if closed > 0 {
            self.metrics.stalled.add(closed);
        }
    }

    /// Wakes the state actor after the questions of each turn, until the task is aborted. The runtime polls
    /// this task after those that were ready before it.
    pub(super) async fn wake_actor_each_turn(self: Rc<Self>) {
        loop {
            self.turn_ends.notified().await;
            self.wake_actor();
        }
    }

    /// Tells all connections of a role to finish and waits until they have, or `longest` is over.
    pub(super) async fn finish_connections(&self, role: ListenerRole, longest: Duration) {
        let connections = self.connections_of(role);
        let mut all = pin!(async {
            while connections.len() > 0 {
                self.last_one_closed.notified().await;
            }
        });
        // A client that has just been accepted has not sent its request yet: closed now, it would be refused.
        connections.finish_active();
        if tokio::time::timeout(NEW_CONNECTION_GRACE, &mut all).await.is_ok() {
            return;
        }
        connections.finish_all();
        if tokio::time::timeout(longest, all).await.is_err() {
            log::warn!("http: closing connections that did not finish in time");
        }
    }

    pub(super) async fn answer_gateway(&self, source: Source, request: &Request<Incoming>) -> Response {
        let step =
            with_head(request, source, |head| self.engine.borrow_mut().read_request(self.clock.now(), head));
        let (question, plan) = match step {
            Step::Ask(question, plan) => (question, plan),
            Step::Answer(response) => return response,
            // The operator has addresses for it (`rules/operations.md#pages`).
            Step::Page(page) if self.has_operator_listeners.get() && !Routes::is_always_on_gateway(page) => {
                return self.metrics.count_response(self.engine.borrow().not_found_response());
            }
            Step::Page(page) => return self.show_page(page),
        };
        // A full inbox drops the `ReplyTo`, and then there is no reply.
        let ask = |reply_to| {
            self.inbox.push(question, reply_to).unwrap_or(());
            self.question_queued();
        };
        let reply = self.replies.ask_actor(ask).await;
        let engine = self.engine.borrow();
        match reply {
            Some(reply) => engine.write_reply(reply, plan),
            None => engine.write_overloaded(plan),
        }
    }

    /// Counts a question that was put into the inbox. Connections that are ready now are read first, since
    /// one wake-up serves all their questions, but at most [`UNWOKEN_MAX`].
    fn question_queued(&self) {
        self.unwoken_questions.set(self.unwoken_questions.get() + 1);
        if self.unwoken_questions.get() < UNWOKEN_MAX {
            self.turn_ends.notify_one();
        } else {
            self.wake_actor();
        }
    }

    fn wake_actor(&self) {
        if self.unwoken_questions.replace(0) > 0 {
            self.inbox.wake();
        }
    }

    pub(super) fn connections_of(&self, role: ListenerRole) -> &Connections {
        let [gateway, operator] = &self.connections;
        match role {
            ListenerRole::Gateway => gateway,
            ListenerRole::Operator => operator,
        }
    }
}
