//! Announces with traffic in CSV files, one file an hour of local time
//! (`rules/private-accounting.md#recorded-announces`). One thread writes; no other thread waits for it.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, BufWriter};
use std::net::{Ipv4Addr, SocketAddr};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded};
use jiff::Timestamp;
use jiff::tz::TimeZone;

use crate::announce::{Announce, Event};
use crate::clock::Clock;
use crate::metrics::{Board, Series, SeriesKind};

/// Lines that may wait for the disk; further ones are dropped.
pub const LINES_MAX: usize = 10_000;
/// The first line of each file.
const HEADER: [&str; 7] = ["TorrentID", "UserID", "Addr", "Event", "Uploaded", "Downloaded", "Left"];
/// Mode of the files: readable by the group, but by nobody else
/// (`rules/private-accounting.md#recorded-announces`).
const FILE_MODE: u32 = 0o640;
const FOLDER_MODE: u32 = 0o755;
/// Longest time that a line stays in the buffer.
const FLUSH_INTERVAL: Duration = Duration::from_secs(1);
/// Shortest time between two messages about disk failures.
const WARN_INTERVAL: Duration = Duration::from_secs(60);

/// One announce in the log.
#[derive(Clone, Copy, Debug)]
pub struct EventLine {
    /// Time of the announce, in Unix seconds.
    pub at: u64,
    /// Id of the torrent.
    pub torrent: u32,
    /// Id of the user.
    pub user: u32,
    /// Address of the peer; for a hidden user 127.0.0.1 with the real port.
    pub address: SocketAddr,
    /// Event of the announce.
    pub event: Event,
    /// Octets uploaded, as the client reports the total.
    pub uploaded: u64,
    /// Octets downloaded, as the client reports the total.
    pub downloaded: u64,
    /// Octets still missing.
    pub left: u64,
}

impl EventLine {
    /// Returns the line of an announce, or `None` if both totals are zero: such an announce is not recorded.
    pub(crate) fn from_announce(
        at: u64,
        torrent: u32,
        user: u32,
        hidden: bool,
        announce: &Announce,
    ) -> Option<Self> {
        let Announce { uploaded, downloaded, left, event, .. } = *announce;
        let address = if hidden { Ipv4Addr::LOCALHOST.into() } else { announce.address };
        let address = SocketAddr::new(address, announce.port);
        let is_recorded = uploaded != 0 || downloaded != 0;
        is_recorded.then_some(Self { at, torrent, user, address, event, uploaded, downloaded, left })
    }
}

/// The queue of lines to the thread that writes them.
#[derive(Clone, Debug)]
pub struct EventLog {
    /// `None` ends the writer.
    sender: Sender<Option<EventLine>>,
    metrics: Arc<EventLogMetrics>,
}

#[derive(Debug, Default)]
struct EventLogMetrics {
    dropped: AtomicU64,
    errors: AtomicU64,
}

