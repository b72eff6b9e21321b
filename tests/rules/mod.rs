//! What clients and users rely on, as stated in `docs/rules`.

mod checklist;
pub(crate) mod hooks;
pub(crate) mod http;
mod limits;
mod oracle;
mod private;
mod scenario;
pub(crate) mod udp;
mod vectors;
