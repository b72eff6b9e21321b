//! The kinds of values a setting can have. Each carries its range in its type, so that a file, the JSON
//! Schema and an error message say the same: what was given, and what is allowed.

use std::borrow::Cow;
use std::fmt;
use std::time::Duration;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::{Error, Expected, Unexpected, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Milliseconds of a second, for the ranges of [`DurationIn`].
pub(crate) const SECOND: u64 = 1000;
/// Milliseconds of a minute.
pub(crate) const MINUTE: u64 = 60 * SECOND;
/// Milliseconds of an hour.
pub(crate) const HOUR: u64 = 60 * MINUTE;
/// Octets of a KiB, for the ranges of [`SizeIn`].
pub(crate) const KIB: u64 = 1024;
/// Octets of a MiB.
pub(crate) const MIB: u64 = 1024 * KIB;
/// Octets of a GiB.
pub(crate) const GIB: u64 = 1024 * MIB;
/// Octets of a TiB.
pub(crate) const TIB: u64 = 1024 * GIB;

const TIME_UNITS: [(&str, u64); 4] =
    [("h", HOUR * 1_000_000), ("m", MINUTE * 1_000_000), ("s", SECOND * 1_000_000), ("ms", 1_000_000)];
const SIZE_UNITS: [(&str, u64); 4] = [("TiB", TIB), ("GiB", GIB), ("MiB", MIB), ("KiB", KIB)];

/// A whole number from `MIN` to `MAX`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct IntIn<const MIN: u64, const MAX: u64>(u64);

impl<const MIN: u64, const MAX: u64> IntIn<MIN, MAX> {
    /// Makes a number at compile time; one beyond the range does not compile in a `const`.
    pub(crate) const fn new(value: u64) -> Self {
        assert!(MIN <= value && value <= MAX, "a default lies within its range");
        Self(value)
    }

    /// Returns the number, or the largest `u16` if it is larger.
    pub(crate) fn as_u16(self) -> u16 {
        u16::try_from(self.0).unwrap_or(u16::MAX)
    }

    /// Returns the number, or the largest `u32` if it is larger.
    pub(crate) fn as_u32(self) -> u32 {
        u32::try_from(self.0).unwrap_or(u32::MAX)
    }

    /// Returns the number, or the largest `usize` if it is larger.
    pub(crate) fn as_usize(self) -> usize {
        usize::try_from(self.0).unwrap_or(usize::MAX)
    }
}

impl<const MIN: u64, const MAX: u64> Serialize for IntIn<MIN, MAX> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_u64(self.0)
    }
}

impl<'de, const MIN: u64, const MAX: u64> Deserialize<'de> for IntIn<MIN, MAX> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct IntVisitor<const MIN: u64, const MAX: u64>;
        impl<const MIN: u64, const MAX: u64> Visitor<'_> for IntVisitor<MIN, MAX> {
            type Value = IntIn<MIN, MAX>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "an integer from {MIN} to {MAX}")
            }

            fn visit_u64<E: Error>(self, value: u64) -> Result<Self::Value, E> {
                let within = (MIN..=MAX).contains(&value).then_some(IntIn(value));
                within.ok_or_else(|| E::invalid_value(Unexpected::Unsigned(value), &self))
            }

            fn visit_i64<E: Error>(self, value: i64) -> Result<Self::Value, E> {
                let value = not_negative(value, &self)?;
                self.visit_u64(value)
            }
        }
        deserializer.deserialize_u64(IntVisitor)
    }
}

impl<const MIN: u64, const MAX: u64> JsonSchema for IntIn<MIN, MAX> {
    fn schema_name() -> Cow<'static, str> {
        format!("Whole{MIN}To{MAX}").into()
    }

    fn inline_schema() -> bool {
        true
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "integer", "minimum": MIN, "maximum": MAX })
    }
}

/// Numbers of JSON come without sign, those of YAML with one.
fn not_negative<E: Error>(value: i64, allowed: &dyn Expected) -> Result<u64, E> {
    u64::try_from(value).map_err(|_| E::invalid_value(Unexpected::Signed(value), allowed))
}

/// A duration from `MIN` to `MAX` milliseconds: whole seconds, or a text such as `300ms`, `30m`, `1h30m`,
/// `1.5h`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct DurationIn<const MIN: u64, const MAX: u64>(Duration);

impl<const MIN: u64, const MAX: u64> DurationIn<MIN, MAX> {
    /// Makes a duration of `seconds` at compile time.
    pub(crate) const fn seconds(seconds: u64) -> Self {
        Self::milliseconds(seconds * SECOND)
    }

