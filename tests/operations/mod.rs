//! What operators rely on: the process, its configuration, upgrades, faults.

mod admin_api;
mod cluster;
pub(crate) mod faults;
pub(crate) mod graceful_stop;
mod hostile;
pub(crate) mod listeners;
pub(crate) mod metrics;
mod private;
pub(crate) mod process;
pub(crate) mod reload;
mod soak;
pub(crate) mod storm;
pub(crate) mod upgrade;
