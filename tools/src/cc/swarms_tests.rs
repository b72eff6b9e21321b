use std::collections::{BTreeMap, HashSet};
use std::fs;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;

use hayate_state::snapshot::container::SnapshotWriter;
use hayate_state::snapshot::plain::{self, PlainPeer, PlainTorrent, Role};
use hayate_state::snapshot::site::SiteSnapshot;
use hayate_state::snapshot::swarms::TAG_SWARMS;
use hayate_state::{InfoHash, PeerId};
use rand::SeedableRng;
use rand::rngs::StdRng;

use super::content::Content;
use super::tests::Folder;
use super::*;

const JSON: &str = r#"{
	"0303030303030303030303030303030303030303": {
		"Completed": 31,
		"Leechers": [
			{
				"Addr": "192.0.2.1:6881",
				"LastAnnounce": 1799999989
			},
			{
				"Addr": "192.0.2.2:6882",
				"LastAnnounce": 1800000000,
				"Paused": true
			}
		],
		"Seeders": [
			{
				"Addr": "192.0.2.3:6883",
				"LastAnnounce": 1799999987,
				"PeerID": "2d5452323934302d616161616161616161616161"
			},
			{
				"Addr": "[2001:db8::7]:6884",
				"LastAnnounce": 1799999983
			}
		]
	},
	"0505050505050505050505050505050505050505": {
		"Completed": 37,
		"Leechers": [],
		"Seeders": []
	}
}
"#;

fn torrents() -> Vec<PlainTorrent> {
    let mut torrents = Vec::new();
    restore_swarms(JSON.as_bytes(), &mut torrents, &mut || ()).unwrap();
    torrents
}

/// Writes a cache with these swarms as they are, unsorted and with duplicates.
fn write_swarms(folder: &Folder, torrents: &[PlainTorrent]) {
    let written_at = plain::written_at(torrents).unwrap_or(7);
    let mut to = SnapshotWriter::new(Vec::new(), written_at).unwrap();
    plain::write_torrents(torrents, written_at, &mut to).unwrap();
    folder.write(CACHE, to.finish().unwrap());
}

fn write_both(folder: &Folder) {
    let site = SiteSnapshot { unprunes: vec![7, 9], ..SiteSnapshot::default() };
    let content = Content { site: Some(site), swarms: Some(torrents()), unknown_blocks: 0 };
    content.write_file(&folder.path(CACHE)).unwrap();
}

fn swarms_in(folder: &Folder, name: &str) -> Vec<PlainTorrent> {
    Content::read_file(&folder.path(name)).unwrap().swarms.unwrap()
}

/// Makes torrents, sorted and without duplicates, whose peers often share an address.
fn random_torrents(random: &mut fastrand::Rng) -> Vec<PlainTorrent> {
    let mut torrents: Vec<_> = (0..random.usize(..7)).map(|_| random_torrent(random)).collect();
    plain::merge_torrents(&mut torrents);
    torrents
}

fn random_torrent(random: &mut fastrand::Rng) -> PlainTorrent {
    let completed = if random.bool() { random.u32(..) } else { 0 };
    let peers = (0..random.usize(..9)).map(|_| random_peer(random)).collect();
    PlainTorrent { info_hash: InfoHash([random.u8(..5); 20]), completed, peers }
}

fn random_peer(random: &mut fastrand::Rng) -> PlainPeer {
    let hosts = ["192.0.2.1", "192.0.2.2", "127.0.0.1", "2001:db8::1", "::1", "fd00::1"];
    let host = if random.bool() { random.usize(..3) } else { random.usize(3..hosts.len()) };
    let address = SocketAddr::new(hosts[host].parse().unwrap(), random.u16(1..4));
    let role = if random.bool() { Role::Seeder } else { Role::Leecher };
    let late = if random.bool() { 40_000 } else { 2_000_000 };
    PlainPeer {
        address,
        role,
        paused: role == Role::Leecher && random.bool(),
        announced_at: 1_800_000_000 + random.i64(0..late),
        peer_id: random.bool().then(|| PeerId([random.u8(..); 20])),
    }
}

