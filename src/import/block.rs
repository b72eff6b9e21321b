//! A block of the reference tracker's YAML. The known keys are taken from it one by one, each with its type;
//! what is left at the end is unknown.

use super::report::{Draft, ImportError};
use super::yaml::Node;

/// A number without unit below this is taken as seconds, from this on as nanoseconds.
const BARE_NANOSECONDS: i128 = 1_000_000_000;
/// The longest duration that is read, in nanoseconds: what 63 bits hold, as in the reference.
const NANOSECONDS_MAX: i128 = i64::MAX as i128;
const UNITS: [(&str, i128); 8] = [
    ("ns", 1),
    ("us", 1_000),
    ("\u{b5}s", 1_000),
    ("\u{3bc}s", 1_000),
    ("ms", 1_000_000),
    ("s", 1_000_000_000),
    ("m", 60_000_000_000),
    ("h", 3_600_000_000_000),
];

/// A block of keys.
#[derive(Debug)]
pub(super) struct Block {
    /// Its own key; empty for the outermost one.
    key: String,
    entries: Vec<(String, Node)>,
}

/// A duration.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct GivenDuration {
    pub(super) nanoseconds: i128,
    /// Whether it was a number without a unit.
    pub(super) bare: bool,
}

impl Block {
    /// Makes a block of the node at `key`; a null is an empty block.
    pub(super) fn new(key: impl Into<String>, node: Option<Node>) -> Result<Self, ImportError> {
        let key = key.into();
        match node {
            None => Ok(Self { key, entries: Vec::new() }),
            Some(Node::Block(entries)) => Ok(Self { key, entries }),
            Some(node) if node.is_null() => Ok(Self { key, entries: Vec::new() }),
            Some(_) => Err(ImportError::new(key, "a block of keys is expected")),
        }
    }

    /// Returns the full name of a key in this block.
    pub(super) fn key(&self, name: &str) -> String {
        if self.key.is_empty() { name.to_owned() } else { format!("{}.{name}", self.key) }
    }

    /// Takes a value out; `None` if it is absent or null.
    pub(super) fn take(&mut self, name: &str) -> Option<Node> {
        let at = self.entries.iter().position(|(known, _)| known == name)?;
        Some(self.entries.remove(at).1).filter(|node| !node.is_null())
    }

    /// Takes a block out; an absent one is empty.
    pub(super) fn block(&mut self, name: &str) -> Result<Self, ImportError> {
        Self::new(self.key(name), self.take(name))
    }

    /// Takes a list out; an absent one is empty.
    pub(super) fn list(&mut self, name: &str) -> Result<Vec<Node>, ImportError> {
        match self.take(name) {
            None => Ok(Vec::new()),
            Some(Node::List(list)) => Ok(list),
            Some(_) => Err(ImportError::new(self.key(name), "a list is expected")),
        }
    }

    /// Takes out a list of words, each as it was written.
    pub(super) fn texts(&mut self, name: &str) -> Result<Vec<String>, ImportError> {
        let key = self.key(name);
        let text = |(index, node)| match node {
            Node::Scalar { text, .. } => Ok(text),
            _ => Err(ImportError::new(format!("{key}[{index}]"), "a word is expected")),
        };
        self.list(name)?.into_iter().enumerate().map(text).collect()
    }

    /// Takes out a word as it was written, and whether it was without quotes.
    fn word(&mut self, name: &str, expected: &str) -> Result<Option<String>, ImportError> {
        match self.take(name) {
            None => Ok(None),
            Some(Node::Scalar { text, .. }) => Ok(Some(text)),
            Some(_) => Err(ImportError::new(self.key(name), format!("{expected} is expected"))),
        }
    }

    /// Takes a text out; an absent one is empty.
    pub(super) fn text(&mut self, name: &str) -> Result<String, ImportError> {
        self.word(name, "a text").map(Option::unwrap_or_default)
    }

    /// Takes out a word and returns what `read` makes of it.
    fn value<T>(
        &mut self,
        name: &str,
        expected: &str,
        read: impl Fn(&str) -> Option<T>,
    ) -> Result<Option<T>, ImportError> {
        let Some(word) = self.word(name, expected)? else { return Ok(None) };
        let wrong = || ImportError::new(self.key(name), format!("{word:?} is there, {expected} is expected"));
        read(&word).map(Some).ok_or_else(wrong)
    }

