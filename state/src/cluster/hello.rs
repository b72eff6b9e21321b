//! [`Hello`]: what a node says about itself, on every stream and every few seconds.
//!
//! | octets | what |
//! |---|---|
//! | 1 + .. | length and text of the node's id |
//! | 1 + .. | of its version |
//! | 1 + .. | of its mode |
//! | 1 + .. | of the kind of its store |
//! | 1 | the newest format of entries that it reads |
//! | 1 to 5 | streams that it writes to |
//! | 1 to 5 | seconds after which a silent peer expires |
//! | 1 to 5 | seconds after which a refresh is published |
//! | 1 to 5 | uptime in seconds |
//! | 8 | seconds since 1970 on its own clock, little-endian |
//! | 1 | flags: 1 keeps peer ids, 2 leaves, 4 the tag of a key follows |
//! | 8 | the tag of its key for connection ids, if it serves UDP |

use ring::hmac;

use crate::cluster::encoding::{take, take_number, write_number};

/// Octets of the longest id of a node.
pub const NODE_ID_MAX: usize = 64;
/// Octets of the longest other text.
const TEXT_MAX: usize = 32;
/// The most streams that a node may write to.
pub const STREAMS_MAX: u32 = 64;
/// What all texts consist of, beside letters and digits. They get into log lines, so nothing else is taken.
const MARKS: &[u8] = b"._-";
/// The same of a version, which may name its build.
const VERSION_MARKS: &[u8] = b"._-+";

const KEEPS_PEER_IDS: u8 = 1;
const LEAVES: u8 = 2;
const WITH_KEY_TAG: u8 = 4;

/// Tells keys apart, and does not show what they are.
pub type KeyTag = [u8; 8];

/// What a node says about itself. Texts consist of 1 to 32 letters and digits of ASCII, and `.`, `_`, `-`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hello {
    /// Its configured id, of up to [`NODE_ID_MAX`] octets.
    pub node_id: String,
    /// Its version of hayate, which may have `+`, too.
    pub version: String,
    /// The kind of its store, as `none`, `sqlite` or `mariadb`.
    pub store: String,
    /// The newest format of entries that it reads; at least 1. It reads all older ones.
    pub newest_format: u8,
    /// The number of streams that it writes to: a power of two, at most [`STREAMS_MAX`].
    pub streams: u32,
    /// What should be the same on all nodes.
    pub settings: NodeSettings,
    /// The tag of its key for connection ids; `None` if it does not serve UDP.
    pub udp_key_tag: Option<KeyTag>,
    /// Seconds since 1970-01-01 UTC on its own clock.
    pub unix_seconds: u64,
    /// Seconds since its start.
    pub uptime_seconds: u32,
    /// It stops, and this is its last hello on the stream.
    pub leaving: bool,
}

/// Settings that should be the same on all nodes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeSettings {
    /// The mode, as `open`, `listed` or `private`.
    pub mode: String,
    /// `peer_inactivity` in seconds.
    pub peer_inactivity_seconds: u32,
    /// A refresh is published if the last one is older, in seconds.
    pub renew_after_seconds: u32,
    /// Whether ids of peers are kept.
    pub keep_peer_ids: bool,
}

/// Returns the tag of a key for connection ids.
#[must_use]
pub fn udp_key_tag(key: &[u8]) -> KeyTag {
    let tag = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, key), b"hayate cluster udp key");
    tag.as_ref().first_chunk().copied().unwrap_or_default()
}

/// Appends a hello. A text that is not as [`Hello`] says makes readers refuse it.
pub fn write_hello(hello: &Hello, to: &mut Vec<u8>) {
    let settings = &hello.settings;
    for text in [&hello.node_id, &hello.version, &settings.mode, &hello.store] {
        write_text(text, to);
    }
    to.push(hello.newest_format);
    let numbers =
        [hello.streams, settings.peer_inactivity_seconds, settings.renew_after_seconds, hello.uptime_seconds];
    numbers.into_iter().for_each(|number| write_number(number, to));
    to.extend(hello.unix_seconds.to_le_bytes());
    let flags = [
        (settings.keep_peer_ids, KEEPS_PEER_IDS),
        (hello.leaving, LEAVES),
        (hello.udp_key_tag.is_some(), WITH_KEY_TAG),
    ];
    to.push(flags.into_iter().filter(|(is_set, _)| *is_set).map(|(_, bit)| bit).sum());
    to.extend(hello.udp_key_tag.iter().flatten());
}

