//! Octets to words and back: the query string, bencode, the replies. Pure; knows neither hyper nor the
//! tracker's decisions.

pub mod bencode;
pub mod query;
pub mod reply;
