//! The server of keys: rotation, and everything that may be wrong with such a server.

use serde_json::json;

use super::{refused, start_error};
use crate::harness::{Daemon, Folder, eventually, hayate};
use crate::kit::jwk_server::{
    JwkServer, Key, ServerBehaviour, base64, claims, hook, keys, read_head, response,
};

const INVALID: &str = "unapproved request: invalid jwt";

fn accepts(daemon: &Daemon, key: &Key) -> bool {
    match refused(daemon, 7001, &format!("&jwt={}", key.sign(&claims()))).as_deref() {
        None => true,
        Some(INVALID) => false,
        Some(other) => panic!("{other}"),
    }
}

#[test]
fn jwk_set() {
    let (old, new) = (Key::p256("old"), Key::p256("new"));
    let server = JwkServer::start(keys(&[&old]));
    let daemon = Daemon::start(json!({"prehooks": hook(&server.url())}));
    assert!(accepts(&daemon, &old) && !accepts(&daemon, &new));
    server.set(keys(&[&old, &new]));
    assert!(eventually(|| accepts(&daemon, &new)) && accepts(&daemon, &old));
    server.set(keys(&[&new]));
    assert!(eventually(|| !accepts(&daemon, &old)), "a key that was taken back is still good");

    // Whatever is wrong with the server now, the keys stay, and the error is logged.
    for behaviour in [
        ServerBehaviour::Raw(response("500 Internal Server Error", b"no")),
        ServerBehaviour::Raw(response("204 No Content", b"")),
        ServerBehaviour::Raw(response("200 OK", b"{\"keys\": 7}")),
        ServerBehaviour::Raw(response("200 OK", b"<html>")),
        ServerBehaviour::Raw(response(
            "200 OK",
            format!("{{\"keys\": [], \"x\": \"{}\"}}", "x".repeat(1 << 20)).as_bytes(),
        )),
        ServerBehaviour::Raw(b"garbage".to_vec()),
        ServerBehaviour::Raw(Vec::new()),
    ] {
        let fetches = server.fetches();
        server.set(behaviour);
        assert!(eventually(|| server.fetches() >= fetches + 2));
        assert!(accepts(&daemon, &new));
    }
    daemon.wait_for_log("the old keys stay", 1);
    assert_eq!(daemon.logged("sesame"), 0, "a query may hold a secret");

    // A reload needs no server as long as the URL is the same.
    server.set(ServerBehaviour::Silent);
    daemon.rewrite_config(|config| config["intervals"] = json!({"announce": 1000}));
    daemon.signal(nix::sys::signal::Signal::SIGHUP);
    daemon.wait_for_log("\"reloaded\"", 1);
    assert!(accepts(&daemon, &new));

    // An empty set refuses every token.
    server.set(ServerBehaviour::Set(json!({"keys": []})));
    assert!(eventually(|| !accepts(&daemon, &new)));
}

#[test]
fn one_bad_key_does_not_spoil_the_others() {
    let (p256, rsa) = (Key::p256("good"), Key::rsa("fine"));
    let server = JwkServer::start(ServerBehaviour::Set(json!({"keys": [
        {"kty": "RSA", "kid": "short", "n": "!", "e": "AQAB"},
        {"kty": "EC", "crv": "P-521", "kid": "long", "x": base64(&[7; 66]), "y": base64(&[7; 66])},
        {"kty": "OKP", "crv": "Ed25519", "kid": "other", "x": base64(&[7; 32])},
        {"kty": "EC", "crv": "P-256", "x": base64(&[7; 32]), "y": base64(&[7; 32])},
        7, null, {}, p256.public, rsa.public,
    ]})));
    let daemon = Daemon::start(json!({"prehooks": hook(&server.url())}));
    assert!(accepts(&daemon, &p256) && accepts(&daemon, &rsa));
    assert!(daemon.logged("of a JWK set is skipped") >= 7);
}

#[test]
fn without_keys_there_is_no_start() {
    let words = "failed to validate hook config: failed to fetch initial JWK Set: ";
    let no_server = format!("http://127.0.0.1:{}/", crate::harness::free_port());
    let broken = JwkServer::start(ServerBehaviour::Raw(response("200 OK", b"no set")));
    let missing = JwkServer::start(ServerBehaviour::Raw(response("404 Not Found", b"")));
    for (url, cause) in [
        (no_server.as_str(), "refused"),
        (&broken.url(), "not a JWK set"),
        (&missing.url(), "404"),
        ("not a url", ""),
        ("ftp://127.0.0.1/", ""),
    ] {
        let error = start_error(json!({"prehooks": hook(url)}));
        assert!(error.contains(words) && error.contains(cause), "{error}");
    }
}

#[test]
fn a_silent_server_delays_a_start_by_ten_seconds_at_most() {
    let server = JwkServer::start(ServerBehaviour::Silent);
    let error = start_error(json!({"prehooks": hook(&server.url())}));
    assert!(error.contains("failed to fetch initial JWK Set: timeout"), "{error}");
}

#[test]
fn an_interval_of_0_does_not_loop() {
    let key = Key::p256("one");
    let server = JwkServer::start(keys(&[&key]));
    let mut hooks = hook(&server.url());
    hooks[0]["options"]["jwk_set_update_interval"] = json!(0);
    let daemon = Daemon::start(json!({"prehooks": hooks}));
    for _ in 0..50 {
        assert!(accepts(&daemon, &key));
    }
    assert_eq!(server.fetches(), 1);
}

#[test]
fn keys_come_over_https_from_trusted_servers_only() {
    let key = Key::p256("one");
    let folder = Folder::new();
    let certificate = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let trusted = folder.write("ca.pem", &certificate.cert.pem());
    let config = rustls::ServerConfig::builder_with_provider(rustls::crypto::ring::default_provider().into())
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(
            vec![certificate.cert.der().clone()],
            certificate.signing_key.serialize_der().try_into().unwrap(),
        );
    let config = std::sync::Arc::new(config.unwrap());
    let server = JwkServer::start_with(keys(&[&key]), move |stream, reply| {
        let session = rustls::ServerConnection::new(std::sync::Arc::clone(&config)).unwrap();
        let mut stream = rustls::StreamOwned::new(session, stream);
        read_head(&mut stream);
        _ = std::io::Write::write_all(&mut stream, reply);
        stream.conn.send_close_notify();
        _ = std::io::Write::flush(&mut stream);
    });
    let hooks = hook(&format!("https://localhost:{}/keys", server.port));
    let mut command = hayate();
    command.env("SSL_CERT_FILE", &trusted).env_remove("SSL_CERT_DIR");
    let daemon = Daemon::start_in(folder, json!({"prehooks": hooks}), &mut command);
    assert!(accepts(&daemon, &key));
    // Without that file no authority that signed the certificate is known.
    let error = start_error(json!({"prehooks": hooks}));
    assert!(error.contains("failed to fetch initial JWK Set"), "{error}");
}
