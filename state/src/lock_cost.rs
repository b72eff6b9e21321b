//! In tests: how many peers were visited or drawn while one lock was held. Otherwise it does nothing.

#[cfg(test)]
use std::cell::Cell;

#[cfg(test)]
thread_local! {
    /// Peers visited under this lock, and the most under any lock so far.
    static PEERS: Cell<(usize, usize)> = const { Cell::new((0, 0)) };
}

/// Counts from zero: a lock was taken.
#[inline]
pub(crate) fn lock_taken() {
    #[cfg(test)]
    PEERS.with(|peers| peers.set((0, peers.get().1)));
}

/// Counts `peers` more peers as visited.
#[inline]
pub(crate) fn peers_visited(peers: usize) {
    #[cfg(not(test))]
    let _ = peers;
    #[cfg(test)]
    PEERS.with(|so_far| {
        let (now, most) = so_far.get();
        so_far.set((now + peers, most.max(now + peers)));
    });
}

/// Returns the most peers under one lock since the last call.
#[cfg(test)]
pub(crate) fn take_max() -> usize {
    PEERS.with(|peers| peers.replace((0, 0)).1)
}