/// Returns the hello of a body; `None` if it is not as [`write_hello`] writes it.
#[must_use]
pub fn read_hello(mut body: &[u8]) -> Option<Hello> {
    let from = &mut body;
    let node_id = take_text(from, NODE_ID_MAX, MARKS)?;
    let version = take_text(from, TEXT_MAX, VERSION_MARKS)?;
    let mode = take_text(from, TEXT_MAX, MARKS)?;
    let store = take_text(from, TEXT_MAX, MARKS)?;
    let [newest_format] = take(from)?;
    let streams = take_number(from)?;
    let peer_inactivity_seconds = take_number(from)?;
    let renew_after_seconds = take_number(from)?;
    let uptime_seconds = take_number(from)?;
    let unix_seconds = u64::from_le_bytes(take(from)?);
    let [flags] = take(from)?;
    let udp_key_tag = if flags & WITH_KEY_TAG == 0 { None } else { Some(take(from)?) };
    let is_good = body.is_empty()
        && streams.is_power_of_two()
        && streams <= STREAMS_MAX
        && newest_format > 0
        && flags & !(KEEPS_PEER_IDS | LEAVES | WITH_KEY_TAG) == 0;
    let keep_peer_ids = flags & KEEPS_PEER_IDS != 0;
    is_good.then_some(Hello {
        node_id,
        version,
        store,
        newest_format,
        streams,
        settings: NodeSettings { mode, peer_inactivity_seconds, renew_after_seconds, keep_peer_ids },
        udp_key_tag,
        unix_seconds,
        uptime_seconds,
        leaving: flags & LEAVES != 0,
    })
}

fn write_text(text: &str, to: &mut Vec<u8>) {
    let octets = text.as_bytes();
    let len = u8::try_from(octets.len()).unwrap_or(u8::MAX);
    to.push(len);
    to.extend(octets.iter().take(len.into()));
}

