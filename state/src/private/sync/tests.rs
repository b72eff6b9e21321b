//! What a read that is under way must not undo.

use super::*;
use crate::double::{OverriddenStore, StoreOverrides};
use crate::ids::InfoHash;
use crate::snapshot::site::{Group, Multipliers};
use crate::store::record::TorrentRow;
use crate::store::{Channel, RegisteredTorrent, RequiredTables};

const HASH: InfoHash = InfoHash([7; 20]);

/// A store that returns one pruned torrent, and records its un-prune before the row is taken over.
struct LateUnprune(Arc<Queues>, Arc<Site>);

impl StoreOverrides for LateUnprune {
    fn read_rows(&mut self, set: SiteSet, each: &mut dyn FnMut(Option<SiteRow>)) -> Result<u64, StoreError> {
        if set == SiteSet::Torrents {
            let group = Group { type_name: "anime".into(), id: 1 };
            let multipliers = Multipliers::default();
            let torrent =
                RegisteredTorrent { info_hash: HASH, id: 3, group, snatched: 0, status: 1, multipliers };
            each(Some(SiteRow::Torrent(torrent)));
            self.1.torrents.with_torrent(&HASH, |torrent| torrent.info.status = 0);
            self.0.put(Record::Torrent(TorrentRow { id: 3, unprune: true, ..TorrentRow::default() }));
            self.0.forget_rows(Channel::Torrents);
            self.0.acknowledge_unprunes(&[3]);
        }
        Ok(0)
    }
}

#[test]
fn a_reading_that_began_before_an_unprune_was_written_does_not_undo_it() {
    let clock = Clock::start();
    let (site, queues) = (Site::new(), Arc::new(Queues::new(clock, &crate::store::Bounds::default())));
    let backend = Backend::new("sqlite:nowhere.db".parse().unwrap(), "", RequiredTables::Site);
    let mut site_sync = SiteSync::new(backend, Arc::clone(&site), Arc::clone(&queues));
    site_sync.store = Some(Box::new(OverriddenStore(LateUnprune(Arc::clone(&queues), Arc::clone(&site)))));
    let is_live = || site.torrents.with_torrent(&HASH, |torrent| torrent.info.status == 0).unwrap();
    site_sync.read_set(SiteSet::Torrents, &mut Pace::unpaced(&clock)).unwrap();
    assert!(is_live());
    site_sync.read_set(SiteSet::Torrents, &mut Pace::unpaced(&clock)).unwrap();
    assert!(is_live());
    assert!(queues.unprunes().is_empty());
}
