//! The storage of mode private: the sets of a site, torrents and peers of the last run, and the cache of the
//! reference tracker.

use std::io::ErrorKind;
use std::sync::Arc;

use anyhow::Context;
use hayate_state::private::SiteSync;
use hayate_state::private::snapshot::SiteRestore;
use hayate_state::snapshot::load::{LoadOutcome, load_snapshot};
use hayate_state::snapshot::reference;
use hayate_state::snapshot::site::SiteRecord;
use hayate_state::snapshot::thread::FILE_NAME;
use hayate_state::store::record::TorrentRow;
use hayate_state::store::{DurableTotals, Record};

use super::Storage;

/// Peers of the reference tracker, in `state_dir`.
const REFERENCE_TORRENTS: &str = "torrent-cache.bin";

impl Storage {
    /// Reads the sets of a site while a predecessor still serves it, so that little is left to do when it
    /// stops serving. What changes meanwhile is read again as soon as this process serves.
    ///
    /// # Errors
    /// Fails when the store cannot be read.
    pub(crate) fn load_early(&mut self) -> anyhow::Result<()> {
        if let Some(mut site_sync) = self.new_site_sync() {
            site_sync.load_sets_early(&self.clock).context("reading the database")?;
            self.site_sync = Some(site_sync);
        }
        Ok(())
    }

    fn new_site_sync(&self) -> Option<SiteSync> {
        let (site, queues) = (Arc::clone(self.site.as_ref()?), Arc::clone(self.queues.as_ref()?));
        Some(SiteSync::new(self.backend()?, site, queues).with_retention(self.settings.history_seconds))
    }

    /// Restores torrents and peers, and reads all sets of the store on top of them.
    pub(super) fn load_site(&mut self, known: DurableTotals) -> anyhow::Result<()> {
        let (Some(site), Some(queues)) = (&self.site, &self.queues) else { return Ok(()) };
        let mut restore = SiteRestore::new(&site.torrents, self.clock.now()).with_durable(known);
        match load_snapshot(&self.settings.state_dir.join(FILE_NAME), &self.clock, &mut [&mut restore]) {
            LoadOutcome::Restored => {}
            LoadOutcome::Missing | LoadOutcome::SetAside(_) => self.import_reference(&mut restore),
        }
        for id in restore.finish() {
            queues.put(Record::Torrent(TorrentRow { id, unprune: true, ..TorrentRow::default() }));
        }
        if self.site_sync.is_some() {
            // The predecessor knew the sets, and has recorded the counts of its swarms.
            return Ok(());
        }
        let start = self.clock.uptime();
        let Some(mut site_sync) = self.new_site_sync() else { return Ok(()) };
        site_sync.load_sets(&self.clock).context("reading the database")?;
        let (site_data, took) = (site.site_data.current(), (self.clock.uptime() - start).as_secs_f64());
        let (users, clients) = (site_data.users.len(), site_data.clients.len());
        let (torrents, peers) = (site.torrents.len(), site.torrents.peers());
        log::info!(
            "{users} users, {torrents} torrents, {clients} approved clients read from the database in \
             {took:.1} s; {} seeders, {} leechers",
            peers.seeders,
            peers.leechers
        );
        self.site_sync = Some(site_sync);
        Ok(())
    }

    /// Takes over the peers of the reference tracker, if it ran in this folder before
    /// (`rules/private.md#cache-of-the-reference-tracker`). Its users are those of the database.
    fn import_reference(&self, restore: &mut SiteRestore<'_>) {
        let path = self.settings.state_dir.join(REFERENCE_TORRENTS);
        let torrents = match std::fs::read(&path) {
            Ok(octets) => reference::read_torrents(&octets).map_err(|error| error.to_string()),
            Err(error) if error.kind() == ErrorKind::NotFound => return,
            Err(error) => Err(error.to_string()),
        };
        match torrents {
            Ok(torrents) => {
                let count = torrents.len();
                restore.set_other_tracker();
                let records = torrents.into_iter().map(SiteRecord::Torrent);
                records.for_each(|record| restore.restore_record(record));
                log::info!("{count} torrents with their peers imported from {}", path.display());
            }
            Err(error) => log::warn!("{}: {error}; starting without peers", path.display()),
        }
    }
}
