//! Two changes of a site at the same time.

use std::iter;
use std::rc::Rc;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use hayate_state::private::admin::{AdminCommand, run_command};
use mysql::Conn;
use mysql::prelude::Queryable;

use crate::TestDatabase;
use crate::promise::fresh_mariadb;
use crate::servers::Server;
use crate::slow_log::root;

/// Time between two checks: the server updates the list of waiting transactions at most ten times a second.
const LOOK: Duration = Duration::from_millis(200);
/// Checks before a test gives up.
const LOOKS: usize = 90;

type PendingCommand = JoinHandle<Result<&'static str, String>>;

fn add_user(database: &TestDatabase, id: u32) -> PendingCommand {
    let mut store = database.backend.open_reader().unwrap();
    let verb = AdminCommand::AddUser { id: Some(id), passkey: "wanted".into() };
    thread::spawn(move || {
        let outcome = run_command(&mut *store, &verb, 1_700_000_000, "a test");
        outcome.map(|outcome| outcome.word).map_err(|error| error.to_string())
    })
}

/// Waits until a transaction waits for a lock and `also` holds.
fn wait(observer: &mut Conn, also: &dyn Fn(u64) -> bool) {
    let waits = "SELECT count(*) FROM information_schema.innodb_trx WHERE trx_state = 'LOCK WAIT'";
    let mut looks = iter::repeat_with(|| {
        thread::sleep(LOOK);
        observer.query_first::<u64, _>(waits).unwrap().unwrap()
    });
    assert!(looks.by_ref().take(LOOKS).any(|waiting| waiting > 0 && also(waiting)));
}

#[test]
fn of_two_users_who_request_one_passkey_at_once_one_gets_it() {
    let server = Rc::new(Server::new());
    let database = fresh_mariadb(&server, "site");
    let (mut other, mut observer) = (root(&server), root(&server));
    other.query_drop("START TRANSACTION").unwrap();
    other.query_drop("INSERT INTO site.users_main (ID, torrent_pass) VALUES (50, 'other')").unwrap();
    // The first has seen that no user has the passkey, and waits for the lock on user 50.
    let first = add_user(&database, 50);
    wait(&mut observer, &|_| true);
    let second = add_user(&database, 51);
    wait(&mut observer, &|waiting| waiting == 2 || second.is_finished());
    other.query_drop("ROLLBACK").unwrap();
    assert_eq!(first.join().unwrap(), Ok("added"));
    assert_eq!(second.join().unwrap(), Err("refused: user 50 has this passkey".to_owned()));
    assert_eq!(database.sql("SELECT ID FROM users_main WHERE torrent_pass = 'wanted'"), "50");
}
