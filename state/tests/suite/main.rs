//! Swarms and decisions, in virtual time: a model, statistics of selection, limits, lists, threads.
#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test may panic")]

mod cluster;
mod conformance;
mod deltas;
#[path = "../kit/double.rs"]
mod double;
mod hooks;
mod limits;
mod lists;
mod model;
mod private;
mod races;
mod recording_store;
mod selection;
mod snapshots;
mod test_tracker;
mod threads;
