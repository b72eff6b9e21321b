//! The accounts of a private site through crashes, kills and upgrades.

mod crashes;
mod kills;
mod upgrades;
