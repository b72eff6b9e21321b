//! The way back from the state actor: replies are laid into one box, and the door's thread is woken once for
//! all that lie in it, not once for each. A wake-up is a system call; the actor answers in batches.

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
/// Exactly one word comes back for each: the reply, or that there is none, when the question was not taken.
#[derive(Debug)]
pub struct Asker {
    letterbox: Arc<Letterbox>,
    ticket: usize,
    replied: bool,
}

impl Respond for Asker {
    fn respond(mut self, reply: Reply) {
        if self.lay(reply) {
            self.letterbox.arrived.notify_one();
        }
    }

    fn respond_all(replies: impl Iterator<Item = (Self, Reply)>) {
        let mut bell: Option<Bell> = None;
        for (mut asker, reply) in replies {
            let first = asker.lay(reply);
            if first && !bell.as_ref().is_some_and(|bell| Arc::ptr_eq(&bell.0, &asker.letterbox)) {
                bell = Some(Bell(Arc::clone(&asker.letterbox)));
            }
        }
    }
}

impl Asker {
    /// Lays the reply into the box; true if the box was empty.
    fn lay(&mut self, reply: Reply) -> bool {
        self.replied = true;
        self.letterbox.lay(self.ticket, Some(reply))
    }
}

/// Tells whoever owns a box that letters are in it, when it is dropped: at the end of a batch, however that
/// ends.
struct Bell(Arc<Letterbox>);

impl Drop for Bell {
    fn drop(&mut self) {
        self.0.arrived.notify_one();
    }
}

impl Drop for Asker {
    fn drop(&mut self) {
        if !self.replied && self.letterbox.lay(self.ticket, None) {
            self.letterbox.arrived.notify_one();
        }
    }
}

/// What both threads share. It never holds more than the requests that wait, one for each connection.
#[derive(Debug, Default)]
struct Letterbox {
    letters: Mutex<Vec<Letter>>,
    arrived: Notify,
}

impl Letterbox {
    /// Lays a letter into the box; true if the box was empty, and so its owner is to be told.
    fn lay(&self, ticket: usize, reply: Option<Reply>) -> bool {
        let mut letters = self.letters.lock();
        letters.push((ticket, reply));
        letters.len() == 1
    }
}

type Letter = (usize, Option<Reply>);

/// The requests of the door's thread that wait for the state actor.
#[derive(Debug, Default)]
pub(super) struct Post {
    letterbox: Arc<Letterbox>,
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
    /// Nobody waits any more, but the word is still to come.
    Abandoned,
}

impl Post {
    /// Lets `ask` send a question with an asker, and waits for the reply; `None` if there is none.
    pub(super) async fn ask(&self, ask: impl FnOnce(Asker)) -> Option<Reply> {
        let ticket = self.slots.borrow_mut().take();
        let waiting = Ticket { post: self, ticket };
        ask(Asker { letterbox: Arc::clone(&self.letterbox), ticket, replied: false });
        poll_fn(|context| waiting.poll(context.waker())).await
    }

    /// Brings replies to those who wait, until the task is aborted.
    pub(super) async fn deliver(self: Rc<Self>) {
        let mut letters = Vec::new();
        loop {
            self.letterbox.arrived.notified().await;
            std::mem::swap(&mut *self.letterbox.letters.lock(), &mut letters);
            let mut slots = self.slots.borrow_mut();
            for (ticket, reply) in letters.drain(..) {
                slots.bring(ticket, reply);
            }
        }
    }
}

impl Slots {
    fn take(&mut self) -> usize {
        let ticket = self.free.pop().unwrap_or_else(|| {
            self.all.push(Slot::Free);
            self.all.len() - 1
        });
        self.put(ticket, Slot::Waiting(None));
        ticket
    }

    fn put(&mut self, ticket: usize, slot: Slot) -> Slot {
        self.all.get_mut(ticket).map_or(Slot::Free, |old| std::mem::replace(old, slot))
    }

    fn release(&mut self, ticket: usize) {
        self.put(ticket, Slot::Free);
        self.free.push(ticket);
    }

    fn bring(&mut self, ticket: usize, reply: Option<Reply>) {
        match self.put(ticket, Slot::Arrived(reply)) {
            Slot::Waiting(waker) => waker.iter().for_each(Waker::wake_by_ref),
            Slot::Abandoned => self.release(ticket),
            // One word comes for each ticket, so these cannot be.
            Slot::Free | Slot::Arrived(_) => {}
        }
    }
}

/// A request that waits; whoever drops it does not want the reply any more.
struct Ticket<'p> {
    post: &'p Post,
    ticket: usize,
}

