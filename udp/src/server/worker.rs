//! [`Worker`]: one thread that waits for datagrams, has the engine decide each, and sends the replies.

use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::os::fd::{AsFd, AsRawFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use hayate_state::Clock;
use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Token, Waker};

use super::batch::{BATCH_MAX, Batch};
use super::socket::is_own_endpoint;
use crate::dropped::Dropped;
use crate::engine::{Engine, Outcome};

/// Most batches taken from each socket in one turn.
const ROUNDS_MAX: usize = 8;
/// Answers in one turn from which on it is worth waiting a little for more datagrams. What is not answered
/// does not count, or junk would make clients wait.
const BUSY_FROM: usize = 2;
/// Turns with fewer answers than that before the poller is used again.
const THIN_TURNS_MAX: usize = 2;
/// Turns without the poller after which it stops watching the sockets: while it watches, the kernel notifies
/// it of each packet, at a cost that a busy worker can save.
const DEREGISTER_AFTER_TURNS: usize = 4;
/// Longest wait for the poller. Nothing depends on it: it is the most that a lost wake-up could cost.
const IDLE_WAIT: Duration = Duration::from_secs(1);
/// Time between two log lines about a failing poller.
const WARNING_INTERVAL: Duration = Duration::from_secs(60);
/// Events taken from the poller at once.
const EVENTS_MAX: usize = 64;
/// The token of the waker; those of the sockets are their indices.
const WAKER: Token = Token(usize::MAX);

/// One worker: an engine, and the sockets that it serves.
#[derive(Debug)]
pub(super) struct Worker {
    engine: Engine,
    clock: Clock,
    poll: Poll,
    events: Events,
    sockets: Vec<WorkerSocket>,
    /// Every endpoint on which this process listens.
    own: Arc<[SocketAddr]>,
    coalesce: Duration,
    stop: Arc<AtomicBool>,
    /// Counts turns; it grows at the latest after [`IDLE_WAIT`].
    turns: Arc<AtomicU64>,
    /// The uptime at the last log line about a failing poller.
    last_poll_warning: Option<Duration>,
}

/// One socket of this worker.
#[derive(Debug)]
struct WorkerSocket {
    socket: UdpSocket,
    /// Whether datagrams may be waiting: the poller has said so, and the socket was not found empty since.
    ready: bool,
    /// Whether the poller watches the socket.
    registered: bool,
    /// Dropped datagrams, as last reported by the kernel.
    drops: u32,
}

/// The datagrams of one turn.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Served {
    /// Datagrams received.
    received: usize,
    /// Datagrams answered.
    answered: usize,
}

/// How a worker continues after a turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum WaitMode {
    /// More datagrams are waiting.
    AtOnce,
    /// More are likely to come soon, and one wake-up should serve many: wait a little. The number of turns so
    /// far with few answers.
    Soon(usize),
    /// Wait for the poller.
    Idle,
}

impl Worker {
    /// Makes a worker on these sockets, and the waker to use after `stop` is set.
    ///
    /// # Errors
    /// Fails when the poller cannot be made.
    pub(super) fn new(
        engine: Engine,
        clock: Clock,
        sockets: Vec<UdpSocket>,
        own: Arc<[SocketAddr]>,
        coalesce: Duration,
        stop: Arc<AtomicBool>,
    ) -> io::Result<(Self, Waker)> {
        let poll = Poll::new()?;
        let waker = Waker::new(poll.registry(), WAKER)?;
        let worker_socket = |socket| WorkerSocket { socket, ready: true, registered: false, drops: 0 };
        let sockets = sockets.into_iter().map(worker_socket).collect();
        let events = Events::with_capacity(EVENTS_MAX);
        let mut worker = Self {
            engine,
            clock,
            poll,
            events,
            sockets,
            own,
            coalesce,
            stop,
            turns: Arc::default(),
            last_poll_warning: None,
        };
        // A poller that cannot watch at all must fail now, not later.
        worker.register_sockets()?;
        Ok((worker, waker))
    }

    /// Returns the count of turns, by which other threads see that the worker does not hang.
    pub(super) fn turn_counter(&self) -> Arc<AtomicU64> {
        Arc::clone(&self.turns)
    }

