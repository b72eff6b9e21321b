//! Mode private: who the members are, what may be announced, what is credited.
//!
//! | module | what is in it |
//! |---|---|
//! | [`member`] | users by passkey: only [`Register::member`] makes a [`Member`] |
//! | [`client`] | approved clients, by the begin of the `peer_id` |
//! | [`register`] | all sets that are read from the store, published for both doors |
//! | [`parts`] | sets of which a change copies little |
//! | [`kind`] | torrent types |
//! | [`torrents`] | registered torrents with their peers |
//! | `swarm`, `columns`, `peer`, `finder` | the peers of one torrent |
//! | `choice` | who of them is handed out |
//! | `desk` | one announce, from the check of its torrent to the peers it is handed |
//! | `ledger` | what an announce is credited |
//! | `remarks` | announces that were not taken at their word |
//! | `strays` | sessions that a start knows without the snapshot |
//! | `purge` | silent peers go |
//! | [`section`] | the part of the snapshot |
//! | [`site`] | all of it, as it is shared |
//! | [`clerk`], `heap`, `figures` | the thread that reads the sets from the store; its numbers |
//! | [`office`] | changes of a site that people ask for |
//! | [`path`] | `/<passkey>/announce`, for both doors |
//! | [`events`] | announces in CSV files, one an hour |
//! | `explain` | why a user was refused, and what was credited |
//! | [`denial`] | why a member is refused, and what he is told |

mod choice;
pub mod clerk;
pub mod client;
mod columns;
pub mod denial;
pub(crate) mod desk;
pub mod events;
mod explain;
mod figures;
mod finder;
mod heap;
pub mod kind;
#[cfg(test)]
mod large;
mod ledger;
pub mod member;
pub mod office;
pub mod parts;
pub mod path;
mod peer;
pub mod purge;
pub mod register;
mod remarks;
pub mod section;
pub mod site;
mod strays;
mod swarm;
pub mod torrents;

pub use clerk::Clerk;
pub use client::Clients;
pub use denial::Denial;
pub use member::{Member, Members};
pub use parts::Parts;
pub use peer::Credit;
pub use purge::Purger;
pub use register::Register;
pub use site::{Denied, Site};
pub use torrents::Torrents;
