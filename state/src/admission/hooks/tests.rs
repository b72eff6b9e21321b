use serde_json::json;

use super::*;
use crate::announce::HookText;
use crate::{Event, Handout, PeerId, Policy, Published, Swarms, Tally, Tracker};

struct NoKeys;

impl KeyringSource for NoKeys {
    fn keyring(&self, _: &str, _: u64) -> Result<Arc<jwk::Keyring>, String> {
        Err("no network in this test".to_owned())
    }
}

fn build(name: &str, options: Value) -> Result<Arc<Hooks>, String> {
    let options = options.as_object().unwrap().clone();
    let pre = [(name, &options)].into_iter();
    Hooks::build(pre, std::iter::empty(), HookInputs { keyrings: &NoKeys })
        .map_err(|(_, error)| error.to_string())
}

fn announce(info_hash: [u8; 20], peer_id: [u8; 20]) -> Announce {
    Announce {
        info_hash: InfoHash(info_hash),
        peer_id: PeerId(peer_id),
        address: [192, 0, 2, 7].into(),
        port: 6881,
        uploaded: 0,
        downloaded: 0,
        left: 9,
        event: Event::None,
        num_want: 50,
    }
}

fn no_url() -> RequestUrl<'static> {
    RequestUrl::empty([192, 0, 2, 7].into())
}

/// What the hooks make of an announce whose intervals are 1800 and 900 seconds.
fn outcome(hooks: &Hooks, announce: &Announce) -> Result<(u32, u32), Refusal> {
    let mut visit = AnnounceVisit::new(Now::at(0), announce, no_url(), (1800, 900));
    hooks.run_prehooks(&mut visit)?;
    Ok((visit.interval_seconds, visit.min_interval_seconds))
}

/// `rules/hooks.md#interval-variation`.
#[test]
fn interval_variation_adds_what_the_vectors_say() {
    let hex = |text: &str| text.parse::<InfoHash>().unwrap().0;
    let text = *b"00000000000000000001";
    let mut one = [0; 20];
    one[19] = 1;
    for (info_hash, peer_id, added) in [
        (text, text, [22, 2, 0]),
        (hex("3532cf2d327fad8448c075b4cb42c8136964a435"), *b"-AZ3034-6wfG2wk6wWLc", [11, 0, 0]),
        (hex(&"a1b2c3d4e5".repeat(4)), *b"OP1011affbecbfabeefb", [14, 4, 14]),
        ([0; 20], [0; 20], [1, 1, 1]),
        ([0xff; 20], [0xff; 20], [59, 9, 59]),
        (one, *b"-TR4060-abcdefghijkl", [27, 7, 0]),
    ] {
        for ((probability, delta), added) in [(1.0, 60), (0.5, 10), (0.2, 60)].into_iter().zip(added) {
            let options = json!({"modify_response_probability": probability, "max_increase_delta": delta,
                "modify_min_interval": delta == 10});
            let hooks = build("interval variation", options).unwrap();
            let min_added = if delta == 10 { added } else { 0 };
            let expected = Ok((1800 + added, 900 + min_added));
            assert_eq!(outcome(&hooks, &announce(info_hash, peer_id)), expected, "{probability} {delta}");
        }
    }
}

#[test]
fn interval_variation_refuses_options_out_of_range() {
    let options = |p: f64, delta: i64| json!({"modify_response_probability": p, "max_increase_delta": delta});
    for p in [0.5, 1.0] {
        assert!(build("interval variation", options(p, 60)).is_ok());
    }
    for p in [0.0, 1.1, -1.0] {
        let error = build("interval variation", options(p, 60)).unwrap_err();
        assert_eq!(error, "invalid modify_response_probability");
    }
    for delta in [0, -10] {
        assert_eq!(
            build("interval variation", options(0.5, delta)).unwrap_err(),
            "invalid max_increase_delta"
        );
    }
}

