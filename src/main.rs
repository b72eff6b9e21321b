//! hayate, the daemon: command line, configuration, signals, start and stop. It wires the rooms together and
//! decides nothing about announces.
//!
//! | module | what is in it |
//! |---|---|
//! | [`cli`] | the command line |
//! | [`config`] | `tracker.json`: every knob, its checks, its translation for the rooms |
//! | [`commands`] | the commands that do not serve |
//! | [`import`] | configurations and lists of other trackers |
//! | [`run`] | start, serve, stop |
//! | [`reload`] | a new configuration for a running daemon, or a refusal |
//! | [`signals`] | reload, orderly stop, stop at once |
//! | [`storage`] | what lasts: store, snapshot, and their threads |
//! | [`registered`] | the registered torrents, read again and again |
//! | [`desk`] | questions and changes over HTTP, and the commands that ask there |
//! | [`site`] | users, torrents, clients of a site: commands |
//! | [`handover`] | a successor takes over while the tracker serves |
//! | [`lock`] | one tracker in a folder |
//! | [`vitals`] | whether the process serves, and its own numbers |
//! | [`key`] | the generated key of the connection ids |
//! | [`privileges`] | another user |
//! | [`ownership`] | whether that user may use what is in `state_dir` |
//! | [`files`] | the limit of open files |
//! | [`systemd`] | what systemd is told |
//! | [`logging`] | lines of text or JSON on stderr |
//! | [`log_thread`] | writes them while the tracker serves, so that nobody else waits for stderr |
//!
//! Absent on purpose: anything about the wire, swarms, or who may announce.

mod cli;
mod commands;
mod config;
mod desk;
mod files;
mod handover;
mod import;
mod key;
mod keyrings;
mod listeners;
mod lock;
mod log_thread;
mod logging;
mod memory;
mod ownership;
mod privileges;
mod registered;
mod reload;
mod run;
mod signals;
mod site;
mod storage;
mod systemd;
mod vitals;

use std::process::ExitCode;

use clap::Parser;

fn main() -> ExitCode {
    let line = cli::Line::parse();
    let code = match commands::obey(&line) {
        Ok(code) => code,
        Err(error) => {
            logging::complain(&line.look, &words(&error));
            ExitCode::FAILURE
        }
    };
    logging::finish();
    code
}

/// The error and its causes, each said once: some errors name their cause themselves.
fn words(error: &anyhow::Error) -> String {
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
        assert_eq!(words(&error), "failed to read config: t.json: no file");
    }
}
