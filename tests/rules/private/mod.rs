//! Mode private as a whole daemon: both servers, both stores.

mod admin_commands;
mod servers;