#[test]
fn an_open_cache_is_dumped_to_swarms_alone_and_restored() {
    let folder = Folder::new();
    write_swarms(&folder, &torrents());
    let (output, notes) = folder.run(&["dump"]).unwrap();
    assert_eq!((output.as_str(), notes.as_str()), ("2 torrents, 4 peers dumped to swarms.json\n", ""));
    assert_eq!(
        (folder.text(SWARMS_JSON), folder.names()),
        (JSON.into(), vec![CACHE.into(), SWARMS_JSON.into()])
    );
    assert_eq!(fs::metadata(folder.path(SWARMS_JSON)).unwrap().permissions().mode() & 0o777, 0o600);
    fs::remove_file(folder.path(CACHE)).unwrap();
    let (output, notes) = folder.run(&["restore"]).unwrap();
    assert_eq!((output.as_str(), notes.as_str()), ("2 torrents, 4 peers restored to hayate-cache.bin\n", ""));
    assert_eq!(fs::metadata(folder.path(CACHE)).unwrap().permissions().mode() & 0o777, 0o600);
    folder.run(&["dump"]).unwrap();
    assert_eq!(folder.text(SWARMS_JSON), JSON);
}

#[test]
fn swarms_survive_both_ways_and_equal_ones_give_equal_files() {
    let seed = fastrand::u64(..);
    println!("seed {seed}");
    let (mut random, folder) = (fastrand::Rng::with_seed(seed), Folder::new());
    for _ in 0..100 {
        let torrents = random_torrents(&mut random);
        write_swarms(&folder, &torrents);
        folder.run(&["dump"]).unwrap();
        let json = folder.text(SWARMS_JSON);
        folder.run(&["restore"]).unwrap();
        assert_eq!(swarms_in(&folder, CACHE), torrents);
        // The same in pieces, and in another order.
        let mut pieces: Vec<PlainTorrent> = Vec::new();
        for torrent in torrents {
            pieces.extend(
                torrent.peers.iter().map(|peer| PlainTorrent { peers: vec![*peer], ..torrent.clone() }),
            );
            pieces.push(PlainTorrent { peers: Vec::new(), ..torrent });
        }
        random.shuffle(&mut pieces);
        write_swarms(&folder, &pieces);
        folder.run(&["dump"]).unwrap();
        assert_eq!(folder.text(SWARMS_JSON), json);
    }
}

#[test]
fn a_site_and_swarms_are_dumped_and_restored_beside_each_other() {
    let folder = Folder::new();
    write_both(&folder);
    let cache = Content::read_file(&folder.path(CACHE)).unwrap();
    let (output, notes) = folder.run(&["dump"]).unwrap();
    let expected = "0 torrents, 0 peers, 0 users, and swarms: 2 torrents, 4 peers \
                dumped to torrent-cache.json, user-cache.json and swarms.json\n";
    assert_eq!((output.as_str(), notes.as_str()), (expected, ""));
    assert_eq!(folder.names(), [CACHE, SWARMS_JSON, TORRENTS_JSON, USERS_JSON]);
    fs::remove_file(folder.path(CACHE)).unwrap();
    folder.run(&["restore"]).unwrap();
    assert_eq!(Content::read_file(&folder.path(CACHE)).unwrap(), cache);
    let (output, notes) = folder.run(&["export"]).unwrap();
    let expected = "0 torrents, 0 peers, 0 users exported to torrent-cache.bin and user-cache.bin\n";
    assert_eq!(output, expected);
    assert!(notes.ends_with("hayate-cc: warning: swarms of the open modes left out\n"), "{notes}");
    folder.run(&["anonymize"]).unwrap();
    let anonymous = Content::read_file(&folder.path(ANONYMIZED)).unwrap();
    assert_eq!(anonymous.site, cache.site);
    assert_eq!(anonymous.swarms.unwrap().len(), 2);
}

#[test]
fn an_empty_cache_is_dumped_as_its_mode_dumps() {
    let folder = Folder::new();
    write_swarms(&folder, &[]);
    folder.run(&["dump"]).unwrap();
    assert_eq!(
        (folder.text(SWARMS_JSON), folder.names()),
        ("{}\n".into(), vec![CACHE.into(), SWARMS_JSON.into()])
    );
    folder.run(&["restore"]).unwrap();
    assert_eq!(swarms_in(&folder, CACHE), []);
    fs::remove_file(folder.path(SWARMS_JSON)).unwrap();
    Content::of_site(SiteSnapshot::default()).write_file(&folder.path(CACHE)).unwrap();
    folder.run(&["dump"]).unwrap();
    assert_eq!(folder.names(), [CACHE, TORRENTS_JSON, USERS_JSON]);
}

