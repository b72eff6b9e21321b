//! A file with the counts of all torrents, written on demand and, if so configured, at an interval by a
//! thread of its own. The file is replaced as a whole; where that fails, the old one stays.

use std::io::{self, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;

use crate::background::{Background, BackgroundTask};
use crate::metrics::{Board, Series, SeriesKind};
use crate::report::{ReportRow, Reporter};
use crate::snapshot::container::replace_file;
use crate::snapshot::thread::SyncingFile;

/// The default name of the file, in the folder for the tracker's state.
pub const FILE_NAME: &str = "export.csv";
/// The first line of the file.
pub const HEADER: &str = "info_hash,seeders_ipv4,leechers_ipv4,seeders_ipv6,leechers_ipv6,completed";
/// Permissions of the file: its user may write, its group may read.
const FILE_MODE: u32 = 0o640;

/// The file and the interval. A reload may change them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExportSettings {
    /// The file.
    pub path: PathBuf,
    /// Seconds from the beginning of one export to that of the next; 0 = on demand only.
    pub every_seconds: u64,
}

/// A finished export.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Exported {
    /// The file.
    pub path: PathBuf,
    /// Torrents in it.
    pub torrents: u64,
    /// Time that it took.
    pub took: Duration,
}

/// The reason for which nothing was written.
#[derive(Debug, thiserror::Error)]
pub enum ExportError {
    /// Another export is under way.
    #[error("an export is being written already")]
    Busy,
    /// The tracker is stopping.
    #[error("the tracker is stopping")]
    Stopping,
    /// The file cannot be written.
    #[error("{}: {source}", path.display())]
    Unwritable {
        /// The file.
        path: PathBuf,
        /// The error of the system.
        source: io::Error,
    },
}

/// Writes the export. Shared by the operator's requests and the thread.
#[derive(Debug)]
pub struct Exporter {
    reporter: Arc<Reporter>,
    settings: Mutex<ExportSettings>,
    /// Held while the file is written.
    writing: Mutex<()>,
    metrics: ExportMetrics,
}

/// Counts of exports, for `/metrics`.
#[derive(Debug, Default)]
struct ExportMetrics {
    written: AtomicU64,
    failed: AtomicU64,
    torrents: AtomicU64,
    unix_seconds: AtomicU64,
    is_failing: AtomicBool,
}

impl Exporter {
    /// Makes an exporter that has written nothing yet.
    #[must_use]
    pub fn new(reporter: Arc<Reporter>, settings: ExportSettings) -> Arc<Self> {
        Arc::new(Self {
            reporter,
            settings: Mutex::new(settings),
            writing: Mutex::default(),
            metrics: ExportMetrics::default(),
        })
    }

    /// Applies reloaded settings, from the next export on.
    pub fn apply_settings(&self, settings: ExportSettings) {
        *self.settings.lock() = settings;
    }

    /// Writes the file now, in slices with pauses: this may take a while.
    ///
    /// # Errors
    /// Fails when another export is under way, or the file cannot be written.
    pub fn export(&self) -> Result<Exported, ExportError> {
        let Some(_turn) = self.writing.try_lock() else { return Err(ExportError::Busy) };
        let path = self.settings.lock().path.clone();
        let (clock, metrics) = (self.reporter.clock(), &self.metrics);
        let start = clock.uptime();
        match write_file(&self.reporter, &path) {
            Ok(torrents) => {
                metrics.written.fetch_add(1, Ordering::Relaxed);
                metrics.torrents.store(torrents, Ordering::Relaxed);
                metrics.unix_seconds.store(clock.now().unix_seconds, Ordering::Relaxed);
                if metrics.is_failing.swap(false, Ordering::Relaxed) {
                    log::info!("exports are written again to {}", path.display());
                }
                Ok(Exported { path, torrents, took: clock.uptime().saturating_sub(start) })
            }
            Err(_) if self.reporter.is_stopping() => Err(ExportError::Stopping),
            Err(source) => {
                metrics.failed.fetch_add(1, Ordering::Relaxed);
                let error = ExportError::Unwritable { path, source };
                if !metrics.is_failing.swap(true, Ordering::Relaxed) {
                    log::error!("cannot write an export: {error}; the old file stays as it is");
                }
                Err(error)
            }
        }
    }

    /// Starts the thread that exports as often as the settings say, first after one interval.
    ///
    /// # Errors
    /// Fails when the thread cannot be started.
    pub fn start(self: &Arc<Self>) -> io::Result<RunningExporter> {
        let task = PeriodicExport(Arc::clone(self));
        let background = Background::start("export", *self.reporter.clock(), task)?;
        Ok(RunningExporter { background: Some(background), exporter: Arc::clone(self) })
    }

    /// Registers the metrics of exports.
    pub fn register_metrics(self: &Arc<Self>, board: &Board) {
        let register = |name, help, kind, number: fn(&ExportMetrics) -> &AtomicU64| {
            let exporter = Arc::clone(self);
            let read = Box::new(move || number(&exporter.metrics).load(Ordering::Relaxed));
            board.register(Series { name, help, kind, labels: Vec::new(), read });
        };
        register("exports_total", "Exports written.", SeriesKind::Counter, |metrics| &metrics.written);
        let help = "Exports that could not be written.";
        register("export_failures_total", help, SeriesKind::Counter, |metrics| &metrics.failed);
        register("export_torrents", "Torrents in the last export.", SeriesKind::Gauge, |metrics| {
            &metrics.torrents
        });
        let help = "When the last export was written, in Unix seconds; 0 = not yet.";
        register("export_timestamp_seconds", help, SeriesKind::Gauge, |metrics| &metrics.unix_seconds);
    }
}

