//! The way back from the state actor: replies are put into one queue, and the server's thread is woken once
//! for all that lie in it, not once for each. A wake-up is a system call; the actor answers in batches.

use std::cell::RefCell;
use std::future::poll_fn;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Poll, Waker};

use hayate_state::actor::{Reply, Respond};
use parking_lot::Mutex;
use tokio::sync::Notify;

/// The way back from the state actor to one request that waits.
///
/// Exactly one message comes back for each: the reply, or that there is none, when the question was not
/// taken.
#[derive(Debug)]
pub struct ReplyTo {
    queue: Arc<ReplyQueue>,
    ticket: usize,
    replied: bool,
}

impl Respond for ReplyTo {
    fn respond(mut self, reply: Reply) {
        if self.push(reply) {
            self.queue.arrived.notify_one();
        }
    }

    fn respond_all(replies: impl Iterator<Item = (Self, Reply)>) {
        let mut wake: Option<WakeOnDrop> = None;
        for (mut reply_to, reply) in replies {
            let first = reply_to.push(reply);
            if first && !wake.as_ref().is_some_and(|wake| Arc::ptr_eq(&wake.0, &reply_to.queue)) {
                wake = Some(WakeOnDrop(Arc::clone(&reply_to.queue)));
            }
        }
    }
}

impl ReplyTo {
    /// Puts the reply into the queue; returns whether the queue was empty.
    fn push(&mut self, reply: Reply) -> bool {
        self.replied = true;
        self.queue.push(self.ticket, Some(reply))
    }
}

/// A guard that wakes the owner of a queue with replies in it when it is dropped: at the end of a batch,
/// however that ends.
struct WakeOnDrop(Arc<ReplyQueue>);

impl Drop for WakeOnDrop {
    fn drop(&mut self) {
        self.0.arrived.notify_one();
    }
}

impl Drop for ReplyTo {
    fn drop(&mut self) {
        if !self.replied && self.queue.push(self.ticket, None) {
            self.queue.arrived.notify_one();
        }
    }
}

/// The queue that both threads share. It never holds more replies than there are requests that wait.
#[derive(Debug, Default)]
struct ReplyQueue {
    replies: Mutex<Vec<QueuedReply>>,
    arrived: Notify,
}

impl ReplyQueue {
    /// Puts the reply into the queue; returns whether the queue was empty, so that its owner must be woken.
    fn push(&self, ticket: usize, reply: Option<Reply>) -> bool {
        let mut replies = self.replies.lock();
        replies.push((ticket, reply));
        replies.len() == 1
    }
}

type QueuedReply = (usize, Option<Reply>);

/// The requests of the server's thread that wait for the state actor.
#[derive(Debug, Default)]
pub(super) struct PendingReplies {
    queue: Arc<ReplyQueue>,
    slots: RefCell<Slots>,
}

#[derive(Debug, Default)]
struct Slots {
    all: Vec<Slot>,
    free: Vec<usize>,
}

#[derive(Debug)]
enum Slot {
    Free,
    Waiting(Option<Waker>),
    Arrived(Option<Reply>),
    /// No request waits any more, but the message is still to come.
    Abandoned,
}

impl PendingReplies {
    /// Has `ask` send a question with a [`ReplyTo`], and waits for the reply; `None` if there is none.
    pub(super) async fn ask_actor(&self, ask: impl FnOnce(ReplyTo)) -> Option<Reply> {
        let ticket = self.slots.borrow_mut().take_free();
        let waiting = WaitingRequest { pending: self, ticket };
        ask(ReplyTo { queue: Arc::clone(&self.queue), ticket, replied: false });
        poll_fn(|context| waiting.poll(context.waker())).await
    }

    /// Delivers replies to the requests that wait, until the task is aborted.
    pub(super) async fn deliver_replies(self: Rc<Self>) {
        let mut replies = Vec::new();
        loop {
            self.queue.arrived.notified().await;
            std::mem::swap(&mut *self.queue.replies.lock(), &mut replies);
            let mut slots = self.slots.borrow_mut();
            for (ticket, reply) in replies.drain(..) {
                slots.deliver(ticket, reply);
            }
        }
    }
}

