use std::collections::HashSet;
use std::net::Ipv6Addr;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

use fastrand::Rng;
use hayate_state::snapshot::container::SnapshotWriter;
use hayate_state::snapshot::reference::read_torrents;
use hayate_state::snapshot::site::{
    self, Group, Multipliers, Role, SeenEndpoint, SitePeer, SiteTorrent, SiteWriter, UserAccount,
};
use hayate_state::{InfoHash, PeerId};
use rand::SeedableRng;
use tempfile::TempDir;

use super::*;

const FIXTURE_TORRENTS_BIN: &[u8] = include_bytes!("../../../tests/kit/fixtures/reference/torrent-cache.bin");
const FIXTURE_USERS_BIN: &[u8] = include_bytes!("../../../tests/kit/fixtures/reference/user-cache.bin");
const FIXTURE_TORRENTS_JSON: &str = include_str!("../../../tests/kit/fixtures/reference/torrent-cache.json");
const FIXTURE_USERS_JSON: &str = include_str!("../../../tests/kit/fixtures/reference/user-cache.json");

/// A folder that is removed when the test ends.
pub(super) struct Folder(TempDir);

impl Folder {
    pub(super) fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    /// Returns the path of the file `name`.
    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    pub(super) fn write(&self, name: &str, octets: impl AsRef<[u8]>) {
        fs::write(self.path(name), octets).unwrap();
    }

    pub(super) fn text(&self, name: &str) -> String {
        fs::read_to_string(self.path(name)).unwrap()
    }

    pub(super) fn names(&self) -> Vec<String> {
        let mut names: Vec<_> = fs::read_dir(self.0.path())
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }

    /// Runs a command. Returns standard output and standard error, or the error.
    pub(super) fn run(&self, args: &[&str]) -> Result<(String, String), String> {
        let (mut output, mut notes) = (Vec::new(), Vec::new());
        let args: Vec<String> = args.iter().copied().map(String::from).collect();
        let random = StdRng::seed_from_u64(7);
        let mut tool = CacheTool { folder: self.0.path(), output: &mut output, notes: &mut notes, random };
        tool.run(&args).map_err(|error| format!("{error:#}"))?;
        Ok((String::from_utf8(output).unwrap(), String::from_utf8(notes).unwrap()))
    }

    fn cache(&self) -> SiteSnapshot {
        site::read_file(&self.path(CACHE)).unwrap().site
    }

    fn write_cache(&self, site: &SiteSnapshot) {
        site::write_file(&self.path(CACHE), site, 7).unwrap();
    }
}

/// Makes a random site, sorted and without duplicates, with every form of a field. Ids and times are often
/// equal.
fn random_site(random: &mut Rng) -> SiteSnapshot {
    let torrents = (0..random.usize(..7)).map(|_| random_torrent(random)).collect();
    let users = (0..random.usize(..7)).map(|_| random_user(random)).collect();
    let unprunes = (0..random.usize(..4)).map(|_| random.u32(..5)).collect();
    let mut site = SiteSnapshot { torrents, users, unprunes };
    site.sort_and_dedup();
    site
}

fn random_multiplier(random: &mut Rng) -> f64 {
    let odd = [0.0, -0.0, 1.0, 0.1, 1e21, 5e-324, f64::MAX, f64::from(0.7_f32)];
    let any = f64::from_bits(random.u64(..));
    if random.bool() && any.is_finite() { any } else { odd[random.usize(..odd.len())] }
}

fn random_torrent(random: &mut Rng) -> SiteTorrent {
    let names = ["anime", "", "<b>&ü\u{2028}", "\0hex:61", "\0", "a type with a long name"];
    SiteTorrent {
        info_hash: InfoHash(random.u128(..).to_le_bytes().repeat(2)[..20].try_into().unwrap()),
        id: random.u32(..5),
        group: Group { type_name: names[random.usize(..names.len())].into(), id: random.u32(..) },
        snatched: random.u32(..),
        status: random.i32(..),
        last_action: random.i64(..),
        multipliers: Multipliers { up: random_multiplier(random), down: random_multiplier(random) },
        peers: (0..random.usize(..9)).map(|_| random_peer(random)).collect(),
    }
}

