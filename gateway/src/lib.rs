//! The second door: HTTP in front of the same swarms.

pub mod config;
