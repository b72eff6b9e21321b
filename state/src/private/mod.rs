//! Mode private: who the members are, what may be announced, what is credited.
//!
//! | module | what is in it |
//! |---|---|
//! | [`member`] | users by passkey: only [`Register::member`] makes a [`Member`] |
//! | [`client`] | approved clients, by the begin of the `peer_id` |
//! | [`register`] | all sets that are read from the store, published for both doors |
//! | [`kind`] | torrent types |
//! | [`torrents`] | registered torrents with their peers |
//! | [`denial`] | why a member is refused, and what he is told |

pub mod client;
pub mod denial;
pub mod kind;
pub mod member;
pub mod register;
pub mod torrents;

pub use client::Clients;
pub use denial::Denial;
pub use member::{Member, Members};
pub use register::Register;
pub use torrents::Torrents;
