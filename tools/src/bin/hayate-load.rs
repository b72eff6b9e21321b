//! `hayate-load`: loads any BitTorrent tracker and measures its replies. See `hayate_tools::load`.

use std::process::ExitCode;

use clap::Parser;
use hayate_tools::load::{Args, LoadError, run};

/// Exit code for no replies, or no way to measure them.
const FAILED: u8 = 1;
/// Exit code for options that make no sense, the same as that of clap.
const BAD_USAGE: u8 = 2;

fn main() -> ExitCode {
    let args = Args::parse();
    match run(&args) {
        Ok(report) => {
            print!("{report}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("hayate-load: {error}");
            ExitCode::from(if matches!(error, LoadError::Usage(_)) { BAD_USAGE } else { FAILED })
        }
    }
}