#[test]
fn files_of_another_dump_and_replaced_content_are_reported() {
    let folder = Folder::new();
    write_swarms(&folder, &torrents());
    folder.write(USERS_JSON, "{}");
    let (_, notes) = folder.run(&["dump"]).unwrap();
    let expected = "hayate-cc: warning: user-cache.json is not of this dump, but restore would read it too\n";
    assert_eq!(notes, expected);
    fs::remove_file(folder.path(SWARMS_JSON)).unwrap();
    folder.write(TORRENTS_JSON, "{\"UnprunePending\": [7]}");
    let (_, notes) = folder.run(&["restore"]).unwrap();
    let expected = "hayate-cc: the file that was replaced held swarms, which are gone: no swarms.json\n";
    assert_eq!(notes, expected);
    fs::remove_file(folder.path(USERS_JSON)).unwrap();
    fs::remove_file(folder.path(TORRENTS_JSON)).unwrap();
    folder.write(SWARMS_JSON, JSON);
    let (_, notes) = folder.run(&["restore"]).unwrap();
    let expected =
        "hayate-cc: the file that was replaced held a site, which is gone: no torrent-cache.json\n";
    assert_eq!(notes, expected);
    assert_eq!(folder.run(&["restore"]).unwrap().1, "");
}

#[test]
fn json_of_another_structure_is_refused_and_changes_nothing() {
    let folder = Folder::new();
    write_swarms(&folder, &torrents());
    let before = fs::read(folder.path(CACHE)).unwrap();
    for (old, new, error) in [
        ("\"Completed\": 31", "\"Complete\": 31", "unknown field `Complete`"),
        ("\"Completed\": 31,", "", "missing field `Completed`"),
        ("\"Completed\": 31", "\"Completed\": -1", "integer `-1`, expected u32"),
        ("\"Paused\": true", "\"Pausd\": true", "unknown field `Pausd`"),
        ("\"Addr\": \"192.0.2.1:6881\",", "", "missing field `Addr`"),
        ("\"LastAnnounce\": 1799999989", "\"LastAnnounce\": 0.5", "floating point `0.5`, expected i64"),
        ("192.0.2.1:6881", "192.0.2.1", "invalid socket address syntax"),
        ("192.0.2.1:6881", "192.0.2.1:0", "192.0.2.1:0: no peer can have this address and port"),
        ("[2001:db8::7]:6884", "[::ffff:192.0.2.7]:6884", "no peer can have this address and port"),
        ("\"PeerID\"", "\"Paused\": true, \"PeerID\"", "192.0.2.3:6883: a seeder cannot be paused"),
        ("2d54", "2d5", "a PeerID that is not 40 hexadecimal digits"),
        ("0303", "030", "not an info_hash"),
        ("\"Seeders\": []", "\"Seeders\": {}", "invalid type: map, expected a sequence"),
        ("\n}\n", "\n} 1", "trailing characters"),
    ] {
        assert!(JSON.contains(old), "{old}");
        folder.write(SWARMS_JSON, JSON.replacen(old, new, 1));
        let found = folder.run(&["restore"]).unwrap_err();
        assert!(found.starts_with("swarms.json: ") && found.contains(error), "{found}");
        assert!(found.contains(" at line ") && !found.contains('\n'), "{found}");
    }
    folder.write(
        SWARMS_JSON,
        JSON.replacen("1799999989", "-1799999989", 1).replacen("1800000000", "9000000000", 1),
    );
    let found = folder.run(&["restore"]).unwrap_err();
    assert!(found.starts_with("hayate-cache.bin: ") && found.contains("announced too long"), "{found}");
    assert_eq!(fs::read(folder.path(CACHE)).unwrap(), before);
    assert_eq!(folder.names(), [CACHE, SWARMS_JSON]);
}

