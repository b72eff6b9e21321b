//! Requests of a socket that wait for their reply.
//!
//! They are in a queue in the order in which they were sent, and their transaction ids count up. So the
//! transaction id gives the index in the queue, and requests that have waited too long are at its front.

use std::collections::VecDeque;

use crate::load::plan::Request;

/// Most requests of a socket that wait at a time; a power of two far below 2^31.
const IN_FLIGHT_MAX: usize = 1 << 20;

/// The requests of a socket that wait.
#[derive(Debug)]
pub struct RequestsInFlight {
    /// `None` = answered; the front is always unanswered.
    requests: VecDeque<Option<Request>>,
    /// The transaction id of the front of the queue.
    first: u32,
    waiting: usize,
}

impl RequestsInFlight {
    /// Makes an empty queue; transaction ids begin at `first`.
    #[must_use]
    pub fn new(first: u32) -> Self {
        Self { requests: VecDeque::new(), first, waiting: 0 }
    }

    /// Returns the number of requests that wait.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.waiting
    }

    /// Returns how many further requests may wait.
    #[must_use]
    pub fn free(&self) -> usize {
        IN_FLIGHT_MAX - self.requests.len().min(IN_FLIGHT_MAX)
    }

    /// Returns the transaction id of the request that is pushed after `ahead` others.
    #[must_use]
    pub fn transaction(&self, ahead: usize) -> u32 {
        #[expect(clippy::cast_possible_truncation, reason = "IN_FLIGHT_MAX and a burst are far below 2^32")]
        let index = (self.requests.len() + ahead) as u32;
        self.first.wrapping_add(index)
    }

    /// Returns a transaction id that no request has or will have soon.
    #[must_use]
    pub fn unused_transaction(&self) -> u32 {
        self.first.wrapping_add(1 << 31)
    }

    /// Adds a request that was sent.
    pub fn push(&mut self, request: Request) {
        self.requests.push_back(Some(request));
        self.waiting += 1;
    }

    /// Removes and returns the request that a reply answers; `None` for a second reply to it.
    pub fn take_answered(&mut self, transaction: u32) -> Option<Request> {
        let index = usize::try_from(transaction.wrapping_sub(self.first)).ok()?;
        let request = self.requests.get_mut(index)?.take()?;
        self.waiting -= 1;
        self.trim();
        Some(request)
    }

    /// Removes and returns the request that has waited longest, if it was sent before `before`.
    pub fn expire(&mut self, before: u64) -> Option<Request> {
        let request = (*self.requests.front()?).filter(|request| request.sent < before)?;
        self.requests.pop_front();
        self.first = self.first.wrapping_add(1);
        self.waiting -= 1;
        self.trim();
        Some(request)
    }

    fn trim(&mut self) {
        while let Some(None) = self.requests.front() {
            self.requests.pop_front();
            self.first = self.first.wrapping_add(1);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::load::plan::Kind;

    fn request(sent: u64) -> Request {
        Request { kind: Kind::Announce, due: sent, sent, fill_peer: None }
    }

    #[test]
    fn a_reply_finds_its_request_once_in_any_order_and_past_the_end_of_u32() {
        let mut in_flight = RequestsInFlight::new(u32::MAX - 1);
        let ids: Vec<_> = (0..4)
            .map(|sent| {
                let id = in_flight.transaction(0);
                in_flight.push(request(sent));
                id
            })
            .collect();
        assert_eq!(ids, [u32::MAX - 1, u32::MAX, 0, 1]);
        assert_eq!(in_flight.transaction(2), 4);
        for (index, left) in [(2, 3), (0, 2), (1, 1), (3, 0)] {
            assert_eq!(in_flight.take_answered(ids[index]).unwrap().sent, index as u64);
            assert_eq!(in_flight.take_answered(ids[index]), None);
            assert_eq!(in_flight.waiting(), left);
        }
        assert_eq!((in_flight.transaction(0), in_flight.free()), (2, IN_FLIGHT_MAX));
        assert_eq!(in_flight.take_answered(in_flight.unused_transaction()), None);
    }

    #[test]
    fn requests_expire_in_order() {
        let mut in_flight = RequestsInFlight::new(7);
        (10..14).for_each(|sent| in_flight.push(request(sent)));
        in_flight.take_answered(8);
        assert_eq!(in_flight.expire(13).map(|request| request.sent), Some(10));
        assert_eq!(in_flight.expire(13).map(|request| request.sent), Some(12));
        assert_eq!((in_flight.expire(13), in_flight.waiting()), (None, 1));
        assert_eq!(
            (in_flight.take_answered(9), in_flight.take_answered(10).map(|request| request.sent)),
            (None, Some(13))
        );
    }
}
