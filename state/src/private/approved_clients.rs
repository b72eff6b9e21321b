//! Approved clients: those whose `peer_id` begins with a stored prefix.

use crate::ids::{ID_LEN, PeerId};

/// The approved clients of a site, arranged for lookups by `peer_id`.
#[derive(Clone, Debug, Default)]
pub struct ApprovedClients {
    /// For each length that occurs, longest first, the sorted prefixes with their ids.
    lengths: Vec<(usize, Vec<(Prefix, u32)>)>,
    count: usize,
}

type Prefix = [u8; ID_LEN];

impl ApprovedClients {
    /// Returns the id of the client that this `peer_id` belongs to: of several matches the longest prefix,
    /// and of equal prefixes the smallest id.
    #[must_use]
    pub fn find(&self, peer_id: &PeerId) -> Option<u32> {
        self.lengths.iter().find_map(|(len, prefixes)| {
            let wanted = pad_prefix(peer_id.0.get(..*len)?)?;
            let at = prefixes.binary_search_by_key(&wanted, |(prefix, _)| *prefix).ok()?;
            prefixes.get(at).map(|(_, id)| *id)
        })
    }

    /// The number of approved clients.
    #[must_use]
    pub fn len(&self) -> usize {
        self.count
    }

    /// Whether there are no approved clients.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Whether there is an empty prefix, which approves every client.
    #[must_use]
    pub fn approves_all(&self) -> bool {
        self.lengths.last().is_some_and(|(len, _)| *len == 0)
    }
}

impl<P: AsRef<[u8]>> FromIterator<(u32, P)> for ApprovedClients {
    /// Prefixes of more than twenty octets are counted, but match no client.
    fn from_iter<I: IntoIterator<Item = (u32, P)>>(clients: I) -> Self {
        let mut all = Self::default();
        for (id, prefix) in clients {
            all.count += 1;
            let prefix = prefix.as_ref();
            let Some(wanted) = pad_prefix(prefix) else { continue };
            match all.lengths.iter_mut().find(|(len, _)| *len == prefix.len()) {
                Some((_, prefixes)) => prefixes.push((wanted, id)),
                None => all.lengths.push((prefix.len(), vec![(wanted, id)])),
            }
        }
        all.lengths.sort_unstable_by_key(|(len, _)| std::cmp::Reverse(*len));
        for (_, prefixes) in &mut all.lengths {
            prefixes.sort_unstable();
            prefixes.dedup_by_key(|(prefix, _)| *prefix);
        }
        all
    }
}

/// Returns `None` if the prefix is longer than a `peer_id`.
fn pad_prefix(prefix: &[u8]) -> Option<Prefix> {
    let mut padded = [0; ID_LEN];
    padded.get_mut(..prefix.len())?.copy_from_slice(prefix);
    Some(padded)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_prefix_wins_and_then_the_smallest_id() {
        let clients: ApprovedClients =
            [(7, "-TR2"), (11, "-TR29"), (5, "-TR2"), (13, "-qB"), (17, "-TR29-345678901234567")]
                .into_iter()
                .collect();
        for (peer_id, client) in [
            (b"-TR2920-000000000000", Some(11)),
            (b"-TR2820-000000000000", Some(5)),
            (b"-qB4250-000000000000", Some(13)),
            (b"-tr2820-000000000000", None),
            (b"x-TR29-0000000000000", None),
        ] {
            assert_eq!(clients.find(&PeerId(*peer_id)), client);
        }
        assert_eq!((clients.len(), clients.approves_all()), (5, false));
    }

    #[test]
    fn an_empty_prefix_approves_everybody_and_a_prefix_of_zeros_only_zeros() {
        let clients: ApprovedClients = [(7, &b""[..]), (11, b"\0")].into_iter().collect();
        assert!(clients.approves_all());
        assert_eq!(clients.find(&PeerId([9; 20])), Some(7));
        assert_eq!(clients.find(&PeerId([0; 20])), Some(11));
        assert_eq!(ApprovedClients::default().find(&PeerId([9; 20])), None);
    }
}
