//! Tests of the whole: the running daemon, both engines side by side, real clients, and the borders of the
//! house.
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::disallowed_methods,
    reason = "a test may panic, and waits by the real clock"
)]

mod checklist;
mod citations;
mod clients;
mod desk;
mod faults;
#[path = "fixtures/site.rs"]
#[expect(dead_code, reason = "the tests of the doors use the rest")]
mod fixture;
mod graceful_stop;
mod h2;
mod harness;
mod hooks;
mod hostile;
mod http_door;
mod import_config;
mod limits;
mod listeners;
mod load;
#[path = "servers/mariadb.rs"]
#[expect(dead_code, reason = "the tests of the stores use the rest")]
mod mariadb_server;
mod metrics;
mod oracle;
mod private;
mod process;
mod reload;
mod scenario;
mod soak;
mod storm;
mod tidy;
mod tls;
mod tools;
mod udp_door;
mod upgrade;
mod vectors;
