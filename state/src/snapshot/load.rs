//! The start from a snapshot: it is verified, then restored; a damaged one is set aside.

use std::fs;
use std::io;
use std::path::Path;
use std::time::Duration;

use crate::clock::{Clock, Now};
use crate::snapshot::container::{SnapshotError, SnapshotReader, set_aside};
use crate::snapshot::swarms::{Restore, TAG_SWARMS, check_swarms};

/// Time between two lines of progress in the log.
const PROGRESS_INTERVAL: Duration = Duration::from_secs(1);

/// A part of the tracker that is restored from blocks with tags of its own. Unknown blocks are skipped.
pub trait RestoreTarget {
    /// Checks a block if it belongs to this target. Called for all blocks before any is restored.
    ///
    /// # Errors
    /// Fails when the block is damaged.
    fn check_block(&self, tag: u8, payload: &[u8]) -> Result<(), SnapshotError>;

    /// Restores a block of a snapshot that was begun at `written_at`, in Unix seconds, if it belongs to this
    /// target.
    ///
    /// # Errors
    /// Fails when the block is damaged, which [`check_block`](Self::check_block) should have found.
    fn restore_block(
        &mut self,
        now: Now,
        written_at: i64,
        tag: u8,
        payload: &[u8],
    ) -> Result<(), SnapshotError>;

    /// A summary of what was restored, for the log.
    fn summary(&self) -> String;
}

impl RestoreTarget for Restore<'_> {
    fn check_block(&self, tag: u8, payload: &[u8]) -> Result<(), SnapshotError> {
        if tag == TAG_SWARMS { check_swarms(payload) } else { Ok(()) }
    }

    fn restore_block(
        &mut self,
        now: Now,
        written_at: i64,
        tag: u8,
        payload: &[u8],
    ) -> Result<(), SnapshotError> {
        if tag == TAG_SWARMS { self.restore_swarms(now, written_at, payload) } else { Ok(()) }
    }

    fn summary(&self) -> String {
        self.summary().to_string()
    }
}

/// The result of a start from a snapshot.
#[derive(Debug)]
pub enum LoadOutcome {
    /// There is no snapshot.
    Missing,
    /// It was restored.
    Restored,
    /// It is damaged, and was set aside. Nothing was restored, unless a read failed that had worked a moment
    /// before.
    SetAside(SnapshotError),
}

/// Restores the snapshot at `path`, and logs the result.
pub fn load_snapshot(path: &Path, clock: &Clock, parts: &mut [&mut dyn RestoreTarget]) -> LoadOutcome {
    match restore_file(path, clock, parts) {
        Ok(()) => LoadOutcome::Restored,
        Err(SnapshotError::Io(error)) if error.kind() == io::ErrorKind::NotFound => {
            log::debug!("no snapshot at {}", path.display());
            LoadOutcome::Missing
        }
        Err(error) => {
            let path_now = match set_aside(path) {
                Ok(aside) => format!("now {}", aside.display()),
                Err(error) => format!("which could not be set aside: {error}"),
            };
            log::warn!("cannot restore the snapshot {}, {path_now}: {error}", path.display());
            LoadOutcome::SetAside(error)
        }
    }
}

fn restore_file(
    path: &Path,
    clock: &Clock,
    parts: &mut [&mut dyn RestoreTarget],
) -> Result<(), SnapshotError> {
    let start = clock.uptime();
    let checked = |tag, payload: &[u8]| parts.iter().try_for_each(|part| part.check_block(tag, payload));
    let mut reader = SnapshotReader::open_checked(path, checked)?;
    let all = fs::metadata(path)?.len().max(1);
    let (mut done, mut logged_at) = (0, start);
    let written_at = reader.written_at();
    while let Some((tag, payload)) = reader.next_block()? {
        let now = clock.now();
        for part in parts.iter_mut() {
            part.restore_block(now, written_at, tag, payload)?;
        }
        done += payload.len() as u64;
        if clock.uptime() >= logged_at + PROGRESS_INTERVAL {
            logged_at = clock.uptime();
            log::info!("restoring {}: {} %", path.display(), done * 100 / all);
        }
    }
    let took = (clock.uptime() - start).as_secs_f64();
    for part in parts {
        log::info!("restored from {} in {took:.1} s: {}", path.display(), part.summary());
    }
    Ok(())
}
