//! A worker to which more comes than it answers. The time is the test's own, so no test depends on speed.

use std::os::fd::BorrowedFd;

use super::super::backlog::Share;
use super::super::batch;
use super::tests::{client, connect, worker};
use super::*;

/// Octets of a queue that is short enough; 30 datagrams have that, and every receive buffer holds more.
const SHORT: u32 = 32 << 10;
/// Time between two looks.
const STEP: Duration = Duration::from_millis(10);

/// A worker with one socket that is content with [`SHORT`], and a client.
fn short_worker() -> (Worker, UdpSocket) {
    let (mut worker, addresses) = worker(&["127.0.0.1:0"], &[]);
    worker.sockets[0].backlog = Backlog::with_target(SHORT);
    (worker, client(addresses[0]))
}

/// Sends until the socket has dropped something and still has a queue beyond [`SHORT`].
fn overflow(worker: &Worker, client: &UdpSocket) {
    let state = || batch::queue_state(worker.sockets[0].socket.as_fd()).unwrap();
    let before = state().drops;
    while state().drops == before || state().octets <= 2 * SHORT {
        client.send(&connect()).unwrap();
    }
}

/// Answers one batch, and looks at the queue.
fn answer_one_batch(worker: &mut Worker, now: Duration) -> Served {
    let Worker { engine, clock, sockets, own, .. } = worker;
    let served = sockets[0].serve_batch(&mut Batch::new(), engine, *clock, own);
    worker.check_backlogs(now);
    served
}

/// Overflows the buffer in one interval after another until the worker sheds; returns the time.
fn overload(worker: &mut Worker, client: &UdpSocket) -> Duration {
    let mut now = Duration::ZERO;
    // The first look begins, five intervals follow.
    for _ in 0..6 {
        assert!(!worker.sockets[0].backlog.is_shedding(), "{now:?}");
        overflow(worker, client);
        // Small enough a part of the queue for every system: the queue stands.
        answer_one_batch(worker, now);
        now += STEP;
    }
    assert!(worker.sockets[0].backlog.is_shedding());
    now
}

/// Whether a filter is attached; it is not, afterwards.
fn takes_filter(socket: BorrowedFd<'_>) -> bool {
    socket2::SockRef::from(&socket).detach_filter().is_ok()
}

#[test]
fn a_burst_that_waits_for_a_stopped_worker_is_answered_whole() {
    const BURST: usize = 300;
    let (mut worker, client) = short_worker();
    (0..BURST).for_each(|_| assert_eq!(client.send(&connect()).unwrap(), 16));
    let (mut answered, mut now) = (0, Duration::ZERO);
    while answered < BURST {
        worker.sockets[0].ready = true;
        answered += answer_one_batch(&mut worker, now).answered;
        now += STEP;
    }
    let metrics = worker.engine.metrics();
    assert_eq!((answered, metrics.socket_drops.value(), metrics.overload_drops.value()), (BURST, 0, 0));
    assert!(!takes_filter(worker.sockets[0].socket.as_fd()));
}

#[test]
fn a_queue_that_stands_is_shortened_and_given_back() {
    let (mut worker, client) = short_worker();
    let mut now = overload(&mut worker, &client);
    let metrics = Arc::clone(worker.engine.metrics());
    let before = metrics.overload_drops.value();
    assert!(metrics.socket_drops.value() > before, "the buffer was full before");
    worker.coalesce = Duration::from_millis(2);
    worker.sockets[0].ready = false;
    assert_eq!(worker.next_wait_mode(WaitMode::AtOnce, 9), WaitMode::AtOnce, "no rest under overload");
    let dropped = overflow_past_filter(&worker, &client);
    answer_one_batch(&mut worker, now);
    assert!(metrics.socket_drops.value() >= u64::from(dropped));
    assert!(metrics.overload_drops.value() > before);
    assert!(metrics.overload_drops.value() < metrics.socket_drops.value());
    // Nothing comes any more: what waits is answered, and then everything is admitted again.
    while worker.sockets[0].backlog.is_shedding() {
        now += STEP;
        answer_one_batch(&mut worker, now);
    }
    assert!(!takes_filter(worker.sockets[0].socket.as_fd()));
    assert_eq!(worker.next_wait_mode(WaitMode::AtOnce, 9), WaitMode::Soon(0));
}

/// Sends until the filter has dropped something; returns how many the socket has dropped in all.
fn overflow_past_filter(worker: &Worker, client: &UdpSocket) -> u32 {
    let drops = || batch::queue_state(worker.sockets[0].socket.as_fd()).unwrap().drops;
    let before = drops();
    while drops() == before {
        client.send(&connect()).unwrap();
    }
    drops()
}

#[test]
fn no_filter_outlives_its_worker() {
    let (mut worker, client) = short_worker();
    let copy = worker.sockets[0].socket.try_clone().unwrap();
    overload(&mut worker, &client);
    drop(worker);
    assert!(!takes_filter(copy.as_fd()));
    // As a predecessor leaves it that was killed.
    Share::MIN.attach(copy.as_fd()).unwrap();
    let port = WorkerSocket::new(copy.try_clone().unwrap());
    assert!(!takes_filter(port.socket.as_fd()));
}
