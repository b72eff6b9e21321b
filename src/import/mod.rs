//! Configurations and lists of other trackers, made into hayate's.
//!
//! | module | what is in it |
//! |---|---|
//! | [`chihaya`], [`servers`], [`hooks`] | the YAML of chihaya, the open tracker |
//! | [`kuroneko`] | the `config.json` of the tracker of private sites |
//! | [`yaml`], [`block`], [`rule`] | how their values are read: as YAML 1.1 and Go understand them |
//! | [`report`] | the new configuration as it grows, and the line for each key |
//! | [`lists`](mod@lists) | files of info_hashes |
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

use crate::config::{self, Config};
use report::Draft;

/// Exit code of a conversion that worked, but needs attention.
const EXIT_ATTENTION: u8 = 3;
/// Permissions of a configuration: it may hold secrets.
const CONFIG_MODE: u32 = 0o600;
/// Permissions of a list.
const LIST_MODE: u32 = 0o644;

/// The report of an import, which is there even if it fails, and its result.
pub(crate) struct ImportReport {
    /// Lines for the operator.
    pub(crate) lines: Vec<String>,
    pub(crate) result: anyhow::Result<Imported>,
}

/// An import that worked.
pub(crate) struct Imported {
    /// What belongs on stdout; `None` if it was written to a file.
    pub(crate) stdout: Option<Vec<u8>>,
    /// Tells whether the report needs attention.
    pub(crate) exit_code: ExitCode,
}

impl ImportReport {
    fn of(import: impl FnOnce(&mut Vec<String>) -> anyhow::Result<Imported>) -> Self {
        let mut lines = Vec::new();
        let result = import(&mut lines);
        Self { lines, result }
    }
}

/// `hayate import-config`: reads `path`, and writes the new configuration to `output`, if it is given.
///
/// Fails when the file cannot be read, or hayate would not accept what comes out.
pub(crate) fn import_config(path: &Path, output: Option<&Path>) -> ImportReport {
    ImportReport::of(|lines| {
        let text = config::read_text(path)?;
        let draft = convert(path, &text)?;
        lines.extend(draft.lines().iter().map(ToString::to_string));
        let tree = draft.tree();
        Config::from_tree(path, tree.clone()).context("what was made of it is not accepted")?;
        finish(format!("{tree:#}\n").into_bytes(), output, CONFIG_MODE, draft.needs_attention())
    })
}

/// `hayate import-lists`: merges the lists in `paths`, and writes them to `output`, if it is given.
///
/// Fails when a file cannot be read or written.
pub(crate) fn import_lists(paths: &[PathBuf], output: Option<&Path>) -> ImportReport {
    ImportReport::of(|lines| {
        let mut union = lists::MergedList::default();
        let mut needs_attention = false;
        for path in paths {
            let part = union.read_file(path).with_context(|| path.display().to_string())?;
            lines.extend(part.lines(path));
            needs_attention |= part.needs_attention();
        }
        lines.push(format!("{} torrents in all, {} in more than one file", union.len(), union.duplicates()));
        finish(union.to_octets(), output, LIST_MODE, needs_attention)
    })
}

fn finish(
    text: Vec<u8>,
    output: Option<&Path>,
    mode: u32,
    needs_attention: bool,
) -> anyhow::Result<Imported> {
    let exit_code = if needs_attention { ExitCode::from(EXIT_ATTENTION) } else { ExitCode::SUCCESS };
    let stdout = match output {
        None => Some(text),
        Some(path) => {
            let written = files::replace_file(path, &text, mode);
            written.with_context(|| format!("writing {}", path.display()))?;
            None
        }
    };
    Ok(Imported { stdout, exit_code })
}

/// Finds out which tracker the text is a configuration of, and converts it.
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