impl Ticket<'_> {
    fn poll(&self, waker: &Waker) -> Poll<Option<Reply>> {
        let mut slots = self.post.slots.borrow_mut();
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

impl Drop for Ticket<'_> {
    fn drop(&mut self) {
        let mut slots = self.post.slots.borrow_mut();
        match slots.put(self.ticket, Slot::Abandoned) {
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
    pub(in crate::server) fn while_the_actor_is_busy(inbox: &Inbox<Asker>, look: impl FnOnce()) {
        let (locked, open) = (Arc::<Letterbox>::default(), Arc::<Letterbox>::default());
        let ask = |letterbox: &Arc<Letterbox>| {
            let asker = Asker { letterbox: Arc::clone(letterbox), ticket: 0, replied: false };
            inbox.ask(Question::Scrape(Vec::new(), None), asker)
        };
        let lock = locked.letters.lock();
        ask(&locked).unwrap();
        while inbox.depth() > 0 {
            std::thread::yield_now();
        }
        // Now the actor waits for the lock, to lay down its reply.
        while ask(&open).is_ok() {}
        look();
        drop(lock);
        while inbox.depth() > 0 {
            std::thread::yield_now();
        }
    }

    #[test]
    fn everybody_gets_his_own_reply_and_slots_are_used_again() {
        let runtime = Builder::new_current_thread().build_local(LocalOptions::default()).unwrap();
        runtime.block_on(async {
            let post = Rc::new(Post::default());
            spawn_local(Rc::clone(&post).deliver());
            let (sender, askers) = std::sync::mpsc::channel::<(u32, Asker)>();
            let actor = std::thread::spawn(move || {
                // Every seventh question is lost.
                for (number, asker) in askers.iter().filter(|(number, _)| number % 7 != 0) {
                    asker.respond(reply(number));
                }
            });
            let ask = |number: u32| {
                let (post, sender) = (Rc::clone(&post), sender.clone());
                async move { seeders(post.ask(|asker| sender.send((number, asker)).unwrap()).await) }
            };
            for round in 0..20 {
                let waiting: Vec<_> = (0..50).map(|n| (n, spawn_local(ask(round * 50 + n)))).collect();
                for (n, task) in waiting {
                    let number = round * 50 + n;
                    assert_eq!(task.await.unwrap(), (number % 7 != 0).then_some(number));
                }
            }
            assert!(post.slots.borrow().all.len() <= 50);
            drop(sender);
            actor.join().unwrap();
        });
    }

    /// Was the owner of the box told since he looked last?
    fn rang(letterbox: &Letterbox) -> bool {
        let mut context = std::task::Context::from_waker(Waker::noop());
        std::pin::pin!(letterbox.arrived.notified()).poll(&mut context).is_ready()
    }

    #[test]
    fn a_batch_rings_once_at_its_end_for_each_box() {
        let boxes = [Arc::<Letterbox>::default(), Arc::default()];
        let asker = |at: usize, ticket| Asker { letterbox: Arc::clone(&boxes[at]), ticket, replied: false };
        let batch = [(0, 7), (0, 11), (1, 13), (0, 17)].into_iter().enumerate().map(|(n, (at, ticket))| {
            // The first box rings when the second gets its turn, and not again while a letter is in it.
            assert_eq!([rang(&boxes[0]), rang(&boxes[1])], [n == 3, false], "{n}");
            (asker(at, ticket), reply(0))
        });
        Asker::respond_all(batch);
        assert_eq!([rang(&boxes[0]), rang(&boxes[1])], [false, true]);
        let tickets =
            |at: usize| boxes[at].letters.lock().iter().map(|(ticket, _)| *ticket).collect::<Vec<_>>();
        assert_eq!((tickets(0), tickets(1)), (vec![7, 11, 17], vec![13]));
        drop(asker(1, 19));
        assert!(!rang(&boxes[1]), "a box that is not empty rang already");
        boxes[1].letters.lock().clear();
        drop(asker(1, 19));
        assert!(rang(&boxes[1]));
    }

    #[test]
    fn the_slot_of_whoever_left_is_free_only_after_the_word_came() {
        let runtime = Builder::new_current_thread().build_local(LocalOptions::default()).unwrap();
        runtime.block_on(async {
            let post = Rc::new(Post::default());
            spawn_local(Rc::clone(&post).deliver());
            let mut late = None;
            {
                let mut gone = std::pin::pin!(post.ask(|asker| late = Some(asker)));
                let polled = poll_fn(|context| Poll::Ready(gone.as_mut().poll(context).is_pending())).await;
                assert!(polled);
            }
            let next = post.ask(|asker| asker.respond(reply(11))).await;
            assert_eq!(seeders(next), Some(11));
            assert_eq!(post.slots.borrow().all.len(), 2);
            late.unwrap().respond(reply(7));
            let next = post.ask(|asker| asker.respond(reply(13))).await;
            assert_eq!(seeders(next), Some(13));
            assert_eq!((post.slots.borrow().all.len(), post.slots.borrow().free.len()), (2, 2));
        });
    }
}