    /// Takes a switch out, as YAML 1.1 spells it.
    pub(super) fn switch(&mut self, name: &str) -> Result<Option<bool>, ImportError> {
        self.value(name, "yes or no", parse_switch)
    }

    /// Takes an integer out.
    pub(super) fn int(&mut self, name: &str) -> Result<Option<i128>, ImportError> {
        self.value(name, "an integer", parse_yaml_int)
    }

    /// Takes a number out.
    pub(super) fn number(&mut self, name: &str) -> Result<Option<f64>, ImportError> {
        self.value(name, "a number", |text| text.parse().ok().filter(|number: &f64| number.is_finite()))
    }

    /// Takes a duration out.
    pub(super) fn duration(&mut self, name: &str) -> Result<Option<GivenDuration>, ImportError> {
        self.value(name, "a duration such as 30m", parse_go_duration)
    }

    /// Reports those of these keys that are present: they have no counterpart.
    pub(super) fn drop_keys(&mut self, draft: &mut Draft, names: &[&str], reason: &str) {
        for name in names {
            let at = self.entries.iter().position(|(known, _)| known == name);
            if let Some(at) = at {
                self.entries.remove(at);
                draft.dropped(self.key(name), reason);
            }
        }
    }

    /// Reports the keys that were not taken.
    pub(super) fn finish(self, draft: &mut Draft) {
        for (name, _) in &self.entries {
            draft.dropped(self.key(name), "unknown key, which the reference tracker ignores");
        }
    }
}

fn parse_switch(text: &str) -> Option<bool> {
    match text {
        "y" | "Y" | "yes" | "Yes" | "YES" | "on" | "On" | "ON" | "true" | "True" | "TRUE" => Some(true),
        "n" | "N" | "no" | "No" | "NO" | "off" | "Off" | "OFF" | "false" | "False" | "FALSE" => Some(false),
        _ => None,
    }
}

/// Reads an integer of YAML 1.1: `1_000`, `0x1F`, `0b11`, `0o17`, `017`.
fn parse_yaml_int(text: &str) -> Option<i128> {
    let text = text.replace('_', "");
    let (negative, digits) = match text.strip_prefix('-') {
        Some(digits) => (true, digits),
        None => (false, text.strip_prefix('+').unwrap_or(&text)),
    };
    let forms = [("0x", 16), ("0b", 2), ("0o", 8), ("0", 8)];
    let form = forms.iter().find_map(|&(prefix, radix)| Some((digits.strip_prefix(prefix)?, radix)));
    let (digits, radix) = form.filter(|(digits, _)| !digits.is_empty()).unwrap_or((digits, 10));
    if !digits.chars().all(|c| c.is_digit(radix)) {
        return None;
    }
    let value = i128::from_str_radix(digits, radix).ok()?;
    Some(if negative { -value } else { value })
}

fn parse_go_duration(text: &str) -> Option<GivenDuration> {
    if let Some(number) = parse_yaml_int(text) {
        let unit = if number.abs() >= BARE_NANOSECONDS { 1 } else { BARE_NANOSECONDS };
        return Some(GivenDuration { nanoseconds: number * unit, bare: number != 0 })
            .filter(|given| given.nanoseconds.abs() <= NANOSECONDS_MAX);
    }
    let (negative, mut rest) = match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    };
    let mut total = 0;
    while !rest.is_empty() {
        let end = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let (number, tail) = rest.split_at_checked(end)?;
        let end = tail.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(tail.len());
        let (unit, tail) = tail.split_at_checked(end)?;
        let unit = UNITS.iter().find(|(name, _)| *name == unit)?.1;
        total += scale_decimal(number, unit)?;
        rest = tail;
    }
    let nanoseconds = if negative { -total } else { total };
    (!text.is_empty() && total <= NANOSECONDS_MAX).then_some(GivenDuration { nanoseconds, bare: false })
}