    /// Makes a duration of `milliseconds` at compile time.
    pub(crate) const fn milliseconds(milliseconds: u64) -> Self {
        assert!(MIN <= milliseconds && milliseconds <= MAX, "a default lies within its range");
        Self(Duration::from_millis(milliseconds))
    }

    /// Returns the duration.
    pub(crate) fn duration(self) -> Duration {
        self.0
    }

    /// Returns whole seconds, rounded down, as they are sent to clients.
    pub(crate) fn as_seconds(self) -> u32 {
        u32::try_from(self.0.as_secs()).unwrap_or(u32::MAX)
    }

    fn within(duration: Duration) -> Option<Self> {
        let range = Duration::from_millis(MIN)..=Duration::from_millis(MAX);
        range.contains(&duration).then_some(Self(duration))
    }
}

impl<const MIN: u64, const MAX: u64> fmt::Display for DurationIn<MIN, MAX> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&duration_text(self.0))
    }
}

impl<const MIN: u64, const MAX: u64> Serialize for DurationIn<MIN, MAX> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.0.subsec_nanos() {
            0 => serializer.serialize_u64(self.0.as_secs()),
            _ => serializer.serialize_str(&duration_text(self.0)),
        }
    }
}

impl<'de, const MIN: u64, const MAX: u64> Deserialize<'de> for DurationIn<MIN, MAX> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct DurationVisitor<const MIN: u64, const MAX: u64>;
        impl<const MIN: u64, const MAX: u64> Visitor<'_> for DurationVisitor<MIN, MAX> {
            type Value = DurationIn<MIN, MAX>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                let [min, max] = [MIN, MAX].map(|ms| duration_text(Duration::from_millis(ms)));
                write!(f, "a duration from {min} to {max}, in seconds or as text with h, m, s, ms")
            }

            fn visit_u64<E: Error>(self, value: u64) -> Result<Self::Value, E> {
                DurationIn::within(Duration::from_secs(value))
                    .ok_or_else(|| E::invalid_value(Unexpected::Unsigned(value), &self))
            }

            fn visit_i64<E: Error>(self, value: i64) -> Result<Self::Value, E> {
                let value = not_negative(value, &self)?;
                self.visit_u64(value)
            }

            fn visit_str<E: Error>(self, text: &str) -> Result<Self::Value, E> {
                let duration = parse_duration(text).and_then(DurationIn::within);
                duration.ok_or_else(|| E::invalid_value(Unexpected::Str(text), &self))
            }
        }
        deserializer.deserialize_any(DurationVisitor)
    }
}

impl<const MIN: u64, const MAX: u64> JsonSchema for DurationIn<MIN, MAX> {
    fn schema_name() -> Cow<'static, str> {
        format!("Pause{MIN}To{MAX}").into()
    }

    fn inline_schema() -> bool {
        true
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "anyOf": [
            { "type": "integer", "minimum": MIN.div_ceil(SECOND), "maximum": MAX / SECOND },
            { "type": "string", "pattern": r"^([0-9]+(\.[0-9]+)?(h|ms|m|s))+$" },
        ] })
    }
}

/// Reads `300ms`, `30m`, `1h30m`, `1.5h`; `None` if the text has another form.
pub(crate) fn parse_duration(text: &str) -> Option<Duration> {
    let mut rest = text;
    let mut total: u128 = 0;
    while !rest.is_empty() {
        let number_end = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let (number, tail) = rest.split_at_checked(number_end)?;
        let unit_end = tail.find(|c: char| !c.is_ascii_alphabetic()).unwrap_or(tail.len());
        let (unit, tail) = tail.split_at_checked(unit_end)?;
        let nanoseconds = TIME_UNITS.iter().find(|(name, _)| *name == unit)?.1;
        total = total.checked_add(scale_decimal(number, nanoseconds)?)?;
        rest = tail;
    }
    let seconds = u64::try_from(total / 1_000_000_000).ok()?;
    let nanoseconds = u32::try_from(total % 1_000_000_000).ok()?;
    (!text.is_empty()).then(|| Duration::new(seconds, nanoseconds))
}

/// Returns a decimal number with at most nine digits after the point, times `factor`, rounded down.
fn scale_decimal(number: &str, factor: u64) -> Option<u128> {
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    let (whole, fraction) = number.split_once('.').unwrap_or((number, "0"));
    if !digits(whole) || !digits(fraction) || fraction.len() > 9 {
        return None;
    }
    let factor = u128::from(factor);
    let places = u32::try_from(fraction.len()).ok()?;
    let whole = u128::from(whole.parse::<u64>().ok()?).checked_mul(factor)?;
    Some(whole + u128::from(fraction.parse::<u64>().ok()?) * factor / 10_u128.pow(places))
}

