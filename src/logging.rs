//! The log: lines on stderr, for people or as JSON. Nothing is logged per request above debug, and never a
//! secret.

use std::io::{IsTerminal, Write};

use env_logger::fmt::Formatter;
use env_logger::{Builder, Target, WriteStyle};
use log::{LevelFilter, Record};

use crate::cli::Look;
use crate::config::document::{Log, LogFormat, LogLevel};

/// The variable that wins over the configured level: `info`, `debug,hayate_udp=trace`.
const FILTER: &str = "RUST_LOG";

/// Starts the log: the command line wins over the environment, that over the configuration.
pub(crate) fn start(look: &Look, log: &Log) {
    let mut builder = Builder::new();
    match std::env::var(FILTER) {
        _ if look.debug => builder.filter_level(LevelFilter::Debug),
        Ok(filters) if !filters.is_empty() => builder.parse_filters(&filters),
        _ => builder.filter_level(level(log.level)),
    };
    builder.target(Target::Stderr);
    match format(look).unwrap_or(log.format) {
        LogFormat::Json => builder.write_style(WriteStyle::Never).format(json_line),
        LogFormat::Text => builder.write_style(style(look)).format(text_line),
    };
    // A second start, in tests, keeps the first log.
    let _ = builder.try_init();
}

/// The last words of a command that failed: a line of the log if there is one, or else the plain text on
/// stderr.
pub(crate) fn complain(look: &Look, text: &str) {
    let text = text.replace('\n', " ");
    if format(look) == Some(LogFormat::Json) {
        start(look, &Log::default());
    }
    // No filter of RUST_LOG may hide why the process ends.
    if log::log_enabled!(log::Level::Error) {
        log::error!("{text}");
    } else {
        // Where stderr is closed nobody can be told.
        let _ = writeln!(std::io::stderr(), "{text}");
    }
}

fn format(look: &Look) -> Option<LogFormat> {
    if look.json { Some(LogFormat::Json) } else { look.log_format }
}

fn style(look: &Look) -> WriteStyle {
    let plain = look.nocolors || !std::io::stderr().is_terminal();
    if plain { WriteStyle::Never } else { WriteStyle::Auto }
}

fn level(level: LogLevel) -> LevelFilter {
    match level {
        LogLevel::Error => LevelFilter::Error,
        LogLevel::Warn => LevelFilter::Warn,
        LogLevel::Info => LevelFilter::Info,
        LogLevel::Debug => LevelFilter::Debug,
        LogLevel::Trace => LevelFilter::Trace,
    }
}

fn text_line(out: &mut Formatter, record: &Record<'_>) -> std::io::Result<()> {
    let style = out.default_level_style(record.level());
    let (time, level) = (out.timestamp_millis(), record.level());
    writeln!(out, "{time} {style}{level:<5}{style:#} {}", record.args())
}

fn json_line(out: &mut Formatter, record: &Record<'_>) -> std::io::Result<()> {
    let time = out.timestamp_millis().to_string();
    writeln!(out, "{}", json(&time, record))
}

fn json(time: &str, record: &Record<'_>) -> serde_json::Value {
    let level = record.level().as_str().to_ascii_lowercase();
    serde_json::json!({ "time": time, "level": level, "msg": record.args().to_string() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_json_line_holds_time_level_and_message() {
        let args = format_args!("a \"quoted\"\nmessage");
        let record = Record::builder().args(args).level(log::Level::Warn).build();
        let line = json("2026-01-02T03:04:05.006Z", &record).to_string();
        assert_eq!(
            line,
            r#"{"time":"2026-01-02T03:04:05.006Z","level":"warn","msg":"a \"quoted\"\nmessage"}"#
        );
    }

    #[test]
    fn json_wins_over_a_named_format() {
        let look = Look { json: true, log_format: Some(LogFormat::Text), ..Look::default() };
        assert_eq!(format(&look), Some(LogFormat::Json));
        assert_eq!(format(&Look::default()), None);
    }
}
