//! Configurations and lists of other trackers, made into hayate's.
//!
//! | module | what is in it |
//! |---|---|
//! | [`chihaya`], [`servers`], [`hooks`] | the YAML of chihaya, the open tracker |
//! | [`kuroneko`] | the `config.json` of the tracker of private sites |
//! | [`yaml`], [`block`], [`rule`] | how their values are read: as YAML 1.1 and Go understand them |
//! | [`report`] | the new configuration as it grows, and the line for each key |
//! | [`mod@lists`] | files of info_hashes |
//! | [`files`] | a file that is there as a whole or not at all |
//!
//! Nothing here decides what a configuration may hold: what comes out is read and checked as any other.

mod block;
mod chihaya;
mod files;
mod hooks;
mod kuroneko;
mod lists;
mod report;
mod rule;
mod servers;
#[cfg(test)]
mod tests;
mod yaml;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, anyhow, bail};
use serde_json::Value;

use crate::commands::{eprint, print};
use crate::config::{self, Config};
use report::Draft;

/// Exit code of a conversion that worked, but has something to look at.
const EXIT_ATTENTION: u8 = 3;
/// Permissions of a configuration: it may hold secrets.
const CONFIG_MODE: u32 = 0o600;
/// Permissions of a list.
const LIST_MODE: u32 = 0o644;

/// `hayate import-config`: reads `path`, writes the new configuration to `output` or stdout, and reports on
/// stderr.
///
/// # Errors
/// When the file cannot be read, or hayate would not accept what comes out.
pub(crate) fn import_config(path: &Path, output: Option<&Path>) -> anyhow::Result<ExitCode> {
    let text = config::read_text(path)?;
    let draft = convert(path, &text)?;
    for line in draft.lines() {
        eprint(&line.to_string());
    }
    let tree = draft.tree();
    Config::from_tree(path, tree.clone()).context("what was made of it is not accepted")?;
    write_output(format!("{tree:#}\n").as_bytes(), output, CONFIG_MODE)?;
    Ok(exit_code(draft.needs_attention()))
}

/// `hayate import-lists`: merges the lists in `paths` and reports on stderr.
///
/// # Errors
/// When a file cannot be read or written.
pub(crate) fn import_lists(paths: &[PathBuf], output: Option<&Path>) -> anyhow::Result<ExitCode> {
    let mut union = lists::MergedList::default();
    let mut odd = false;
    for path in paths {
        let part = union.read_file(path).with_context(|| path.display().to_string())?;
        part.lines(path).iter().for_each(|line| eprint(line));
        odd |= part.needs_attention();
    }
    eprint(&format!("{} torrents in all, {} in more than one file", union.len(), union.doubled()));
    write_output(&union.to_octets(), output, LIST_MODE)?;
    Ok(exit_code(odd))
}

fn exit_code(odd: bool) -> ExitCode {
    if odd { ExitCode::from(EXIT_ATTENTION) } else { ExitCode::SUCCESS }
}

fn write_output(text: &[u8], output: Option<&Path>, mode: u32) -> anyhow::Result<()> {
    match output {
        None => print(text),
        Some(path) => {
            files::replace_file(path, text, mode).with_context(|| format!("writing {}", path.display()))
        }
    }
}

/// Finds out what the text is, and converts it.
fn convert(path: &Path, text: &str) -> anyhow::Result<Draft> {
    let name = || path.display().to_string();
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let json = config::parse_json(text);
    match &json {
        Ok(Value::Object(tree)) if tree.contains_key("mode") => {
            bail!("{}: mode: this is a configuration of hayate already", name())
        }
        Ok(Value::Object(tree)) if !tree.contains_key(chihaya::TOP) && kuroneko::is_kuroneko(tree) => {
            return Ok(kuroneko::convert(tree));
        }
        _ => {}
    }
    match (yaml::parse(text), json) {
        (Ok(root), _) if has_top(&root) => chihaya::convert(root).with_context(name),
        (_, Err(error)) if text.trim_start().starts_with('{') => Err(anyhow!(error)).with_context(name),
        (Err(error), _) => Err(anyhow!(error)).with_context(name),
        _ => bail!("{}: neither chihaya's YAML, which has the key `chihaya`, nor kuroneko's JSON", name()),
    }
}

fn has_top(root: &yaml::Node) -> bool {
    matches!(root, yaml::Node::Block(block) if block.iter().any(|(name, _)| name == chihaya::TOP))
}
