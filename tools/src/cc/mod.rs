//! `hayate-cc`: converts the cache to JSON and back, makes a copy without personal data, and converts the
//! cache for the reference tracker. Everything happens in one folder, while the daemon is stopped.
//!
//! | command | reads | writes |
//! |---|---|---|
//! | `dump` | [`CACHE`], or else the files of the reference tracker | the JSON files |
//! | `restore` | the JSON files, also of the reference tracker | [`CACHE`] |
//! | `anonymize` | as `dump` | [`ANONYMIZED`] |
//! | `export` | [`CACHE`] | [`TORRENTS_BIN`], [`USERS_BIN`] |
//!
//! Each command except `export` has a module of its name. `content` is the content of a cache,
//! `swarms` the JSON of the open modes, `progress` the lines that are printed meanwhile.
//!
//! Mode private has a site in its cache, which becomes [`TORRENTS_JSON`] and [`USERS_JSON`]; the open modes
//! have swarms, which become [`SWARMS_JSON`]. Only files that have content are written; for an empty cache,
//! those of the mode that wrote it.
//!
//! JSON loses nothing: `dump`, then `restore`, gives an equal cache. Data that the reference tracker does not
//! have is under additional keys, written only where needed: `Addr6`; `AddrLastAnnounce` and
//! `Addr6LastAnnounce`, if an endpoint is older than its peer; `UnprunePending`, in a torrent, and beside the
//! torrents as a list of ids that no torrent has. A passkey that is not UTF-8 is written as
//! [`crate::json::text_of`] says.
//!
//! Equal swarms give equal files, in whatever order the daemon learned of them. Their ages become times, and
//! a restored cache is as old as its last announce: peers that have expired since are not restored by the
//! daemon. Nor are completed counts where it has a database, for they come from there.

mod anonymize;
mod content;
mod dump;
mod progress;
mod restore;
mod swarms;
#[cfg(test)]
mod swarms_tests;
#[cfg(test)]
mod tests;

use std::fs::{self, File};
use std::io::{self, BufReader, Write};
use std::path::Path;

use anyhow::{Context, bail};
use hayate_state::snapshot::container::replace_file;
use hayate_state::snapshot::plain::{self, PlainTorrent};
use hayate_state::snapshot::reference::{self, ExportLosses};
use hayate_state::snapshot::site::SiteSnapshot;
use rand::rngs::StdRng;

pub use anonymize::{NoPasskeys, anonymize, anonymize_swarms, system_random};
use content::{Content, ContentKinds};
pub use dump::{dump_torrents, dump_users};
use progress::Progress;
pub use restore::{restore_torrents, restore_users};
pub use swarms::{dump_swarms, restore_swarms};

/// The daemon's own cache.
pub const CACHE: &str = "hayate-cache.bin";
/// The output of `anonymize`.
pub const ANONYMIZED: &str = "hayate-cache-anonymized.bin";
/// Torrents and their peers as JSON.
pub const TORRENTS_JSON: &str = "torrent-cache.json";
/// Users as JSON.
pub const USERS_JSON: &str = "user-cache.json";
/// Swarms of the open modes as JSON.
pub const SWARMS_JSON: &str = "swarms.json";
/// Torrents and their peers in the form of the reference tracker.
pub const TORRENTS_BIN: &str = "torrent-cache.bin";
/// Users in the form of the reference tracker.
pub const USERS_BIN: &str = "user-cache.bin";

/// The text that is printed without a known sub-command.
pub const USAGE: &str = concat!(
    "hayate-cc ",
    env!("CARGO_PKG_VERSION"),
    ": the cache, in the current folder

Usage: hayate-cc dump         hayate-cache.bin becomes torrent-cache.json and user-cache.json (mode private),
                              or swarms.json (open modes); without it torrent-cache.bin and user-cache.bin of
                              the reference tracker are read
       hayate-cc restore      torrent-cache.json and user-cache.json, and swarms.json, as far as they are
                              there, become hayate-cache.bin
       hayate-cc anonymize    a copy without people, hayate-cache-anonymized.bin
       hayate-cc export       hayate-cache.bin becomes torrent-cache.bin and user-cache.bin (mode private)

Stop the daemon first: when it stops, it overwrites hayate-cache.bin.
"
);