impl EventLog {
    /// Queues a line, or drops it if too many wait.
    pub fn push_line(&self, line: EventLine) {
        if self.sender.try_send(Some(line)).is_err() {
            self.metrics.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Starts the writer, which works until [`stop`](Self::stop).
    ///
    /// # Errors
    /// Fails when the thread cannot be started.
    pub fn start(folder: &Path, clock: Clock) -> io::Result<(Self, JoinHandle<()>)> {
        let (sender, lines) = bounded(LINES_MAX);
        let metrics = Arc::<EventLogMetrics>::default();
        let mut writer = EventLogWriter::new(folder, TimeZone::system(), Arc::clone(&metrics));
        let thread = thread::Builder::new().name("events".into()).spawn(move || {
            writer.write_all(&lines, &clock);
        })?;
        Ok((Self { sender, metrics }, thread))
    }

    /// Waits until all queued lines are written, and ends the writer.
    pub fn stop(&self, thread: JoinHandle<()>) {
        // The writer may have ended by a panic.
        let _ = self.sender.send(None);
        if thread.join().is_err() {
            log::error!("the thread of the event log ended with a panic");
        }
    }

    /// Registers the metrics of the log.
    pub fn register_metrics(&self, board: &Board) {
        let list = |name, help, number: fn(&EventLogMetrics) -> &AtomicU64| {
            let metrics = Arc::clone(&self.metrics);
            let read = Box::new(move || number(&metrics).load(Ordering::Relaxed));
            board.register(Series { name, help, kind: SeriesKind::Counter, labels: Vec::new(), read });
        };
        list("recorder_dropped", "Recorded announces dropped because too many waited.", |metrics| {
            &metrics.dropped
        });
        list("recorder_errors", "Failed attempts to write recorded announces.", |metrics| &metrics.errors);
    }
}

/// Writes lines to the file of their hour.
#[derive(Debug)]
struct EventLogWriter {
    folder: PathBuf,
    zone: TimeZone,
    metrics: Arc<EventLogMetrics>,
    /// The current hour, and its file.
    open: Option<(String, csv::Writer<BufWriter<File>>)>,
    warned_at: Option<Duration>,
}

impl EventLogWriter {
    fn new(folder: &Path, zone: TimeZone, metrics: Arc<EventLogMetrics>) -> Self {
        Self { folder: folder.to_owned(), zone, metrics, open: None, warned_at: None }
    }

    fn write_all(&mut self, lines: &Receiver<Option<EventLine>>, clock: &Clock) {
        loop {
            match lines.recv_timeout(FLUSH_INTERVAL) {
                Ok(Some(line)) => self.write_or_reopen(&line, clock),
                Ok(None) | Err(RecvTimeoutError::Disconnected) => break,
                Err(RecvTimeoutError::Timeout) => {
                    let flushed = self.flush();
                    self.note_result(flushed, clock);
                }
            }
        }
        let flushed = self.flush();
        self.note_result(flushed, clock);
    }

    /// Writes a line; if that fails, tries again with a newly opened file.
    fn write_or_reopen(&mut self, line: &EventLine, clock: &Clock) {
        for _ in 0..2 {
            let written = self.write_line(line);
            if self.note_result(written, clock) {
                return;
            }
            self.open = None;
        }
    }

    fn write_line(&mut self, line: &EventLine) -> io::Result<()> {
        let hour = self.hour_name(line.at);
        if self.open.as_ref().is_none_or(|(open, _)| *open != hour) {
            self.flush()?;
            self.open = Some((hour.clone(), self.open_hour(&hour)?));
        }
        let Some((_, file)) = &mut self.open else { return Ok(()) };
        let event = match line.event {
            Event::Started => "started",
            Event::Stopped => "stopped",
            Event::Completed => "completed",
            Event::Paused => "paused",
            Event::None => "",
        };
        let numbers = [line.uploaded, line.downloaded, line.left].map(|number| number.to_string());
        let [uploaded, downloaded, left] = &numbers;
        let (torrent, user) = (line.torrent.to_string(), line.user.to_string());
        let address = line.address.to_string();
        file.write_record([&*torrent, &user, &address, event, uploaded, downloaded, left])?;
        Ok(())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.open.as_mut().map_or(Ok(()), |(_, file)| file.flush())
    }

    fn open_hour(&self, hour: &str) -> io::Result<csv::Writer<BufWriter<File>>> {
        if !self.folder.exists() {
            DirBuilder::new().recursive(true).mode(FOLDER_MODE).create(&self.folder)?;
        }
        let path = self.folder.join(format!("events_{hour}.csv"));
        let file = OpenOptions::new().append(true).create(true).mode(FILE_MODE).open(&path)?;
        let is_new = fs::metadata(&path)?.len() == 0;
        let mut writer = csv::Writer::from_writer(BufWriter::new(file));
        if is_new {
            writer.write_record(HEADER)?;
        }
        Ok(writer)
    }

    /// Returns the hour in the name of a file: `2026-11-26T13`.
    fn hour_name(&self, unix_seconds: u64) -> String {
        let second = i64::try_from(unix_seconds).unwrap_or(i64::MAX);
        let time = Timestamp::from_second(second).unwrap_or(Timestamp::MAX).to_zoned(self.zone.clone());
        format!("{:04}-{:02}-{:02}T{:02}", time.year(), time.month(), time.day(), time.hour())
    }

    /// Counts a failure, and logs one at most once a minute.
    fn note_result(&mut self, result: io::Result<()>, clock: &Clock) -> bool {
        let Err(error) = result else { return true };
        self.metrics.errors.fetch_add(1, Ordering::Relaxed);
        let now = clock.uptime();
        if self.warned_at.is_none_or(|last| now.saturating_sub(last) >= WARN_INTERVAL) {
            self.warned_at = Some(now);
            log::error!("announces cannot be recorded in {}: {error}", self.folder.display());
        }
        false
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn line(at: u64, torrent: u32) -> EventLine {
        EventLine {
            at,
            torrent,
            user: 7,
            address: "[2001:db8::7]:6881".parse().unwrap(),
            event: Event::Completed,
            uploaded: 11,
            downloaded: 13,
            left: u64::MAX,
        }
    }

    #[test]
    fn ten_records_are_a_header_and_ten_lines() {
        let folder = tempfile::tempdir().unwrap();
        let events = folder.path().join("events");
        let (recorder, thread) = EventLog::start(&events, Clock::start()).unwrap();
        (0..10).for_each(|torrent| recorder.push_line(line(1_700_000_000, torrent)));
        recorder.stop(thread);
        let file = fs::read_dir(&events).unwrap().next().unwrap().unwrap();
        let text = fs::read_to_string(file.path()).unwrap();
        assert_eq!(text.lines().count(), 11);
        assert!(
            text.starts_with("TorrentID,UserID,Addr,Event,Uploaded,Downloaded,Left\n0,7,[2001:db8::7]:6881,")
        );
        assert!(text.ends_with("9,7,[2001:db8::7]:6881,completed,11,13,18446744073709551615\n"));
        assert_eq!(file.metadata().unwrap().permissions().mode() & 0o777, 0o640);
    }

    #[test]
    fn every_hour_has_a_file_and_one_header_also_after_a_restart() {
        let folder = tempfile::tempdir().unwrap();
        let clock = Clock::start();
        for at in [1_700_000_000, 1_700_003_600, 1_700_003_601] {
            let mut writer = EventLogWriter::new(folder.path(), TimeZone::UTC, Arc::default());
            writer.write_or_reopen(&line(at, 1), &clock);
            writer.flush().unwrap();
        }
        let lines = |name: &str| fs::read_to_string(folder.path().join(name)).unwrap().lines().count();
        assert_eq!((lines("events_2023-11-14T22.csv"), lines("events_2023-11-14T23.csv")), (2, 3));
    }

    #[test]
    fn a_disk_that_takes_nothing_is_counted_and_stops_nobody() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("file");
        fs::write(&file, "").unwrap();
        let metrics = Arc::<EventLogMetrics>::default();
        let mut writer = EventLogWriter::new(&file.join("events"), TimeZone::UTC, Arc::clone(&metrics));
        writer.write_or_reopen(&line(1_700_000_000, 1), &Clock::start());
        assert_eq!(metrics.errors.load(Ordering::Relaxed), 2);
    }

    #[test]
    fn lines_beyond_the_queue_are_dropped_and_counted() {
        let (sender, _lines) = bounded(LINES_MAX);
        let events = EventLog { sender, metrics: Arc::default() };
        (0..LINES_MAX + 7).for_each(|_| events.push_line(line(1_700_000_000, 1)));
        assert_eq!(events.metrics.dropped.load(Ordering::Relaxed), 7);
    }

    #[test]
    fn announces_without_totals_are_not_recorded_and_hidden_users_have_no_address() {
        let announce = Announce {
            info_hash: crate::InfoHash([7; 20]),
            peer_id: crate::PeerId([7; 20]),
            address: [192, 0, 2, 7].into(),
            port: 6881,
            uploaded: 0,
            downloaded: 0,
            left: 0,
            event: Event::None,
            num_want: 0,
        };
        assert!(EventLine::from_announce(7, 1, 2, false, &announce).is_none());
        let announce = Announce { uploaded: 1, ..announce };
        let address =
            |hidden| EventLine::from_announce(7, 1, 2, hidden, &announce).unwrap().address.to_string();
        assert_eq!((address(false), address(true)), ("192.0.2.7:6881".into(), "127.0.0.1:6881".into()));
    }
}