#[test]
fn approvals_admit_what_their_lists_say() {
    let (hash, other) = ([0xaa; 20], [0xbb; 20]);
    let (azureus, transmission) = (*b"-AZ3034-6wfG2wk6wWLc", *b"-TR4060-abcdefghijkl");
    let (client, torrent) = (Err(Refusal::UnapprovedClient), Err(Refusal::UnapprovedTorrent));
    let fine = Ok((1800, 900));
    for (name, options, hit, miss) in [
        ("client approval", json!({"whitelist": ["AZ3034"]}), fine, client),
        ("client approval", json!({"blacklist": ["AZ3034"]}), client, fine),
        ("client approval", json!({}), fine, fine),
        ("torrent approval", json!({"whitelist": ["AA".repeat(20)]}), fine, torrent),
        ("torrent approval", json!({"blacklist": ["aa".repeat(20)]}), torrent, fine),
        ("torrent approval", json!({"whitelist": [], "blacklist": []}), fine, fine),
    ] {
        let hooks = build(name, options.clone()).unwrap();
        assert_eq!(outcome(&hooks, &announce(hash, azureus)), hit, "{name} {options}");
        assert_eq!(outcome(&hooks, &announce(other, transmission)), miss, "{name} {options}");
        let visit = ScrapeVisit { now: Now::at(0), info_hashes: &[InfoHash(other)], url: no_url() };
        assert_eq!(hooks.run_scrape_hooks(&visit), Ok(()), "scrapes pass");
    }
}

#[test]
fn options_that_are_not_accepted_are_named() {
    let both = "using both whitelist and blacklist is invalid";
    let hash = "aa".repeat(20);
    for (name, options, text) in [
        ("client approval", json!({"whitelist": ["AZ3034"], "blacklist": ["TR4060"]}), both.to_owned()),
        ("torrent approval", json!({"whitelist": [hash], "blacklist": [hash]}), both.to_owned()),
        ("client approval", json!({"whitelist": ["AZ"]}), "client ID AZ must be 6 bytes".to_owned()),
        ("torrent approval", json!({"whitelist": ["zz"]}), "whitelist : invalid hash zz".to_owned()),
        ("torrent approval", json!({"whitelist": ["aaa"]}), "whitelist : invalid hash aaa".to_owned()),
        ("torrent approval", json!({"blacklist": ["aa"]}), "blacklist : hash aa is not 20 bytes".to_owned()),
        ("jwt", json!({"audience": "a", "jwk_set_url": "u"}), "issuer is required".to_owned()),
        ("jwt", json!({"issuer": "i", "jwk_set_url": "u"}), "audience is required".to_owned()),
        ("jwt", json!({"issuer": "i", "audience": "a"}), "jwk_set_url is required".to_owned()),
        (
            "jwt",
            json!({"issuer": "i", "audience": "a", "jwk_set_url": "u"}),
            "failed to fetch initial JWK Set: no network in this test".to_owned(),
        ),
        (
            "jwt",
            json!({"issuer": "i", "audience": "a", "jwk_set_url": "u", "jwk_set_update_interval": "soon"}),
            "jwk_set_update_interval: expected whole seconds or a text such as \"5m\", at least 1s"
                .to_owned(),
        ),
        ("no such", json!({}), "middleware driver with that name does not exist".to_owned()),
    ] {
        assert_eq!(build(name, options).unwrap_err(), text);
    }
    let unknown = build("client approval", json!({"greylist": []})).unwrap_err();
    assert!(
        unknown.starts_with("greylist: unknown field `greylist`, expected `whitelist` or `blacklist`"),
        "{unknown}"
    );
}

#[test]
fn a_hook_may_stand_once_in_each_list() {
    let options = Map::new();
    let entry = ("client approval", &options);
    let inputs = HookInputs { keyrings: &NoKeys };
    let built = Hooks::build([entry].into_iter(), [entry].into_iter(), inputs).unwrap();
    assert_eq!(built.names().collect::<Vec<_>>(), ["client approval"; 2]);
    let twice = Hooks::build([entry, entry].into_iter(), std::iter::empty(), inputs);
    assert!(matches!(twice, Err((_, HookError::Twice))));
}

/// A hook that does what a closure does.
struct HookOf<F>(F);

impl<F> fmt::Debug for HookOf<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("By")
    }
}

impl<F: Fn(&mut AnnounceVisit<'_>) -> Verdict + Send + Sync> Hook for HookOf<F> {
    fn announce(&self, visit: &mut AnnounceVisit<'_>) -> Verdict {
        (self.0)(visit)
    }
}

