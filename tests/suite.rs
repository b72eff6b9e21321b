//! Tests of the whole: the running daemon, both engines side by side, real clients, and the borders of the
//! house.
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::disallowed_methods,
    reason = "a test may panic, and waits by the real clock"
)]

mod clients;
mod harness;
mod http_door;
mod load;
mod process;
mod scenario;
mod tidy;
mod udp_door;
mod vectors;
