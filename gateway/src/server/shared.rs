//! What runs on the door's thread: accept loops, connections, the beat. Everything here belongs to that one
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

use super::connection::{Seat, builder, with_head};
use super::connections::Crowd;
use super::replies::{Asker, Post};
use super::sockets::BACKLOG;
use super::stream::{Listener, Stream};
use super::timeouts::Times;
use crate::engine::client_address::Source;
use crate::engine::stats::Stats;
use crate::engine::{Engine, Page, Response, Step, check, origin_form};
use crate::operator::Pages;
use crate::operator::profile;

/// So many questions wake the state actor before a turn ends, so that it does not stand still in a long one.
const UNHEARD_MAX: usize = 64;
/// Between two readings of how many requests there are.
const MINUTE: Duration = Duration::from_secs(60);
/// Connections to the operator's pages at most.
const OPERATOR_CONNECTIONS_MAX: usize = 64;
/// Pause after an accept that failed for want of something, such as file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// Time that connections without a request get to send one when the door stops.
pub(super) const NEWCOMERS_GRACE: Duration = Duration::from_millis(500);
/// Time between two log lines about failing accepts.
const COMPLAINT_PAUSE: Duration = Duration::from_secs(60);

/// What a listener is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Role {
    /// Announces and scrapes.
    Gateway,
    /// The operator's pages.
    Operator,
}

/// All that the connections share.
pub(super) struct Gate {
    pub(super) engine: RefCell<Engine>,
    pub(super) stats: Arc<Stats>,
    pub(super) inbox: Inbox<Asker>,
    /// Questions that the state actor has not been woken for.
    pub(super) unheard: Cell<usize>,
    pub(super) turn_ends: Notify,
    pub(super) post: Rc<Post>,
    pub(super) pages: Pages,
    pub(super) clock: Clock,
    /// Whether the operator's pages have addresses of their own.
    pub(super) pages_apart: Cell<bool>,
    pub(super) crowds: [Crowd; 2],
    pub(super) emptied: Notify,
    pub(super) complained: Cell<Option<Duration>>,
}

impl Gate {
    /// Accepts until the task is aborted. Nothing ends it.
    pub(super) async fn accept(self: Rc<Self>, role: Role, listener: Rc<Listener>) {
        loop {
            match poll_fn(|context| listener.poll_accept(context)).await {
                Ok((stream, source)) => self.admit(role, &listener, stream, source),
                Err(error) => self.accept_failed(&error).await,
            }
        }
    }