impl Slots {
    fn take_free(&mut self) -> usize {
        let ticket = self.free.pop().unwrap_or_else(|| {
            self.all.push(Slot::Free);
            self.all.len() - 1
        });
        self.replace(ticket, Slot::Waiting(None));
        ticket
    }

    fn replace(&mut self, ticket: usize, slot: Slot) -> Slot {
        self.all.get_mut(ticket).map_or(Slot::Free, |old| std::mem::replace(old, slot))
    }

    fn release(&mut self, ticket: usize) {
        self.replace(ticket, Slot::Free);
        self.free.push(ticket);
    }

    fn deliver(&mut self, ticket: usize, reply: Option<Reply>) {
        match self.replace(ticket, Slot::Arrived(reply)) {
            Slot::Waiting(waker) => waker.iter().for_each(Waker::wake_by_ref),
            Slot::Abandoned => self.release(ticket),
            // One message comes for each ticket, so these cannot be.
            Slot::Free | Slot::Arrived(_) => {}
        }
    }
}

/// A request that waits for its reply; dropping it gives the reply up.
struct WaitingRequest<'p> {
    pending: &'p PendingReplies,
    ticket: usize,
}

impl WaitingRequest<'_> {
    fn poll(&self, waker: &Waker) -> Poll<Option<Reply>> {
        let mut slots = self.pending.slots.borrow_mut();
        match slots.all.get_mut(self.ticket) {
            Some(Slot::Arrived(reply)) => Poll::Ready(reply.take()),
            Some(Slot::Waiting(known)) => {
                if !known.as_ref().is_some_and(|known| known.will_wake(waker)) {
                    *known = Some(waker.clone());
                }
                Poll::Pending
            }
            Some(Slot::Free | Slot::Abandoned) | None => Poll::Ready(None),
        }
    }
}

