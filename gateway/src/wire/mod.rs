//! Octets to words and back: the query string, bencode, the replies. Pure; knows neither hyper nor the
//! tracker's decisions.
//!
//! | module | what is in it |
//! |---|---|
//! | [`query`] | the query string, its parameters, percent-escapes |
//! | [`bencode`] | bencoded values |
//! | [`reply`] | announces, scrapes and failures as replies |

pub mod bencode;
pub mod query;
pub mod reply;
