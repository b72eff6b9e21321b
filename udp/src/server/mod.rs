//! Sockets, batches and threads: the only layer that touches the system. Linux only.

#[expect(unsafe_code, reason = "system calls that take pointers; each block has its proof")]
mod batch;
mod layout;
mod socket;
mod worker;

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use hayate_state::metrics::{Kind, Series};
use hayate_state::{Board, Clock, Published, Tracker};
use mio::Waker;

use self::socket::{Buffers, Listener};
pub use self::socket::{Handed, OpenError};
use self::worker::Worker;
use crate::config::{DoorConfig, SocketConfig};
use crate::engine::Engine;

/// Time a busy worker waits for more datagrams, unless [`Door::coalescing`] says otherwise.
pub const COALESCE: Duration = Duration::from_millis(2);

/// Open sockets. Datagrams wait in them until [`Door::start`].
#[derive(Debug)]
pub struct Door {
    listeners: Vec<Listener>,
    workers: usize,
    coalesce: Duration,
}

impl Door {
    /// Opens all sockets. After it nothing needs privileges.
    ///
    /// # Errors
    /// When an address is taken or cannot be listened on; the error names it.
    pub fn open(config: &SocketConfig) -> Result<Self, OpenError> {
        let listeners = socket::open_all(config)?;
        Ok(Self { listeners, workers: config.workers.max(1), coalesce: COALESCE })
    }

    /// Takes over sockets that a predecessor has opened by the same configuration.
    ///
    /// # Errors
    /// When they are not those of `config`: an address is missing or too much, or has sockets for another
    /// number of workers.
    pub fn adopt(config: &SocketConfig, handed: Vec<Handed>) -> Result<Self, OpenError> {
        let listeners = socket::adopt_all(config, handed)?;
        Ok(Self { listeners, workers: config.workers.max(1), coalesce: COALESCE })
    }

    /// The same sockets once more, to be handed to a successor while these are in use.
    ///
    /// # Errors
    /// When no more files may be open.
    pub fn share(&self) -> io::Result<Vec<Handed>> {
        self.listeners.iter().map(Listener::share).collect()
    }

    /// Sets how long a worker that is busy but not saturated waits for more datagrams, so that one wake-up
    /// serves many; zero = it never waits. At most a few milliseconds make sense: every reply may be that
    /// late.
    #[must_use]
    pub fn coalescing(self, wait: Duration) -> Self {
        Self { coalesce: wait, ..self }
    }

    /// The addresses listened on, in the order of the configuration, with the ports the system chose.
    #[must_use]
    pub fn addresses(&self) -> Vec<SocketAddr> {
        self.listeners.iter().map(|listener| listener.address).collect()
    }

    /// Starts the workers; `tracker` is called once for each, with its number from 0.
    ///
    /// # Errors
    /// When the system gives no thread or poller.
    pub fn start(
        self,
        config: &Arc<Published<DoorConfig>>,
        clock: Clock,
        board: &Board,
        tracker: impl Fn(usize) -> Tracker,
    ) -> io::Result<Running> {
        let own: Arc<[SocketAddr]> = self.addresses().into();
        let buffers = Arc::new(socket::buffers(&self.listeners));
        let stop = Arc::new(AtomicBool::new(false));
        let mut sockets: Vec<_> = self.listeners.into_iter().map(|l| l.sockets.into_iter()).collect();
        list_buffers(board, &buffers);
        let mut running = Running::new(Arc::clone(&stop), self.workers, buffers);
        for number in 0..self.workers {
            let engine = Engine::new(tracker(number), config.subscribe());
            let counters = Arc::clone(engine.counters());
            let sockets = sockets.iter_mut().filter_map(Iterator::next).collect();
            let own = Arc::clone(&own);
            let (worker, waker) = Worker::new(engine, clock, sockets, own, self.coalesce, Arc::clone(&stop))?;
            running.pulse.beats.push(worker.beats());
            running.spawn(number, worker, waker)?;
            counters.list(board);
        }
        Ok(running)
    }
}

/// The board sums over doors, also over those that are closed: these numbers go with their door.
fn list_buffers(board: &Board, buffers: &Arc<Buffers>) {
    let list = |name, help, octets: fn(&Buffers) -> u64| {
        let buffers = Arc::downgrade(buffers);
        let read = Box::new(move || buffers.upgrade().map_or(0, |buffers| octets(&buffers)));
        board.list(Series { name, help, kind: Kind::Gauge, labels: Vec::new(), read });
    };
    let help = "Receive buffer that the kernel granted to all sockets together.";
    list("udp_receive_buffer_bytes", help, |buffers| buffers.receive);
    let help = "Send buffer that the kernel granted to all sockets together.";
    list("udp_send_buffer_bytes", help, |buffers| buffers.send);
}

/// Running workers. Dropping it stops them.
#[derive(Debug)]
pub struct Running {
    stop: Arc<AtomicBool>,
    wakers: Vec<Waker>,
    threads: Vec<JoinHandle<()>>,
    pulse: Pulse,
    /// `/metrics` shows them as long as they are here.
    _buffers: Arc<Buffers>,
}

impl Running {
    fn new(stop: Arc<AtomicBool>, expected: usize, buffers: Arc<Buffers>) -> Self {
        let pulse = Pulse { living: Arc::new(AtomicUsize::new(0)), expected, beats: Vec::new() };
        Self { stop, wakers: Vec::new(), threads: Vec::new(), pulse, _buffers: buffers }
    }

    fn spawn(&mut self, number: usize, worker: Worker, waker: Waker) -> io::Result<()> {
        let life = Life::begin(&self.pulse.living);
        let thread = std::thread::Builder::new().name(format!("udp-{number}")).spawn(move || {
            let _life = life;
            worker.run();
        })?;
        self.wakers.push(waker);
        self.threads.push(thread);
        Ok(())
    }

    /// By which others see whether the workers live.
    #[must_use]
    pub fn pulse(&self) -> Pulse {
        self.pulse.clone()
    }

    /// True while every worker serves.
    #[must_use]
    pub fn alive(&self) -> bool {
        self.pulse.alive()
    }

    /// Ends all workers after the batch they are at, and waits for them.
    pub fn stop(mut self) {
        self.end();
    }

    fn end(&mut self) {
        self.stop.store(true, Ordering::Release);
        for waker in &self.wakers {
            if let Err(error) = waker.wake() {
                log::warn!("udp: a worker could not be woken, it ends within a second: {error}");
            }
        }
        for thread in self.threads.drain(..) {
            if thread.join().is_err() {
                log::error!("udp: a worker ended with a panic");
            }
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.end();
    }
}

/// Whether the workers of a door live; for `/health`.
#[derive(Clone, Debug)]
pub struct Pulse {
    living: Arc<AtomicUsize>,
    expected: usize,
    beats: Vec<Arc<AtomicU64>>,
}

impl Pulse {
    /// True while every worker serves; false once one has ended, also by a panic.
    #[must_use]
    pub fn alive(&self) -> bool {
        self.living.load(Ordering::Acquire) == self.expected
    }

    /// The turns of each worker so far. One that serves, or waits for datagrams, makes one at least each
    /// second.
    pub fn beats(&self) -> impl Iterator<Item = u64> {
        self.beats.iter().map(|beats| beats.load(Ordering::Relaxed))
    }
}

/// Counts one worker as living for as long as it exists.
struct Life(Arc<AtomicUsize>);

impl Life {
    fn begin(living: &Arc<AtomicUsize>) -> Self {
        living.fetch_add(1, Ordering::AcqRel);
        Self(Arc::clone(living))
    }
}

impl Drop for Life {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}
