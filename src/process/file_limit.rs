//! How many files the process may open, and how many connections that leaves for the gateway.

use nix::sys::resource::{Resource, getrlimit, setrlimit};

use crate::config::{Document, Settings};

/// Open files other than the gateway's connections and the sockets of the UDP server.
const OTHER_FILES: usize = 256;

/// Raises the limit of open files as far as the process may. Returns the limit now in force, if it is known.
pub(crate) fn raise_limit() -> Option<usize> {
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE).ok()?;
    let raised = soft == hard || setrlimit(Resource::RLIMIT_NOFILE, hard, hard).is_ok();
    Some(usize::try_from(if raised { hard } else { soft }).unwrap_or(usize::MAX))
}

/// Lowers `http.max_connections` to what `limit` leaves: beyond that no connection could be accepted, not
/// even the operator's. Warns only if more than the default was configured.
pub(crate) fn lower_connections(settings: &mut Settings, limit: Option<usize>) {
    let Some((most, limit)) = limit.and_then(|limit| Some((connections_left(settings, limit)?, limit)))
    else {
        return;
    };
    let wanted = settings.http.max_connections;
    let unasked = wanted <= Document::default().http.max_connections.as_usize();
    let level = if unasked { log::Level::Info } else { log::Level::Warn };
    log::log!(level, "http.max_connections is {most}, not {wanted}: only {limit} files may be open");
    settings.http.max_connections = most;
}

/// Returns the number of connections that the limit leaves, if that is less than wanted.
fn connections_left(settings: &Settings, limit: usize) -> Option<usize> {
    if settings.listen.addresses.is_empty() && settings.listen.unix_socket.is_none() {
        return None;
    }
    // Twice, for there are copies for a successor.
    let sockets =
        settings.udp.as_ref().map_or(0, |(sockets, _)| 2 * sockets.addresses.len() * sockets.workers);
    let most = limit.saturating_sub(OTHER_FILES + sockets).max(1);
    (most < settings.http.max_connections).then_some(most)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::test_folder::TestFolder;
    use crate::config::{Environment, Source};
    use crate::daemon::jwk_fetch::NoFetch;

    fn settings(text: &str) -> Settings {
        let folder = TestFolder::new();
        let path = folder.write("tracker.json", text);
        let source = Source::new(path.to_str(), Environment::default()).unwrap();
        Settings::from_config(&source.read_config().unwrap(), &NoFetch).unwrap()
    }

    #[test]
    fn the_file_limit_does_not_sink() {
        let before = getrlimit(Resource::RLIMIT_NOFILE).unwrap().0;
        assert!(raise_limit().unwrap() as u64 >= before);
    }

    #[test]
    fn connections_are_lowered_to_what_the_limit_leaves() {
        let text = r#"{"udp": {"workers": 7}, "http": {"max_connections": 1000}}"#;
        for (limit, most) in [(None, 1000), (Some(1284), 1000), (Some(1283), 999), (Some(100), 1)] {
            let mut settings = settings(text);
            lower_connections(&mut settings, limit);
            assert_eq!(settings.http.max_connections, most, "{limit:?}");
        }
        let mut off = settings(r#"{"http": {"addr": ""}}"#);
        lower_connections(&mut off, Some(100));
        assert_eq!(off.http.max_connections, 20_000);
    }
}
