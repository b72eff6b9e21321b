//! The kinds of words a knob can have, besides numbers and addresses: networks, names, secrets, switches.

use std::borrow::Cow;
use std::fmt;
use std::net::IpAddr;

use hayate_state::address::PrivatePeers;
use ipnet::IpNet;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::{Error, Unexpected, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::bounded::IntIn;

/// What stands in place of a secret wherever one could be read.
pub(crate) const MASK: &str = "********";
/// Longest name of a header or metric prefix.
const NAME_MAX: usize = 64;

/// A network, `10.0.0.0/8`, or a single address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Network(pub(crate) IpNet);

impl Network {
    fn parse(text: &str) -> Option<Self> {
        let single = |address: IpAddr| Some(IpNet::from(address));
        let net = text.parse::<IpNet>().map_or_else(|_| text.parse().ok().and_then(single), Some);
        net.map(|net| Self(net.trunc()))
    }

    /// The networks behind a list.
    pub(crate) fn nets(list: &[Self]) -> Vec<IpNet> {
        list.iter().map(|network| network.0).collect()
    }
}

impl Serialize for Network {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for Network {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let allowed = "a network such as \"10.0.0.0/8\" or an address";
        Self::parse(&text).ok_or_else(|| D::Error::invalid_value(Unexpected::Str(&text), &allowed))
    }
}

impl JsonSchema for Network {
    fn schema_name() -> Cow<'static, str> {
        "Network".into()
    }

    fn inline_schema() -> bool {
        true
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "string", "pattern": "^[0-9A-Fa-f:.]+(/[0-9]{1,3})?$" })
    }
}

/// Networks known when hayate is built; a test holds that none is lost.
pub(super) fn networks(texts: &[&str]) -> Vec<Network> {
    texts.iter().filter_map(|text| text.parse().ok().map(Network)).collect()
}

/// A number of peers to hand out.
pub(crate) type NumWant = IntIn<0, 65535>;

/// A text that no log, error or printed configuration may show.
#[derive(Clone, PartialEq, Eq, Default)]
pub(crate) struct Secret(String);

impl Secret {
    /// The octets of the secret; empty if there is none.
    pub(crate) fn reveal(&self) -> &[u8] {
        self.0.as_bytes()
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.is_empty() { "none" } else { MASK })
    }
}

impl Serialize for Secret {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(if self.0.is_empty() { "" } else { MASK })
    }
}

impl<'de> Deserialize<'de> for Secret {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct SecretVisitor;
        impl Visitor<'_> for SecretVisitor {
            type Value = Secret;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a string (quoted; the value is not shown here)")
            }

            fn visit_str<E: Error>(self, text: &str) -> Result<Secret, E> {
                Ok(Secret(text.to_owned()))
            }

            fn visit_u64<E: Error>(self, _: u64) -> Result<Secret, E> {
                Err(E::invalid_type(Unexpected::Other("number"), &self))
            }

            fn visit_i64<E: Error>(self, _: i64) -> Result<Secret, E> {
                self.visit_u64(0)
            }

            fn visit_f64<E: Error>(self, _: f64) -> Result<Secret, E> {
                self.visit_u64(0)
            }
        }
        deserializer.deserialize_any(SecretVisitor)
    }
}

impl JsonSchema for Secret {
    fn schema_name() -> Cow<'static, str> {
        "Secret".into()
    }

    fn inline_schema() -> bool {
        true
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "string" })
    }
}

/// The name of an HTTP header; empty = none.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub(crate) struct HeaderName(pub(crate) String);

impl Serialize for HeaderName {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for HeaderName {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let token = |b: u8| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b);
        if text.len() <= NAME_MAX && text.bytes().all(token) {
            return Ok(Self(text));
        }
        let allowed = "the name of a header such as \"X-Forwarded-For\", or \"\" for none";
        Err(D::Error::invalid_value(Unexpected::Str(&text), &allowed))
    }
}

impl JsonSchema for HeaderName {
    fn schema_name() -> Cow<'static, str> {
        "HeaderName".into()
    }

    fn inline_schema() -> bool {
        true
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "string", "maxLength": NAME_MAX, "pattern": "^[!#$%&'*+.^_`|~0-9A-Za-z-]*$" })
    }
}

/// The mode of a file, in octal digits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct FileMode(pub(crate) u32);

impl FileMode {
    fn parse(text: &str) -> Option<Self> {
        let digits = text.strip_prefix('0').filter(|rest| rest.len() == 3).unwrap_or(text);
        let octal = digits.len() == 3 && digits.bytes().all(|digit| matches!(digit, b'0'..=b'7'));
        u32::from_str_radix(digits, 8).ok().filter(|_| octal).map(Self)
    }

    /// May every user of the machine write?
    pub(crate) fn is_open_to_others(self) -> bool {
        self.0 & 0o002 != 0
    }
}

impl Serialize for FileMode {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&format_args!("{:04o}", self.0))
    }
}

impl<'de> Deserialize<'de> for FileMode {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let allowed = "a mode such as \"0660\", three octal digits behind a 0";
        Self::parse(&text).ok_or_else(|| D::Error::invalid_value(Unexpected::Str(&text), &allowed))
    }
}

impl JsonSchema for FileMode {
    fn schema_name() -> Cow<'static, str> {
        "FileMode".into()
    }

    fn inline_schema() -> bool {
        true
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "string", "pattern": "^0?[0-7]{3}$" })
    }
}

