//! The loop over all sockets: in the closed loop each keeps its window full, in the open loop they take
//! turns.

use std::collections::VecDeque;
use std::net::{SocketAddr, UdpSocket};

use super::in_flight::RequestsInFlight;
use super::socket::{self, Burst, Receiver, burst_max};
use super::wire::{self, ReplyKind};
use crate::load::args::Args;
use crate::load::pace::{Fill, SECOND, Schedule, Share};
use crate::load::plan::{Kind, NextRequest, Plan, Request};
use crate::load::routes::{Route, Routes};
use crate::load::session::{Measured, Session, Silence};
use crate::load::target::Target;
use crate::load::{CLOSED_REPLY_TIMEOUT, IDLE_SLEEP, LoadError, REPLY_TIMEOUT, paths};

/// Time for which a connection id is used; BEP 15 lets clients use one for a minute.
const CONNECTION_AGE: u64 = 60 * SECOND;
/// Time after which an unanswered connect is repeated.
const CONNECT_RETRY_INTERVAL: u64 = SECOND;
/// Requests of a burst in the open loop.
const OPEN_BURST_MAX: usize = 4;

/// Loads the tracker and measures.
pub(crate) fn load(args: &Args, target: &Target, routes: &Routes, plan: Plan) -> Result<Measured, LoadError> {
    let url_data = target.url_data().map(|path| paths(args, path)).transpose()?;
    let mut lanes = open_lanes(routes)?;
    let mut work = UdpLoad {
        plan,
        session: Session::start(args)?,
        receiver: Receiver::default(),
        burst: Burst::default(),
        requests: Vec::new(),
        may_split: true,
        fill: args.fill.map(|total| Fill::new(total, lanes.len() as u64)),
        options: url_data.map_or_else(Vec::new, |paths| wire::options(&paths)),
        scrape_torrents: args.scrape_torrents,
        reply_timeout: if args.rate.is_some() { REPLY_TIMEOUT } else { CLOSED_REPLY_TIMEOUT },
    };
    match args.rate {
        Some(rate) => work.run_open(&mut lanes, Schedule::new(rate))?,
        None => work.run_closed(&mut lanes, args.window as usize, target)?,
    }
    let costs = work.session.stop()?;
    work.drain(&mut lanes);
    Ok(work.session.sum_up(&costs))
}

/// A socket and what belongs to it.
struct Lane {
    index: u64,
    to: SocketAddr,
    socket: UdpSocket,
    connection_id: u64,
    /// When a new connection id is requested.
    renew_at: u64,
    in_flight: RequestsInFlight,
    share: Share,
}

fn open_lanes(routes: &Routes) -> Result<VecDeque<Lane>, LoadError> {
    let open = |(index, route): (u64, &Route)| {
        let socket = socket::open(route)?;
        let connection_id = socket::connect(&socket, fastrand::u32(..))?;
        Ok(Lane {
            index,
            to: route.to,
            socket,
            connection_id,
            renew_at: CONNECTION_AGE,
            in_flight: RequestsInFlight::new(fastrand::u32(..)),
            share: Share::new(index),
        })
    };
    (0..).zip(routes.all()).map(open).collect()
}

/// The state that all sockets share.
struct UdpLoad {
    plan: Plan,
    session: Session,
    receiver: Receiver,
    burst: Burst,
    /// The requests of the burst; empty if it is forged.
    requests: Vec<Request>,
    may_split: bool,
    fill: Option<Fill>,
    options: Vec<Vec<u8>>,
    scrape_torrents: u16,
    reply_timeout: u64,
}

impl UdpLoad {
    fn run_closed(
        &mut self,
        lanes: &mut VecDeque<Lane>,
        window: usize,
        target: &Target,
    ) -> Result<(), LoadError> {
        let mut silence = Silence::default();
        while self.session.is_running(self.session.now())? {
            for lane in &mut *lanes {
                let now = self.session.now();
                self.renew_id(lane, now);
                let free = window.saturating_sub(lane.in_flight.waiting());
                if free > 0 && (free >= window / 2 || lane.in_flight.waiting() == 0) {
                    self.send(lane, free, now, None);
                }
                self.receive(lane);
            }
            if let Some(fill) = &self.fill {
                let counts = self.session.recorder.counts();
                if fill.is_done() {
                    break;
                }
                if silence.is_long(self.session.now(), &counts) {
                    return Err(LoadError::Silent(target.address, counts.announces));
                }
            }
        }
        Ok(())
    }

    fn run_open(&mut self, lanes: &mut VecDeque<Lane>, mut schedule: Schedule) -> Result<(), LoadError> {
        while self.session.is_running(self.session.now())? {
            let mut idle = true;
            for _ in 0..lanes.len() {
                let now = self.session.now();
                let waiting = schedule.waiting(now);
                if waiting == 0 {
                    break;
                }
                idle = false;
                lanes.rotate_left(1);
                if let Some(lane) = lanes.front_mut() {
                    self.renew_id(lane, now);
                    let sent = self.send(lane, waiting.min(OPEN_BURST_MAX), now, Some(&schedule));
                    schedule.note_sent(sent);
                }
            }
            for lane in lanes.iter_mut().filter(|lane| lane.in_flight.waiting() > 0) {
                idle &= self.receive(lane) == 0;
            }
            if idle {
                std::thread::sleep(IDLE_SLEEP);
            }
        }
        Ok(())
    }

