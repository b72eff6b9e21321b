//! `hayate-bencode`: bencode to JSON and back. See `hayate_tools::bencode_json`.

use std::io::{self, BufWriter, Write};
use std::process::ExitCode;

use hayate_tools::bencode_json::{ConvertError, run};

fn main() -> ExitCode {
    let args: Vec<String> =
        std::env::args_os().skip(1).map(|arg| arg.to_string_lossy().into_owned()).collect();
    let mut output = BufWriter::new(io::stdout().lock());
    let result = run(&args, io::stdin().lock(), &mut output).and_then(|()| Ok(output.flush()?));
    match result {
        Ok(()) => ExitCode::SUCCESS,
        // The reader of the pipe has ended, as `head` does.
        Err(ConvertError::Io(error)) if error.kind() == io::ErrorKind::BrokenPipe => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("hayate-bencode: {error}");
            ExitCode::FAILURE
        }
    }
}