/// The first word of every metric name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct MetricPrefix(pub(crate) String);

impl Serialize for MetricPrefix {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for MetricPrefix {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let starts = text.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_');
        let word = text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_');
        if starts && word && text.len() <= NAME_MAX {
            return Ok(Self(text));
        }
        let allowed = "1 to 64 letters, digits and _, not beginning with a digit";
        Err(D::Error::invalid_value(Unexpected::Str(&text), &allowed))
    }
}

impl JsonSchema for MetricPrefix {
    fn schema_name() -> Cow<'static, str> {
        "MetricPrefix".into()
    }

    fn inline_schema() -> bool {
        true
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "string", "maxLength": NAME_MAX, "pattern": "^[A-Za-z_][A-Za-z0-9_]*$" })
    }
}

/// `"auto"`, `true` or `false`: how private peers are handed out (`rules/swarms.md#private-peers`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct AllowPrivate(pub(crate) PrivatePeers);

impl Serialize for AllowPrivate {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.0 {
            PrivatePeers::SameRange => serializer.serialize_str("auto"),
            PrivatePeers::Always => serializer.serialize_bool(true),
            PrivatePeers::Never => serializer.serialize_bool(false),
        }
    }
}

impl<'de> Deserialize<'de> for AllowPrivate {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct AllowPrivateVisitor;
        impl Visitor<'_> for AllowPrivateVisitor {
            type Value = AllowPrivate;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("\"auto\", true or false")
            }

            fn visit_bool<E: Error>(self, always: bool) -> Result<AllowPrivate, E> {
                Ok(AllowPrivate(if always { PrivatePeers::Always } else { PrivatePeers::Never }))
            }

            fn visit_str<E: Error>(self, text: &str) -> Result<AllowPrivate, E> {
                match text {
                    "auto" => Ok(AllowPrivate(PrivatePeers::SameRange)),
                    _ => Err(E::invalid_value(Unexpected::Str(text), &self)),
                }
            }
        }
        deserializer.deserialize_any(AllowPrivateVisitor)
    }
}

impl JsonSchema for AllowPrivate {
    fn schema_name() -> Cow<'static, str> {
        "AllowPrivate".into()
    }

    fn inline_schema() -> bool {
        true
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "enum": ["auto", true, false] })
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn complaint<T: serde::de::DeserializeOwned + fmt::Debug>(value: Value) -> String {
        serde_json::from_value::<T>(value).unwrap_err().to_string()
    }

    #[test]
    fn a_network_may_be_one_address_and_loses_its_host_bits() {
        for (text, net) in [("10.1.2.3/8", "10.0.0.0/8"), ("192.0.2.7", "192.0.2.7/32"), ("::1", "::1/128")] {
            assert_eq!(Network::parse(text).unwrap().0.to_string(), net);
        }
        for text in ["", "10.0.0.0/33", "10.0.0/8", "localhost", "::/129"] {
            assert!(complaint::<Network>(text.into()).contains("expected a network such as"), "{text}");
        }
    }

    #[test]
    fn a_secret_is_shown_nowhere() {
        let secret: Secret = serde_json::from_value(json!("hunter2hunter2hunter2")).unwrap();
        assert_eq!(secret.reveal(), b"hunter2hunter2hunter2");
        assert_eq!(format!("{secret:?}"), MASK);
        assert_eq!(serde_json::to_value(&secret).unwrap(), MASK);
        assert_eq!(serde_json::to_value(Secret::default()).unwrap(), "");
        for wrong in [json!(123_456_789), json!(-123_456_789), json!(123_456_789.5)] {
            let text = complaint::<Secret>(wrong);
            assert!(text.contains("invalid type: number") && !text.contains("123"), "{text}");
        }
    }

    #[test]
    fn names_say_what_they_may_be() {
        assert!(
            complaint::<HeaderName>("X Real".into()).contains("\"X Real\", expected the name of a header")
        );
        for (text, mode) in [("0660", 0o660), ("660", 0o660), ("0000", 0), ("0777", 0o777), ("066", 0o066)] {
            let read: FileMode = serde_json::from_value(text.into()).unwrap();
            assert_eq!(read, FileMode(mode), "{text}");
            assert_eq!(serde_json::to_value(read).unwrap(), json!(format!("{mode:04o}")));
        }
        for wrong in ["", "0", "66", "0668", "1660", "00660", "rw-rw----", "0o660", "+660", "-660", "٠٦٦٠"]
        {
            let text = complaint::<FileMode>(wrong.into());
            assert!(text.contains("expected a mode such as \"0660\""), "{wrong}: {text}");
        }
        assert!(complaint::<FileMode>(432.into()).contains("invalid type: integer `432`"));
        for wrong in ["", "1x", "a-b", "é"] {
            assert!(complaint::<MetricPrefix>(wrong.into()).contains("expected 1 to 64 letters"), "{wrong}");
        }
    }

    #[test]
    fn allow_private_is_one_of_three() {
        for (value, kind) in [
            (json!("auto"), PrivatePeers::SameRange),
            (json!(true), PrivatePeers::Always),
            (json!(false), PrivatePeers::Never),
        ] {
            let read: AllowPrivate = serde_json::from_value(value.clone()).unwrap();
            assert_eq!(read.0, kind);
            assert_eq!(serde_json::to_value(read).unwrap(), value);
        }
        assert!(complaint::<AllowPrivate>("yes".into()).contains("expected \"auto\", true or false"));
    }
}