    /// Takes all who wait to be accepted: a listener that closes would reset them, and what they asked.
    pub(super) async fn accept_waiting(self: &Rc<Self>, role: Role, listener: &Listener) {
        let take = |context: &mut Context<'_>| {
            for _ in 0..BACKLOG {
                match listener.poll_accept(context) {
                    Poll::Ready(Ok((stream, source))) => self.admit(role, listener, stream, source),
                    Poll::Ready(Err(_)) | Poll::Pending => break,
                }
            }
            Poll::Ready(())
        };
        unconstrained(poll_fn(take)).await;
    }

    /// Watches over the connections' time until the task is aborted.
    pub(super) async fn watch(self: Rc<Self>) {
        let mut minute = (self.clock.uptime(), 0);
        loop {
            self.beat();
            let now = self.clock.uptime();
            if now.saturating_sub(minute.0) >= MINUTE {
                let handled = self.stats.handled.value();
                self.stats.per_minute.store(handled - minute.1, Ordering::Relaxed);
                log::debug!("{} HTTP requests in the last minute", handled - minute.1);
                minute = (now, handled);
            }
            self.engine.borrow_mut().refresh();
            let period = Times::of(self.engine.borrow().config()).beat();
            tokio::time::sleep(period).await;
        }
    }

    /// Sets the coarse clock, and closes connections whose time is up.
    pub(super) fn beat(&self) {
        let now = self.clock.uptime();
        for crowd in &self.crowds {
            crowd.beat(now, |phase| self.stats.timeout(phase));
        }
        self.relieve();
    }

    /// Keeps the answers that clients do not take within bounds. The operator's own may be as large as a list
    /// of all torrents.
    pub(super) fn relieve(&self) {
        let closed = self.crowd(Role::Gateway).relieve();
        if closed > 0 {
            self.stats.stalled.add(closed);
        }
    }

    /// Wakes the state actor after the questions of each turn, until the task is aborted. The runtime polls
    /// this task after those that were ready before it.
    pub(super) async fn call(self: Rc<Self>) {
        loop {
            self.turn_ends.notified().await;
            self.wake_actor();
        }
    }

    /// Tells all connections of a role to finish and waits until they have, or `longest` is over.
    pub(super) async fn finish(&self, role: Role, longest: Duration) {
        let crowd = self.crowd(role);
        let mut all = pin!(async {
            while crowd.len() > 0 {
                self.emptied.notified().await;
            }
        });
        // Who has just been accepted has not sent his request yet: closed now, he would have been refused.
        crowd.finish_known();
        if tokio::time::timeout(NEWCOMERS_GRACE, &mut all).await.is_ok() {
            return;
        }
        crowd.finish();
        if tokio::time::timeout(longest, all).await.is_err() {
            log::warn!("http: closing connections that did not finish in time");
        }
    }

    fn admit(self: &Rc<Self>, role: Role, listener: &Listener, stream: Stream, source: Source) {
        // A new certificate counts for whoever comes after the reload.
        self.engine.borrow_mut().refresh();
        let engine = self.engine.borrow();
        let config = engine.config();
        let crowd = self.crowd(role);
        let most = match role {
            Role::Gateway => config.max_connections,
            Role::Operator => OPERATOR_CONNECTIONS_MAX,
        };
        if crowd.len() >= most {
            if !crowd.make_room() {
                self.stats.refused.add(1);
                return;
            }
            self.stats.displaced.add(1);
        }
        self.stats.opened.add(1);
        let seat = Seat { gate: Rc::clone(self), role, watch: crowd.enter(Times::of(config)) };
        let builder = builder(config);
        match (listener, stream) {
            (Listener::Tls(_), Stream::Tcp(stream)) => {
                let Some(tls) = &config.tls else { return };
                spawn_local(seat.serve_tls(tls.acceptor(), stream, source, builder));
            }
            (_, stream) => _ = spawn_local(seat.serve(stream, source, builder)),
        }
    }

    async fn accept_failed(&self, error: &io::Error) {
        self.stats.accept_errors.add(1);
        let now = self.clock.uptime();
        if self.complained.get().is_none_or(|last| now.saturating_sub(last) > COMPLAINT_PAUSE) {
            self.complained.set(Some(now));
            let count = self.stats.accept_errors.value();
            log::warn!("http: cannot accept a connection: {error} ({count} since the start)");
        }
        use io::ErrorKind::{ConnectionAborted, ConnectionReset, Interrupted};
        if !matches!(error.kind(), ConnectionAborted | ConnectionReset | Interrupted) {
            tokio::time::sleep(ACCEPT_PAUSE).await;
        }
    }

    pub(super) async fn answer(&self, source: Source, request: &Request<Incoming>) -> Response {
        let step = with_head(request, source, |head| self.engine.borrow_mut().read(self.clock.now(), head));
        let (question, context) = match step {
            Step::Ask(question, context) => (question, context),
            Step::Answer(response) => return response,
            // Then the gateway has `/alive` only (`rules/operations.md#pages`).
            Step::Page(Page::Health | Page::Metrics) if self.pages_apart.get() => {
                return self.stats.counted(self.engine.borrow().nothing());
            }
            Step::Page(page) => return self.show(page),
        };
        // A full inbox drops the asker, and then there is no reply.
        let ask = |asker| {
            self.inbox.put(question, asker).unwrap_or(());
            self.asked();
        };
        let reply = self.post.ask(ask).await;
        let engine = self.engine.borrow();
        match reply {
            Some(reply) => engine.write(reply, context),
            None => engine.overloaded(context),
        }
    }

    /// A question lies in the inbox. Connections that are ready now are read first, since one wake-up serves
    /// all their questions, but not too many of them.
    fn asked(&self) {
        self.unheard.set(self.unheard.get() + 1);
        if self.unheard.get() < UNHEARD_MAX {
            self.turn_ends.notify_one();
        } else {
            self.wake_actor();
        }
    }

    fn wake_actor(&self) {
        if self.unheard.replace(0) > 0 {
            self.inbox.wake();
        }
    }

    pub(super) async fn answer_operator(&self, source: Source, request: &Request<Incoming>) -> Response {
        let (path, query) = {
            let asked = with_head(request, source, |head| {
                check(head)?;
                let mut parts = origin_form(head.target).splitn(2, |&octet| octet == b'?');
                let mut part = || parts.next().unwrap_or_default().to_vec();
                Ok((part(), part()))
            });
            match asked {
                Ok(asked) => asked,
                Err(response) => return self.stats.counted(response),
            }
        };
        let page = self.engine.borrow().page(&path);
        if let Some(page) = page {
            return self.show(page);
        }
        if request.method() != Method::GET {
            return self.stats.counted(Response::not_allowed());
        }
        let leaf = path.strip_prefix(profile::ROOT).filter(|_| self.engine.borrow().config().pprof);
        if let Some(leaf) = leaf.map(<[u8]>::to_vec) {
            // It sleeps for as long as is asked for.
            let page = tokio::task::spawn_blocking(move || profile::page(&leaf, &query)).await;
            let failed = |_| Response::text(500, "internal server error\n");
            return self.stats.counted(page.unwrap_or_else(failed));
        }
        let Some(admin) = self.pages.admin.clone() else {
            return self.stats.counted(Response::not_found());
        };
        let from = match source {
            Source::Address(address) => address.to_string(),
            Source::Unix => "a unix socket".to_owned(),
        };
        // It waits for the database, which this thread must not.
        let answer = tokio::task::spawn_blocking(move || admin.answer(&path, &query, &from)).await;
        self.stats.counted(match answer {
            Ok(Some((status, text))) => Response::said(status, text),
            Ok(None) => Response::not_found(),
            Err(_) => Response::text(500, "internal server error\n"),
        })
    }

    fn show(&self, page: Page) -> Response {
        let engine = self.engine.borrow();
        let config = engine.config();
        if page == Page::Metrics && !config.enable_metrics {
            return self.stats.counted(engine.nothing());
        }
        let prefix = config.enable_metrics.then_some(config.metrics_prefix.as_str());
        self.stats.counted(self.pages.show(page, prefix))
    }

    pub(super) fn crowd(&self, role: Role) -> &Crowd {
        let [gateway, operator] = &self.crowds;
        match role {
            Role::Gateway => gateway,
            Role::Operator => operator,
        }
    }
}