/// Returns a duration as it is written in the configuration: `2h`, `90s`, `300ms`.
pub(crate) fn duration_text(duration: Duration) -> String {
    let nanoseconds = duration.as_nanos();
    let unit =
        TIME_UNITS.iter().find(|(_, unit)| nanoseconds != 0 && nanoseconds.is_multiple_of(u128::from(*unit)));
    match unit {
        Some((name, unit)) => format!("{}{name}", nanoseconds / u128::from(*unit)),
        None if nanoseconds == 0 => "0s".into(),
        None => format!("{}ms", format_args!("{:.6}", duration.as_secs_f64() * 1e3)),
    }
}

/// Octets from `MIN` to `MAX`: an integer, or a text such as `512MiB`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SizeIn<const MIN: u64, const MAX: u64>(u64);

impl<const MIN: u64, const MAX: u64> SizeIn<MIN, MAX> {
    /// Makes a size of `octets` at compile time.
    pub(crate) const fn new(octets: u64) -> Self {
        assert!(MIN <= octets && octets <= MAX, "a default lies within its range");
        Self(octets)
    }

    /// Returns a size of `octets`, if that is within the range.
    pub(crate) fn within(octets: u64) -> Option<Self> {
        (MIN..=MAX).contains(&octets).then_some(Self(octets))
    }

    /// Returns the size in octets.
    pub(crate) fn octets(self) -> u64 {
        self.0
    }

    /// Returns the size in octets.
    pub(crate) fn as_usize(self) -> usize {
        usize::try_from(self.0).unwrap_or(usize::MAX)
    }
}

impl<const MIN: u64, const MAX: u64> fmt::Display for SizeIn<MIN, MAX> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&size_text(self.0))
    }
}

impl<const MIN: u64, const MAX: u64> Serialize for SizeIn<MIN, MAX> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match size_text(self.0) {
            text if text.ends_with('B') => serializer.serialize_str(&text),
            _ => serializer.serialize_u64(self.0),
        }
    }
}

impl<'de, const MIN: u64, const MAX: u64> Deserialize<'de> for SizeIn<MIN, MAX> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct SizeVisitor<const MIN: u64, const MAX: u64>;
        impl<const MIN: u64, const MAX: u64> Visitor<'_> for SizeVisitor<MIN, MAX> {
            type Value = SizeIn<MIN, MAX>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                let [min, max] = [MIN, MAX].map(size_text);
                write!(f, "a size from {min} to {max}, in octets or as text with KiB, MiB, GiB, TiB")
            }

            fn visit_u64<E: Error>(self, value: u64) -> Result<Self::Value, E> {
                let within = (MIN..=MAX).contains(&value).then_some(SizeIn(value));
                within.ok_or_else(|| E::invalid_value(Unexpected::Unsigned(value), &self))
            }

            fn visit_i64<E: Error>(self, value: i64) -> Result<Self::Value, E> {
                let value = not_negative(value, &self)?;
                self.visit_u64(value)
            }

            fn visit_str<E: Error>(self, text: &str) -> Result<Self::Value, E> {
                let size = parse_size(text).filter(|octets| (MIN..=MAX).contains(octets));
                size.map(SizeIn).ok_or_else(|| E::invalid_value(Unexpected::Str(text), &self))
            }
        }
        deserializer.deserialize_any(SizeVisitor)
    }
}

impl<const MIN: u64, const MAX: u64> JsonSchema for SizeIn<MIN, MAX> {
    fn schema_name() -> Cow<'static, str> {
        format!("Size{MIN}To{MAX}").into()
    }

    fn inline_schema() -> bool {
        true
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "anyOf": [
            { "type": "integer", "minimum": MIN, "maximum": MAX },
            { "type": "string", "pattern": "^[0-9]+(KiB|MiB|GiB|TiB)?$" },
        ] })
    }
}

/// Reads `512MiB` or `4096`; `None` if the text has another form.
pub(crate) fn parse_size(text: &str) -> Option<u64> {
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at_checked(digits)?;
    let factor = match unit {
        "" => 1,
        _ => SIZE_UNITS.iter().find(|(name, _)| *name == unit)?.1,
    };
    number.parse::<u64>().ok()?.checked_mul(factor)
}