fn random_peer(random: &mut Rng) -> SitePeer {
    let announced_at = random.i64(..3);
    let v4 = SeenEndpoint { address: random.u32(..).into(), port: random.u16(..), seen_at: random.i64(..3) };
    let mapped = Ipv6Addr::from(0xffff_0102_0304);
    let address = if random.bool() { mapped } else { random.u128(..).into() };
    let v6 = SeenEndpoint { address, port: random.u16(..), seen_at: random.i64(..3) };
    SitePeer {
        user: random.u32(..3),
        peer_id: PeerId([random.u8(..); 20]),
        role: if random.bool() { Role::Seeder } else { Role::Leecher },
        v4: random.bool().then_some(v4),
        v6: random.bool().then_some(v6),
        uploaded: random.u64(..),
        downloaded: random.u64(..),
        left: random.u64(..),
        started_at: random.i64(..),
        announced_at,
        client: random.u32(..),
    }
}

fn random_user(random: &mut Rng) -> UserAccount {
    let passkeys: [&[u8]; 4] = [b"", b"\xff", b"\0hex:ff", "<ü".as_bytes()];
    let passkey = match random.usize(..8) {
        odd @ 0..4 => passkeys[odd].to_vec(),
        _ => (0..32).map(|_| u8::try_from(random.alphanumeric()).unwrap()).collect(),
    };
    UserAccount {
        passkey: passkey.into(),
        id: random.u32(..),
        disable_download: random.bool(),
        tracker_hide: random.bool(),
        multipliers: Multipliers { up: random_multiplier(random), down: random_multiplier(random) },
    }
}

/// Returns the JSON of the reference tracker with the down multiplier that it writes wrongly.
fn corrected(json: &str) -> String {
    json.replacen("\"DownMultiplier\": 0.5", "\"DownMultiplier\": 2", 1)
}

#[test]
fn the_reference_trackers_files_are_dumped_as_it_dumps_them() {
    let folder = Folder::new();
    folder.write(TORRENTS_BIN, FIXTURE_TORRENTS_BIN);
    folder.write(USERS_BIN, FIXTURE_USERS_BIN);
    let (output, notes) = folder.run(&["dump"]).unwrap();
    let expected = "3 torrents, 5 peers, 3 users dumped to torrent-cache.json and user-cache.json\n";
    assert_eq!((output.as_str(), notes.as_str()), (expected, ""));
    assert_eq!(folder.text(TORRENTS_JSON), corrected(FIXTURE_TORRENTS_JSON));
    assert_eq!(folder.text(USERS_JSON), corrected(FIXTURE_USERS_JSON));
    assert_eq!(folder.names(), [TORRENTS_BIN, TORRENTS_JSON, USERS_BIN, USERS_JSON]);
    for name in [TORRENTS_JSON, USERS_JSON] {
        assert_eq!(fs::metadata(folder.path(name)).unwrap().permissions().mode() & 0o777, 0o600);
    }
}

#[test]
fn the_reference_trackers_json_survives_both_ways() {
    let folder = Folder::new();
    folder.write(TORRENTS_JSON, FIXTURE_TORRENTS_JSON);
    folder.write(USERS_JSON, FIXTURE_USERS_JSON);
    folder.run(&["restore"]).unwrap();
    assert_eq!(fs::metadata(folder.path(CACHE)).unwrap().permissions().mode() & 0o777, 0o600);
    folder.run(&["dump"]).unwrap();
    assert_eq!(folder.text(TORRENTS_JSON), FIXTURE_TORRENTS_JSON);
    assert_eq!(folder.text(USERS_JSON), FIXTURE_USERS_JSON);
}

#[test]
fn an_export_has_the_records_of_the_reference_tracker() {
    let folder = Folder::new();
    folder.write(TORRENTS_JSON, corrected(FIXTURE_TORRENTS_JSON));
    folder.write(USERS_JSON, corrected(FIXTURE_USERS_JSON));
    folder.run(&["restore"]).unwrap();
    let (output, notes) = folder.run(&["export"]).unwrap();
    let expected = "3 torrents, 5 peers, 3 users exported to torrent-cache.bin and user-cache.bin\n";
    assert_eq!((output.as_str(), notes.as_str()), (expected, ""));
    // The order within a list is free; there is one list with two peers.
    let (entry, leechers) = (24 + 77, 2 + 20 + 1 + 24 + 77 + 1);
    let mut expected = FIXTURE_TORRENTS_BIN.to_vec();
    expected[leechers..leechers + 2 * entry].rotate_left(entry);
    assert_eq!(fs::read(folder.path(TORRENTS_BIN)).unwrap(), expected);
    let users = fs::read(folder.path(USERS_BIN)).unwrap();
    let records = |file: &[u8]| -> HashSet<Vec<u8>> { file[2..].chunks(55).map(<[u8]>::to_vec).collect() };
    assert_eq!((users.len(), records(&users)), (FIXTURE_USERS_BIN.len(), records(FIXTURE_USERS_BIN)));
}