    /// Serves until `stop` is set.
    pub(super) fn run(mut self) {
        let mut batch = Batch::new();
        let mut mode = WaitMode::AtOnce;
        let mut unpolled = 0;
        while !self.stop.load(Ordering::Acquire) {
            self.wait(mode);
            let served = self.run_turn(&mut batch);
            // No other thread writes it.
            self.turns.store(self.turns.load(Ordering::Relaxed).wrapping_add(1), Ordering::Relaxed);
            unpolled = if mode == WaitMode::Idle { 0 } else { unpolled + 1 };
            if unpolled == DEREGISTER_AFTER_TURNS {
                self.deregister_sockets();
            }
            mode = self.next_wait_mode(mode, served.answered);
        }
    }

    fn wait(&mut self, mode: WaitMode) {
        match mode {
            WaitMode::AtOnce => {}
            WaitMode::Soon(_) => std::thread::sleep(self.coalesce),
            WaitMode::Idle => return self.poll_sockets(),
        }
        // Without the poller every socket is tried: an empty receive is cheaper than a family that starves.
        self.sockets.iter_mut().for_each(|socket| socket.ready = true);
    }

    /// Has the poller watch every socket; one with waiting datagrams is reported at once.
    fn register_sockets(&mut self) -> io::Result<()> {
        for (index, socket) in self.sockets.iter_mut().enumerate().filter(|(_, socket)| !socket.registered) {
            let fd = socket.socket.as_raw_fd();
            self.poll.registry().register(&mut SourceFd(&fd), Token(index), Interest::READABLE)?;
            socket.registered = true;
        }
        Ok(())
    }

    fn deregister_sockets(&mut self) {
        for socket in self.sockets.iter_mut().filter(|socket| socket.registered) {
            let fd = socket.socket.as_raw_fd();
            // A socket that cannot be deregistered stays watched, which costs a little and breaks nothing.
            socket.registered = self.poll.registry().deregister(&mut SourceFd(&fd)).is_err();
        }
    }

    fn poll_sockets(&mut self) {
        let watched = self.register_sockets();
        if let Err(error) = watched.and_then(|()| self.poll.poll(&mut self.events, Some(IDLE_WAIT)))
            && error.kind() != io::ErrorKind::Interrupted
        {
            self.back_off(&error);
        }
        let no_event = self.events.is_empty();
        for (index, socket) in self.sockets.iter_mut().enumerate() {
            socket.ready |= no_event || self.events.iter().any(|event| event.token() == Token(index));
        }
    }

    /// Keeps serving, slowly, while the poller fails: for lack of kernel memory, or because of a bug here.
    fn back_off(&mut self, error: &io::Error) {
        let now = self.clock.uptime();
        if self.last_poll_warning.is_none_or(|last| now.saturating_sub(last) >= WARNING_INTERVAL) {
            log::error!("udp: the poller failed: {error}");
            self.last_poll_warning = Some(now);
        }
        self.events.clear();
        std::thread::sleep(IDLE_WAIT);
    }

    /// Serves what is waiting on all sockets in turn, up to a bounded number of batches.
    fn run_turn(&mut self, batch: &mut Batch) -> Served {
        let Self { engine, clock, sockets, own, .. } = self;
        let mut served = Served::default();
        for _ in 0..ROUNDS_MAX {
            for socket in sockets.iter_mut().filter(|socket| socket.ready) {
                let exchanged = socket.serve_batch(batch, engine, *clock, own);
                served.received += exchanged.received;
                served.answered += exchanged.answered;
            }
        }
        served
    }

    fn next_wait_mode(&self, mode: WaitMode, answered: usize) -> WaitMode {
        if self.sockets.iter().any(|socket| socket.ready) {
            return WaitMode::AtOnce;
        }
        let thin_turns = match mode {
            _ if self.coalesce.is_zero() => return WaitMode::Idle,
            _ if answered >= BUSY_FROM => 0,
            WaitMode::Soon(thin_turns) => thin_turns + 1,
            WaitMode::AtOnce | WaitMode::Idle => return WaitMode::Idle,
        };
        if thin_turns < THIN_TURNS_MAX { WaitMode::Soon(thin_turns) } else { WaitMode::Idle }
    }
}