/// The periodic work of the thread: an export at the interval of the settings.
struct PeriodicExport(Arc<Exporter>);

impl BackgroundTask for PeriodicExport {
    fn period(&self) -> Option<Duration> {
        let seconds = self.0.settings.lock().every_seconds;
        // A process that stops begins no export that it would have to give up.
        (seconds > 0 && !self.0.reporter.is_stopping()).then(|| Duration::from_secs(seconds))
    }

    fn run(&mut self, _: &AtomicBool) {
        if let Ok(Exported { path, torrents, took }) = self.0.export() {
            let (path, milliseconds) = (path.display(), took.as_millis());
            log::debug!("exported {torrents} torrents to {path} in {milliseconds} ms");
        }
    }
}

/// The running thread. Dropping it gives up an export that is being written, and waits for the thread.
#[derive(Debug)]
pub struct RunningExporter {
    background: Option<Background>,
    exporter: Arc<Exporter>,
}

impl RunningExporter {
    /// Whether the thread is running: false only after a panic.
    #[must_use]
    pub fn is_alive(&self) -> bool {
        self.background.as_ref().is_some_and(Background::is_alive)
    }
}

impl Drop for RunningExporter {
    fn drop(&mut self) {
        self.exporter.reporter.stop();
        if self.background.take().is_some_and(|background| background.stop().is_none()) {
            log::error!("the exporter ended with a panic");
        }
    }
}

/// Writes the file and returns the number of torrents in it.
fn write_file(reporter: &Reporter, path: &Path) -> io::Result<u64> {
    let mut torrents = 0;
    replace_file(path, |file| {
        file.get_ref().set_permissions(PermissionsExt::from_mode(FILE_MODE))?;
        let mut to = SyncingFile::new(file);
        writeln!(to, "{HEADER}")?;
        let mut text = Vec::new();
        reporter.walk(|rows| {
            text.clear();
            for row in rows {
                write_row(row, &mut text)?;
            }
            torrents += rows.len() as u64;
            to.write_all(&text)
        })
    })?;
    Ok(torrents)
}

fn write_row(row: &ReportRow, to: &mut Vec<u8>) -> io::Result<()> {
    let ReportRow { info_hash, peers, completed } = row;
    let (v4, v6) = ((peers.v4_seeders, peers.v4_leechers), (peers.v6_seeders, peers.v6_leechers));
    writeln!(to, "{info_hash},{},{},{},{},{completed}", v4.0, v4.1, v6.0, v6.1)
}

#[cfg(test)]
mod tests {
    use std::thread;

    use super::*;
    use crate::Tick;
    use crate::admission::Policy;
    use crate::clock::Clock;
    use crate::ids::InfoHash;
    use crate::report::TorrentSource;
    use crate::swarm::Swarms;

    fn exporter(path: &Path) -> Arc<Exporter> {
        let swarms = Swarms::new(0);
        for (letter, completed) in [(0xAB, 7), (0x0C, 11), (0xEE, 0)] {
            swarms.set_completed(Tick(7), &Policy::default(), &InfoHash([letter; 20]), completed);
        }
        let reporter = Arc::new(Reporter::new(TorrentSource::Swarms(swarms), Clock::start()));
        Exporter::new(reporter, ExportSettings { path: path.to_owned(), every_seconds: 0 })
    }

    #[test]
    fn the_file_has_a_header_and_a_line_for_each_torrent() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.csv");
        let exported = exporter(&path).export().unwrap();
        assert_eq!((exported.torrents, &exported.path), (2, &path));
        let text = std::fs::read_to_string(&path).unwrap();
        let mut lines: Vec<_> = text.lines().collect();
        assert_eq!(lines.remove(0), HEADER);
        lines.sort_unstable();
        let row = |letter: &str, completed| format!("{},0,0,0,0,{completed}", letter.repeat(20));
        assert_eq!(lines, [row("0c", 11), row("ab", 7)]);
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o640);
    }

    #[test]
    fn a_failure_leaves_the_old_file_and_a_second_export_at_once_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.csv");
        std::fs::write(&path, "old").unwrap();
        std::fs::create_dir(folder.path().join("x.csv.draft")).unwrap();
        let exporter = exporter(&path);
        assert!(matches!(exporter.export(), Err(ExportError::Unwritable { .. })));
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "old");
        assert_eq!(exporter.metrics.failed.load(Ordering::Relaxed), 1);
        let turn = exporter.writing.lock();
        assert!(matches!(exporter.export(), Err(ExportError::Busy)));
        drop(turn);
    }

    #[test]
    fn the_thread_exports_as_often_as_the_settings_say() {
        let folder = tempfile::tempdir().unwrap();
        let exporter = exporter(&folder.path().join("first.csv"));
        let path = folder.path().join("second.csv");
        let running = exporter.start().unwrap();
        exporter.apply_settings(ExportSettings { path: path.clone(), every_seconds: 1 });
        while !path.exists() {
            assert!(running.is_alive());
            thread::yield_now();
        }
        drop(running);
        assert!(!folder.path().join("first.csv").exists());
        assert!(matches!(exporter.export(), Err(ExportError::Stopping) | Ok(_)));
    }
}