#[test]
fn nothing_is_lost_in_json() {
    let seed = fastrand::u64(..);
    println!("seed {seed}");
    let mut random = Rng::with_seed(seed);
    for _ in 0..300 {
        let site = random_site(&mut random);
        let (mut torrents, mut users) = (Vec::new(), Vec::new());
        dump_torrents(&mut torrents, &site, &mut || ()).unwrap();
        dump_users(&mut users, &site.users).unwrap();
        let (mut restored, mut steps) = (SiteSnapshot::default(), 0);
        restore_torrents(torrents.as_slice(), &mut restored, &mut || steps += 1).unwrap();
        restore_users(users.as_slice(), &mut restored, &mut || steps += 1).unwrap();
        assert_eq!(steps, site.torrents.len() + site.users.len());
        restored.sort_and_dedup();
        // Minus zero equals zero, but is another number.
        assert_eq!(format!("{restored:?}"), format!("{site:?}"));
    }
}

#[test]
fn data_that_the_reference_tracker_does_not_have_has_keys_of_its_own() {
    let mut site = SiteSnapshot { unprunes: vec![2, 9], ..SiteSnapshot::default() };
    let mut torrent = read_torrents(FIXTURE_TORRENTS_BIN).unwrap().remove(0);
    torrent.peers.truncate(1);
    let address = "2001:db8::7".parse().unwrap();
    torrent.peers[0].v6 = Some(SeenEndpoint { address, port: 13, seen_at: 1_795_222_300 });
    torrent.peers[0].v4 = None;
    site.torrents.push(torrent);
    let mut json = Vec::new();
    dump_torrents(&mut json, &site, &mut || ()).unwrap();
    let json = String::from_utf8(json).unwrap();
    let flat = json.replace("\t", "");
    let addresses =
        "{\n\"Addr6\": \"[2001:db8::7]:13\",\n\"Addr6LastAnnounce\": 1795222300,\n\"Uploaded\": 5000,";
    assert!(flat.contains(addresses), "{json}");
    assert!(json.contains("\"Status\": 0,\n\t\t\"UnprunePending\": true,\n\t\t\"UpMultiplier\""), "{json}");
    assert!(json.ends_with("\t},\n\t\"UnprunePending\": [\n\t\t9\n\t]\n}\n"), "{json}");
}

#[test]
fn json_of_another_structure_is_refused_and_changes_nothing() {
    let folder = Folder::new();
    folder.write_cache(&SiteSnapshot { unprunes: vec![7], ..SiteSnapshot::default() });
    for (old, new, error) in [
        ("\"Snatched\": 2", "\"Snatchd\": 2", "unknown field `Snatchd`"),
        ("\"Snatched\": 2,", "", "missing field `Snatched`"),
        ("\"Snatched\": 2", "\"Snatched\": -2", "integer `-2`, expected u32"),
        ("8a1f3c5e", "8a1f3c5", "not an info_hash"),
        ("01000000", "0100000", "a key of a peer that is not 48 hexadecimal digits"),
        ("127.0.0.1:6004", "127.0.0.1", "invalid IPv4 socket address syntax"),
        ("\"anime\"", "\"\\u0000hex:ff\"", "a TorrentType that is not UTF-8"),
        ("\"Left\": 77", "\"Left\": [", "invalid type: sequence, expected u64"),
        ("\n}\n", "\n} 1", "trailing characters"),
        ("\n}\n", ",\"x\": []}", "a list where a torrent should be"),
        ("\n}\n", "", "EOF while parsing an object"),
    ] {
        assert!(FIXTURE_TORRENTS_JSON.contains(old), "{old}");
        folder.write(TORRENTS_JSON, FIXTURE_TORRENTS_JSON.replacen(old, new, 1));
        folder.write(USERS_JSON, FIXTURE_USERS_JSON);
        let found = folder.run(&["restore"]).unwrap_err();
        assert!(found.starts_with("torrent-cache.json: ") && found.contains(error), "{found}");
        assert!(found.contains(" at line ") && !found.contains('\n'), "{found}");
    }
    folder.write(TORRENTS_JSON, FIXTURE_TORRENTS_JSON);
    folder.write(USERS_JSON, FIXTURE_USERS_JSON.replacen("\"Bz8", "\"\\u0000hex:Bz8", 1));
    let found = folder.run(&["restore"]).unwrap_err();
    assert!(found.starts_with("user-cache.json: a passkey that is not hexadecimal"), "{found}");
    assert_eq!(folder.names(), [CACHE, TORRENTS_JSON, USERS_JSON]);
    assert_eq!(folder.cache().unprunes, [7]);
}

