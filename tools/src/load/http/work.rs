//! The loop over all connections: in the closed loop each sends again once it was answered, in the open loop
//! the free ones take turns.

use std::collections::VecDeque;
use std::io;
use std::time::Duration;

use mio::{Events, Poll};

use super::connection::{Connection, Step};
use super::wire::Requests;
use crate::load::args::Args;
use crate::load::pace::{Fill, SECOND, Schedule};
use crate::load::plan::{Kind, NextRequest, Plan, Request};
use crate::load::routes::{Route, Routes};
use crate::load::session::{Measured, Session, Silence};
use crate::load::target::Target;
use crate::load::{IDLE_SLEEP, LoadError, REPLY_TIMEOUT, paths};

/// Time between two checks of waiting connections.
const CHECK_INTERVAL: u64 = SECOND / 20;
/// Pause of a connection after it broke.
const BROKEN_PAUSE: u64 = SECOND / 10;
/// Most events of one turn.
const EVENTS_MAX: usize = 1024;

/// Loads the tracker and measures.
pub(crate) fn load(args: &Args, target: &Target, routes: &Routes, plan: Plan) -> Result<Measured, LoadError> {
    let announces = paths(args, &target.path)?;
    let scrapes = target.scrape_path().map(|path| paths(args, &path)).transpose()?.unwrap_or_default();
    let open = |(index, route): (usize, &Route)| Connection::new(index, *route);
    let connections: Vec<_> = routes.all().iter().enumerate().map(open).collect();
    connections.first().map(Connection::probe).transpose()?;
    let mut work = HttpLoad {
        poll: Poll::new()?,
        plan,
        requests: Requests::new(&announces, &scrapes, &target.authority, args.close),
        scrape_torrents: args.scrape_torrents,
        schedule: args.rate.map(Schedule::new),
        fill: args.fill.map(|total| Fill::new(total, connections.len() as u64)),
        free: (0..connections.len()).collect(),
        connections,
        paused: VecDeque::new(),
        check_at: 0,
        silence: Silence::default(),
        session: Session::start(args)?,
    };
    let mut events = Events::with_capacity(EVENTS_MAX);
    while work.session.is_running(work.session.now())? && !work.is_filled(target)? {
        work.poll_once(&mut events)?;
        work.start_requests();
    }
    let costs = work.session.stop()?;
    while work.connections.iter().any(Connection::has_request) {
        work.poll_once(&mut events)?;
    }
    Ok(work.session.sum_up(&costs))
}

struct HttpLoad {
    poll: Poll,
    plan: Plan,
    requests: Requests,
    scrape_torrents: u16,
    /// `None` in the closed loop.
    schedule: Option<Schedule>,
    fill: Option<Fill>,
    connections: Vec<Connection>,
    /// Connections that may send a request.
    free: VecDeque<usize>,
    /// Connections that broke, and when they may send again.
    paused: VecDeque<(u64, usize)>,
    /// When connections are next checked for timeouts.
    check_at: u64,
    silence: Silence,
    session: Session,
}

impl HttpLoad {
    /// Whether every peer of a fill was announced.
    fn is_filled(&mut self, target: &Target) -> Result<bool, LoadError> {
        let Some(fill) = &self.fill else { return Ok(false) };
        let counts = self.session.recorder.counts();
        if self.silence.is_long(self.session.now(), &counts) {
            return Err(LoadError::Silent(target.address, counts.announces));
        }
        Ok(fill.is_done())
    }

