//! The first door: BEP 15 and BEP 41 over UDP.

pub mod config;