fn hook_of(
    hook: impl Fn(&mut AnnounceVisit<'_>) -> Verdict + Send + Sync + 'static,
) -> (&'static str, Box<dyn Hook>) {
    ("by", Box::new(HookOf(hook)))
}

fn tracker(hooks: Arc<Hooks>) -> Tracker {
    Tracker::new(Swarms::new(0), &Published::new(Policy { hooks, ..Policy::default() }), 7)
}

/// The answer to an announce from a port, and how many peers it got.
fn announce_once(tracker: &mut Tracker, port: u16, left: u64) -> Result<(crate::Answer, usize), Refusal> {
    let announce = Announce { port, left, ..announce([7; 20], [b'x'; 20]) };
    let mut room = [0; 600];
    let mut handout = Handout::new(&mut room, &mut []);
    let answer = tracker.announce_with_hooks(Now::at(0), &announce, no_url(), &mut handout)?;
    Ok((answer, handout.v4.peers()))
}

#[test]
fn the_first_refusal_of_a_prehook_is_the_answer_and_nothing_is_stored() {
    let second = hook_of(|_| Err(Refusal::Hook(HookText("the second"))));
    let first = hook_of(|_| Err(Refusal::Hook(HookText("the first"))));
    let mut tracker = tracker(Hooks::from_hooks(vec![first, second], vec![]));
    assert_eq!(announce_once(&mut tracker, 7001, 0).unwrap_err().text(), "the first");
    assert_eq!(tracker.scrape(&InfoHash([7; 20])), Ok(Tally::default()));
}

#[test]
fn a_refusal_of_a_posthook_keeps_the_peer_out_but_answers_it() {
    let odd_ports_stay_out =
        hook_of(|visit| if visit.announce.port % 2 == 0 { Ok(()) } else { Err(Refusal::UnapprovedClient) });
    let mut tracker = tracker(Hooks::from_hooks(vec![], vec![odd_ports_stay_out]));
    for port in [7002, 7004, 7006] {
        announce_once(&mut tracker, port, 9).unwrap();
    }
    let (answer, peers) = announce_once(&mut tracker, 7001, 9).unwrap();
    assert_eq!((peers, answer.tally.leechers), (3, 3));
    assert_eq!(tracker.scrape(&InfoHash([7; 20])).unwrap().leechers, 3);
    assert_eq!(tracker.policy().hooks.unstored(), 1);
    // A peer that is there is not handed itself, kept out or not.
    let hooks = Hooks::from_hooks(
        vec![],
        vec![hook_of(|visit| {
            visit.skip_swarm = visit.announce.left == 13;
            Ok(())
        })],
    );
    let mut tracker = self::tracker(hooks);
    announce_once(&mut tracker, 7002, 9).unwrap();
    announce_once(&mut tracker, 7004, 9).unwrap();
    assert_eq!(announce_once(&mut tracker, 7004, 13).unwrap().1, 1);
}

#[test]
fn hooks_change_the_reply_and_leave_values_for_each_other() {
    let first = hook_of(|visit| {
        visit.set_note("who", "the first".to_owned());
        visit.interval_seconds = 77;
        visit.min_interval_seconds = 11;
        Ok(())
    });
    let second = hook_of(|visit| {
        assert_eq!((visit.note("who"), visit.note("else")), (Some("the first"), None));
        visit.skip_reply = visit.announce.port == 7003;
        Ok(())
    });
    let mut tracker = tracker(Hooks::from_hooks(vec![first, second], vec![]));
    announce_once(&mut tracker, 7001, 9).unwrap();
    let (answer, peers) = announce_once(&mut tracker, 7002, 9).unwrap();
    assert_eq!((answer.interval_seconds, answer.min_interval_seconds, peers), (77, 11, 1));
    let (answer, peers) = announce_once(&mut tracker, 7003, 9).unwrap();
    assert_eq!((answer.tally, peers), (Tally::default(), 0), "the built-in reply is skipped");
    assert_eq!(tracker.scrape(&InfoHash([7; 20])).unwrap().leechers, 3, "the swarm is not");
}

#[test]
fn parameters_are_found_in_any_case_decoded_and_the_last_wins() {
    let request_url =
        RequestUrl::parse([192, 0, 2, 7].into(), b"/a%20b?x=1&JWT=first&jw%74=a%2Bb+c&empty&y==");
    let value =
        |name| request_url.parameter(name).map(|value| String::from_utf8(value.into_owned()).unwrap());
    assert_eq!(request_url.path, b"/a%20b");
    assert_eq!(value("jwt").as_deref(), Some("a+b+c"));
    assert_eq!(value("empty").as_deref(), Some(""));
    assert_eq!(value("y").as_deref(), Some("="));
    assert_eq!(value("z"), None);
    assert_eq!(RequestUrl::parse([192, 0, 2, 7].into(), b"").parameter("x"), None);
}
