//! Mode private as a whole daemon: both doors, both stores, real clients.

mod clients;
mod crashes;
mod doors;
mod kills;
pub(crate) mod kit;
mod office;
mod upgrades;
