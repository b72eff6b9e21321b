//! The files that a configuration names, as they were when they could last be read. A process that has
//! dropped its privileges may be unable to read a file again that only root may read: a reload keeps what was
//! read of it before.

use std::collections::HashMap;
use std::fmt;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use hayate_state::admission::access::{ListError, TorrentList};
use hayate_state::{InfoHash, text};

use super::document::{AccessMode, Mode};
use super::{Config, ConfigError, Origin, Settings};

/// Longest file that holds a secret or certificates, in octets.
const FILE_MAX: u64 = 16 * 1024 * 1024;
/// Keys that name small files.
const KEYS: [&str; 8] = [
    "http.tls_cert_path",
    "http.tls_key_path",
    "udp.private_key_file",
    "admin.token_file",
    "database.dsn_file",
    "cluster.secret_file",
    "cluster.redis.url_file",
    "cluster.redis.ca_path",
];
/// The key that names the list of torrents.
const LIST: &str = "access.path";

/// The contents of files that were read; shared between one reading of the configuration and the next.
#[derive(Clone, Default)]
pub(crate) struct RememberedFiles(Arc<Mutex<FileMemory>>);

#[derive(Default)]
struct FileMemory {
    /// Small files as they were, by the key that names them.
    files: HashMap<&'static str, (PathBuf, Vec<u8>)>,
    list: Option<(PathBuf, Arc<TorrentList>)>,
    warnings: Vec<String>,
}

impl fmt::Debug for RememberedFiles {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // There are secrets among them.
        f.write_str("RememberedFiles")
    }
}