impl WorkerSocket {
    /// Receives one batch and answers it. The socket stays ready until it was found empty.
    fn serve_batch(
        &mut self,
        batch: &mut Batch,
        engine: &mut Engine,
        clock: Clock,
        own: &[SocketAddr],
    ) -> Served {
        let received = match batch.receive(self.socket.as_fd()) {
            Ok(received) => received,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => return Served::default(),
            Err(error) => {
                if error.kind() != io::ErrorKind::WouldBlock {
                    engine.metrics().receive_errors.add(1);
                }
                self.ready = false;
                return Served::default();
            }
        };
        self.ready = received == BATCH_MAX;
        let begun = clock.uptime();
        let now = clock.now();
        engine.begin_batch(now);
        if received > 1 {
            engine.prefetch_batch(batch.datagrams(received));
        }
        let mut answered = 0;
        for index in 0..received {
            let datagram = match batch.datagram(index) {
                Ok(datagram) if is_own_endpoint(own, datagram.source, datagram.destination) => {
                    Err(Dropped::OwnEndpoint)
                }
                other => other,
            };
            match datagram {
                Err(dropped) => engine.drop_datagram(dropped),
                Ok(datagram) => {
                    if let Outcome::Reply(reply) =
                        engine.handle(now, datagram.source, datagram.octets, datagram.reply)
                    {
                        let len = reply.len();
                        batch.queue(index, len);
                        answered += 1;
                    }
                }
            }
        }
        let failed = batch.send(self.socket.as_fd());
        engine.metrics().send_errors.add(failed as u64);
        engine.end_batch(clock.uptime().saturating_sub(begun));
        self.count_drops(batch, engine);
        Served { received, answered }
    }

    fn count_drops(&mut self, batch: &mut Batch, engine: &Engine) {
        if let Some(drops) = batch.take_drops() {
            engine.metrics().socket_drops.add(u64::from(drops.wrapping_sub(self.drops)));
            self.drops = drops;
        }
    }
}

#[cfg(test)]
mod tests {
    use hayate_state::{Policy, Published, Swarms, Tracker};

    use super::*;
    use crate::UdpConfig;
    use crate::wire::PROTOCOL_ID;

    /// Makes a worker on new sockets of these addresses, and returns their addresses, too.
    fn worker(addresses: &[&str], own: &[SocketAddr]) -> (Worker, Vec<SocketAddr>) {
        let tracker = Tracker::new(Swarms::new(0), &Published::new(Policy::default()), 7);
        let engine = Engine::new(tracker, Published::new(UdpConfig::with_key("k")).subscribe());
        let sockets: Vec<_> = addresses.iter().map(|address| UdpSocket::bind(address).unwrap()).collect();
        for socket in &sockets {
            socket2::SockRef::from(socket).set_recv_buffer_size(1 << 20).unwrap();
        }
        let addresses = sockets.iter().map(|socket| socket.local_addr().unwrap()).collect();
        let stop = Arc::default();
        let (worker, _waker) =
            Worker::new(engine, Clock::start(), sockets, own.into(), Duration::ZERO, stop).unwrap();
        (worker, addresses)
    }

    fn client(to: SocketAddr) -> UdpSocket {
        let client = UdpSocket::bind((to.ip(), 0)).unwrap();
        client.connect(to).unwrap();
        client.set_nonblocking(true).unwrap();
        client
    }

    fn connect() -> Vec<u8> {
        [&PROTOCOL_ID[..], &[0, 0, 0, 0, 7, 11, 13, 17]].concat()
    }

    #[test]
    fn a_turn_is_bounded_and_serves_every_family() {
        const WAITING: usize = ROUNDS_MAX * BATCH_MAX + 8;
        let (mut worker, addresses) = worker(&["127.0.0.1:0", "[::1]:0"], &[]);
        let [flooder, victim] = [addresses[0], addresses[1]].map(client);
        // Of one octet, because no more of them fit into what every system grants as a receive buffer.
        (0..WAITING).for_each(|_| assert_eq!(flooder.send(&[7]).unwrap(), 1));
        victim.send(&connect()).unwrap();
        let mut batch = Batch::new();
        let served = |received, answered| Served { received, answered };
        assert_eq!(worker.run_turn(&mut batch), served(ROUNDS_MAX * BATCH_MAX + 1, 1));
        assert_eq!(victim.recv(&mut [0; 64]).unwrap(), 16);
        assert_eq!(worker.next_wait_mode(WaitMode::Idle, 1), WaitMode::AtOnce, "more wait");
        // The next turn looks everywhere again.
        victim.send(&connect()).unwrap();
        worker.wait(WaitMode::AtOnce);
        assert_eq!(worker.run_turn(&mut batch), served(8 + 1, 1));
        assert_eq!(victim.recv(&mut [0; 64]).unwrap(), 16);
        assert_eq!(worker.next_wait_mode(WaitMode::AtOnce, 9), WaitMode::Idle);
        assert_eq!(worker.engine.metrics().dropped_count(Dropped::Short), WAITING as u64);
    }