    /// Receives the last replies, until every request is answered or lost.
    fn drain(&mut self, lanes: &mut VecDeque<Lane>) {
        while lanes.iter().any(|lane| lane.in_flight.waiting() > 0) {
            for lane in &mut *lanes {
                self.receive(lane);
            }
        }
    }

    /// Requests a new connection id when the present one is old.
    fn renew_id(&mut self, lane: &mut Lane, now: u64) {
        if now >= lane.renew_at {
            lane.renew_at = now + CONNECT_RETRY_INTERVAL;
            self.write(lane, NextRequest::Honest(Kind::Connect), 1, now, None);
            self.send_burst(lane);
        }
    }

    /// Sends one burst. Returns the number of requests sent. They are due now, or as the schedule says.
    fn send(&mut self, lane: &mut Lane, count: usize, now: u64, schedule: Option<&Schedule>) -> usize {
        let next =
            if self.fill.is_some() { NextRequest::Honest(Kind::Announce) } else { self.plan.next_request() };
        self.write(lane, next, count, now, schedule);
        let sent = self.send_burst(lane);
        if next == NextRequest::Forged {
            let due = |ahead| schedule.map_or(now, |schedule| schedule.due(ahead));
            (0..sent).for_each(|ahead| self.session.recorder.record_forged(due(ahead)));
        }
        sent
    }

    /// Writes a burst of one kind.
    fn write(
        &mut self,
        lane: &mut Lane,
        next: NextRequest,
        count: usize,
        now: u64,
        schedule: Option<&Schedule>,
    ) {
        self.burst.octets.clear();
        self.requests.clear();
        let mut count = count.min(lane.in_flight.free());
        let mut ahead = 0;
        while ahead < count {
            let fill = self.fill.as_ref().filter(|_| next == NextRequest::Honest(Kind::Announce));
            let number = fill.map(|fill| fill.next_peer(&mut lane.share));
            if number == Some(None) {
                break;
            }
            let number = number.flatten();
            self.write_one(lane, next, ahead, number);
            if let NextRequest::Honest(kind) = next {
                let due = schedule.map_or(now, |schedule| schedule.due(ahead));
                self.requests.push(Request { kind, due, sent: now, fill_peer: number });
            }
            if ahead == 0 {
                self.burst.request_len = self.burst.octets.len();
                count = count.min(burst_max(self.burst.request_len));
            }
            ahead += 1;
        }
    }

    fn write_one(&mut self, lane: &Lane, next: NextRequest, ahead: usize, number: Option<u64>) {
        let (out, id, transaction) =
            (&mut self.burst.octets, lane.connection_id, lane.in_flight.transaction(ahead));
        let (id, transaction) = match next {
            NextRequest::Honest(Kind::Connect) => return wire::connect(out, transaction),
            NextRequest::Honest(Kind::Scrape) => {
                wire::scrape(out, id, transaction);
                (0..self.scrape_torrents).for_each(|_| out.extend_from_slice(&self.plan.scrape_torrent()));
                return;
            }
            NextRequest::Honest(Kind::Announce) => (id, transaction),
            NextRequest::Forged => (self.plan.random(), lane.in_flight.unused_transaction()),
        };
        let announce = match number {
            Some(number) => self.plan.fill_announce(number),
            None => self.plan.announce(lane.index),
        };
        let options = match self.options.len() {
            0 => &[][..],
            // A peer always has the same passkey.
            len => self.options.get(announce.key as usize % len).map_or(&[][..], Vec::as_slice),
        };
        wire::announce(out, id, transaction, &announce, options);
    }

    /// Sends the burst that was written. Returns how many of its requests were sent.
    fn send_burst(&mut self, lane: &mut Lane) -> usize {
        if self.burst.octets.is_empty() {
            return 0;
        }
        let sent = socket::send(&lane.socket, &self.burst, &mut self.may_split);
        for (index, request) in self.requests.drain(..).enumerate() {
            if index < sent {
                self.session.recorder.record_sent(request.due);
                lane.in_flight.push(request);
            } else if let Some(number) = request.fill_peer {
                lane.share.announce_again(number);
            }
        }
        sent
    }

    /// Receives the replies that are there, and gives up on requests that waited too long.
    fn receive(&mut self, lane: &mut Lane) -> usize {
        let Self { receiver, session, fill, .. } = self;
        let mut now = None;
        let count = receiver.receive(&lane.socket, |reply| {
            let Some(request) = lane.in_flight.take_answered(reply.transaction) else { return };
            let now = *now.get_or_insert_with(|| session.now());
            if let ReplyKind::Connected(id) = reply.kind {
                (lane.connection_id, lane.renew_at) = (id, now + CONNECTION_AGE);
            }
            if reply.kind.answers(request.kind) {
                session.recorder.record_answered(request.kind, lane.to, request.due, now);
            } else {
                session.recorder.record_refused(request.due);
            }
            if let (Some(fill), Some(_)) = (&mut *fill, request.fill_peer) {
                fill.count_answered();
            }
        });
        let before = self.session.now().saturating_sub(self.reply_timeout);
        while let Some(request) = lane.in_flight.expire(before) {
            self.session.recorder.record_lost(request.due);
            if let Some(number) = request.fill_peer {
                lane.share.announce_again(number);
            }
        }
        count
    }
}