#[test]
fn a_key_in_both_lists_is_restored_once_and_reported() {
    let folder = Folder::new();
    let peer = "020000002d5452323934302d646464646464646464646464";
    let torrents =
        FIXTURE_TORRENTS_JSON.replacen("010000002d5452323934302d616161616161616161616161", peer, 1);
    folder.write(TORRENTS_JSON, torrents);
    folder.write(USERS_JSON, "{}");
    let (output, notes) = folder.run(&["restore"]).unwrap();
    assert!(output.starts_with("3 torrents, 4 peers, 0 users restored"), "{output}");
    assert!(notes.starts_with("hayate-cc: 1 records occurred twice"), "{notes}");
}

#[test]
fn missing_and_damaged_files_are_reported() {
    let folder = Folder::new();
    let none = "there is no cache here: no hayate-cache.bin, no torrent-cache.bin, no user-cache.bin";
    assert_eq!(folder.run(&["dump"]), Err(none.into()));
    assert_eq!(folder.run(&["export"]), Err("hayate-cache.bin: there is none here".into()));
    let none = "there is nothing to restore here: no torrent-cache.json, no user-cache.json, no swarms.json";
    assert_eq!(folder.run(&["restore"]), Err(none.into()));
    folder.write(USERS_JSON, "{}");
    assert!(folder.run(&["restore"]).unwrap_err().starts_with("torrent-cache.json: No such file"));
    folder.write(USERS_BIN, FIXTURE_USERS_BIN);
    let (output, notes) = folder.run(&["dump"]).unwrap();
    assert!(output.starts_with("0 torrents, 0 peers, 3 users dumped"), "{output}");
    assert_eq!(notes, "hayate-cc: warning: torrent-cache.bin: there is none here; it counts as empty\n");
    assert_eq!(folder.text(TORRENTS_JSON), "{}\n");
    folder.write(TORRENTS_BIN, &FIXTURE_TORRENTS_BIN[..700]);
    let error = folder.run(&["dump"]).unwrap_err();
    assert_eq!(error, "torrent-cache.bin: it ends too early, in a record at octet 694");
    folder.write(CACHE, "hayate");
    assert_eq!(folder.run(&["dump"]), Err("hayate-cache.bin: this is not a snapshot of hayate".into()));
    assert_eq!(folder.text(TORRENTS_JSON), "{}\n", "nothing was written");
}

#[test]
fn a_file_that_cannot_be_written_leaves_no_half_of_a_pair() {
    let folder = Folder::new();
    folder.write(TORRENTS_BIN, FIXTURE_TORRENTS_BIN);
    folder.write(USERS_BIN, FIXTURE_USERS_BIN);
    // A folder in the place of the second file.
    fs::create_dir(folder.path(USERS_JSON)).unwrap();
    let error = folder.run(&["dump"]).unwrap_err();
    assert!(error.starts_with("torrent-cache.json, user-cache.json: Is a directory"), "{error}");
    assert_eq!(folder.names(), [TORRENTS_BIN, USERS_BIN, USERS_JSON]);
}

