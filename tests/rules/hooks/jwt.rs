//! Tokens, good and hostile, over both servers.

use jsonwebtoken::{Algorithm, EncodingKey, Header, encode};
use serde_json::{Value, json};

use super::{refused, refused_over_udp};
use crate::harness::{Daemon, UdpClient, announce_rest, ask};
use crate::kit::jwk_server::{JwkServer, Key, ServerBehaviour, base64, claims, hook, keys, token};

const MISSING: &str = "unapproved request: missing jwt";
const INVALID: &str = "unapproved request: invalid jwt";

fn now() -> u64 {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs()
}

/// Returns the usual claims, with some of them replaced.
fn claims_with(changes: Value) -> Value {
    let mut all = claims();
    crate::harness::merge(&mut all, changes);
    all
}

fn claims_without(name: &str) -> Value {
    let mut all = claims();
    all.as_object_mut().unwrap().remove(name);
    all
}

#[test]
fn jwt() {
    let (rsa, p256) = (Key::rsa("one"), Key::p256("two"));
    let server = JwkServer::start(keys(&[&rsa, &p256]));
    let daemon = Daemon::start(json!({"prehooks": hook(&server.url())}));
    let over_http = |token: &str| refused(&daemon, 7001, &format!("&jwt={token}"));
    let over_udp =
        |token: &str, chunk| refused_over_udp(&daemon, 7001, &format!("/announce?jwt={token}"), chunk);
    assert_eq!(refused(&daemon, 7001, "").as_deref(), Some(MISSING));
    assert_eq!(refused(&daemon, 7001, "&jwt=").as_deref(), Some(MISSING));
    assert_eq!(refused_over_udp(&daemon, 7001, "", 9).as_deref(), Some(MISSING));
    assert_eq!(refused_over_udp(&daemon, 7001, "/announce", 9).as_deref(), Some(MISSING));

    for key in [&rsa, &p256] {
        let mut good = vec![
            key.sign(&claims()),
            key.sign(&claims_with(json!({"aud": ["another", "the tracker"]}))),
            key.sign(&claims_with(json!({"exp": now() + 60, "nbf": now() - 60}))),
            // The clocks may differ by half a minute.
            key.sign(&claims_with(json!({"exp": now() - 15, "nbf": now() + 15}))),
            key.sign(&claims_with(json!({"exp": now() as f64 + 60.5}))),
        ];
        good.push(good[0].clone());
        for token in good {
            assert_eq!(over_http(&token), None, "{token}");
            assert_eq!(over_udp(&token, 255), None, "{token}");
            assert_eq!(over_udp(&token, 100), None, "{token}");
        }
        for token in [
            key.sign(&claims_with(json!({"iss": "somebody"}))),
            key.sign(&claims_with(json!({"aud": "another"}))),
            key.sign(&claims_with(json!({"aud": ["another"]}))),
            key.sign(&claims_with(json!({"aud": 7}))),
            key.sign(&claims_with(json!({"infohash": "62".repeat(20)}))),
            key.sign(&claims_with(json!({"infohash": "6a".repeat(20).to_uppercase()}))),
            key.sign(&claims_with(json!({"exp": now() - 60}))),
            key.sign(&claims_with(json!({"nbf": now() + 60}))),
            key.sign(&claims_with(json!({"exp": "soon"}))),
            key.sign(&claims_with(json!({"exp": -1e300}))),
            key.sign(&claims_without("iss")),
            key.sign(&claims_without("aud")),
            key.sign(&claims_without("infohash")),
            key.sign(&json!([])),
            key.sign_as(Some("three".into()), &claims()),
            key.sign_as(None, &claims()),
        ] {
            assert_eq!(over_http(&token).as_deref(), Some(INVALID), "{token}");
            assert_eq!(over_udp(&token, 255).as_deref(), Some(INVALID), "{token}");
        }
    }
    // The key of one name does not sign for the other.
    let swapped = rsa.sign_as(Some("two".into()), &claims());
    assert_eq!(over_http(&swapped).as_deref(), Some(INVALID));
    // A token is for its torrent.
    let good = p256.sign(&claims());
    assert_eq!(over_http(&good), None);
    let client = UdpClient::connect("127.0.0.1", daemon.v4());
    let mut other = client.request(1, &announce_rest(b'b', 7001, 9, 0, -1));
    let url = format!("/?jwt={good}");
    for part in url.as_bytes().chunks(255) {
        other.extend([2, u8::try_from(part.len()).unwrap()]);
        other.extend(part);
    }
    let reply = ask(&client.socket, &other).unwrap();
    assert_eq!(&reply[8..], INVALID.as_bytes());
    // Scrapes need no token.
    assert_eq!(client.scrape(b'a'), [0, 0, 1]);
}

