//! What an address is good for: to whom a peer there may be handed out, and whether a client may claim it.
//!
//! | module | what is in it |
//! |---|---|
//! | `scope` | where a peer can be reached from: public peers are for every client, private ones for their own range |
//! | `class` | the same and the special-purpose registries, for an address that somebody claims |

mod class;
mod scope;

pub use class::AddressClass;
pub use scope::{AddressScope, PrivatePeers, ScopeSet};
