//! `hayate-bencode`: bencode to JSON and back. See `hayate_tools::bencode_json`.

use std::io::{self, BufWriter, Write};
use std::process::ExitCode;

use hayate_tools::bencode_json::{ConvertError, run};

fn main() -> ExitCode {
    let words: Vec<String> =
        std::env::args_os().skip(1).map(|word| word.to_string_lossy().into_owned()).collect();
    let mut output = BufWriter::new(io::stdout().lock());
    let done = run(&words, io::stdin().lock(), &mut output).and_then(|()| Ok(output.flush()?));
    match done {
        Ok(()) => ExitCode::SUCCESS,
        // The reader has gone, as in a pipe to `head`.
        Err(ConvertError::Io(error)) if error.kind() == io::ErrorKind::BrokenPipe => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("hayate-bencode: {error}");
            ExitCode::FAILURE
        }
    }
}