impl Drop for WaitingRequest<'_> {
    fn drop(&mut self) {
        let mut slots = self.pending.slots.borrow_mut();
        match slots.replace(self.ticket, Slot::Abandoned) {
            Slot::Arrived(_) => slots.release(self.ticket),
            Slot::Free | Slot::Waiting(_) | Slot::Abandoned => {}
        }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use hayate_state::Tally;
    use hayate_state::actor::{Inbox, Question};
    use tokio::runtime::{Builder, LocalOptions};
    use tokio::task::spawn_local;

    fn reply(seeders: u32) -> Reply {
        Reply::Scrape(Ok(vec![Tally { seeders, ..Tally::default() }]))
    }

    fn seeders(reply: Option<Reply>) -> Option<u32> {
        match reply? {
            Reply::Scrape(Ok(tallies)) => Some(tallies[0].seeders),
            other => panic!("{other:?}"),
        }
    }

    /// Runs `look` while the actor behind `inbox` stands still and the inbox is full.
    pub(in crate::server) fn while_the_actor_is_busy(inbox: &Inbox<ReplyTo>, look: impl FnOnce()) {
        let (locked, open) = (Arc::<ReplyQueue>::default(), Arc::<ReplyQueue>::default());
        let ask = |queue: &Arc<ReplyQueue>| {
            let reply_to = ReplyTo { queue: Arc::clone(queue), ticket: 0, replied: false };
            inbox.send(Question::Scrape(Vec::new(), None), reply_to)
        };
        let lock = locked.replies.lock();
        ask(&locked).unwrap();
        while inbox.depth() > 0 {
            std::thread::yield_now();
        }
        // Now the actor waits for the lock, to put its reply into the queue.
        while ask(&open).is_ok() {}
        look();
        drop(lock);
        while inbox.depth() > 0 {
            std::thread::yield_now();
        }
    }

    #[test]
    fn every_request_gets_its_own_reply_and_slots_are_used_again() {
        let runtime = Builder::new_current_thread().build_local(LocalOptions::default()).unwrap();
        runtime.block_on(async {
            let pending = Rc::new(PendingReplies::default());
            spawn_local(Rc::clone(&pending).deliver_replies());
            let (sender, questions) = std::sync::mpsc::channel::<(u32, ReplyTo)>();
            let actor = std::thread::spawn(move || {
                // Every seventh question is lost.
                for (number, reply_to) in questions.iter().filter(|(number, _)| number % 7 != 0) {
                    reply_to.respond(reply(number));
                }
            });
            let ask = |number: u32| {
                let (pending, sender) = (Rc::clone(&pending), sender.clone());
                async move {
                    seeders(pending.ask_actor(|reply_to| sender.send((number, reply_to)).unwrap()).await)
                }
            };
            for round in 0..20 {
                let waiting: Vec<_> = (0..50).map(|n| (n, spawn_local(ask(round * 50 + n)))).collect();
                for (n, task) in waiting {
                    let number = round * 50 + n;
                    assert_eq!(task.await.unwrap(), (number % 7 != 0).then_some(number));
                }
            }
            assert!(pending.slots.borrow().all.len() <= 50);
            drop(sender);
            actor.join().unwrap();
        });
    }

    /// Whether the owner of the queue was woken since the last call.
    fn was_woken(queue: &ReplyQueue) -> bool {
        let mut context = std::task::Context::from_waker(Waker::noop());
        std::pin::pin!(queue.arrived.notified()).poll(&mut context).is_ready()
    }

    #[test]
    fn a_batch_wakes_each_queue_once_at_its_end() {
        let queues = [Arc::<ReplyQueue>::default(), Arc::default()];
        let reply_to = |at: usize, ticket| ReplyTo { queue: Arc::clone(&queues[at]), ticket, replied: false };
        let batch = [(0, 7), (0, 11), (1, 13), (0, 17)].into_iter().enumerate().map(|(n, (at, ticket))| {
            // The first queue wakes its owner when the second has its turn, and not again while it holds a
            // reply.
            assert_eq!([was_woken(&queues[0]), was_woken(&queues[1])], [n == 3, false], "{n}");
            (reply_to(at, ticket), reply(0))
        });
        ReplyTo::respond_all(batch);
        assert_eq!([was_woken(&queues[0]), was_woken(&queues[1])], [false, true]);
        let tickets =
            |at: usize| queues[at].replies.lock().iter().map(|(ticket, _)| *ticket).collect::<Vec<_>>();
        assert_eq!((tickets(0), tickets(1)), (vec![7, 11, 17], vec![13]));
        drop(reply_to(1, 19));
        assert!(!was_woken(&queues[1]), "the owner of a queue that is not empty was woken already");
        queues[1].replies.lock().clear();
        drop(reply_to(1, 19));
        assert!(was_woken(&queues[1]));
    }

    #[test]
    fn an_abandoned_slot_is_free_only_after_its_message_came() {
        let runtime = Builder::new_current_thread().build_local(LocalOptions::default()).unwrap();
        runtime.block_on(async {
            let pending = Rc::new(PendingReplies::default());
            spawn_local(Rc::clone(&pending).deliver_replies());
            let mut late = None;
            {
                let mut gone = std::pin::pin!(pending.ask_actor(|reply_to| late = Some(reply_to)));
                let polled = poll_fn(|context| Poll::Ready(gone.as_mut().poll(context).is_pending())).await;
                assert!(polled);
            }
            let next = pending.ask_actor(|reply_to| reply_to.respond(reply(11))).await;
            assert_eq!(seeders(next), Some(11));
            assert_eq!(pending.slots.borrow().all.len(), 2);
            late.unwrap().respond(reply(7));
            let next = pending.ask_actor(|reply_to| reply_to.respond(reply(13))).await;
            assert_eq!(seeders(next), Some(13));
            assert_eq!((pending.slots.borrow().all.len(), pending.slots.borrow().free.len()), (2, 2));
        });
    }
}
