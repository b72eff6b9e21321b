//! Announces by kind of client, for an operator who wants to know which programs are in use. The table is
//! bounded: clients name themselves, so anybody can invent new ones.

use std::collections::HashMap;

use parking_lot::Mutex;

use crate::ids::ClientId;

/// Kinds of clients that are counted separately; all further ones are counted together.
pub const CLIENTS_MAX: usize = 4096;

/// The number of announces of each kind of client since the start.
#[derive(Debug, Default)]
pub struct ClientStats(Mutex<ClientCounts>);

#[derive(Debug, Default)]
struct ClientCounts {
    named: HashMap<ClientId, u64>,
    others: u64,
}

impl ClientStats {
    /// Counts one announce for each of `clients`.
    pub(crate) fn count_announces(&self, clients: &[ClientId]) {
        let ClientCounts { named, others } = &mut *self.0.lock();
        for client in clients {
            if let Some(count) = named.get_mut(client) {
                *count += 1;
            } else if named.len() < CLIENTS_MAX {
                named.insert(*client, 1);
            } else {
                *others += 1;
            }
        }
    }

    /// Returns all kinds with their announces, the most frequent first, and the announces of all others.
    #[must_use]
    pub fn counts(&self) -> (Vec<(ClientId, u64)>, u64) {
        let counts = self.0.lock();
        let (mut named, others): (Vec<_>, _) =
            (counts.named.iter().map(|(client, count)| (*client, *count)).collect(), counts.others);
        drop(counts);
        named.sort_unstable_by_key(|&(client, count)| (std::cmp::Reverse(count), client));
        (named, others)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_most_frequent_come_first_and_inventions_are_bounded() {
        let clients = ClientStats::default();
        let (seven, eleven) = (ClientId(*b"AZ3034"), ClientId(*b"TR4060"));
        clients.count_announces(&[seven; 7]);
        clients.count_announces(&[eleven; 11]);
        for number in 0..2 * CLIENTS_MAX {
            let [.., a, b, c, d] = number.to_be_bytes();
            clients.count_announces(&[ClientId([b'X', b'Y', a, b, c, d])]);
        }
        let (named, others) = clients.counts();
        assert_eq!(named[..2], [(eleven, 11), (seven, 7)]);
        assert_eq!((named.len(), others), (CLIENTS_MAX, CLIENTS_MAX as u64 + 2));
    }
}
