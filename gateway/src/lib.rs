//! The HTTP gateway: announces and scrapes over HTTP, answered from the same swarms.
//!
//! | layer | module | what is in it |
//! |---|---|---|
//! | wire | [`wire::query`] | the query string, as octets and without a copy |
//! | wire | [`wire::bencode`], [`wire::reply`] | the bencoded replies |
//! | engine | [`engine`] | [`Engine`]: head in, question out; reply in, octets out |
//! | server | [`operator`] | `/metrics`, `/alive`, `/health` |
//! | server | [`server`] | [`Server`]: hyper on tokio, on one thread; sockets, timeouts, limits |
//!
//! Invariants: the tracker is only reached through the state actor's inbox; a failure is bencoded and has
//! status 200; no reply is chunked; what a client sends is never echoed, logged or used as a label; all state
//! of the server belongs to one thread, so nothing in it is locked or shared but counters and the queue
//! into which the actor puts its replies.
//!
//! Absent on purpose: swarms and policy (they are the tracker's), redirects, HEAD and OPTIONS (405),
//! compression, request bodies, full scrapes, HTTP/2 without TLS, hyper's own head timer (it cannot tell a
//! slow head from an idle connection, see the server's timeouts), log lines per request.

pub mod config;
pub mod engine;
pub mod operator;
pub mod server;
pub mod tls;
pub mod wire;

pub use config::{HttpConfig, ListenConfig};
pub use engine::Engine;
pub use engine::bad_request::BadRequest;
pub use engine::routes::{RouteError, TrackerRoutes};
pub use operator::{AdminHandler, HealthCheck, HealthStatus, OperatorPages};
pub use server::{InheritedSockets, ListenerChange, OpenError, ReplyTo, RunningServer, STOP_MAX, Server};