#[test]
fn blocks_of_an_unknown_kind_are_reported() {
    let folder = Folder::new();
    let mut container = SnapshotWriter::new(Vec::new(), 7).unwrap();
    container.write_block(99, b"what").unwrap();
    SiteWriter::new(&mut container).finish().unwrap();
    folder.write(CACHE, container.finish().unwrap());
    for (command, fate) in [
        ("dump", "not dumped"),
        ("anonymize", "left out"),
        ("export", "not exported"),
        ("restore", "in the file that was replaced, and are gone"),
    ] {
        let (_, notes) = folder.run(&[command]).unwrap();
        assert_eq!(notes, format!("hayate-cc: 1 blocks of an unknown kind were {fate}\n"));
    }
    assert_eq!(folder.run(&["restore"]).unwrap().1, "");
}

#[test]
fn losses_of_an_export_are_reported_with_their_counts() {
    let folder = Folder::new();
    let mut site = SiteSnapshot { unprunes: vec![7, 9], ..SiteSnapshot::default() };
    let mut torrent = read_torrents(FIXTURE_TORRENTS_BIN).unwrap().remove(0);
    torrent.snatched = 70_000;
    torrent.peers[0].v4 = None;
    site.torrents.push(torrent);
    folder.write_cache(&site);
    let (_, notes) = folder.run(&["export"]).unwrap();
    let expected = "hayate-cc: warning: 1 peers without an IPv4 address left out\n\
                    hayate-cc: warning: 1 snatched counts above 65535 became 65535\n\
                    hayate-cc: warning: 2 un-prunes that were not yet in the database left out\n";
    assert_eq!(notes, expected);
}

#[test]
fn usage_is_printed_for_unknown_commands() {
    let folder = Folder::new();
    for args in [&[][..], &["x"], &["--help"], &["x", "dump"]] {
        assert_eq!(folder.run(args), Ok((USAGE.into(), String::new())));
    }
    assert_eq!(folder.run(&["dump", "x"]), Err("dump takes no arguments".into()));
}

#[test]
fn anonymous_sites_have_no_personal_data() {
    let folder = Folder::new();
    folder.write(TORRENTS_BIN, FIXTURE_TORRENTS_BIN);
    folder.write(USERS_BIN, FIXTURE_USERS_BIN);
    folder.run(&["anonymize"]).unwrap();
    let path = folder.path(ANONYMIZED);
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    let anonymous = site::read_file(&path).unwrap().site;
    let torrents = read_torrents(FIXTURE_TORRENTS_BIN).unwrap();
    let old_users = reference::read_users(FIXTURE_USERS_BIN).unwrap();
    let ids: HashSet<u32> = anonymous.users.iter().map(|user| user.id).collect();
    assert_eq!(ids, HashSet::from([1, 2, 3]));
    for user in &anonymous.users {
        assert!(!user.tracker_hide && user.multipliers == Multipliers::default());
        assert!(user.passkey.len() == 32 && user.passkey.iter().all(u8::is_ascii_alphanumeric));
        assert!(old_users.iter().all(|old| old.passkey != user.passkey));
    }
    assert_eq!(anonymous.users.iter().filter(|user| user.disable_download).count(), 1);
    // Peers of one user still have one user: 1 seeds torrents 2 and 1, 4 leeches 2 and seeds 3.
    let user_of = |torrent: usize, peer_id: &[u8; 20]| {
        let peers = &anonymous.torrents[torrent].peers;
        peers.iter().find(|peer| peer.peer_id.0 == *peer_id).unwrap().user
    };
    assert_eq!(user_of(0, b"-TR2940-aaaaaaaaaaaa"), user_of(2, b"-TR2940-eeeeeeeeeeee"));
    assert_eq!(user_of(0, b"-DE13F0-bbbbbbbbbbbb"), user_of(1, b"-TR2940-cccccccccccc"));
    for (new, old) in anonymous.torrents.iter().zip(&torrents) {
        let bare = |torrent: &SiteTorrent| SiteTorrent { peers: Vec::new(), ..torrent.clone() };
        assert_eq!(bare(new), bare(old));
        for new in &new.peers {
            let old = old.peers.iter().find(|old| old.peer_id == new.peer_id).unwrap();
            let v4 = new.v4.unwrap();
            assert!(Some(v4) != old.v4 && (1024..=65533).contains(&v4.port));
            assert_eq!(Some(v4.seen_at), old.v4.map(|v4| v4.seen_at));
            assert_eq!(SitePeer { user: old.user, v4: old.v4, ..new.clone() }, *old);
        }
    }
}

