//! A new configuration for a running daemon: read and checked as a whole, without the changes that need a
//! restart. Applying a [`ReloadPlan`] cannot fail any more.

use std::io;
use std::sync::Arc;
use std::sync::mpsc::{SyncSender, sync_channel};
use std::thread::{self, JoinHandle};

use hayate_state::admission::hooks::jwk::KeyringSource;

use crate::admin::AccessListFile;
use crate::config::document::Mode;
use crate::config::{Config, ConfigError, Document, Settings, Source};
use crate::daemon::jwk_fetch::JwkSets;
use crate::daemon::listeners::{ListenError, Listening, NewSockets};
use crate::process::connection_id_key::{self, KeyError};

/// A setting that only a restart changes.
struct RestartOnly {
    key: &'static str,
    differs: fn(&Document, &Document) -> bool,
    keep_old: fn(&mut Document, &Document),
}

macro_rules! restart_only {
    ($($field:ident).+) => {
        RestartOnly {
            key: stringify!($($field).+),
            differs: |new, old| new.$($field).+ != old.$($field).+,
            keep_old: |new, old| new.$($field).+.clone_from(&old.$($field).+),
        }
    };
}

/// All settings that only a restart changes.
const RESTART_ONLY: [RestartOnly; 18] = [
    restart_only!(mode),
    restart_only!(database.dsn),
    restart_only!(database.dsn_file),
    restart_only!(database.spill_dir),
    restart_only!(database.dead_letter),
    restart_only!(channels),
    restart_only!(cluster),
    restart_only!(udp.workers),
    restart_only!(udp.receive_buffer),
    restart_only!(udp.send_buffer),
    restart_only!(udp.coalesce),
    restart_only!(http.unix_socket_mode),
    restart_only!(http.unix_socket_group),
    restart_only!(announce.peers_per_address),
    restart_only!(state_dir),
    restart_only!(record_announces),
    restart_only!(admin),
    restart_only!(privileges),
];
/// The settings of the log, which only a restart changes, too; they do not change what is served.
const LOG: RestartOnly = restart_only!(log);

