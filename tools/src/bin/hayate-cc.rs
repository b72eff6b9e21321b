//! `hayate-cc`: dumps, restores, anonymizes and exports the cache. See `hayate_tools::cc`.

use std::io::{self, Write};
use std::path::Path;
use std::process::ExitCode;

use anyhow::Context;
use hayate_tools::cc::{CacheTool, system_random};

fn main() -> ExitCode {
    // An argument that is not UTF-8 is an unknown argument like any other.
    let args: Vec<String> =
        std::env::args_os().skip(1).map(|arg| arg.to_string_lossy().into_owned()).collect();
    match run(&args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("hayate-cc: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(args: &[String]) -> anyhow::Result<()> {
    let random = system_random().context("the system provides no random numbers")?;
    let mut tool = CacheTool { folder: Path::new("."), output: io::stdout(), notes: io::stderr(), random };
    tool.run(args)?;
    Ok(tool.output.flush()?)
}