#[test]
fn peers_that_occur_twice_are_reported_and_the_first_counts() {
    let folder = Folder::new();
    folder.write(SWARMS_JSON, JSON.replacen("192.0.2.1:6881", "192.0.2.3:6883", 1));
    let (output, notes) = folder.run(&["restore"]).unwrap();
    assert_eq!(output, "2 torrents, 3 peers restored to hayate-cache.bin\n");
    assert!(notes.starts_with("hayate-cc: 1 peers of swarms occurred twice"), "{notes}");
    let swarms = swarms_in(&folder, CACHE);
    let seeders = swarms[0].peers.iter().filter(|peer| peer.role == Role::Seeder);
    assert_eq!(seeders.map(|peer| peer.announced_at).collect::<Vec<_>>(), [1_799_999_987, 1_799_999_983]);
}

#[test]
fn swarms_alone_cannot_be_exported_and_damage_is_reported() {
    let folder = Folder::new();
    write_swarms(&folder, &torrents());
    let error = "hayate-cache.bin: it holds swarms only, of which the reference tracker can read nothing";
    assert_eq!(folder.run(&["export"]), Err(error.into()));
    assert_eq!(folder.names(), [CACHE]);
    let mut container = SnapshotWriter::new(Vec::new(), 7).unwrap();
    container.write_block(TAG_SWARMS, b"swarms").unwrap();
    folder.write(CACHE, container.finish().unwrap());
    assert_eq!(folder.run(&["dump"]), Err("hayate-cache.bin: damaged: a torrent ends too early".into()));
}

#[test]
fn anonymous_swarms_keep_everything_but_addresses() {
    let seed = fastrand::u64(..);
    println!("seed {seed}");
    let (mut random, mut secure) = (fastrand::Rng::with_seed(seed), StdRng::seed_from_u64(seed));
    for _ in 0..200 {
        let old = random_torrents(&mut random);
        let mut new = old.clone();
        anonymize_swarms(&mut new, &mut secure);
        let bare = |torrents: &[PlainTorrent]| -> BTreeMap<InfoHash, (u32, Vec<String>)> {
            let rest = |peer: &PlainPeer| {
                let PlainPeer { address, role, paused, announced_at, peer_id } = peer;
                format!("{} {role:?} {paused} {announced_at} {peer_id:?}", address.is_ipv4())
            };
            let rests = |torrent: &PlainTorrent| {
                let mut rests: Vec<_> = torrent.peers.iter().map(rest).collect();
                rests.sort();
                rests
            };
            torrents.iter().map(|torrent| (torrent.info_hash, (torrent.completed, rests(torrent)))).collect()
        };
        assert_eq!(bare(&new), bare(&old));
        let peers = |torrents: &[PlainTorrent]| -> HashSet<SocketAddr> {
            torrents.iter().flat_map(|torrent| &torrent.peers).map(|peer| peer.address).collect()
        };
        assert!(peers(&new).is_disjoint(&peers(&old)));
        for address in peers(&new) {
            let ip = address.ip();
            assert!(!ip.is_unspecified() && !ip.is_multicast() && !ip.is_loopback(), "{ip}");
            assert!((1024..=65533).contains(&address.port()), "{address}");
        }
        for torrent in &new {
            assert!(torrent.peers.iter().all(|peer| peer.check_peer().is_ok()));
            assert!(torrent.peers.is_sorted_by_key(|peer| peer.address), "no order of old is left");
        }
    }
}

#[test]
fn anonymous_swarms_are_written_to_a_file_of_their_own() {
    let folder = Folder::new();
    write_swarms(&folder, &torrents());
    let (output, notes) = folder.run(&["anonymize"]).unwrap();
    assert_eq!(
        (output.as_str(), notes.as_str()),
        ("2 torrents, 4 peers written to hayate-cache-anonymized.bin\n", "")
    );
    let path = folder.path(ANONYMIZED);
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    let anonymous = swarms_in(&folder, ANONYMIZED);
    assert_eq!(anonymous[0].peers.len(), 4);
    let (octets, host) = (fs::read(&path).unwrap(), [192, 0, 2]);
    assert!(!octets.windows(3).any(|window| window == host), "no old address is left");
    assert_eq!(swarms_in(&folder, CACHE), merged_torrents());
}

fn merged_torrents() -> Vec<PlainTorrent> {
    let mut torrents = torrents();
    plain::merge_torrents(&mut torrents);
    torrents
}
