use super::*;
use crate::snapshot::container::{SnapshotError, SnapshotReader, SnapshotWriter};

pub(crate) fn peer(user: u32, role: Role, announced_at: i64) -> SitePeer {
    SitePeer {
        user,
        peer_id: PeerId(*b"-TR2940-aaaaaaaaaaaa"),
        role,
        v4: Some(SeenEndpoint { address: [192, 0, 2, 7].into(), port: 6881, seen_at: announced_at }),
        v6: None,
        uploaded: 17,
        downloaded: 19,
        left: u64::from(role == Role::Leecher) * 23,
        started_at: 1_700_000_000,
        announced_at,
        client: 3,
    }
}

pub(crate) fn torrent(id: u8, peers: Vec<SitePeer>) -> SiteTorrent {
    SiteTorrent {
        info_hash: InfoHash([id; 20]),
        id: id.into(),
        group: Group { type_name: "anime".into(), id: 5 },
        snatched: 29,
        status: 0,
        last_action: 1_700_000_031,
        multipliers: Multipliers { up: 2.0, down: 0.5 },
        peers,
    }
}

pub(crate) fn user(passkey: &[u8], id: u32) -> UserAccount {
    UserAccount {
        passkey: passkey.into(),
        id,
        disable_download: id.is_multiple_of(2),
        tracker_hide: id.is_multiple_of(3),
        multipliers: Multipliers { up: 1.0, down: 0.1 },
    }
}

/// A site with every form of a field.
pub(crate) fn site() -> SiteSnapshot {
    let v6: Ipv6Addr = [0x2001, 0xdb8, 0, 0, 0, 0, 0, 7].into();
    let both = SitePeer {
        v6: Some(SeenEndpoint { address: v6, port: 13, seen_at: -1 }),
        ..peer(3, Role::Seeder, 9)
    };
    let only_v6 = SitePeer { v4: None, client: 70_000, user: 4, ..both.clone() };
    let nowhere = SitePeer { v4: None, left: u64::MAX, ..peer(5, Role::Leecher, i64::MIN) };
    let odd = SiteTorrent {
        group: Group { type_name: "über alles, mit Umlaut".into(), id: u32::MAX },
        snatched: 70_001,
        status: -7,
        last_action: -1,
        multipliers: Multipliers { up: 0.1, down: -0.0 },
        ..torrent(200, vec![both, only_v6, nowhere])
    };
    SiteSnapshot {
        torrents: vec![torrent(1, vec![]), torrent(2, vec![peer(1, Role::Leecher, 7)]), odd],
        users: vec![user(b"", 1), user(b"\xff\0", 2), user(b"aLk3vXy9QdT7mWc2ZpRfH5sJb8NeGu41", 6)],
        unprunes: vec![2, 11],
    }
}

fn written(site: &SiteSnapshot) -> Vec<u8> {
    let mut container = SnapshotWriter::new(Vec::new(), 1_700_000_000).unwrap();
    let mut writer = SiteWriter::new(&mut container);
    site.unprunes.iter().for_each(|&id| writer.write_unprune(id).unwrap());
    site.users.iter().for_each(|user| writer.write_user(user).unwrap());
    site.torrents.iter().for_each(|torrent| writer.write_torrent(torrent).unwrap());
    writer.finish().unwrap();
    container.finish().unwrap()
}

fn loaded(octets: &[u8]) -> Result<LoadedSite, SnapshotError> {
    read_blocks(SnapshotReader::new(octets)?)
}

#[test]
fn the_key_of_a_peer_is_its_user_and_its_id() {
    let key = peer(0x0403_0201, Role::Seeder, 0).key();
    assert_eq!(key, *b"\x01\x02\x03\x04-TR2940-aaaaaaaaaaaa");
}

