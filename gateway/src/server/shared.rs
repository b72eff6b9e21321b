//! What runs on the server's thread: accept loops, connections, the timer. Everything here belongs to that one
//! thread.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::io;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll};
use std::time::Duration;

use hayate_state::Clock;
use hayate_state::actor::Inbox;
use hyper::body::Incoming;
use hyper::{Method, Request};
use tokio::sync::Notify;
use tokio::task::{spawn_local, unconstrained};

use super::connection::{Connection, http1_builder, with_head};
use super::connections::Connections;
use super::replies::{PendingReplies, ReplyTo};
use super::sockets::BACKLOG;
use super::stream::{Listener, Stream};
use super::timeouts::ConnTimeouts;
use crate::engine::client_address::Source;
use crate::engine::metrics::Metrics;
use crate::engine::{Engine, Page, Response, Step, check_head, origin_form};
use crate::operator::OperatorPages;
use crate::operator::profile;

/// So many questions wake the state actor before a turn ends, so that it does not stand still in a long one.
const UNWOKEN_MAX: usize = 64;
/// Between two readings of how many requests there are.
const MINUTE: Duration = Duration::from_secs(60);
/// Connections to the operator's pages at most.
const OPERATOR_CONNECTIONS_MAX: usize = 64;
/// Pause after an accept that failed for want of something, such as file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// Time that connections without a request get to send one when the server stops.
pub(super) const NEW_CONNECTION_GRACE: Duration = Duration::from_millis(500);
/// Time between two log lines about failing accepts.
const WARNING_INTERVAL: Duration = Duration::from_secs(60);

/// What a listener is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ListenerRole {
    /// Announces and scrapes.
    Gateway,
    /// The operator's pages.
    Operator,
}

/// All that the connections share.
pub(super) struct Shared {
    pub(super) engine: RefCell<Engine>,
    pub(super) metrics: Arc<Metrics>,
    pub(super) inbox: Inbox<ReplyTo>,
    /// Questions that the state actor has not been woken for.
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
    /// Accepts until the task is aborted. Nothing ends it.
    pub(super) async fn accept_connections(self: Rc<Self>, role: ListenerRole, listener: Rc<Listener>) {
        loop {
            match poll_fn(|context| listener.poll_accept(context)).await {
                Ok((stream, source)) => self.admit_connection(role, &listener, stream, source),
                Err(error) => self.accept_failed(&error).await,
            }
        }
    }

