//! The UDP server: BEP 15 and BEP 41.
//!
//! | module | what is in it |
//! |---|---|
//! | [`config`] | the settings of the server |
//! | [`wire`] | octets to words and back: [`wire::request`], [`wire::option`], [`wire::reply`]; pure |
//! | [`connection_id`] | the proof that a source address is real |
//! | [`dropped`], [`metrics`] | why a datagram is dropped or refused; what a worker counts |
//! | `private` | how users name themselves, by their passkey |
//! | [`engine`] | [`Engine`]: decides what one datagram is answered with |
//! | [`server`] | [`Server`]: sockets, batches, worker threads |
//!
//! The way of a datagram: the kernel -> `server::batch` -> [`Engine::handle`] -> `wire::request` ->
//! `connection_id` -> `hayate_state::Tracker` -> `wire::reply`, in the buffer it is sent from ->
//! `server::batch` -> the kernel.
//!
//! Invariants:
//! - A source that has not proven its address never gets more octets than it sent, and no error text. Only
//!   [`connection_id`] makes the [`Verified`](connection_id::Verified) that announce and scrape ask for.
//! - No reply is longer than [`config::REPLY_MAX`] octets.
//! - From datagram to reply nothing is allocated, and no lock but that of one shard is taken.
//! - `unsafe` is in `server::batch` and nowhere else.
//!
//! Absent on purpose: a table of clients or connections (ids are computed; the few that were computed last
//! are kept, to save time and nothing else), per-request log lines, a reply to a bad connection id, a clock
//! (it comes from `hayate_state`), a second reading of a datagram, retransmission. The options of BEP 41 can
//! be read ([`wire::option`]); only mode private depends on them, so in others the engine skips them.

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
