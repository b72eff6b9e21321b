use super::*;
use crate::snapshot::site::tests::{peer, site, torrent, user};
use crate::snapshot::site::{Group, Multipliers, Role, SiteSnapshot, SiteTorrent, UserAccount};

const TORRENTS: &[u8] = include_bytes!("../../../../tests/kit/fixtures/reference/torrent-cache.bin");
const USERS: &[u8] = include_bytes!("../../../../tests/kit/fixtures/reference/user-cache.bin");

fn exported(site: &SiteSnapshot) -> (Vec<u8>, ExportLosses) {
    let mut file = Vec::new();
    let losses = write_torrents(&mut file, site).unwrap();
    (file, losses)
}

#[test]
fn the_fixture_is_read() {
    let torrents = read_torrents(TORRENTS).unwrap();
    let ids: Vec<_> = torrents.iter().map(|torrent| (torrent.id, torrent.peers.len())).collect();
    assert_eq!(ids, [(2, 3), (3, 1), (1, 1)]);
    let second = &torrents[0];
    assert_eq!(second.info_hash.to_string(), "2b4d6f8193a5b7c9dbedff11335577990badcafe");
    assert_eq!(second.group, Group { type_name: "music".into(), id: 1 });
    assert_eq!(second.multipliers, Multipliers { up: 0.5, down: 2.0 });
    assert_eq!((second.snatched, second.status, second.last_action), (0, 0, 1_795_222_353));
    let leecher = &second.peers[2];
    assert_eq!((leecher.user, leecher.role, leecher.client), (4, Role::Leecher, 3));
    assert_eq!((leecher.uploaded, leecher.downloaded, leecher.left), (50, 600, 400));
    let v4 = leecher.v4.unwrap();
    assert_eq!((v4.address.to_string().as_str(), v4.port, v4.seen_at), ("127.0.0.1", 6002, 1_795_222_353));
    let users = read_users(USERS).unwrap();
    let second = UserAccount {
        disable_download: true,
        tracker_hide: true,
        multipliers: Multipliers { up: 0.5, down: 2.0 },
        ..user(b"Bz8rKq4Yt6MvHn2Wc9JxPd7Lf3SgEa50", 2)
    };
    assert_eq!((users.len(), &users[0]), (3, &second));
}

#[test]
fn the_fixture_is_written_back_record_by_record() {
    let (torrents, users) = (read_torrents(TORRENTS).unwrap(), read_users(USERS).unwrap());
    // Both sort their torrents alike; the seeders and users of the fixture have an order of their own.
    let (file, losses) = exported(&SiteSnapshot { torrents, ..SiteSnapshot::default() });
    assert_eq!((file.as_slice(), losses), (exported_order(TORRENTS).as_slice(), ExportLosses::default()));
    let mut file = Vec::new();
    write_users(&mut file, &users).unwrap();
    let records = |file: &[u8]| {
        let mut records: Vec<_> = file[2..].chunks(USERS[2..].len() / 3).map(<[u8]>::to_vec).collect();
        records.sort();
        (file[..2].to_vec(), records)
    };
    assert_eq!(records(&file), records(USERS));
}

/// The fixture with the two leechers of its first torrent in the order of their keys.
fn exported_order(fixture: &[u8]) -> Vec<u8> {
    let (entry, leechers) = (24 + 77, 2 + 20 + 1 + 24 + 77 + 1);
    let mut file = fixture.to_vec();
    file[leechers..leechers + 2 * entry].rotate_left(entry);
    file
}

/// A torrent with a leecher and a seeder in the layout of an old version, built by hand.
fn old(version: u8) -> Vec<u8> {
    let peer = |user: u8, seeding: u8| {
        let mut peer = vec![user, 0, 0, 0];
        peer.extend(b"-TR2940-aaaaaaaaaaaa-ignored-in-the-peer");
        if version == 1 {
            peer.extend(b"\x09192.0.2.7\x06");
        }
        peer.extend([192, 0, 2, 7, 0x1a, 0xe1]);
        if version == 1 {
            peer.extend([7, 2, 0, 192, 0xe1, 0x1a]);
        }
        for total in [17, 19, 23 * u64::from(user - 1)] {
            peer.extend(total.to_le_bytes());
        }
        peer.extend(1_700_000_000_i64.to_le_bytes());
        peer.extend(1_700_000_007_i64.to_le_bytes());
        peer.extend(99_u32.to_le_bytes());
        peer.extend(98_u32.to_le_bytes());
        peer.extend([3, 0, seeding]);
        peer
    };
    let mut file = vec![version, 1];
    file.extend([9; 20]);
    // The flag in the peer says the opposite; the list decides.
    file.extend([&[1], &*peer(1, 0), &[1], &*peer(2, 1)].concat());
    file.extend(b"\x05anime\x05\0\0\0");
    file.extend([9, 0, 0, 0, 29, 0, 0]);
    file.extend(1_700_000_031_i64.to_le_bytes());
    file.extend([2.0_f64.to_le_bytes(), 0.5_f64.to_le_bytes()].concat());
    file
}

#[test]
fn old_versions_are_read() {
    let peers = vec![peer(1, Role::Seeder, 1_700_000_007), peer(2, Role::Leecher, 1_700_000_007)];
    for version in [1, 2] {
        let mut file = old(version);
        assert_eq!(read_torrents(&file), Ok(vec![torrent(9, peers.clone())]), "version {version}");
        file.extend(b"something else");
        assert_eq!(read_torrents(&file).map(|torrents| torrents.len()), Ok(1), "trailing octets");
    }
}

