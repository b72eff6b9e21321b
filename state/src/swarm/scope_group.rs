//! [`ScopeGroup`]: the peers of a large swarm with the same scope. A client that may be handed one of them
//! may be handed all of them, so that peers which it may not be handed cost nothing.

use crate::address::AddressScope;
use crate::announce::Endpoint;
use crate::swarm::buckets::PeerBuckets;
use crate::swarm::peer::PeerPos;

/// The peers of one family and scope: the buckets of seeders and those of leechers.
#[derive(Debug)]
pub(crate) struct ScopeGroup<const LEN: usize> {
    scope: AddressScope,
    seeders: PeerBuckets<LEN>,
    leechers: PeerBuckets<LEN>,
}

impl<const LEN: usize> ScopeGroup<LEN>
where
    [u8; LEN]: Endpoint,
{
    pub(crate) fn new(scope: AddressScope, with_ids: bool) -> Self {
        Self {
            scope,
            seeders: PeerBuckets::new(true, scope, with_ids),
            leechers: PeerBuckets::new(false, scope, with_ids),
        }
    }

    pub(crate) fn scope(&self) -> AddressScope {
        self.scope
    }

    pub(crate) fn len(&self) -> usize {
        self.seeders.len() + self.leechers.len()
    }

    pub(crate) fn role(&self, seeder: bool) -> &PeerBuckets<LEN> {
        if seeder { &self.seeders } else { &self.leechers }
    }

    pub(crate) fn role_mut(&mut self, seeder: bool) -> &mut PeerBuckets<LEN> {
        if seeder { &mut self.seeders } else { &mut self.leechers }
    }

    /// Returns the buckets of both roles, and whether they hold seeders.
    pub(crate) fn roles(&self) -> [(&PeerBuckets<LEN>, bool); 2] {
        [(&self.seeders, true), (&self.leechers, false)]
    }

    /// Octets on the heap.
    pub(crate) fn heap(&self) -> usize {
        self.seeders.heap() + self.leechers.heap()
    }

    pub(crate) fn keep_ids(&mut self, with_ids: bool) {
        self.seeders.keep_ids(with_ids);
        self.leechers.keep_ids(with_ids);
    }

    /// Returns the position of a peer; `seeder` is the role in which it is likely to be found.
    #[inline]
    pub(crate) fn find(&self, hash: u64, peer: &[u8; LEN], seeder: bool) -> Option<PeerPos> {
        self.role(seeder).find(hash, peer).or_else(|| self.role(!seeder).find(hash, peer))
    }
}