#[test]
fn what_is_there_twice_is_kept_once() {
    let (old, new) = (peer(7, Role::Seeder, 100), peer(7, Role::Leecher, 101));
    let (seeder, leecher) = (peer(5, Role::Seeder, 100), peer(5, Role::Leecher, 100));
    let last = SiteTorrent { snatched: 1, ..torrent(2, Vec::new()) };
    let mut site = SiteSnapshot {
        torrents: vec![
            torrent(2, Vec::new()),
            last.clone(),
            torrent(1, vec![old, new.clone(), leecher, seeder.clone()]),
        ],
        users: vec![user(b"b", 1), user(b"a", 2), user(b"b", 3)],
        unprunes: vec![11, 7, 11],
    };
    assert_eq!(site.sort_and_dedup(), 5);
    assert_eq!(site.torrents, [torrent(1, vec![seeder, new]), last]);
    assert_eq!(site.users, [user(b"a", 2), user(b"b", 3)]);
    assert_eq!((site.unprunes.as_slice(), site.peers()), (&[7, 11][..], 2));
}

#[test]
fn a_site_is_read_as_it_was_written() {
    let loaded = loaded(&written(&site())).unwrap();
    assert_eq!(loaded.site, site());
    assert_eq!((loaded.written_at, loaded.other_blocks), (1_700_000_000, 0));
}

#[test]
fn a_file_is_read_as_it_was_written() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("cache");
    write_file(&path, &site(), 7).unwrap();
    let loaded = read_file(&path).unwrap();
    assert_eq!((loaded.site, loaded.written_at), (site(), 7));
}

#[test]
fn every_flipped_bit_and_every_missing_octet_is_noticed() {
    let octets = written(&site());
    for bit in 0..8 * octets.len() {
        let mut damaged = octets.clone();
        damaged[bit / 8] ^= 1 << (bit % 8);
        assert!(loaded(&damaged).is_err(), "bit {bit}");
    }
    for len in 0..octets.len() {
        assert!(loaded(&octets[..len]).is_err(), "{len} octets");
    }
}

#[test]
fn large_swarms_lie_in_many_blocks() {
    let peers = (0..20_000).map(|user| peer(user, Role::Seeder, 1)).collect();
    let site =
        SiteSnapshot { torrents: vec![torrent(7, peers), torrent(9, Vec::new())], ..SiteSnapshot::default() };
    let octets = written(&site);
    let mut reader = SnapshotReader::new(octets.as_slice()).unwrap();
    let mut lengths = Vec::new();
    while let Some((tag, payload)) = reader.next_block().unwrap() {
        assert_eq!(tag, TAG_SITE_TORRENTS);
        lengths.push(payload.len());
    }
    assert!(lengths.len() > 5 && lengths.iter().all(|len| *len < 300_000), "{lengths:?}");
    assert_eq!(loaded(&octets).unwrap().site, site);
}

#[test]
fn texts_that_are_too_long_are_refused() {
    let long = "x".repeat(65_536);
    let mut container = SnapshotWriter::new(Vec::new(), 0).unwrap();
    let mut writer = SiteWriter::new(&mut container);
    assert!(writer.write_user(&user(&long.as_bytes()[1..], 1)).is_ok());
    assert!(writer.write_user(&user(long.as_bytes(), 1)).is_err());
    let group = Group { type_name: long.into(), id: 1 };
    assert!(writer.write_torrent(&SiteTorrent { group, ..torrent(1, Vec::new()) }).is_err());
}

/// The payloads of all blocks with this tag.
fn payload(site: &SiteSnapshot, wanted: u8) -> Vec<u8> {
    let octets = written(site);
    let mut reader = SnapshotReader::new(octets.as_slice()).unwrap();
    let mut payloads = Vec::new();
    while let Some((tag, payload)) = reader.next_block().unwrap() {
        if tag == wanted {
            payloads.extend(payload);
        }
    }
    payloads
}

/// Decodes one block, and returns what is wrong with it.
fn wrong(tag: u8, payload: &[u8]) -> Option<&'static str> {
    let mut decoder = SiteDecoder::default();
    match decoder.decode_block(tag, payload, &mut |_| ()).and_then(|_| decoder.finish()) {
        Err(SnapshotError::Damaged(what)) => Some(what),
        other => {
            other.unwrap();
            None
        }
    }
}