    #[test]
    fn what_comes_from_our_own_endpoint_is_dropped_and_counted() {
        let stranger = UdpSocket::bind("127.0.0.1:0").unwrap();
        let (mut worker, addresses) = worker(&["127.0.0.1:0"], &[stranger.local_addr().unwrap()]);
        stranger.connect(addresses[0]).unwrap();
        stranger.set_nonblocking(true).unwrap();
        stranger.send(&connect()).unwrap();
        assert_eq!(worker.run_turn(&mut Batch::new()), Served { received: 1, answered: 0 });
        assert_eq!(stranger.recv(&mut [0; 64]).unwrap_err().kind(), io::ErrorKind::WouldBlock);
        assert_eq!(worker.engine.metrics().dropped_count(Dropped::OwnEndpoint), 1);
    }

    #[test]
    fn what_came_while_no_poller_watched_is_met_at_once_and_what_comes_then_wakes() {
        let (mut worker, addresses) = worker(&["127.0.0.1:0", "[::1]:0"], &[]);
        let [first, second] = [addresses[0], addresses[1]].map(client);
        worker.deregister_sockets();
        assert!(worker.sockets.iter().all(|socket| !socket.registered));
        for (socket, client) in [(0, &first), (1, &second), (0, &first)] {
            worker.sockets.iter_mut().for_each(|socket| socket.ready = false);
            client.send(&connect()).unwrap();
            worker.wait(WaitMode::Idle);
            assert!(worker.events.iter().any(|event| event.token() == Token(socket)), "{socket}");
            assert_eq!(worker.run_turn(&mut Batch::new()), Served { received: 1, answered: 1 });
        }
    }

    #[test]
    fn a_busy_worker_waits_a_little_and_an_idle_one_asks_the_poller() {
        let (worker, _) = worker(&["127.0.0.1:0"], &[]);
        let mut worker = Worker { coalesce: Duration::from_millis(1), ..worker };
        worker.sockets[0].ready = false;
        assert_eq!(worker.next_wait_mode(WaitMode::Idle, BUSY_FROM), WaitMode::Soon(0));
        assert_eq!(worker.next_wait_mode(WaitMode::Idle, BUSY_FROM - 1), WaitMode::Idle);
        assert_eq!(worker.next_wait_mode(WaitMode::Soon(0), 0), WaitMode::Soon(1));
        assert_eq!(worker.next_wait_mode(WaitMode::Soon(1), BUSY_FROM), WaitMode::Soon(0));
        assert_eq!(worker.next_wait_mode(WaitMode::Soon(1), 0), WaitMode::Idle, "thin turns end it");
    }

    #[test]
    fn junk_earns_no_wait() {
        let (worker, addresses) = worker(&["127.0.0.1:0"], &[]);
        let mut worker = Worker { coalesce: Duration::from_millis(1), ..worker };
        let (stranger, client) = (client(addresses[0]), client(addresses[0]));
        let mut batch = Batch::new();
        let mut wait_mode_after = |junk: usize, connects: usize| {
            (0..junk).for_each(|_| assert_eq!(stranger.send(&[7, 11]).unwrap(), 2));
            (0..connects).for_each(|_| assert_eq!(client.send(&connect()).unwrap(), 16));
            worker.sockets[0].ready = true;
            let served = worker.run_turn(&mut batch);
            assert_eq!(served, Served { received: junk + connects, answered: connects });
            worker.next_wait_mode(WaitMode::Idle, served.answered)
        };
        assert_eq!(wait_mode_after(5, 1), WaitMode::Idle);
        assert_eq!(wait_mode_after(0, 2), WaitMode::Soon(0));
    }

    #[test]
    fn a_worker_that_waits_for_datagrams_counts_turns() {
        let (worker, _) = worker(&["127.0.0.1:0"], &[]);
        let (turns, stop) = (worker.turn_counter(), Arc::clone(&worker.stop));
        let clock = Clock::start();
        let thread = std::thread::spawn(|| worker.run());
        for turn in [1, 2, 3] {
            while turns.load(Ordering::Relaxed) < turn {
                assert!(clock.uptime() < Duration::from_secs(60), "it hangs before turn {turn}");
                std::thread::yield_now();
            }
        }
        stop.store(true, Ordering::Release);
        thread.join().unwrap();
    }
}