#[test]
fn of_a_key_in_both_lists_the_later_announce_wins() {
    let (old, new) = (peer(7, Role::Seeder, 100), peer(7, Role::Leecher, 101));
    let (file, _) = exported(&SiteSnapshot {
        torrents: vec![torrent(1, vec![old, new.clone()])],
        ..SiteSnapshot::default()
    });
    assert_eq!(read_torrents(&file), Ok(vec![torrent(1, vec![new])]));
}

#[test]
fn unknown_versions_and_bad_lengths_are_refused() {
    use ReferenceError::*;
    for (file, error) in [
        (&[][..], Short(0)),
        (&[0, 0], Version(0)),
        (&[4, 0], Version(4)),
        (&[0x80, 0x02], Version(256)),
        (&[3], Short(1)),
        (&[3, 1], Count { at: 1, count: 1 }),
        (&[0xff; 10], Number(0)),
        (&[0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x02], Number(0)),
        (&[3, 0xff, 0xff, 0xff, 0xff, 0x0f], Count { at: 1, count: u32::MAX.into() }),
    ] {
        assert_eq!(read_torrents(file), Err(error), "{file:?}");
    }
    assert_eq!((read_users(&[2, 0]), read_users(&[0])), (Err(Version(2)), Err(Version(0))));
    assert_eq!(read_users(&[1, 1]), Err(Count { at: 1, count: 1 }));
    assert_eq!((read_torrents(&[3, 0, 7]), read_users(&[1, 0, 7])), (Ok(Vec::new()), Ok(Vec::new())));
    let mut bad = old(1);
    let port = bad.windows(10).position(|ten| ten == b"\x09192.0.2.7").unwrap() + 10;
    bad[port] = 5;
    assert_eq!(read_torrents(&bad), Err(Length { at: port, len: 5 }));
    let mut bad = old(2);
    let name = bad.windows(6).position(|six| six == b"\x05anime").unwrap();
    bad[name] = 9;
    assert_eq!(read_torrents(&bad), Err(Length { at: name, len: 9 }));
    let end = bad.len();
    bad[name] = 5;
    bad[end - 1] = 0x7f;
    bad[end - 2] = 0xf0;
    assert_eq!(read_torrents(&bad), Err(Multiplier(end)));
}

#[test]
fn every_cut_file_is_an_error() {
    for file in [TORRENTS, &old(1), &old(2)] {
        for len in 0..file.len() {
            assert!(read_torrents(&file[..len]).is_err(), "{len} octets");
        }
    }
    for len in 0..USERS.len() {
        assert!(read_users(&USERS[..len]).is_err(), "{len} octets");
    }
}

#[test]
fn changed_files_never_panic() {
    let seed = fastrand::u64(..);
    println!("seed {seed}");
    let mut random = fastrand::Rng::with_seed(seed);
    for file in [TORRENTS, USERS, &old(1), &old(2)] {
        for _ in 0..5000 {
            let mut file = file.to_vec();
            for _ in 0..random.usize(1..5) {
                let at = random.usize(..file.len());
                file[at] = random.u8(..);
            }
            if let Ok(torrents) = read_torrents(&file) {
                let (written, losses) =
                    exported(&SiteSnapshot { torrents: torrents.clone(), ..SiteSnapshot::default() });
                // Replacement characters may make a type name longer.
                assert_eq!(losses, ExportLosses { type_names: losses.type_names, ..ExportLosses::default() });
                assert!(losses.type_names > 0 || read_torrents(&written) == Ok(torrents));
            }
            let _ = read_users(&file);
        }
    }
}

#[test]
fn losses_are_counted_by_kind() {
    let mut site = site();
    site.torrents.push(SiteTorrent { status: 256, ..torrent(3, vec![peer(1, Role::Seeder, 7)]) });
    site.torrents[1].peers[0].client = 65_536;
    let (file, losses) = exported(&site);
    let expected = ExportLosses {
        peers_without_v4: 2,
        v6_endpoints: 1,
        snatched: 1,
        clients: 1,
        statuses: 2,
        type_names: 1,
        unprunes: 2,
    };
    assert_eq!(losses, expected);
    assert_eq!(losses.kinds().map(|(count, _)| count), [2, 1, 1, 1, 2, 1, 2]);
    let torrents = read_torrents(&file).unwrap();
    assert_eq!(torrents.len(), 4);
    let odd = torrents.iter().find(|torrent| torrent.id == 200).unwrap();
    assert_eq!((odd.snatched, odd.status, odd.peers.len()), (65_535, 255, 1));
    assert_eq!(&*odd.group.type_name, "über al");
    assert_eq!(torrents[1].peers[0].client, 0);
}

#[test]
fn a_type_name_is_cut_after_a_whole_character() {
    let group = Group { type_name: "sieben ü".into(), id: 1 };
    let (file, losses) = exported(&SiteSnapshot {
        torrents: vec![SiteTorrent { group, ..torrent(1, vec![]) }],
        ..SiteSnapshot::default()
    });
    assert_eq!(losses.type_names, 1);
    assert_eq!(&*read_torrents(&file).unwrap()[0].group.type_name, "sieben ");
}

#[test]
fn users_are_written_as_they_were_read() {
    let mut file = Vec::new();
    write_users(&mut file, &site().users).unwrap();
    assert_eq!(
        read_users(&file),
        Ok({
            let mut site = site();
            site.sort_and_dedup();
            site.users
        })
    );
    let long = [user(&[b'x'; 300], 7)];
    let mut file = Vec::new();
    write_users(&mut file, &long).unwrap();
    assert_eq!(file[2..4], [0xac, 0x02], "a length in two octets");
    assert_eq!(read_users(&file).as_deref(), Ok(&long[..]));
}
