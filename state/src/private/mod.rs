//! Mode private: who the members are, what may be announced, what is credited.
//!
//! | module | what is in it |
//! |---|---|
//! | [`users`] | users by passkey: only [`Register::member`] makes a [`Member`] |
//! | [`approved_clients`] | approved clients, by the begin of the `peer_id` |
//! | [`site_data`] | all sets that are read from the store, published for both doors |
//! | [`parts`] | sets of which a change copies little |
//! | [`torrent_type`] | torrent types |
//! | [`torrents`] | registered torrents with their peers |
//! | `swarm`, `columns`, `peer`, `finder` | the peers of one torrent |
//! | `choice` | who of them is handed out |
//! | `announce` | one announce, from the check of its torrent to the peers it is handed |
//! | `accounting` | what an announce is credited |
//! | `remarks` | announces that were not taken at their word |
//! | `strays` | sessions that a start knows without the snapshot |
//! | `expiry` | silent peers go |
//! | [`snapshot`] | the part of the snapshot |
//! | [`site`] | all of it, as it is shared |
//! | [`sync`] | the thread that reads the sets from the store |
//! | [`admin`] | changes of a site that people ask for |
//! | [`passkey_path`] | `/<passkey>/announce`, for both doors |
//! | [`event_log`] | announces in CSV files, one an hour |
//! | `explain` | why a user was refused, and what was credited |
//! | [`refusal`] | why a member is refused, and what he is told |

mod accounting;
pub mod admin;
pub(crate) mod announce;
pub mod approved_clients;
mod choice;
mod columns;
pub mod event_log;
pub mod expiry;
mod explain;
mod finder;
#[cfg(test)]
mod large;
pub mod parts;
pub mod passkey_path;
mod peer;
pub mod refusal;
mod remarks;
pub mod site;
pub mod site_data;
pub mod snapshot;
mod strays;
mod swarm;
pub mod sync;
pub mod torrent_type;
pub mod torrents;
pub mod users;

pub use approved_clients::Clients;
pub use expiry::Purger;
pub use parts::Parts;
pub use peer::Credit;
pub use refusal::Denial;
pub use site::{Denied, Site};
pub use site_data::Register;
pub use sync::Clerk;
pub use torrents::Torrents;
pub use users::{Member, Members};
