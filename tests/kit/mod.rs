//! Shared by the tests: daemons on free ports, other servers, fixtures.

pub(crate) mod finishing_peers;
#[path = "fixtures/site.rs"]
#[expect(dead_code, reason = "the tests of the servers use the rest")]
pub(crate) mod fixture;
pub(crate) mod harness;
#[path = "servers/jwk.rs"]
pub(crate) mod jwk_server;
#[path = "servers/mariadb.rs"]
#[expect(dead_code, reason = "the tests of the stores use the rest")]
pub(crate) mod mariadb_server;
#[path = "servers/redis.rs"]
#[expect(dead_code, reason = "the tests of the connections use the rest")]
pub(crate) mod redis_server;
#[path = "servers/process.rs"]
pub(crate) mod server_process;
pub(crate) mod site_database;