/// Returns octets as they are written in the configuration: `8MiB`, `1500`.
fn size_text(octets: u64) -> String {
    match SIZE_UNITS.iter().find(|(_, unit)| octets != 0 && octets.is_multiple_of(*unit)) {
        Some((name, unit)) => format!("{}{name}", octets / unit),
        None => octets.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_read_as_people_write_them() {
        for (text, milliseconds) in [
            ("300ms", 300),
            ("30m", 1_800_000),
            ("1h30m", 5_400_000),
            ("1.5h", 5_400_000),
            ("0s", 0),
            ("7s11ms", 7011),
            ("0.25s", 250),
        ] {
            assert_eq!(parse_duration(text), Some(Duration::from_millis(milliseconds)), "{text}");
        }
    }

    #[test]
    fn what_is_no_duration_is_none() {
        let huge = "9".repeat(30) + "h";
        for text in [
            "",
            "5",
            "m",
            "-5s",
            "5 s",
            "5d",
            "1.s",
            ".5s",
            "1..5s",
            "5sm",
            "é",
            "1e3s",
            "5S",
            &huge,
            "1.0000000001s",
        ] {
            assert_eq!(parse_duration(text), None, "{text}");
        }
    }

    #[test]
    fn durations_are_written_as_they_can_be_read_again() {
        for text in ["2h", "90m", "61s", "300ms", "1500ms"] {
            assert_eq!(duration_text(parse_duration(text).unwrap()), text);
        }
        assert_eq!(duration_text(Duration::ZERO), "0s");
    }

    #[test]
    fn sizes_are_read_in_octets_or_with_a_unit() {
        for (text, octets) in
            [("0", 0), ("1500", 1500), ("7KiB", 7168), ("512MiB", 512 << 20), ("3TiB", 3 << 40)]
        {
            assert_eq!(parse_size(text), Some(octets), "{text}");
            assert_eq!(size_text(octets), text);
        }
        for text in
            ["", "MiB", "1.5MiB", "1MB", "-1", "1 MiB", "99999999999999999999", "99999999999999TiB", "é"]
        {
            assert_eq!(parse_size(text), None, "{text}");
        }
    }

    fn complaint<T: serde::de::DeserializeOwned + fmt::Debug>(json: &str) -> String {
        let value: serde_json::Value = serde_json::from_str(json).unwrap();
        serde_json::from_value::<T>(value).unwrap_err().to_string()
    }

    #[test]
    fn a_number_out_of_range_says_what_is_allowed() {
        let allowed = "expected an integer from 1 to 7";
        assert_eq!(complaint::<IntIn<1, 7>>("-1"), format!("invalid value: integer `-1`, {allowed}"));
        assert_eq!(complaint::<IntIn<1, 7>>("8"), format!("invalid value: integer `8`, {allowed}"));
        assert_eq!(complaint::<IntIn<1, 7>>("1.5"), format!("invalid type: floating point `1.5`, {allowed}"));
        assert_eq!(complaint::<IntIn<1, 7>>("\"3\""), format!("invalid type: string \"3\", {allowed}"));
        assert_eq!(
            complaint::<IntIn<1, 7>>("1e30"),
            format!("invalid type: floating point `1e+30`, {allowed}")
        );
    }

    #[test]
    fn a_duration_out_of_range_says_what_is_allowed() {
        type Setting = DurationIn<300, { 2 * HOUR }>;
        let allowed = "expected a duration from 300ms to 2h, in seconds or as text with h, m, s, ms";
        assert_eq!(complaint::<Setting>("0"), format!("invalid value: integer `0`, {allowed}"));
        assert_eq!(complaint::<Setting>("7201"), format!("invalid value: integer `7201`, {allowed}"));
        assert_eq!(complaint::<Setting>("\"2h1ms\""), format!("invalid value: string \"2h1ms\", {allowed}"));
        assert_eq!(complaint::<Setting>("true"), format!("invalid type: boolean `true`, {allowed}"));
        assert_eq!(complaint::<Setting>("-3"), format!("invalid value: integer `-3`, {allowed}"));
    }

    #[test]
    fn a_size_out_of_range_says_what_is_allowed() {
        type Setting = SizeIn<{ 4 * KIB }, MIB>;
        let allowed = "expected a size from 4KiB to 1MiB, in octets or as text with KiB, MiB, GiB, TiB";
        assert_eq!(complaint::<Setting>("17"), format!("invalid value: integer `17`, {allowed}"));
        assert_eq!(complaint::<Setting>("\"2MiB\""), format!("invalid value: string \"2MiB\", {allowed}"));
        assert_eq!(complaint::<Setting>("[]"), format!("invalid type: sequence, {allowed}"));
    }
}
