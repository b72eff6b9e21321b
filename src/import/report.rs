//! The report of an import: one line for each key, and whether anything needs the operator's attention.

use std::fmt;

use serde_json::{Map, Value};

/// What became of a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// It means the same as before.
    Mapped,
    /// It exists, but means something else.
    Changed,
    /// It does not exist any more.
    Dropped,
}

/// One line. Its reason never holds a secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct ReportLine {
    verdict: Verdict,
    key: String,
    reason: String,
}

/// The new configuration as it grows, and the report about it.
#[derive(Debug, Default)]
pub(super) struct Draft {
    tree: Map<String, Value>,
    lines: Vec<ReportLine>,
}

/// A key of the old configuration that cannot be converted; the text is the reason.
#[derive(Debug, thiserror::Error)]
#[error("{key}: {text}")]
pub(super) struct ImportError {
    pub(super) key: String,
    pub(super) text: String,
}

impl ImportError {
    pub(super) fn new(key: impl Into<String>, text: impl Into<String>) -> Self {
        Self { key: key.into(), text: text.into() }
    }
}

impl fmt::Display for ReportLine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let verdict = match self.verdict {
            Verdict::Mapped => "mapped",
            Verdict::Changed => "changed",
            Verdict::Dropped => "dropped",
        };
        write!(f, "{verdict} {}: {}", self.key, self.reason)
    }
}

impl Draft {
    /// Sets a key, `http.timeout.read`.
    pub(super) fn put(&mut self, key: &str, value: impl Into<Value>) {
        let mut names: Vec<&str> = key.split('.').collect();
        let last = names.pop().unwrap_or_default();
        let mut block = &mut self.tree;
        for name in names {
            let entry = block.entry(name).or_insert_with(|| Value::Object(Map::new()));
            // The keys `a.b` and `a` are never both put by this program, unless `a` is a block.
            let Value::Object(inner) = entry else { return };
            block = inner;
        }
        block.insert(last.to_owned(), value.into());
    }

    /// Reports that a key means the same as before.
    pub(super) fn mapped(&mut self, key: impl Into<String>, reason: impl Into<String>) {
        self.push_line(Verdict::Mapped, key, reason);
    }

    /// Reports that a key means something else now.
    pub(super) fn changed(&mut self, key: impl Into<String>, reason: impl Into<String>) {
        self.push_line(Verdict::Changed, key, reason);
    }

    /// Reports that a key is left out.
    pub(super) fn dropped(&mut self, key: impl Into<String>, reason: impl Into<String>) {
        self.push_line(Verdict::Dropped, key, reason);
    }

    /// Reports a key as changed, with these notes, or as mapped if there are none.
    pub(super) fn report_converted(&mut self, key: String, value: &str, notes: &[String]) {
        let verdict = if notes.is_empty() { Verdict::Mapped } else { Verdict::Changed };
        let notes: String = notes.iter().map(|note| format!("; {note}")).collect();
        self.push_line(verdict, key, format!("{value}{notes}"));
    }

    fn push_line(&mut self, verdict: Verdict, key: impl Into<String>, reason: impl Into<String>) {
        // A key with a line break must not look like a second line.
        let one_line = |text: String| text.replace(char::is_control, " ");
        self.lines.push(ReportLine { verdict, key: one_line(key.into()), reason: one_line(reason.into()) });
    }

    /// Returns the configuration.
    pub(super) fn tree(&self) -> Value {
        Value::Object(self.tree.clone())
    }

    /// Returns the report.
    pub(super) fn lines(&self) -> &[ReportLine] {
        &self.lines
    }

    /// Whether something needs attention.
    pub(super) fn needs_attention(&self) -> bool {
        self.lines.iter().any(|line| line.verdict != Verdict::Mapped)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn keys_are_put_into_their_blocks() {
        let mut draft = Draft::default();
        draft.put("http.timeout.read", "7s");
        draft.put("http.addr", ":11");
        draft.put("mode", "open");
        assert_eq!(draft.tree(), json!({"http": {"timeout": {"read": "7s"}, "addr": ":11"}, "mode": "open"}));
    }

    #[test]
    fn only_what_is_mapped_is_nothing_to_look_at() {
        let mut draft = Draft::default();
        draft.mapped("a", "same");
        assert!(!draft.needs_attention());
        draft.dropped("b\nmapped c", "gone");
        assert!(draft.needs_attention());
        let lines: Vec<String> = draft.lines().iter().map(ToString::to_string).collect();
        assert_eq!(lines, ["mapped a: same", "dropped b mapped c: gone"]);
    }
}
