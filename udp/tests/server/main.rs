//! The server from outside: the engine against the rules, arbitrary octets, and real sockets.

#[cfg(test)]
#[path = "../../../tests/kit/fixtures/site.rs"]
mod fixture;
#[cfg(test)]
mod kit;
#[cfg(test)]
mod loopback;
#[cfg(test)]
mod octets;
#[cfg(test)]
mod private;
#[cfg(test)]
mod rules;
