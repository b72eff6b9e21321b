//! Swarms and decisions, in virtual time: a model, statistics of selection, limits.
#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test may panic")]

mod desk;
mod limits;
mod model;
mod selection;