    /// Takes all who wait to be accepted: a listener that closes would reset them, and what they asked.
    pub(super) async fn accept_waiting(self: &Rc<Self>, role: ListenerRole, listener: &Listener) {
        let take = |context: &mut Context<'_>| {
            for _ in 0..BACKLOG {
                match listener.poll_accept(context) {
                    Poll::Ready(Ok((stream, source))) => {
                        self.admit_connection(role, listener, stream, source)
                    }
                    Poll::Ready(Err(_)) | Poll::Pending => break,
                }
            }
            Poll::Ready(())
        };
        unconstrained(poll_fn(take)).await;
    }

    /// Watches over the connections' time until the task is aborted.
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

    /// Keeps the answers that clients do not take within bounds. The operator's own may be as large as a list
    /// of all torrents.
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
        // Who has just been accepted has not sent his request yet: closed now, he would have been refused.
        connections.finish_active();
        if tokio::time::timeout(NEW_CONNECTION_GRACE, &mut all).await.is_ok() {
            return;
        }
        connections.finish_all();
        if tokio::time::timeout(longest, all).await.is_err() {
            log::warn!("http: closing connections that did not finish in time");
        }
    }

    fn admit_connection(
        self: &Rc<Self>,
        role: ListenerRole,
        listener: &Listener,
        stream: Stream,
        source: Source,
    ) {
        // A new certificate counts for whoever comes after the reload.
        self.engine.borrow_mut().refresh();
        let engine = self.engine.borrow();
        let config = engine.config();
        let connections = self.connections_of(role);
        let most = match role {
            ListenerRole::Gateway => config.max_connections,
            ListenerRole::Operator => OPERATOR_CONNECTIONS_MAX,
        };
        if connections.len() >= most {
            if !connections.make_room() {
                self.metrics.refused.add(1);
                return;
            }
            self.metrics.displaced.add(1);
        }
        self.metrics.opened.add(1);
        let connection = Connection {
            shared: Rc::clone(self),
            role,
            timer: connections.add(ConnTimeouts::from_config(config)),
        };
        let builder = http1_builder(config);
        match (listener, stream) {
            (Listener::Tls(_), Stream::Tcp(stream)) => {
                let Some(tls) = &config.tls else { return };
                spawn_local(connection.serve_tls(tls.acceptor(), stream, source, builder));
            }
            (_, stream) => _ = spawn_local(connection.serve(stream, source, builder)),
        }
    }

    async fn accept_failed(&self, error: &io::Error) {
        self.metrics.accept_errors.add(1);
        let now = self.clock.uptime();
        if self.last_accept_warning.get().is_none_or(|last| now.saturating_sub(last) > WARNING_INTERVAL) {
            self.last_accept_warning.set(Some(now));
            let count = self.metrics.accept_errors.value();
            log::warn!("http: cannot accept a connection: {error} ({count} since the start)");
        }
        use io::ErrorKind::{ConnectionAborted, ConnectionReset, Interrupted};
        if !matches!(error.kind(), ConnectionAborted | ConnectionReset | Interrupted) {
            tokio::time::sleep(ACCEPT_PAUSE).await;
        }
    }

    pub(super) async fn answer_gateway(&self, source: Source, request: &Request<Incoming>) -> Response {
        let step =
            with_head(request, source, |head| self.engine.borrow_mut().read_request(self.clock.now(), head));
        let (question, plan) = match step {
            Step::Ask(question, plan) => (question, plan),
            Step::Answer(response) => return response,
            // Then the gateway has `/alive` only (`rules/operations.md#pages`).
            Step::Page(Page::Health | Page::Metrics) if self.has_operator_listeners.get() => {
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

    /// A question lies in the inbox. Connections that are ready now are read first, since one wake-up serves
    /// all their questions, but not too many of them.
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

    pub(super) async fn answer_operator(&self, source: Source, request: &Request<Incoming>) -> Response {
        let (path, query) = {
            let asked = with_head(request, source, |head| {
                check_head(head)?;
                let mut parts = origin_form(head.target).splitn(2, |&octet| octet == b'?');
                let mut part = || parts.next().unwrap_or_default().to_vec();
                Ok((part(), part()))
            });
            match asked {
                Ok(asked) => asked,
                Err(response) => return self.metrics.count_response(response),
            }
        };
        let page = self.engine.borrow().operator_page(&path);
        if let Some(page) = page {
            return self.show_page(page);
        }
        if request.method() != Method::GET {
            return self.metrics.count_response(Response::method_not_allowed());
        }
        let leaf = path.strip_prefix(profile::PROFILE_ROOT).filter(|_| self.engine.borrow().config().pprof);
        if let Some(leaf) = leaf.map(<[u8]>::to_vec) {
            // It sleeps for as long as is asked for.
            let page = tokio::task::spawn_blocking(move || profile::render_page(&leaf, &query)).await;
            let failed = |_| Response::text(500, "internal server error\n");
            return self.metrics.count_response(page.unwrap_or_else(failed));
        }
        let Some(admin) = self.pages.admin.clone() else {
            return self.metrics.count_response(Response::not_found());
        };
        let from = match source {
            Source::Address(address) => address.to_string(),
            Source::Unix => "a unix socket".to_owned(),
        };
        // It waits for the database, which this thread must not.
        let answer = tokio::task::spawn_blocking(move || admin.answer(&path, &query, &from)).await;
        self.metrics.count_response(match answer {
            Ok(Some((status, text))) => Response::owned_text(status, text),
            Ok(None) => Response::not_found(),
            Err(_) => Response::text(500, "internal server error\n"),
        })
    }

    fn show_page(&self, page: Page) -> Response {
        let engine = self.engine.borrow();
        let config = engine.config();
        if page == Page::Metrics && !config.enable_metrics {
            return self.metrics.count_response(engine.not_found_response());
        }
        let prefix = config.enable_metrics.then_some(config.metrics_prefix.as_str());
        self.metrics.count_response(self.pages.render(page, prefix))
    }

    pub(super) fn connections_of(&self, role: ListenerRole) -> &Connections {
        let [gateway, operator] = &self.connections;
        match role {
            ListenerRole::Gateway => gateway,
            ListenerRole::Operator => operator,
        }
    }
}
