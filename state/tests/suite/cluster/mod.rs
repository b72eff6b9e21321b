//! Several links of one stream, in virtual time and under faults.

mod links;
mod nodes;
mod shared;
mod simulated_bus;
mod simulation;
mod toy_codec;
mod toy_replica;
