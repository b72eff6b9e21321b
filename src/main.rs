//! hayate, the daemon: command line, configuration, signals, start and stop. It wires the crates together and
//! decides nothing about announces.
//!
//! | module | what is in it |
//! |---|---|
//! | [`commands`] | the command line, and what each command does, except serving |
//! | [`config`] | `tracker.json`: every setting, its checks, its translation for the crates |
//! | [`import`] | configurations and lists of other trackers |
//! | [`daemon`] | start, serve, reload, upgrade, stop |
//! | [`admin`] | the admin API: queries and changes over HTTP |
//! | [`process`] | what belongs to the process: lock, privileges, log, limits, key |
//!
//! Absent on purpose: anything about the wire, swarms, or who may announce.

mod admin;
mod commands;
mod config;
mod daemon;
mod import;
mod process;

use std::process::ExitCode;

use clap::Parser;

fn main() -> ExitCode {
    let line = commands::cli::CommandLine::parse();
    let code = match commands::run(&line) {
        Ok(code) => code,
        Err(error) => {
            process::logging::report_error(&line.output, &error_text(&error));
            ExitCode::FAILURE
        }
    };
    process::logging::finish();
    code
}

/// Returns the texts of the error and its causes, each once: some errors name their cause themselves.
fn error_text(error: &anyhow::Error) -> String {
    let mut words = String::new();
    for cause in error.chain().map(ToString::to_string) {
        if !words.contains(&cause) {
            words += if words.is_empty() { "" } else { ": " };
            words += &cause;
        }
    }
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cause_is_said_once() {
        let error = anyhow::anyhow!("no file").context("t.json: no file").context("failed to read config");
        assert_eq!(error_text(&error), "failed to read config: t.json: no file");
    }
}
