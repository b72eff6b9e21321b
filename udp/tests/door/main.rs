//! The door from outside: the engine against the rules, arbitrary octets, and real sockets.

#[cfg(test)]
mod kit;
#[cfg(test)]
mod loopback;
#[cfg(test)]
mod octets;
#[cfg(test)]
mod rules;