    /// Receives the replies that have come, and gives up on late ones.
    fn poll_once(&mut self, events: &mut Events) -> Result<(), LoadError> {
        match self.poll.poll(events, Some(Duration::ZERO)) {
            Err(error) if error.kind() != io::ErrorKind::Interrupted => return Err(error.into()),
            _ => {}
        }
        let now = self.session.now();
        for event in &*events {
            let index = event.token().0;
            let Some(connection) = self.connections.get_mut(index) else { continue };
            if !event.is_readable() && !event.is_error() && !connection.has_output() {
                // It is a new connection that has become writable, with nothing to write.
                continue;
            }
            let step = connection.advance(self.poll.registry(), now);
            self.record_step(index, step, false);
        }
        if now >= self.check_at {
            self.check_at = now + CHECK_INTERVAL;
            for index in 0..self.connections.len() {
                let Some(connection) = self.connections.get_mut(index) else { continue };
                let step = connection.expire(now.saturating_sub(REPLY_TIMEOUT));
                self.record_step(index, step, true);
            }
        }
        while let Some((_, index)) = self.paused.pop_front_if(|(until, _)| *until <= now) {
            self.free.push_back(index);
        }
        if events.is_empty() && self.schedule.is_some_and(|schedule| schedule.waiting(now) == 0) {
            std::thread::sleep(IDLE_SLEEP);
        }
        Ok(())
    }

    /// Starts the requests that are due.
    fn start_requests(&mut self) {
        while !self.free.is_empty() {
            let now = self.session.now();
            let due = match &self.schedule {
                Some(schedule) if schedule.waiting(now) == 0 => return,
                Some(schedule) => schedule.due(0),
                None => now,
            };
            let Some(index) = self.free.pop_front() else { return };
            if self.start_request(index, due, now)
                && let Some(schedule) = &mut self.schedule
            {
                schedule.note_sent(1);
            }
        }
    }

    /// Sends a request on this connection, unless the fill has none left.
    fn start_request(&mut self, index: usize, due: u64, now: u64) -> bool {
        let Some(connection) = self.connections.get_mut(index) else { return false };
        let request =
            if self.fill.is_some() { NextRequest::Honest(Kind::Announce) } else { self.plan.next_request() };
        let number = self.fill.as_ref().map(|fill| fill.next_peer(&mut connection.share));
        if number == Some(None) {
            return false;
        }
        let fill_peer = number.flatten();
        let kind = if request == NextRequest::Honest(Kind::Scrape) { Kind::Scrape } else { Kind::Announce };
        let request = Request { kind, due, sent: now, fill_peer };
        let (plan, requests, torrents) = (&mut self.plan, &self.requests, self.scrape_torrents);
        let path = plan.random_index(requests.paths());
        let step = connection.send_request(self.poll.registry(), request, |out| match (kind, fill_peer) {
            (Kind::Scrape, _) => requests.scrape(out, path, (0..torrents).map(|_| plan.scrape_torrent())),
            (_, number) => {
                let announce = match number {
                    Some(number) => plan.fill_announce(number),
                    None => plan.announce(index as u64),
                };
                // A peer always has the same passkey.
                requests.announce(out, announce.key as usize % requests.paths().max(1), &announce);
            }
        });
        self.session.recorder.record_sent(due);
        self.record_step(index, step, false);
        true
    }

    /// Records what became of a request.
    fn record_step(&mut self, index: usize, step: Step, expired: bool) {
        let Some(connection) = self.connections.get_mut(index) else { return };
        match step {
            Step::Waiting => {}
            Step::Answered(request, good) => {
                let (to, now) = (connection.tracker(), self.session.now());
                match good {
                    true => self.session.recorder.record_answered(request.kind, to, request.due, now),
                    false => self.session.recorder.record_refused(request.due),
                }
                if let (Some(fill), Some(_)) = (&mut self.fill, request.fill_peer) {
                    fill.count_answered();
                }
                if connection.is_free() {
                    self.free.push_back(index);
                }
            }
            Step::Closed => self.free.push_back(index),
            Step::Broken(request) => {
                match expired {
                    true => self.session.recorder.record_lost(request.due),
                    false => self.session.recorder.record_refused(request.due),
                }
                if let Some(number) = request.fill_peer {
                    connection.share.announce_again(number);
                }
                self.paused.push_back((self.session.now() + BROKEN_PAUSE, index));
            }
        }
    }
}
