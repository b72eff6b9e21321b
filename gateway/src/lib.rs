//! The HTTP gateway: announces and scrapes over HTTP, answered from the same swarms as those over UDP.
//!
//! | layer | module | what is in it |
//! |---|---|---|
//! | | [`config`], [`tls`] | settings of the gateway; its certificate and key |
//! | [`wire`] | [`wire::query`] | the query string, as octets and without a copy |
//! | wire | [`wire::bencode`], [`wire::reply`] | the bencoded replies |
//! | engine | [`engine`] | [`Engine`]: head in, question out; reply in, octets out |
//! | server | [`operator`] | `/metrics`, `/alive`, `/health`, and the table of the operator's paths |
//! | server | [`server`] | [`Server`]: hyper on tokio, on one thread; sockets, timeouts, limits |
//!
//! Invariants: the tracker is only reached through the state actor's inbox; a failure is bencoded and has
//! status 200; no reply is chunked; what a client sends is never echoed (except in texts of mode private),
//! logged or used as a label; all state of the server belongs to one thread, so nothing in it is locked or
//! shared except counters and the queue into which the actor puts its replies.
//!
//! Absent on purpose: swarms and policy (they are the tracker's), redirects, OPTIONS, HEAD of anything but
//! the operator's pages (405), compression, request bodies, full scrapes, HTTP/2 without TLS, hyper's own
//! head timer (it cannot tell a slow head from an idle connection, see the server's timeouts), log lines per
//! request.
//!
//! The engine needs neither socket nor thread. Here it answers an announce from a tracker of its own:
//!
//! ```
//! use hayate_gateway::engine::client_address::Source;
//! use hayate_gateway::engine::Head;
//! use hayate_gateway::{Engine, HttpConfig};
//! use hayate_state::{Now, Policy, Published, Swarms, Tracker};
//!
//! let (config, policy) = (Published::new(HttpConfig::default()), Published::new(Policy::default()));
//! let mut engine = Engine::new(config.subscribe(), policy.subscribe())?;
//! let mut tracker = Tracker::new(Swarms::new(0), &policy, 7);
//!
//! let target =
//!     "/announce?info_hash=aaaaaaaaaaaaaaaaaaaa&peer_id=-XX0001-000000000001&port=6881&left=9";
//! let headers: &[(&str, &[u8])] = &[("Host", b"tracker.example")];
//! let head = Head {
//!     method: b"GET",
//!     target: target.as_bytes(),
//!     source: Source::Address([45, 128, 19, 54].into()),
//!     headers,
//!     header_octets: "Host: tracker.example\r\n".len(),
//!     has_body: false,
//! };
//! let response = engine.handle(Now::at(0), &mut tracker, &head);
//!
//! // One leecher is in the swarm: the client itself.
//! let body = response.body.escape_ascii().to_string();
//! assert_eq!(response.status, 200);
//! assert!(body.starts_with("d8:completei0e10:downloadedi0e") && body.contains("10:incompletei1e"));
//! # Ok::<(), hayate_gateway::RouteError>(())
//! ```

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
pub use operator::routes::Routes;
pub use operator::{AdminHandler, HealthCheck, HealthStatus, OperatorPages};
pub use server::{InheritedSockets, ListenerChange, OpenError, ReplyTo, RunningServer, STOP_MAX, Server};
