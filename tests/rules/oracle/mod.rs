//! Random requests to the running daemon. Each reply is compared with that of an oracle: a naive model,
//! written from the BEPs and the documentation, that shares no code with the tracker.

mod answers;
mod datagram;
mod heads;
mod http;
mod model;
mod open;
mod site;
mod udp;
