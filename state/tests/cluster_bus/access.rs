//! Logins, and what a server allows.

use hayate_state::cluster::bus::Bus;

use crate::servers::RedisServer;
use crate::{BEGIN, KEY, append, assert_fails, bus};

/// What docs/decisions/0042 says a node needs, and no more.
const ACL: &str = "on >s/cret ~hayate:* +xadd +xread +xtrim +xinfo +time +info +ping +client|setname +asking";

#[test]
fn the_documented_acl_is_enough() {
    let server = RedisServer::new();
    server.cli(&format!("ACL SETUSER node {ACL}"));
    let mut bus = bus(&server.url("node:s%2Fcret@"));
    append(&mut bus, &[b"a", b"b"]).unwrap();
    assert_eq!(bus.stream_state(KEY).unwrap().unwrap().len, 2);
    bus.trim(KEY, BEGIN, 1000).unwrap();
    assert!(server.cli("CLIENT LIST").contains("name=hayate-a"));
    assert!(assert_fails!(bus.stream_state("other"), Denied).contains("NOPERM"));
    server.cli("ACL SETUSER node -xadd");
    let text = assert_fails!(append(&mut bus, &[b"c"]), Denied);
    assert!(text.contains("NOPERM"), "{text}");
    server.cli("ACL SETUSER node +xadd");
    assert_eq!(append(&mut bus, &[b"c"]).unwrap().entries.len(), 3);
}

#[test]
fn a_refused_login_works_as_soon_as_it_is_mended() {
    let server = RedisServer::new();
    let mut bus = bus(&server.url("node:s%2Fcret@"));
    let text = assert_fails!(append(&mut bus, &[b"a"]), Denied);
    assert!(text.contains("WRONGPASS") && !text.contains("s/cret"), "{text}");
    server.cli(&format!("ACL SETUSER node {ACL}"));
    append(&mut bus, &[b"a"]).unwrap();
    server.cli("ACL SETUSER node resetpass >other");
    server.cli("CLIENT KILL USER node");
    // The first call may find the old connection closed.
    let _ = append(&mut bus, &[b"a"]);
    assert!(assert_fails!(append(&mut bus, &[b"a"]), Denied).contains("WRONGPASS"));
}

#[test]
fn a_password_can_be_wanted_or_not() {
    let server = RedisServer::with(&["--requirepass", "pw"]);
    let mut without = bus(&server.url(""));
    assert!(assert_fails!(append(&mut without, &[b"a"]), Denied).contains("NOAUTH"));
    append(&mut bus(&server.url(":pw@")), &[b"a"]).unwrap();
    append(&mut bus(&server.url("default:pw@")), &[b"a"]).unwrap();
    let open = RedisServer::new();
    let text = assert_fails!(append(&mut bus(&open.url(":longer@")), &[b"a"]), Denied);
    assert!(text.contains("without any password configured") && !text.contains("longer"), "{text}");
}
