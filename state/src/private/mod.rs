//! Mode private: who the users are, what may be announced, what is credited.
//!
//! | module | what is in it |
//! |---|---|
//! | [`users`] | users by passkey: only [`Users`] creates a [`User`] |
//! | [`approved_clients`] | approved clients, by the beginning of the `peer_id` |
//! | [`site_data`] | all sets that are read from the store, published for both servers |
//! | [`cow_map`] | maps of which a change copies little |
//! | [`torrent_type`] | torrent types |
//! | [`torrents`] | registered torrents with their peers |
//! | `swarm`, `columns`, `peer`, `user_index` | the peers of one torrent |
//! | `select` | the choice of peers that are handed out |
//! | `announce` | one announce, from the check of its torrent to the peers it is handed |
//! | `accounting` | what an announce is credited |
//! | `anomalies` | announces that were not believed |
//! | `dormant` | durable sessions that the snapshot did not have |
//! | `expiry` | the removal of silent peers |
//! | [`snapshot`] | the snapshot of mode private, written and restored |
//! | [`site`] | the whole site, as both servers share it |
//! | [`sync`] | the thread that reads the sets from the store |
//! | [`admin`] | commands that change a site |
//! | [`passkey_path`] | `/<passkey>/announce`, for both servers |
//! | [`event_log`] | announces in CSV files, one file an hour |
//! | `explain` | why a user was refused, and what was credited |
//! | [`refusal`] | why a user is refused, and the text that they get |

mod accounting;
pub mod admin;
pub(crate) mod announce;
mod anomalies;
pub mod approved_clients;
mod columns;
pub mod cow_map;
mod dormant;
pub mod event_log;
pub mod expiry;
mod explain;
#[cfg(test)]
mod large;
pub mod passkey_path;
mod peer;
pub mod refusal;
mod select;
pub mod site;
pub mod site_data;
pub mod snapshot;
mod swarm;
pub mod sync;
pub mod torrent_type;
pub mod torrents;
mod user_index;
pub mod users;

pub use approved_clients::ApprovedClients;
pub use cow_map::CowMap;
pub use expiry::PeerExpiry;
pub use peer::Credit;
pub use refusal::Refused;
pub use site::{RefusedAnnounce, Site};
pub use site_data::SiteData;
pub use sync::SiteSync;
pub use torrents::Torrents;
pub use users::{User, Users};
