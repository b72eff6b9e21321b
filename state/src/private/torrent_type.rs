//! Torrent types: free text in the store, small numbers here.

use std::sync::Arc;

use parking_lot::RwLock;

/// The number of a torrent type.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TorrentType(u32);

/// The names of all torrent types ever seen. Only the store names them, so there are few; none is forgotten.
#[derive(Debug, Default)]
pub struct TorrentTypes(RwLock<Vec<Arc<str>>>);

impl TorrentTypes {
    /// Returns the number of the type with this name, a new one if it was never seen.
    #[must_use]
    pub fn intern(&self, name: &str) -> TorrentType {
        let find = |names: &[Arc<str>]| names.iter().position(|known| **known == *name);
        if let Some(at) = find(&self.0.read()) {
            return type_number(at);
        }
        let mut names = self.0.write();
        let at = find(&names).unwrap_or_else(|| {
            names.push(name.into());
            names.len() - 1
        });
        type_number(at)
    }

    /// Returns the name of a type.
    #[must_use]
    pub fn name(&self, torrent_type: TorrentType) -> Arc<str> {
        self.0.read().get(torrent_type.0 as usize).cloned().unwrap_or_default()
    }
}

fn type_number(at: usize) -> TorrentType {
    TorrentType(u32::try_from(at).unwrap_or(u32::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_type_keeps_its_number_and_its_name() {
        let types = TorrentTypes::default();
        let (anime, music) = (types.intern("anime"), types.intern("music"));
        assert_ne!(anime, music);
        assert_eq!((types.intern("anime"), &*types.name(music)), (anime, "music"));
    }
}
