//! Registered torrents with their peers.

use std::sync::Arc;

use super::kind::Kinds;

/// All registered torrents, in shards.
#[derive(Debug, Default)]
pub struct Torrents {
    kinds: Kinds,
}

impl Torrents {
    /// None yet.
    #[must_use]
    pub fn new() -> Arc<Self> {
        Arc::new(Self::default())
    }

    /// The types of the torrents.
    #[must_use]
    pub fn kinds(&self) -> &Kinds {
        &self.kinds
    }
}
