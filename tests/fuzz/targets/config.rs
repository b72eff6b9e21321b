//! Any text as a configuration, JSON or YAML: no panic, and an error is one line that names the file.
#![no_main]
#![allow(dead_code, unused_imports, reason = "the daemon uses the rest")]

#[path = "../../../src/config/mod.rs"]
mod config;
#[path = "../../../src/process/malloc_trim.rs"]
mod malloc_trim;
#[path = "../../../src/process/privileges.rs"]
mod privileges;

mod process {
    pub(crate) use super::{malloc_trim, privileges};
}

use config::{Environment, Source};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    let Some((&kind, text)) = input.split_first() else { return };
    let ending = if kind & 1 == 0 { "json" } else { "yaml" };
    let path = std::env::temp_dir().join(format!("hayate-fuzz-{}.{ending}", std::process::id()));
    std::fs::write(&path, text).expect("a file in the folder for temporary files");
    let none = std::iter::empty::<(std::ffi::OsString, std::ffi::OsString)>();
    let environment = Environment::from_variables(none).expect("no variables");
    let source = Source::new(path.to_str(), environment).expect("no variable in the name");
    if let Err(error) = source.read_config() {
        let text = error.to_string();
        assert!(!text.is_empty() && text.contains("hayate-fuzz"), "{text}");
    }
});
