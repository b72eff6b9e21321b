//! Tests of the whole program; each crate has tests of its own.
//!
//! | module | what it tests |
//! |---|---|
//! | `rules` | what clients and users rely on, over UDP and HTTP, in every mode: `docs/rules` |
//! | `operations` | what operators rely on: processes, reloads, upgrades, faults |
//! | `tools` | the programs besides the daemon |
//! | `clients` | real BitTorrent clients in network namespaces |
//! | `kit` | daemons, servers and fixtures that the tests share |
//! | `tidy`, `house`, `citations` | the tree itself: boundaries, names, maps, documents |

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::disallowed_methods,
    reason = "a test may panic, and waits by the real clock"
)]

mod citations;
mod clients;
mod house;
mod kit;
mod operations;
mod rules;
mod tidy;
mod tools;

use kit::{fixture, harness, mariadb_server, redis_server};
