//! What an address is good for: to whom a peer there may be handed out, and whether a client may claim it.
//!
//! | module | what is in it |
//! |---|---|
//! | `scope` | where a peer can be reached from: public peers by all, private ones within their range |
//! | `class` | the same and the special-purpose registries, for an address that is claimed |

mod class;
mod scope;

pub use class::AddressClass;
pub use scope::{AddressScope, PrivatePeers, ScopeSet};