#[test]
fn good_checksums_do_not_excuse_bad_records() {
    let one = SiteSnapshot {
        torrents: vec![torrent(2, vec![peer(1, Role::Leecher, 7)])],
        ..SiteSnapshot::default()
    };
    let torrents = payload(&one, TAG_SITE_TORRENTS);
    let torrent_len = torrents.len() - (1 + 4 + 20 + 1 + 14 + 24 + 16 + 4);
    let changed = |at: usize, octet: u8| {
        let mut changed = torrents.clone();
        changed[at] = octet;
        wrong(TAG_SITE_TORRENTS, &changed)
    };
    assert_eq!(changed(0, 1), None);
    assert_eq!(changed(0, 3), Some("a record that is neither a torrent nor a peer"));
    assert_eq!(changed(0, 2), Some("a peer without a torrent"));
    assert_eq!(changed(31, 0xff), Some("a type name is not UTF-8"));
    assert_eq!(changed(29, 0xff), Some("a record is cut off"));
    assert_eq!(changed(torrent_len - 4 - 1, 0xff), None, "a very small multiplier");
    assert_eq!(changed(torrent_len - 1, 0xff), Some("peers are missing"));
    assert_eq!(changed(torrent_len - 4, 0), Some("a peer without a torrent"));
    assert_eq!(changed(torrent_len, 1), Some("peers are missing"));
    assert_eq!(changed(torrent_len + 25, 8), Some("unknown flags of a peer"));
    let infinite = Multipliers { up: 1.0, down: f64::INFINITY };
    let site = SiteSnapshot {
        torrents: vec![SiteTorrent { multipliers: infinite, ..torrent(1, Vec::new()) }],
        users: vec![UserAccount { multipliers: Multipliers { up: f64::NAN, down: 1.0 }, ..user(b"p", 1) }],
        ..SiteSnapshot::default()
    };
    for tag in [TAG_SITE_TORRENTS, TAG_SITE_USERS] {
        assert_eq!(wrong(tag, &payload(&site, tag)), Some("a multiplier is not a number"));
    }
    let mut users =
        payload(&SiteSnapshot { users: vec![user(b"pq", 1)], ..SiteSnapshot::default() }, TAG_SITE_USERS);
    users[8] = 4;
    assert_eq!(wrong(TAG_SITE_USERS, &users), Some("unknown flags of a user"));
    assert_eq!(wrong(TAG_SITE_UNPRUNES, &[0; 7]), Some("a record is cut off"));
    assert_eq!(wrong(99, &[0; 7]), None);
}

#[test]
fn every_cut_block_is_an_error_or_ends_between_records() {
    for tag in [TAG_SITE_TORRENTS, TAG_SITE_USERS, TAG_SITE_UNPRUNES] {
        let payload = payload(&site(), tag);
        let good = (0..payload.len()).filter(|&len| wrong(tag, &payload[..len]).is_none()).count();
        let records = if tag == TAG_SITE_UNPRUNES { 2 } else { 3 };
        assert_eq!(good, records, "before each record of tag {tag}");
    }
}

#[test]
fn random_blocks_never_panic() {
    let seed = fastrand::u64(..);
    println!("seed {seed}");
    let mut random = fastrand::Rng::with_seed(seed);
    let good = payload(&site(), TAG_SITE_TORRENTS);
    for _ in 0..20_000 {
        let mut octets = good.clone();
        for _ in 0..random.usize(1..5) {
            let at = random.usize(..octets.len());
            octets[at] = random.u8(..);
        }
        wrong(random.u8(16..19), &octets);
    }
}

#[test]
fn blocks_of_others_are_counted() {
    let mut container = SnapshotWriter::new(Vec::new(), 0).unwrap();
    container.write_block(1, b"swarms").unwrap();
    let mut writer = SiteWriter::new(&mut container);
    writer.write_user(&user(b"p", 7)).unwrap();
    writer.finish().unwrap();
    container.write_block(99, b"more").unwrap();
    let loaded = loaded(&container.finish().unwrap()).unwrap();
    assert_eq!((loaded.other_blocks, loaded.site.users), (2, vec![user(b"p", 7)]));
}
