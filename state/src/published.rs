//! Settings that are replaced as a whole while other threads read them: a reload publishes, readers refresh
//! once per batch.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::{Mutex, RwLock};

/// The current value of some settings, shared by the writer and all [`Subscriber`]s.
#[derive(Debug)]
pub struct Published<T> {
    version: AtomicU64,
    current: RwLock<Arc<T>>,
    /// Held while a new value is made from the old one, so that no change is lost.
    change: Mutex<()>,
}

impl<T> Published<T> {
    /// Publishes the first value.
    pub fn new(value: T) -> Arc<Self> {
        let current = RwLock::new(Arc::new(value));
        Arc::new(Self { version: AtomicU64::new(0), current, change: Mutex::default() })
    }

    /// Replaces the value; readers see it at their next [`Subscriber::refresh`].
    pub fn publish(&self, value: T) {
        *self.current.write() = Arc::new(value);
        self.version.fetch_add(1, Ordering::Release);
    }

    /// Replaces the value by one that is made from it. Of two callers at once, one waits; readers do not.
    pub fn change(&self, change: impl FnOnce(&T) -> T) {
        let _turn = self.change.lock();
        let value = change(&self.current());
        self.publish(value);
    }

    /// Returns the current value.
    pub fn current(&self) -> Arc<T> {
        Arc::clone(&self.current.read())
    }

    /// Makes a reader with a view of its own, which costs one load to keep fresh.
    pub fn subscribe(self: &Arc<Self>) -> Subscriber<T> {
        let version = self.version.load(Ordering::Acquire);
        Subscriber { version, value: self.current(), source: Arc::clone(self) }
    }
}

/// One reader's view of a [`Published`] value: it changes only in [`refresh`](Self::refresh).
#[derive(Debug)]
pub struct Subscriber<T> {
    source: Arc<Published<T>>,
    version: u64,
    value: Arc<T>,
}

impl<T> Subscriber<T> {
    /// Takes over what was published since the last call. Returns whether there was something new.
    pub fn refresh(&mut self) -> bool {
        let version = self.source.version.load(Ordering::Acquire);
        if version == self.version {
            return false;
        }
        self.version = version;
        self.value = self.source.current();
        true
    }

    /// Returns the value as of the last refresh.
    pub fn get(&self) -> &T {
        &self.value
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_subscriber_sees_news_only_when_it_refreshes() {
        let published = Published::new(7);
        let mut reader = published.subscribe();
        published.publish(11);
        assert_eq!(*reader.get(), 7);
        assert!(reader.refresh());
        assert_eq!(*reader.get(), 11);
        assert!(!reader.refresh());
        published.change(|value| value + 2);
        assert!(reader.refresh());
        assert_eq!(*reader.get(), 13);
    }
}