impl RememberedFiles {
    fn lock(&self) -> MutexGuard<'_, FileMemory> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Reads files that belong together, each with its key. If this process may no longer read one of them,
    /// all are returned as they were when it last could.
    ///
    /// # Errors
    /// Returns the index of the first file that cannot be read and was never read before, and the reason.
    pub(super) fn read_files<const N: usize>(
        &self,
        files: [(&'static str, PathBuf); N],
    ) -> Result<[Vec<u8>; N], (usize, io::Error)> {
        let mut memory = self.lock();
        let mut read = [const { Vec::new() }; N];
        for (index, (key, path)) in files.iter().enumerate() {
            match (text::read_file(path, FILE_MAX), read.get_mut(index)) {
                (Ok(octets), Some(to)) => *to = octets,
                (Err(error), _) => {
                    let before = files.each_ref().map(|(key, path)| {
                        memory
                            .files
                            .get(key)
                            .filter(|(kept, _)| kept == path)
                            .map(|(_, octets)| octets.clone())
                    });
                    if error.kind() != ErrorKind::PermissionDenied || before.iter().any(Option::is_none) {
                        return Err((index, error));
                    }
                    memory.warn(key, path, &error);
                    return Ok(before.map(Option::unwrap_or_default));
                }
                (Ok(_), None) => {}
            }
        }
        for ((key, path), octets) in files.into_iter().zip(&read) {
            memory.files.insert(key, (path, octets.clone()));
        }
        Ok(read)
    }

    /// Reads the list of torrents, or returns it as it was if this process may no longer read it.
    pub(super) fn read_list(&self, path: PathBuf) -> Result<Arc<TorrentList>, ListError> {
        let mut memory = self.lock();
        match TorrentList::read_file(&path) {
            Ok(list) => {
                let list = Arc::new(list);
                memory.list = Some((path, Arc::clone(&list)));
                Ok(list)
            }
            Err(ListError::Unreadable { source, .. })
                if source.kind() == ErrorKind::PermissionDenied
                    && memory.list.as_ref().is_some_and(|(kept, _)| *kept == path) =>
            {
                memory.warn(LIST, &path, &source);
                Ok(memory.list.as_ref().map(|(_, list)| Arc::clone(list)).unwrap_or_default())
            }
            Err(error) => Err(error),
        }
    }

    /// Returns all contents, for a successor that may be unable to read the files: key, path, octets. The
    /// list of torrents consists of its info-hashes only.
    pub(crate) fn files(&self) -> Vec<(String, PathBuf, Vec<u8>)> {
        let memory = self.lock();
        let list = memory.list.iter().map(|(path, list)| {
            let octets = list.iter().flat_map(|info_hash| info_hash.0).collect();
            (LIST.to_owned(), path.clone(), octets)
        });
        let file = |(key, (path, octets)): (&&str, &(PathBuf, Vec<u8>))| {
            ((*key).to_owned(), path.clone(), octets.clone())
        };
        memory.files.iter().map(file).chain(list).collect()
    }

    /// Adds the contents of a file that a predecessor has read.
    pub(crate) fn insert(&self, key: &str, path: PathBuf, octets: Vec<u8>) {
        let mut memory = self.lock();
        if key == LIST {
            let info_hashes = octets.as_chunks().0.iter().copied().map(InfoHash);
            memory.list = Some((path, Arc::new(info_hashes.collect())));
        } else if let Some(key) = KEYS.into_iter().find(|known| *known == key) {
            memory.files.insert(key, (path, octets));
        }
    }

    /// Takes the warnings that were not logged yet.
    pub(super) fn take_warnings(&self) -> Vec<String> {
        std::mem::take(&mut self.lock().warnings)
    }
}

impl FileMemory {
    fn warn(&mut self, key: &str, path: &Path, error: &io::Error) {
        self.warnings.push(format!(
            "{key}: {}: {error}; what was read of it before is kept. `hayate check-config` as root says how \
             to let the tracker read it",
            path.display()
        ));
    }
}

impl Config {
    /// Reads the files that these keys name; see [`RememberedFiles::read_files`].
    ///
    /// # Errors
    /// Fails when one of them cannot be read and was never read before.
    pub(super) fn read_files<const N: usize>(
        &self,
        files: [(&'static str, &String); N],
    ) -> Result<[Vec<u8>; N], ConfigError> {
        let named = files.map(|(key, name)| (key, self.resolve_path(name)));
        self.remembered.read_files(named).map_err(|(index, error)| {
            let (key, name) = files.get(index).map_or(("", ""), |(key, name)| (*key, name.as_str()));
            self.value_error(key, format!("{}: {error}", self.resolve_path(name).display()))
        })
    }

    /// Returns the files that are read at the start and at each reload, each with the key that names it; that
    /// of the configuration itself is empty.
    pub(crate) fn named_files(&self) -> Vec<(&'static str, PathBuf)> {
        let document = &self.document;
        let (http, udp) = (&document.http, &document.udp);
        let https = !http.https_addr.is_off();
        let list = document.mode == Mode::Listed || document.access.mode != AccessMode::Off;
        let configuration = match &self.origin {
            Origin::File(path) => Some(("", path.clone())),
            Origin::Defaults | Origin::Variable(_) => None,
        };
        let [certificate, key, connection_ids, token, dsn, secret, redis_url, redis_ca] = KEYS;
        let cluster = &document.cluster;
        let named = [
            (certificate, http.tls_cert_path.as_str(), https),
            (key, http.tls_key_path.as_str(), https),
            (connection_ids, udp.private_key_file.as_str(), udp.private_key.reveal().is_empty()),
            (token, document.admin.token_file.as_str(), true),
            (dsn, document.database.dsn_file.as_str(), true),
            (secret, cluster.secret_file.as_str(), cluster.is_on()),
            (redis_url, cluster.redis.url_file.as_str(), true),
            (redis_ca, cluster.redis.ca_path.as_str(), cluster.is_on()),
            (LIST, document.access.path.as_str(), list && document.mode != Mode::Private),
        ];
        let named = named.into_iter().filter(|(_, name, is_read)| *is_read && !name.is_empty());
        configuration.into_iter().chain(named.map(|(key, name, _)| (key, self.resolve_path(name)))).collect()
    }
}

impl Settings {
    /// Adds a warning for each file of the configuration that the user whom the process becomes could not
    /// read again.
    pub(crate) fn warn_of_unreadable_files(&mut self, config: &Config) {
        let identity = self.identity.as_ref();
        let Some(identity) = identity.filter(|who| !who.is_current() && nix::unistd::geteuid().is_root())
        else {
            return;
        };
        let (keys, files): (Vec<_>, Vec<_>) = config.named_files().into_iter().unzip();
        let tried = match identity.try_files(&files) {
            Ok(tried) => tried,
            Err(error) => {
                self.warnings.push(format!("files could not be tried as {identity}: {error}"));
                return;
            }
        };
        for ((key, path), error) in keys.into_iter().zip(&files).zip(tried) {
            let Some(error) = error else { continue };
            let (key, kept) = match key {
                "" => ("the configuration", "a reload or an upgrade will be refused"),
                key => (key, "a reload or an upgrade keeps what was read of it at the start"),
            };
            self.warnings.push(format!(
                "{key}: {}: {error} for {identity} of privileges.user: {kept}; run `{}`",
                path.display(),
                identity.remedy(path)
            ));
        }
    }
}
