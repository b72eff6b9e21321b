//! The log: lines on stderr, for people or as JSON. Nothing is logged per request above debug, and never a
//! secret.

use std::backtrace::{Backtrace, BacktraceStatus};
use std::ffi::OsString;
use std::io::{self, IsTerminal, Write};
use std::panic::{self, PanicHookInfo};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use env_logger::fmt::Formatter;
use env_logger::{Builder, Target, WriteStyle};
use log::{LevelFilter, Record};

use crate::commands::cli::OutputOptions;
use crate::config::document::{Log, LogFormat, LogLevel};
use crate::process::log_thread::{LogThread, LogWriter};

/// Longest time that the end of the process waits for a reader of stderr.
pub(crate) const FLUSH_MAX: Duration = Duration::from_millis(750);
/// The environment variable that wins over the configured level: `info`, `debug,hayate_udp=trace`.
const FILTER: &str = "RUST_LOG";

/// The log thread of a process that serves.
static LOG_THREAD: OnceLock<Arc<LogThread>> = OnceLock::new();

/// Starts the log of a command, which waits for the reader of its stderr. The command line wins over the
/// environment, which wins over the configuration.
pub(crate) fn start(output: &OutputOptions, log: &Log) {
    let mut builder = builder(output, log);
    builder.target(Target::Stderr);
    // A second start, in tests, keeps the first log.
    let _ = builder.try_init();
}

/// Starts the log of a process that serves: a thread of its own writes it, for which no other thread waits.
/// Panics are logged too.
///
/// # Errors
/// Fails when the thread cannot be started.
pub(crate) fn start_in_thread(output: &OutputOptions, log: &Log) -> io::Result<()> {
    let lines = LogThread::start(io::stderr())?;
    let mut builder = builder(output, log);
    if style(output) == WriteStyle::Auto && colours_allowed(|name| std::env::var_os(name)) {
        // It is a terminal, but env_logger sees a pipe, where it never uses colours by itself.
        builder.write_style(WriteStyle::Always);
    }
    builder.target(Target::Pipe(Box::new(LogWriter(Arc::clone(&lines)))));
    let _ = builder.try_init();
    // It is started once.
    let _ = LOG_THREAD.set(lines);
    panic::set_hook(Box::new(log_panic));
    Ok(())
}

/// Returns the log thread of this process, if it serves.
pub(crate) fn log_thread() -> Option<Arc<LogThread>> {
    LOG_THREAD.get().cloned()
}

/// Waits until the log is written, but not longer than [`FLUSH_MAX`].
pub(crate) fn finish() {
    if let Some(lines) = LOG_THREAD.get() {
        let _ = lines.finish(FLUSH_MAX);
    }
}

fn log_panic(info: &PanicHookInfo<'_>) {
    let thread = std::thread::current();
    let mut text = format!("thread {} {info}", thread.name().unwrap_or("without a name")).replace('\n', " ");
    let trace = Backtrace::capture();
    if trace.status() == BacktraceStatus::Captured {
        text = format!("{text}\n{trace}");
    }
    write_unfiltered(&text);
    // The panic may be the end of the process.
    finish();
}

/// Writes one line that no filter hides: in the form of the log, or plain.
fn write_unfiltered(text: &str) {
    if log::log_enabled!(log::Level::Error) {
        log::error!("{text}");
    } else if let Some(lines) = LOG_THREAD.get() {
        lines.push_line(format!("{text}\n").as_bytes());
    } else {
        // If stderr is closed, the line is lost.
        let _ = writeln!(io::stderr(), "{text}");
    }
}

fn builder(output: &OutputOptions, log: &Log) -> Builder {
    let mut builder = Builder::new();
    match std::env::var(FILTER) {
        _ if output.debug => builder.filter_level(LevelFilter::Debug),
        Ok(filters) if !filters.is_empty() => builder.parse_filters(&filters),
        _ => builder.filter_level(level(log.level)),
    };
    match format(output).unwrap_or(log.format) {
        LogFormat::Json => builder.write_style(WriteStyle::Never).format(json_line),
        LogFormat::Text => builder.write_style(style(output)).format(text_line),
    };
    builder
}

/// Reports the error of a command that failed: as a line of the log if there is one, otherwise as plain text
/// on stderr.
pub(crate) fn report_error(output: &OutputOptions, text: &str) {
    let text = text.replace('\n', " ");
    if format(output) == Some(LogFormat::Json) {
        start(output, &Log::default());
    }
    write_unfiltered(&text);
}

fn format(output: &OutputOptions) -> Option<LogFormat> {
    if output.json { Some(LogFormat::Json) } else { output.log_format }
}

/// Whether nothing in the environment forbids colours on a terminal.
fn colours_allowed(variable: impl Fn(&str) -> Option<OsString>) -> bool {
    let is_set = |name| variable(name).is_some_and(|value| !value.is_empty());
    !is_set("NO_COLOR") && variable("TERM").is_some_and(|term| term != "dumb")
}

fn style(output: &OutputOptions) -> WriteStyle {
    let plain = output.nocolors || !io::stderr().is_terminal();
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

fn text_line(out: &mut Formatter, record: &Record<'_>) -> io::Result<()> {
    let style = out.default_level_style(record.level());
    let (time, level) = (out.timestamp_millis(), record.level());
    writeln!(out, "{time} {style}{level:<5}{style:#} {}", record.args())
}

fn json_line(out: &mut Formatter, record: &Record<'_>) -> io::Result<()> {
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
    fn the_environment_may_speak_against_colours() {
        let with = |known: &[(&str, &str)]| {
            colours_allowed(|name| {
                known.iter().find(|(known, _)| *known == name).map(|(_, value)| value.into())
            })
        };
        assert!(with(&[("TERM", "xterm")]) && with(&[("TERM", "xterm"), ("NO_COLOR", "")]));
        assert!(!with(&[]) && !with(&[("TERM", "dumb")]) && !with(&[("TERM", "xterm"), ("NO_COLOR", "1")]));
    }

    #[test]
    fn json_wins_over_a_named_format() {
        let output =
            OutputOptions { json: true, log_format: Some(LogFormat::Text), ..OutputOptions::default() };
        assert_eq!(format(&output), Some(LogFormat::Json));
        assert_eq!(format(&OutputOptions::default()), None);
    }
}