/// `1.5`, `.5`, `2.` or `3` times a unit, rounded down.
fn scale_decimal(number: &str, unit: i128) -> Option<i128> {
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if (whole.is_empty() && fraction.is_empty()) || fraction.contains('.') {
        return None;
    }
    let digits = |text: &str| if text.is_empty() { Some(0) } else { text.parse::<i64>().ok() };
    let fraction = fraction.get(..fraction.len().min(12))?;
    let places = u32::try_from(fraction.len()).ok()?;
    Some(i128::from(digits(whole)?) * unit + i128::from(digits(fraction)?) * unit / 10_i128.pow(places))
}

#[cfg(test)]
mod tests {
    use super::super::yaml::parse;
    use super::*;

    fn block(text: &str) -> Block {
        Block::new("", Some(parse(text).unwrap())).unwrap()
    }

    #[test]
    fn switches_are_those_of_yaml_1_1() {
        for (text, value) in [("yes", true), ("On", true), ("TRUE", true), ("no", false), ("off", false)] {
            assert_eq!(block(&format!("k: {text}")).switch("k").unwrap(), Some(value), "{text}");
        }
        let error = block("k: perhaps").switch("k").unwrap_err().to_string();
        assert_eq!(error, "k: \"perhaps\" is there, yes or no is expected");
        assert_eq!(block("k: ~").switch("k").unwrap(), None);
    }

    #[test]
    fn integers_are_those_of_yaml_1_1() {
        for (text, value) in [
            ("0", 0),
            ("-7", -7),
            ("+11", 11),
            ("1_000", 1000),
            ("0x1F", 31),
            ("0b11", 3),
            ("017", 15),
            ("0o17", 15),
        ] {
            assert_eq!(parse_yaml_int(text), Some(value), "{text}");
        }
        for text in ["", "-", "1.5", "seven", "0x", "08", "--1", "+-1", &"9".repeat(60)] {
            assert_eq!(parse_yaml_int(text), None, "{text}");
        }
    }

    #[test]
    fn durations_are_those_of_go_and_bare_numbers_are_guessed() {
        let second = 1_000_000_000;
        for (text, nanoseconds, bare) in [
            ("1h30m", 5400 * second, false),
            ("1.5s", 3 * second / 2, false),
            (".5s", second / 2, false),
            ("-7s", -7 * second, false),
            ("300ms", 300_000_000, false),
            ("11us", 11_000, false),
            ("13\u{b5}s", 13_000, false),
            ("0", 0, false),
            ("1800", 1800 * second, true),
            ("1800000000000", 1800 * second, true),
            ("1000000000", second, true),
        ] {
            assert_eq!(parse_go_duration(text), Some(GivenDuration { nanoseconds, bare }), "{text}");
        }
        for text in ["", "s", "5d", "1..5s", ".s", "5 s", "1h-5m", "999999999999h", "é", "9e9", "1s5"] {
            assert_eq!(parse_go_duration(text), None, "{text}");
        }
    }

    #[test]
    fn what_is_left_is_reported_by_its_full_name() {
        let mut outer = block("http: {addr: ':7', shiny: 1}\nshinier: 2\nold: 3\n");
        let (mut draft, mut http) = (Draft::default(), outer.block("http").unwrap());
        assert_eq!(http.text("addr").unwrap(), ":7");
        outer.drop_keys(&mut draft, &["old", "older"], "gone");
        http.finish(&mut draft);
        outer.finish(&mut draft);
        let lines: Vec<String> = draft.lines().iter().map(ToString::to_string).collect();
        let unknown = "unknown key, which the reference tracker ignores";
        let expected = [
            "dropped old: gone".to_owned(),
            format!("dropped http.shiny: {unknown}"),
            format!("dropped shinier: {unknown}"),
        ];
        assert_eq!(lines, expected);
    }

    #[test]
    fn wrong_kinds_name_the_key() {
        for (text, complaint) in [("k: [1]", "k: a text is expected"), ("k: {}", "k: a text is expected")] {
            assert_eq!(block(text).text("k").unwrap_err().to_string(), complaint);
        }
        assert_eq!(block("k: 7").block("k").unwrap_err().to_string(), "k: a block of keys is expected");
        assert_eq!(block("k: 7").list("k").unwrap_err().to_string(), "k: a list is expected");
        assert_eq!(block("k: [a, []]").texts("k").unwrap_err().to_string(), "k[1]: a word is expected");
    }
}