#[test]
fn bep_41() {
    let p256 = Key::p256("two");
    let server = JwkServer::start(keys(&[&p256]));
    let daemon = Daemon::start(json!({"prehooks": hook(&server.url())}));
    let client = UdpClient::connect("127.0.0.1", daemon.v4());
    let refusal = |options: &[&[u8]]| {
        let announce = client.request(1, &announce_rest(b'a', 7001, 9, 0, -1));
        let reply = ask(&client.socket, &[announce, options.concat()].concat()).unwrap();
        (reply[..4] == [0, 0, 0, 3]).then(|| String::from_utf8(reply[8..].to_vec()).unwrap())
    };
    let url = format!("/?jwt={}", p256.sign(&claims()));
    let data = |text: &str| [&[2, u8::try_from(text.len()).unwrap()], text.as_bytes()].concat();
    let (first, rest) = url.split_at(url.len() / 2);
    let (first, rest) = (data(first), data(rest));
    let [a, b] = [first.as_slice(), rest.as_slice()];
    let escaped = url.replacen("jwt", "j%77t", 1);
    let escaped: Vec<u8> =
        escaped.as_bytes().chunks(200).flat_map(|part| data(str::from_utf8(part).unwrap())).collect();
    for whole in [
        &[a, b][..],
        &[a, &[2, 0], b],
        &[&[1, 1, 1], a, &[1], b],
        &[&[7, 2, 255, 255], a, &[7, 0], b],
        &[a, b, &[0], b],
        &[&escaped],
        &[a, b, &[7, 9, 0]],
    ] {
        assert_eq!(refusal(whole), None, "{whole:?}");
    }
    for nothing in [&[][..], &[&[0], a, b], &[&[7, 255], a, b], &[&[2]], &[&[2, 0]], &[&data("/announce")]] {
        assert_eq!(refusal(nothing).as_deref(), Some(MISSING), "{nothing:?}");
    }
    // Cut in the middle, the whole part remains, which is not a valid token.
    assert_eq!(refusal(&[a, &b[..b.len() - 1]]).as_deref(), Some(INVALID));
}

#[test]
fn hostile_tokens_are_refused_and_the_tracker_keeps_serving() {
    let (rsa, p256) = (Key::rsa("one"), Key::p256("two"));
    let shared = base64(b"thirty-two octets of a secret....");
    let oct = json!({"kty": "oct", "kid": "three", "alg": "HS256", "k": shared});
    let set = json!({"keys": [rsa.public, p256.public, oct]});
    let server = JwkServer::start(ServerBehaviour::Set(set));
    let daemon = Daemon::start(json!({"prehooks": hook(&server.url())}));
    let good = rsa.sign(&claims());
    let mut parts = good.split('.');
    let mut part = || parts.next().unwrap();
    let (header, body, signature) = (part(), part(), part());
    let hs256 = |kid: &str, secret: &[u8]| {
        let header = Header { kid: Some(kid.into()), ..Header::new(Algorithm::HS256) };
        encode(&header, &claims(), &EncodingKey::from_secret(secret)).unwrap()
    };
    let none = |alg: &str| token(&json!({"alg": alg, "kid": "one"}), &claims(), b"");
    let hostile = [
        none("none"),
        none("None"),
        none("RS256"),
        none("HS256"),
        none("XY999"),
        hs256("one", rsa.public["n"].as_str().unwrap().as_bytes()),
        hs256("one", rsa.public.to_string().as_bytes()),
        hs256("two", p256.public.to_string().as_bytes()),
        hs256("three", b"thirty-two octets of a secret...."),
        format!("{header}.{body}.{}", signature.chars().rev().collect::<String>()),
        format!("{header}.{body}"),
        format!("{header}.{body}.{signature}.{signature}"),
        format!("{header}.{}.{signature}", base64(&[0xff; 99])),
        format!("{}.{body}.{signature}", base64(b"{\"alg\":\"RS256\",\"kid\":7}")),
        "a.b.c".into(),
        "...".into(),
        "%00%ff".into(),
        "x".repeat(1500),
    ];
    for token in &hostile {
        let refusal = refused(&daemon, 7001, &format!("&jwt={token}"));
        assert_eq!(refusal.as_deref(), Some(INVALID), "{token}");
        let refusal = refused_over_udp(&daemon, 7001, &format!("/?jwt={token}"), 255);
        assert_eq!(refusal.as_deref(), Some(INVALID), "{token}");
    }
    // A token of a mebioctet does not fit into a request line.
    let huge = crate::harness::announce_target('a', 7001, &format!("&jwt={}", "x".repeat(1 << 20)));
    let stream = std::net::TcpStream::connect(daemon.v4()).unwrap();
    let answer = crate::harness::exchange(stream, &crate::harness::get(&huge));
    assert!(answer.is_err() || answer.is_ok_and(|answer| [414, 431].contains(&answer.status)));
    assert_eq!(refused(&daemon, 7001, &format!("&jwt={good}")), None);
    assert_eq!(daemon.metric("http_refusals_total{reason=\"invalid_jwt\"}"), hostile.len() as u64);
    assert_eq!(daemon.logged("thirty-two"), 0);
}