/// Why a reload is refused.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ReloadError {
    #[error(transparent)]
    Config(#[from] ConfigError),
    #[error(transparent)]
    Key(#[from] KeyError),
    #[error(transparent)]
    NotOpen(#[from] ListenError),
}

/// A new configuration that is ready to be applied.
#[derive(Debug)]
pub(crate) struct ReloadPlan {
    /// The new configuration, with restart-only settings as they were.
    pub(crate) config: Config,
    /// The settings that follow from it, including the key of the connection ids.
    pub(crate) settings: Settings,
    /// Open sockets for the new addresses.
    pub(crate) sockets: NewSockets,
    /// Restart-only settings that were changed.
    pub(crate) restart_keys: Vec<&'static str>,
}

/// Everything that a reload needs.
pub(crate) struct ReloadInputs {
    pub(crate) running: Config,
    pub(crate) source: Source,
    pub(crate) jwk_sets: JwkSets,
    pub(crate) listening: Listening,
    pub(crate) access_list: Arc<AccessListFile>,
}

/// A reload that is under way, in a thread of its own: what it reads from, for example a name server or a
/// network disk, may hang, and only this thread waits then.
#[derive(Debug)]
pub(crate) struct RunningReload {
    thread: JoinHandle<()>,
    /// Whether another reload is due afterwards.
    pub(crate) again: bool,
    /// Whether an upgrade is due afterwards.
    pub(crate) upgrade: bool,
}

/// The outcome of a reload. Its thread ends when this is dropped, after the plan was applied.
#[derive(Debug)]
pub(crate) struct ReloadOutcome {
    pub(crate) plan: Result<ReloadPlan, ReloadError>,
    _applied: SyncSender<()>,
}

impl RunningReload {
    /// Starts the reload; its thread calls `send` with the outcome.
    ///
    /// # Errors
    /// Fails when the thread cannot be started.
    pub(crate) fn begin(
        inputs: ReloadInputs,
        send: impl FnOnce(ReloadOutcome) + Send + 'static,
    ) -> io::Result<Self> {
        let thread = thread::Builder::new().name("reload".into()).spawn(move || {
            // A change of the list by the admin API meanwhile would be lost: it would be neither in the file
            // as it was read nor in the list that is published.
            let _guard = inputs.access_list.lock_changes();
            let plan = plan_reload(&inputs.running, &inputs.source, &inputs.jwk_sets, &inputs.listening);
            let (carried_out, done) = sync_channel(0);
            send(ReloadOutcome { plan, _applied: carried_out });
            // Nothing is sent: this returns when the other end is dropped.
            let _ = done.recv();
        })?;
        Ok(Self { thread, again: false, upgrade: false })
    }

    /// Whether the thread has ended before its outcome was applied, which takes a panic.
    pub(crate) fn has_failed(&self) -> bool {
        self.thread.is_finished()
    }
}

/// Reads and checks everything a reload of `running` needs.
///
/// # Errors
/// Fails when anything is not accepted; then nothing has changed.
pub(crate) fn plan_reload(
    running: &Config,
    source: &Source,
    keyrings: &dyn KeyringSource,
    listening: &Listening,
) -> Result<ReloadPlan, ReloadError> {
    let new = source.reread_config(running)?;
    let (document, waiting) = hold_back_restart_only(&new.document, &running.document);
    let mut warnings = new.warnings.clone();
    if !waiting.is_empty() {
        // What waits must be valid too, or the restart would fail.
        Settings::from_config(&new, keyrings)?;
    }
    let config = new.with_document(document)?;
    let mut settings = Settings::from_config(&config, keyrings)?;
    connection_id_key::provide_key(&mut settings)?;
    warnings.append(&mut settings.warnings);
    settings.warnings = warnings;
    // Last, because this has effects.
    let sockets = listening.open_changes(&settings)?;
    Ok(ReloadPlan { config, settings, sockets, restart_keys: waiting })
}

/// Returns the new document with restart-only settings as they were, and the keys of those that changed.
fn hold_back_restart_only(new: &Document, running: &Document) -> (Document, Vec<&'static str>) {
    let mut document = new.clone();
    let mut waiting = Vec::new();
    if new.mode != running.mode && [new.mode, running.mode].contains(&Mode::Private) {
        // The defaults differ between these modes.
        return (running.clone(), vec!["mode"]);
    }
    for setting in RESTART_ONLY.iter().chain([&LOG]) {
        if (setting.differs)(new, running) {
            waiting.push(setting.key);
            (setting.keep_old)(&mut document, running);
        }
    }
    if new.mode != running.mode {
        // The list has another meaning in another mode.
        document.access = running.access.clone();
    }
    (document, waiting)
}

#[cfg(test)]
mod tests {
    use hayate_state::InfoHash;

    use super::*;
    use crate::config::Environment;
    use crate::config::test_folder::TestFolder;
    use crate::daemon::jwk_fetch::NoFetch;
    use crate::daemon::live_settings::LiveSettings;

    struct ReloadBench {
        folder: TestFolder,
        source: Source,
        running: Config,
        live_settings: LiveSettings,
        listening: Listening,
    }

    /// A daemon that was started with `text`, without its sockets.
    fn started(text: &str) -> ReloadBench {
        let folder = TestFolder::new();
        let path = folder.write("tracker.json", text);
        folder.write("list", &"aa".repeat(20));
        let source = Source::new(path.to_str(), Environment::default()).unwrap();
        let running = source.read_config().unwrap();
        let mut settings = Settings::from_config(&running, &NoFetch).unwrap();
        connection_id_key::provide_key(&mut settings).unwrap();
        let listening = Listening::from_settings(&settings);
        let live_settings =
            LiveSettings::new(settings.policy, settings.udp.map(|(_, config)| config), settings.http);
        ReloadBench { folder, source, running, live_settings, listening }
    }

    impl ReloadBench {
        fn reload(&mut self, text: &str) -> Result<Vec<&'static str>, String> {
            self.folder.write("tracker.json", text);
            let plan = plan_reload(&self.running, &self.source, &NoFetch, &self.listening)
                .map_err(|error| error.to_string())?;
            self.running = plan.config;
            self.live_settings.apply(plan.settings);
            Ok(plan.restart_keys)
        }
    }

    #[test]
    fn a_reload_changes_intervals_and_lists() {
        let mut bench = started("{}");
        let text = r#"{"intervals": {"announce": "7m", "min_announce": 11},
            "access": {"mode": "deny", "path": "list"}, "http": {"max_numwant": 13}}"#;
        assert_eq!(bench.reload(text), Ok(vec![]));
        let policy = bench.live_settings.policy.current();
        assert_eq!((policy.announce_seconds, policy.min_announce_seconds), (420, 11));
        assert!(
            !policy.admits_torrent(&InfoHash([0xaa; 20])) && policy.admits_torrent(&InfoHash([0xbb; 20]))
        );
        assert_eq!(bench.live_settings.http.current().num_want_max, 13);
    }

    #[test]
    fn what_only_a_restart_changes_is_named_and_waits() {
        let mut bench = started("{}");
        let text = r#"{"udp": {"workers": 7, "send_buffer": "1MiB", "receive_buffer": "1MiB",
            "coalesce": 0},
            "cluster": {"node_id": "a", "secret": "0123456789abcdef", "redis": {"url": "redis://h"}},
            "announce": {"peers_per_address": 7, "numwant": 11}, "state_dir": "other",
            "privileges": {"user": "root"}, "log": {"level": "warn"},
            "mode": "listed", "access": {"path": "list"}}"#;
        let waiting = bench.reload(text).unwrap();
        let expected = "mode cluster udp.workers udp.receive_buffer udp.send_buffer udp.coalesce \
            announce.peers_per_address state_dir privileges log";
        assert_eq!(waiting.join(" "), expected);
        assert!(
            bench.live_settings.policy.current().admits_torrent(&InfoHash([0xbb; 20])),
            "the mode is still open"
        );
        assert_eq!(bench.live_settings.http.current().num_want, 11);
    }

    #[test]
    fn a_bad_file_changes_nothing() {
        let mut bench = started(r#"{"intervals": {"announce": 1000}}"#);
        for (text, complaint) in [
            ("{", "tracker.json: EOF"),
            (r#"{"intervals": {"announce": 0}}"#, "intervals.announce: invalid value: integer `0`"),
            (r#"{"access": {"mode": "deny", "path": "no-such-list"}}"#, "access.path: "),
            (r#"{"udp": {"private_key_file": "no-such-key"}}"#, "udp.private_key_file: "),
            (r#"{"http": {"announce_routes": ["x"]}}"#, "\"x\""),
            (r#"{"privileges": {"user": "no-such-user-here"}}"#, "privileges.user: "),
            (r#"{"udp": {"addr": ":no-such-service"}}"#, "udp.addr: "),
        ] {
            let error = bench.reload(text).unwrap_err();
            assert!(error.contains(complaint), "{error}");
            assert_eq!(bench.live_settings.policy.current().announce_seconds, 1000);
        }
    }

    #[test]
    fn a_file_that_is_gone_is_not_replaced_by_the_defaults() {
        let bench = started(r#"{"intervals": {"announce": 1000}}"#);
        std::fs::remove_file(bench.folder.path("tracker.json")).unwrap();
        let nowhere = Source::new(None, Environment::default()).unwrap();
        let error =
            plan_reload(&bench.running, &nowhere, &NoFetch, &bench.listening).unwrap_err().to_string();
        assert!(error.contains("tracker.json: No such file"), "{error}");
    }

    #[test]
    fn a_generated_key_stays_the_same() {
        let mut bench = started("{}");
        let key = bench.live_settings.udp.as_ref().unwrap().current().private_key.clone();
        bench.reload(r#"{"announce": {"numwant": 7}}"#).unwrap();
        let config = bench.live_settings.udp.as_ref().unwrap().current();
        assert_eq!(config.private_key, key);
        assert!(bench.folder.path("udp.key").exists());
    }
}