/// The tool: its folder, its outputs and its generator.
#[derive(Debug)]
pub struct CacheTool<'d, O: Write, N: Write> {
    /// The folder of all files.
    pub folder: &'d Path,
    /// Standard output.
    pub output: O,
    /// Standard error, for notes and warnings.
    pub notes: N,
    /// The generator of `anonymize`: that of [`system_random`], except in tests.
    pub random: StdRng,
}

impl<O: Write, N: Write> CacheTool<'_, O, N> {
    /// Runs the sub-command of the arguments; without a known one, prints [`USAGE`].
    ///
    /// # Errors
    /// Fails when a file cannot be read or written; then every file is unchanged.
    pub fn run(&mut self, args: &[String]) -> anyhow::Result<()> {
        let args: Vec<&str> = args.iter().map(String::as_str).collect();
        match args.as_slice() {
            ["dump"] => self.dump(),
            ["restore"] => self.restore(),
            ["anonymize"] => self.anonymize(),
            ["export"] => self.export(),
            [known @ ("dump" | "restore" | "anonymize" | "export"), ..] => {
                bail!("{known} takes no arguments")
            }
            _ => Ok(self.output.write_all(USAGE.as_bytes())?),
        }
    }

    fn dump(&mut self) -> anyhow::Result<()> {
        let progress = Progress::start();
        let content = self.content(&progress)?;
        self.note_unknown(content.unknown_blocks, "not dumped");
        let mut files: Vec<(&'static str, WriteFile<'_>)> = Vec::new();
        if let Some(site) = &content.site {
            files.push((TORRENTS_JSON, Box::new(|to| dump_torrents(to, site, &mut || progress.step()))));
            files.push((USERS_JSON, Box::new(|to| dump_users(to, &site.users))));
        }
        if let Some(swarms) = &content.swarms {
            files.push((SWARMS_JSON, Box::new(|to| dump_swarms(to, swarms, &mut || progress.step()))));
        }
        let names: Vec<_> = files.iter().map(|(name, _)| *name).collect();
        progress.begin_phase("writing", names.first().copied().unwrap_or_default());
        self.write_files(files)?;
        self.print_done(&content, &format!("dumped to {}", joined(&names)))?;
        for stale in [TORRENTS_JSON, USERS_JSON, SWARMS_JSON].into_iter().filter(|name| !names.contains(name))
        {
            if self.has(stale)? {
                self.note(&format!("warning: {stale} is not of this dump, but restore would read it too"));
            }
        }
        Ok(())
    }

    fn restore(&mut self) -> anyhow::Result<()> {
        let progress = Progress::start();
        let mut content = Content { site: None, swarms: None, unknown_blocks: 0 };
        if self.has(TORRENTS_JSON)? || self.has(USERS_JSON)? {
            content.site = Some(self.restored_site(&progress)?);
        }
        if self.has(SWARMS_JSON)? {
            content.swarms = Some(self.restored_swarms(&progress)?);
        }
        if content.site.is_none() && content.swarms.is_none() {
            bail!("there is nothing to restore here: no {TORRENTS_JSON}, no {USERS_JSON}, no {SWARMS_JSON}");
        }
        progress.begin_phase("writing", CACHE);
        let path = self.folder.join(CACHE);
        let replaced = ContentKinds::of_file(&path);
        content.write_file(&path).context(CACHE)?;
        self.note_replaced(replaced, &content);
        self.print_done(&content, &format!("restored to {CACHE}"))
    }

    fn restored_site(&mut self, progress: &Progress) -> anyhow::Result<SiteSnapshot> {
        let mut site = SiteSnapshot::default();
        progress.begin_phase("reading", TORRENTS_JSON);
        let file = self.open(TORRENTS_JSON)?;
        restore_torrents(file, &mut site, &mut || progress.step()).context(TORRENTS_JSON)?;
        progress.begin_phase("reading", USERS_JSON);
        let file = self.open(USERS_JSON)?;
        restore_users(file, &mut site, &mut || progress.step()).context(USERS_JSON)?;
        let twice = site.sort_and_dedup();
        if twice > 0 {
            self.note(&format!("{twice} records occurred twice; the last announce and the last entry count"));
        }
        Ok(site)
    }

    fn restored_swarms(&mut self, progress: &Progress) -> anyhow::Result<Vec<PlainTorrent>> {
        let mut swarms = Vec::new();
        progress.begin_phase("reading", SWARMS_JSON);
        let file = self.open(SWARMS_JSON)?;
        restore_swarms(file, &mut swarms, &mut || progress.step()).context(SWARMS_JSON)?;
        let twice = plain::merge_torrents(&mut swarms);
        if twice > 0 {
            self.note(&format!(
                "{twice} peers of swarms occurred twice; the first counts, seeders before leechers"
            ));
        }
        Ok(swarms)
    }

    fn anonymize(&mut self) -> anyhow::Result<()> {
        let progress = Progress::start();
        let mut content = self.content(&progress)?;
        self.note_unknown(content.unknown_blocks, "left out");
        progress.begin_phase("making anonymous", CACHE);
        if let Some(site) = &mut content.site {
            let removed = anonymize(site, &mut self.random)?;
            if removed > 0 {
                self.note(&format!(
                    "{removed} peers of unknown users cannot be distinguished any more and were removed"
                ));
            }
        }
        if let Some(swarms) = &mut content.swarms {
            anonymize_swarms(swarms, &mut self.random);
        }
        progress.begin_phase("writing", ANONYMIZED);
        content.write_file(&self.folder.join(ANONYMIZED)).context(ANONYMIZED)?;
        self.print_done(&content, &format!("written to {ANONYMIZED}"))
    }

    fn export(&mut self) -> anyhow::Result<()> {
        let progress = Progress::start();
        let mut content =
            self.own_cache(&progress)?.with_context(|| format!("{CACHE}: there is none here"))?;
        let Some(site) = &content.site else {
            bail!("{CACHE}: it holds swarms only, of which the reference tracker can read nothing");
        };
        self.note_unknown(content.unknown_blocks, "not exported");
        progress.begin_phase("writing", TORRENTS_BIN);
        let mut losses = ExportLosses::default();
        self.write_files(vec![
            (
                TORRENTS_BIN,
                Box::new(|to| {
                    losses = reference::write_torrents(to, site)?;
                    Ok(())
                }),
            ),
            (USERS_BIN, Box::new(|to| reference::write_users(to, &site.users))),
        ])?;
        for (count, what) in losses.kinds().into_iter().filter(|(count, _)| *count > 0) {
            self.note(&format!("warning: {count} {what}"));
        }
        if content.swarms.take().is_some() {
            self.note("warning: swarms of the open modes left out");
        }
        self.print_done(&content, &format!("exported to {TORRENTS_BIN} and {USERS_BIN}"))
    }

    /// Reads the daemon's own cache, or else that of the reference tracker.
    fn content(&mut self, progress: &Progress) -> anyhow::Result<Content> {
        if let Some(content) = self.own_cache(progress)? {
            return Ok(content);
        }
        progress.begin_phase("reading", TORRENTS_BIN);
        let torrents = self.reference_file(TORRENTS_BIN, reference::read_torrents)?;
        progress.begin_phase("reading", USERS_BIN);
        let users = self.reference_file(USERS_BIN, reference::read_users)?;
        if torrents.is_none() && users.is_none() {
            bail!("there is no cache here: no {CACHE}, no {TORRENTS_BIN}, no {USERS_BIN}");
        }
        for (name, is_missing) in [(TORRENTS_BIN, torrents.is_none()), (USERS_BIN, users.is_none())] {
            if is_missing {
                self.note(&format!("warning: {name}: there is none here; it counts as empty"));
            }
        }
        let (torrents, users) = (torrents.unwrap_or_default(), users.unwrap_or_default());
        Ok(Content::of_site(SiteSnapshot { torrents, users, unprunes: Vec::new() }))
    }

    /// Reads the daemon's own cache, if there is one.
    fn own_cache(&mut self, progress: &Progress) -> anyhow::Result<Option<Content>> {
        progress.begin_phase("reading", CACHE);
        if self.has(CACHE)? {
            Ok(Some(Content::read_file(&self.folder.join(CACHE)).context(CACHE)?))
        } else {
            Ok(None)
        }
    }

    fn has(&self, name: &'static str) -> anyhow::Result<bool> {
        self.folder.join(name).try_exists().context(name)
    }

    /// Reads a file of the reference tracker, if there is one.
    fn reference_file<T, E: std::error::Error + Send + Sync + 'static>(
        &self,
        name: &'static str,
        read: impl FnOnce(&[u8]) -> Result<T, E>,
    ) -> anyhow::Result<Option<T>> {
        match fs::read(self.folder.join(name)) {
            Ok(file) => Ok(Some(read(&file).context(name)?)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error).context(name),
        }
    }

    fn open(&self, name: &'static str) -> anyhow::Result<BufReader<File>> {
        Ok(BufReader::with_capacity(1 << 18, File::open(self.folder.join(name)).context(name)?))
    }

    /// Writes drafts of files, and renames the drafts when all are complete.
    fn write_files(&self, files: Vec<(&'static str, WriteFile<'_>)>) -> anyhow::Result<()> {
        let names: Vec<_> = files.iter().map(|(name, _)| *name).collect();
        write_from(self.folder, &mut files.into_iter()).with_context(|| names.join(", "))
    }

    fn note_unknown(&mut self, blocks: u64, fate: &str) {
        if blocks > 0 {
            self.note(&format!("{blocks} blocks of an unknown kind were {fate}"));
        }
    }

    /// Warns of kinds of content that the replaced file had and the new one does not have.
    fn note_replaced(&mut self, replaced: ContentKinds, content: &Content) {
        self.note_unknown(replaced.unknown_blocks, "in the file that was replaced, and are gone");
        if replaced.site && content.site.is_none() {
            self.note(&format!("the file that was replaced held a site, which is gone: no {TORRENTS_JSON}"));
        }
        if replaced.swarms && content.swarms.is_none() {
            self.note(&format!("the file that was replaced held swarms, which are gone: no {SWARMS_JSON}"));
        }
    }

    fn note(&mut self, text: &str) {
        // If the note cannot be written, the work continues.
        let _ = writeln!(self.notes, "hayate-cc: {text}");
    }

    fn print_done(&mut self, content: &Content, done: &str) -> anyhow::Result<()> {
        Ok(writeln!(self.output, "{content} {done}")?)
    }
}

/// A function that fills a file.
type WriteFile<'f> = Box<dyn FnOnce(&mut dyn Write) -> io::Result<()> + 'f>;

/// Writes the files from the first to the last, and renames them from the last to the first: when the
/// renaming begins, all are complete.
fn write_from<'f>(
    folder: &Path,
    files: &mut dyn Iterator<Item = (&'static str, WriteFile<'f>)>,
) -> io::Result<()> {
    let Some((name, fill)) = files.next() else { return Ok(()) };
    replace_file(&folder.join(name), |to| {
        fill(to)?;
        write_from(folder, files)
    })
}

/// Returns the names as part of a sentence: `a, b and c`.
fn joined(names: &[&str]) -> String {
    match names {
        [before, last] => format!("{before} and {last}"),
        [first, rest @ ..] if !rest.is_empty() => format!("{first}, {}", joined(rest)),
        names => names.concat(),
    }
}