fn take_text(from: &mut &[u8], longest: usize, marks: &[u8]) -> Option<String> {
    let [len] = take(from)?;
    let (octets, rest) = from.split_at_checked(len.into())?;
    let is_allowed = |octet: &u8| octet.is_ascii_alphanumeric() || marks.contains(octet);
    let is_good = (1..=longest).contains(&octets.len()) && octets.iter().all(is_allowed);
    *from = rest;
    is_good.then(|| octets.iter().copied().map(char::from).collect())
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    pub(in crate::cluster) fn hello(node_id: &str) -> Hello {
        Hello {
            node_id: node_id.to_owned(),
            version: "0.1.0".to_owned(),
            store: "sqlite".to_owned(),
            newest_format: 1,
            streams: 16,
            settings: NodeSettings {
                mode: "open".to_owned(),
                peer_inactivity_seconds: 4200,
                renew_after_seconds: 1050,
                keep_peer_ids: true,
            },
            udp_key_tag: Some(*b"a key it"),
            unix_seconds: 1_796_045_633,
            uptime_seconds: 7,
            leaving: false,
        }
    }

    fn written(hello: &Hello) -> Vec<u8> {
        let mut body = Vec::new();
        write_hello(hello, &mut body);
        body
    }

    #[test]
    fn a_hello_is_written_as_the_layout_says() {
        let expected = [
            &b"\x04eu-1\x050.1.0\x04open\x06sqlite"[..],
            &[1, 16, 0xe8, 0x20, 0x9a, 0x08, 7],
            &[0x41, 0x7b, 0x0d, 0x6b, 0, 0, 0, 0],
            &[KEEPS_PEER_IDS | WITH_KEY_TAG],
            b"a key it",
        ]
        .concat();
        assert_eq!(written(&hello("eu-1")), expected);
        assert_eq!(read_hello(&expected), Some(hello("eu-1")));
        let last = Hello { leaving: true, udp_key_tag: None, ..hello("eu-1") };
        assert_eq!(written(&last).len(), expected.len() - 8);
        assert_eq!(read_hello(&written(&last)), Some(last));
    }

    #[test]
    fn the_longest_and_the_shortest_hello_are_read_as_they_were_written() {
        let text = |octets| "z".repeat(octets);
        let settings = |octets| NodeSettings {
            mode: text(octets),
            peer_inactivity_seconds: u32::MAX,
            renew_after_seconds: u32::MAX,
            keep_peer_ids: false,
        };
        let hello = |id, others| Hello {
            node_id: text(id),
            version: text(others),
            store: text(others),
            newest_format: u8::MAX,
            streams: STREAMS_MAX,
            settings: settings(others),
            unix_seconds: u64::MAX,
            uptime_seconds: u32::MAX,
            ..hello("")
        };
        for hello in [hello(NODE_ID_MAX, TEXT_MAX), hello(1, 1)] {
            assert_eq!(read_hello(&written(&hello)), Some(hello));
        }
        let marks = Hello { version: "1.0-rc_1+build".to_owned(), ..self::hello("A.z-0_9") };
        assert_eq!(read_hello(&written(&marks)), Some(marks));
    }

    #[test]
    fn a_hello_that_is_cut_or_has_an_octet_more_or_a_flag_that_nobody_knows_is_refused() {
        for last in [hello("eu-1"), Hello { udp_key_tag: None, ..hello("eu-1") }] {
            let good = written(&last);
            for len in 0..good.len() {
                assert_eq!(read_hello(&good[..len]), None, "{len} octets");
            }
            assert_eq!(read_hello(&[&good[..], &[0]].concat()), None, "an octet more");
            let flags = good.len() - 1 - last.udp_key_tag.map_or(0, |tag| tag.len());
            for bit in 3..8 {
                let mut reserved = good.clone();
                reserved[flags] |= 1 << bit;
                assert_eq!(read_hello(&reserved), None, "flag {bit}");
            }
        }
    }

    #[test]
    fn a_hello_with_a_text_or_a_number_that_no_node_has_is_refused() {
        let settings = |mode: &str| NodeSettings { mode: mode.to_owned(), ..hello("eu-1").settings };
        let long = "n".repeat(TEXT_MAX + 1);
        for (bad, why) in [
            (Hello { streams: 0, ..hello("eu-1") }, "no streams"),
            (Hello { streams: 3, ..hello("eu-1") }, "no power of two"),
            (Hello { streams: 128, ..hello("eu-1") }, "too many streams"),
            (Hello { newest_format: 0, ..hello("eu-1") }, "no format"),
            (hello(""), "no id"),
            (hello("eu 1"), "a space"),
            (hello("eu\n1"), "a new line"),
            (hello("eu+1"), "a plus, which only versions have"),
            (hello("\u{fc}"), "not ASCII"),
            (hello(&"n".repeat(NODE_ID_MAX + 1)), "an id of 65 octets"),
            (hello(&"n".repeat(300)), "an id whose length takes more than an octet"),
            (Hello { version: String::new(), ..hello("eu-1") }, "no version"),
            (Hello { version: long.clone(), ..hello("eu-1") }, "a long version"),
            (Hello { version: "1/2".to_owned(), ..hello("eu-1") }, "a slash"),
            (Hello { store: String::new(), ..hello("eu-1") }, "no store"),
            (Hello { store: long.clone(), ..hello("eu-1") }, "a long store"),
            (Hello { settings: settings(""), ..hello("eu-1") }, "no mode"),
            (Hello { settings: settings(&long), ..hello("eu-1") }, "a long mode"),
        ] {
            assert_eq!(read_hello(&written(&bad)), None, "{why}");
        }
    }

    #[test]
    fn a_hello_with_any_octet_changed_is_refused_or_says_something_else() {
        let good = written(&hello("eu-1"));
        for at in 0..good.len() {
            for octet in (0..=u8::MAX).filter(|octet| *octet != good[at]) {
                let mut changed = good.clone();
                changed[at] = octet;
                if let Some(read) = read_hello(&changed) {
                    assert_ne!(read, hello("eu-1"), "octet {at} as {octet}");
                    assert_eq!(written(&read), changed, "octet {at} as {octet}");
                }
            }
        }
    }

    #[test]
    fn tags_tell_keys_apart_and_show_nothing_of_them() {
        let tag = udp_key_tag(b"a key of two nodes");
        assert_eq!(tag, udp_key_tag(b"a key of two nodes"));
        assert_ne!(tag, udp_key_tag(b"a key of two node"));
        assert_ne!(tag, *b"a key of");
    }
}
