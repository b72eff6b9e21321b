//! What somebody who comes from chihaya tries first, one row each, and the test that tries it. The rules are
//! in `docs/rules/README.md`.
//!
//! | row | test |
//! |---|---|
//! | `tracker.json`, YAML | [`configuration::tracker_json_and_yaml`] |
//! | `import-config` | [`crate::import_config`] |
//! | CLI, logs | [`configuration::cli_and_logs`] |
//! | `e2e` | [`crate::process`]`::e2e` |
//! | graceful stop, reload | [`crate::graceful_stop`], [`crate::reload`] |
//! | listeners | [`crate::listeners`]`::listeners` |
//! | routes, query, events, numwant, reply format, client address, HTTP scrape, keep-alive | [`http`] |
//! | HTTP checks in order | [`crate::http_door`]`::http_checks_in_order` |
//! | TLS | [`crate::tls`]`::tls` |
//! | UDP connect and ID, UDP announce, UDP scrape | [`udp`] |
//! | silence, amplification | [`crate::udp_door`]`::silence_and_amplification` |
//! | BEP 41, hook order, approvals, variation, jwt, JWK set | [`crate::hooks`] |
//! | swarm rules, peer selection, expiry and restart | [`swarms`] |
//! | metrics, health | [`crate::metrics`] |
//! | conformance | `conformance` in `state/tests/suite`; benches are `cargo bench --workspace` |

mod configuration;
mod http;
mod swarms;
mod udp;