#[test]
fn peers_of_unknown_users_belong_to_nobody_and_keep_their_families() {
    let seed = fastrand::u64(..);
    println!("seed {seed}");
    let (mut random, mut secure) = (Rng::with_seed(seed), StdRng::seed_from_u64(seed));
    for _ in 0..200 {
        let old = random_site(&mut random);
        let mut new = old.clone();
        let old_passkeys: Vec<_> = old.users.iter().map(|user| user.passkey.len()).collect();
        let removed = anonymize(&mut new, &mut secure).unwrap();
        assert_eq!(new.peers() + removed, old.peers());
        let mut passkeys: Vec<_> = new.users.iter().map(|user| user.passkey.len()).collect();
        passkeys.sort_unstable();
        let mut expected = old_passkeys;
        expected.sort_unstable();
        assert_eq!((passkeys, &new.unprunes), (expected, &old.unprunes));
        let known: HashSet<u32> = old.users.iter().map(|user| user.id).collect();
        let peers = old.torrents.iter().flat_map(|torrent| &torrent.peers);
        if peers.clone().all(|peer| !known.contains(&peer.user)) {
            assert!(new.torrents.iter().flat_map(|torrent| &torrent.peers).all(|peer| peer.user == 0));
        }
        if removed == 0 {
            let families = |site: &SiteSnapshot| {
                let peers = site.torrents.iter().flat_map(|torrent| &torrent.peers);
                peers.map(|peer| usize::from(peer.v4.is_some()) + 10 * usize::from(peer.v6.is_some())).sum()
            };
            let (new, old): (usize, usize) = (families(&new), families(&old));
            assert_eq!(new, old);
        }
    }
}

#[test]
fn the_order_of_new_ids_does_not_depend_on_the_old_ones() {
    let users = reference::read_users(FIXTURE_USERS_BIN).unwrap();
    let orders: HashSet<Vec<(bool, u32)>> = (0..200)
        .map(|seed| {
            let mut site = SiteSnapshot { users: users.clone(), ..SiteSnapshot::default() };
            anonymize(&mut site, &mut StdRng::seed_from_u64(seed)).unwrap();
            site.users.iter().map(|user| (user.disable_download, user.id)).collect()
        })
        .collect();
    // The one user without downloads is at any position, with any id.
    let positions: HashSet<_> =
        orders.iter().map(|users| users.iter().position(|(is_restricted, _)| *is_restricted)).collect();
    let ids: HashSet<_> =
        orders.iter().flatten().filter(|(is_restricted, _)| *is_restricted).map(|(_, id)| *id).collect();
    assert_eq!((positions.len(), ids), (3, HashSet::from([1, 2, 3])));
}

#[test]
fn a_cache_in_any_order_is_dumped_in_the_order_of_its_keys() {
    let folder = Folder::new();
    let mut site = SiteSnapshot {
        torrents: read_torrents(FIXTURE_TORRENTS_BIN).unwrap(),
        users: reference::read_users(FIXTURE_USERS_BIN).unwrap(),
        unprunes: Vec::new(),
    };
    site.torrents.reverse();
    site.torrents.iter_mut().for_each(|torrent| torrent.peers.reverse());
    site.users.reverse();
    folder.write_cache(&site);
    folder.run(&["dump"]).unwrap();
    assert_eq!(folder.text(TORRENTS_JSON), corrected(FIXTURE_TORRENTS_JSON));
    assert_eq!(folder.text(USERS_JSON), corrected(FIXTURE_USERS_JSON));
}

#[test]
fn short_passkeys_may_run_out() {
    let user = |octet: u8| UserAccount {
        passkey: [octet].into(),
        id: octet.into(),
        disable_download: false,
        tracker_hide: false,
        multipliers: Multipliers::default(),
    };
    let mut full = SiteSnapshot { users: (0..62).map(user).collect(), ..SiteSnapshot::default() };
    assert_eq!(anonymize(&mut full, &mut StdRng::seed_from_u64(7)), Ok(0));
    assert_eq!(full.users.iter().map(|user| user.passkey.clone()).collect::<HashSet<_>>().len(), 62);
    full.users.push(user(62));
    let none = anonymize(&mut full, &mut StdRng::seed_from_u64(7));
    assert_eq!(none, Err(NoPasskeys { len: 1, users: 63 }));
}
