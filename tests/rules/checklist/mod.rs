//! What operators who come from chihaya try first, one row each, and the test that tries it. The rules are
//! in `docs/rules/README.md`.
//!
//! | row | test |
//! |---|---|
//! | `tracker.json`, YAML | [`configuration::tracker_json_and_yaml`] |
//! | `import-config` | [`crate::tools::import`] |
//! | CLI, logs | [`configuration::cli_and_logs`] |
//! | `e2e` | [`crate::operations::process`]`::e2e` |
//! | graceful stop, reload | [`crate::operations::graceful_stop`], [`crate::operations::reload`] |
//! | listeners | [`crate::operations::listeners`]`::listeners` |
//! | routes, query, events, numwant, reply format, client address, HTTP scrape, keep-alive | [`http`] |
//! | HTTP checks in order | [`crate::rules::http`]`::http_checks_in_order` |
//! | TLS | [`crate::rules::http::tls`]`::tls` |
//! | UDP connect and ID, UDP announce, UDP scrape | [`udp`] |
//! | silence, amplification | [`crate::rules::udp`]`::silence_and_amplification` |
//! | BEP 41, hook order, approvals, variation, jwt, JWK set | [`crate::rules::hooks`] |
//! | swarm rules, peer selection, expiry and restart | [`swarms`] |
//! | metrics, health | [`crate::operations::metrics`] |
//! | conformance | `conformance` in `state/tests/suite`; benches are `cargo bench --workspace` |

mod configuration;
mod http;
mod swarms;
mod udp;
