//! Torrent types: free text in the store, small numbers here.

use std::sync::Arc;

use parking_lot::RwLock;

/// A torrent type.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Kind(u32);

/// All torrent types that were ever seen. Only the store names them, so there are few; none is forgotten.
#[derive(Debug, Default)]
pub struct Kinds(RwLock<Vec<Arc<str>>>);

impl Kinds {
    /// The number of a type.
    #[must_use]
    pub fn of(&self, name: &str) -> Kind {
        let find = |names: &[Arc<str>]| names.iter().position(|known| **known == *name);
        if let Some(at) = find(&self.0.read()) {
            return number(at);
        }
        let mut names = self.0.write();
        let at = find(&names).unwrap_or_else(|| {
            names.push(name.into());
            names.len() - 1
        });
        number(at)
    }

    /// The name of a type.
    #[must_use]
    pub fn name(&self, kind: Kind) -> Arc<str> {
        self.0.read().get(kind.0 as usize).cloned().unwrap_or_default()
    }
}

fn number(at: usize) -> Kind {
    Kind(u32::try_from(at).unwrap_or(u32::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_type_keeps_its_number_and_its_name() {
        let kinds = Kinds::default();
        let (anime, music) = (kinds.of("anime"), kinds.of("music"));
        assert_ne!(anime, music);
        assert_eq!((kinds.of("anime"), &*kinds.name(music)), (anime, "music"));
    }
}
