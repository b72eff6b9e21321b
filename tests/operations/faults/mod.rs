//! What survives faults: the process killed, the database stopped, killed, frozen, full, the disk
//! full, the clock set back, stderr full. The tracker answers announces through all of it; afterwards every
//! finished download is counted once.

mod disk;
mod mariadb;
mod restart;
mod stop;

pub(crate) use disk::SmallDisk;
pub(crate) use mariadb::{counted, daemon_in, server as mariadb};
