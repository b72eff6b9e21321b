//! The UDP server: BEP 15 and BEP 41.
//!
//! | module | what is in it |
//! |---|---|
//! | [`config`] | the settings of the server |
//! | [`wire`] | requests and replies as octets: [`wire::request`], [`wire::option`], [`wire::reply`]; pure |
//! | [`connection_id`] | the proof that a source address is real |
//! | [`dropped`](mod@dropped) | [`Dropped`]: the reasons for which a datagram is dropped or refused |
//! | [`metrics`] | [`WorkerMetrics`](metrics::WorkerMetrics): what one worker counts |
//! | `private` | the passkey of a user, in the URL of an announce |
//! | [`engine`] | [`Engine`]: decides how one datagram is answered |
//! | [`server`] | [`Server`]: sockets, batches, worker threads |
//!
//! The way of a datagram: the kernel -> `server::batch` -> [`Engine::handle`] -> `wire::request` ->
//! `connection_id` -> `hayate_state::Tracker` -> `wire::reply`, in the buffer it is sent from ->
//! `server::batch` -> the kernel.
//!
//! Invariants:
//! - A source that has not proven its address never gets more octets than it sent, and no error text. Only
//!   [`connection_id`] makes the [`Verified`](connection_id::Verified) that announce and scrape require.
//! - No reply is longer than [`config::REPLY_MAX`] octets.
//! - From datagram to reply nothing is allocated, and no lock but that of one shard is taken.
//! - `unsafe` is in `server::batch` and nowhere else.
//!
//! Absent on purpose: a table of clients or connections (ids are computed; the few that were computed last
//! are kept, only to save time), log lines per request, a reply to a bad connection id, a clock (it comes
//! from `hayate_state`), a second reading of a datagram, retransmission. The options of BEP 41 can be read
//! ([`wire::option`]); they matter to mode private and to hooks, otherwise the engine skips them.

pub mod config;
pub mod connection_id;
pub mod dropped;
pub mod engine;
pub mod metrics;
mod private;
pub mod server;
pub mod wire;

pub use config::{SocketConfig, UdpConfig};
pub use dropped::Dropped;
pub use engine::{Engine, Outcome};
pub use server::{InheritedSockets, OpenError, RunningServer, Server, WorkerLiveness};
