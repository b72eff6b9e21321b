//! A stream in memory, with faults.

use std::time::Duration;

use hayate_state::cluster::bus::{Bus, BusError, EntryId, Exchange, Exchanged, StreamState};

use super::shared::{Shared, World};

const SERVER_START: u64 = 1_800_000_000_000;

/// The server of all nodes.
#[derive(Default)]
pub(super) struct Server {
    pub(super) entries: Vec<(EntryId, Vec<u8>)>,
    last: Option<EntryId>,
    /// Milliseconds that its clock is ahead.
    pub(super) clock_ahead: i64,
    /// Milliseconds of all its steps.
    pub(super) clock_steps: u64,
    /// The connection of each node breaks at its next use.
    broken: Vec<bool>,
    /// No node reaches it until then.
    pub(super) away_until: u64,
    /// One node does not reach it.
    pub(super) cut: Vec<u64>,
    /// It takes what it gets, and answers nobody.
    pub(super) frozen_until: u64,
    pub(super) full_until: u64,
    /// It refuses the login.
    pub(super) denies: bool,
    /// Replies are lost, in percent.
    pub(super) lossy_until: u64,
    /// What is appended later, though its sender has given up.
    late: Vec<(u64, Vec<Vec<u8>>)>,
    /// How long the last exchange of a node took.
    pub(super) took: Vec<u64>,
    pub(super) slow: bool,
    /// What each node has read.
    pub(super) read_to: Vec<EntryId>,
}

impl Server {
    pub(super) fn new(nodes: usize) -> Self {
        Self {
            broken: vec![false; nodes],
            cut: vec![0; nodes],
            took: vec![0; nodes],
            read_to: vec![EntryId::default(); nodes],
            ..Self::default()
        }
    }

    pub(super) fn time(&self, now: u64) -> u64 {
        (SERVER_START + now).saturating_add_signed(self.clock_ahead)
    }

    pub(super) fn append(&mut self, now: u64, octets: Vec<u8>) -> EntryId {
        let mut id = EntryId { milliseconds: self.time(now), number: 0 };
        if let Some(last) = self.last
            && last >= id
        {
            id = EntryId { milliseconds: last.milliseconds, number: last.number + 1 };
        }
        self.last = Some(id);
        self.entries.push((id, octets));
        id
    }

    pub(super) fn append_late(&mut self, now: u64) {
        let (due, later) = self.late.drain(..).partition(|(at, _)| *at <= now);
        self.late = later;
        let due: Vec<(u64, Vec<Vec<u8>>)> = due;
        for octets in due.into_iter().flat_map(|(_, entries)| entries) {
            self.append(now, octets);
        }
    }

    /// Deletes the stream.
    pub(super) fn flush(&mut self) {
        self.entries.clear();
        self.last = None;
    }

    /// A replica takes over that has not seen the newest entries.
    pub(super) fn fail_over(&mut self, now: u64, most: usize) {
        let recent = self.time(now).saturating_sub(5000);
        let lost =
            self.entries.iter().rev().take(most).take_while(|(id, _)| id.milliseconds > recent).count();
        self.entries.truncate(self.entries.len() - lost);
        self.last = self.entries.last().map(|(id, _)| *id);
        self.late.clear();
        self.broken.fill(true);
    }

    /// Trims what all nodes have read.
    pub(super) fn trim(&mut self, nodes: &[usize]) {
        let Some(read) = nodes.iter().map(|node| self.read_to[*node]).min() else { return };
        let oldest = read.milliseconds.saturating_sub(20_000);
        self.entries.retain(|(id, _)| id.milliseconds >= oldest);
    }

    fn is_reached(&mut self, node: usize, now: u64) -> Result<(), BusError> {
        if self.denies {
            return Err(BusError::Denied("NOPERM".into()));
        }
        if std::mem::take(&mut self.broken[node]) || now < self.away_until || now < self.cut[node] {
            return Err(BusError::Away("cut".into()));
        }
        Ok(())
    }
}

/// One node's way to the server.
pub(super) struct SimulatedBus {
    pub(super) shared: Shared,
    pub(super) node: usize,
}

impl SimulatedBus {
    fn run(world: &mut World, node: usize, exchange: &Exchange<'_>) -> Result<Exchanged, BusError> {
        let World { server, random, now, .. } = world;
        let now = *now;
        server.is_reached(node, now)?;
        let lost = || Err(BusError::Away("no reply".into()));
        if now < server.frozen_until {
            server.late.push((server.frozen_until, exchange.append.to_vec()));
            return lost();
        }
        if now < server.full_until && !exchange.append.is_empty() {
            return Err(BusError::OutOfMemory("used memory > 'maxmemory'".into()));
        }
        let loses = now < server.lossy_until && random.u8(..3) == 0;
        if loses && random.bool() {
            if random.bool() {
                server.late.push((now + random.u64(1..6000), exchange.append.to_vec()));
            }
            return lost();
        }
        let server_time = Duration::from_millis(server.time(now));
        let appended = exchange.append.iter().map(|octets| server.append(now, octets.clone())).collect();
        if loses {
            return lost();
        }
        let start = server.entries.partition_point(|(id, _)| *id <= exchange.position);
        let entries: Vec<_> = server.entries.iter().skip(start).take(exchange.read_max).cloned().collect();
        if let Some((id, _)) = entries.last() {
            server.read_to[node] = *id;
        }
        let took = if server.slow && random.u8(..8) == 0 { random.u64(..3000) } else { random.u64(..5) };
        server.took[node] = took;
        Ok(Exchanged { server_time, round_trip: Duration::from_millis(took), appended, entries })
    }
}

impl Bus for SimulatedBus {
    fn exchange(&mut self, exchange: &Exchange<'_>) -> Result<Exchanged, BusError> {
        let mut world = self.shared.lock();
        let exchanged = Self::run(&mut world, self.node, exchange);
        // Peers announce between the moment when the outbox was taken and that when records are applied.
        if world.announcing && world.random.u8(..6) == 0 {
            world.announce(self.node);
        }
        exchanged
    }

    fn stream_state(&mut self, _: &str) -> Result<Option<StreamState>, BusError> {
        let world = &mut *self.shared.lock();
        world.server.is_reached(self.node, world.now)?;
        if world.now < world.server.frozen_until {
            return Err(BusError::Away("frozen".into()));
        }
        let server = &world.server;
        Ok(server.last.map(|last| StreamState {
            last,
            first: server.entries.first().map(|(id, _)| *id),
            len: server.entries.len() as u64,
        }))
    }

    fn trim(&mut self, _: &str, oldest: EntryId, entries_max: u64) -> Result<(), BusError> {
        let world = &mut *self.shared.lock();
        world.server.is_reached(self.node, world.now)?;
        let entries = &mut world.server.entries;
        let most = usize::try_from(entries_max).unwrap();
        let beyond = entries.len().saturating_sub(most);
        let old = entries.partition_point(|(id, _)| *id < oldest);
        entries.drain(..beyond.max(old));
        Ok(())
    }
}
