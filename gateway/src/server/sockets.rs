//! Opening and inheriting the sockets. Nothing is accepted yet.

use std::fs::{self, File, OpenOptions, Permissions};
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener};
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use hayate_state::file_identity::FileIdentity;
use nix::fcntl::AtFlags;
use nix::libc::{EAFNOSUPPORT, O_NOFOLLOW, O_PATH};
use nix::sys::stat::{Mode, umask};
use nix::unistd::{Gid, fchownat, geteuid};
use socket2::{Domain, Protocol, SockAddr, Socket, Type};

use crate::config::{ListenConfig, SocketAccess};

/// The most connections that wait to be accepted; the kernel lowers it to `net.core.somaxconn`.
pub(super) const BACKLOG: i32 = 4096;
/// The number of attempts to find a port that is free in both families, where the configuration says port 0.
const SAME_PORT_TRIES: usize = 16;

/// A socket that cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The gateway cannot listen on an address.
    #[error("cannot listen on {address}: {source}")]
    Address {
        /// The address.
        address: SocketAddr,
        /// The system's reason.
        source: io::Error,
    },
    /// The unix socket cannot be made.
    #[error("cannot listen on {path}: {source}", path = path.display())]
    UnixSocket {
        /// Its path.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
    /// The unix socket cannot be given its group.
    #[error(
        "cannot give {path} to group {group} (http.unix_socket_group): {source}; hayate has to be in that \
         group, or root",
        path = path.display()
    )]
    UnixSocketGroup {
        /// Its path.
        path: PathBuf,
        /// The group.
        group: u32,
        /// The system's reason.
        source: io::Error,
    },
    /// A predecessor has other listeners.
    #[error(
        "the running tracker does not listen on {endpoint}, or listens on addresses that are not configured; \
         an upgrade keeps addresses, a restart changes them"
    )]
    NotInherited {
        /// The address or path that is missing or superfluous.
        endpoint: String,
    },
    /// Another process answers on the unix socket, or the path is not a socket.
    #[error("cannot listen on {path}: {reason}", path = path.display())]
    UnixSocketTaken {
        /// Its path.
        path: PathBuf,
        /// What is at the path.
        reason: &'static str,
    },
}

/// Opens a listener for each address, in order; see [`ListenConfig`](crate::config::ListenConfig) for the
/// rules.
pub(super) fn open_tcp(addresses: &[SocketAddr]) -> Result<Vec<TcpListener>, OpenError> {
    let mut tries = SAME_PORT_TRIES;
    loop {
        tries -= 1;
        match try_open_tcp(addresses) {
            // The port the system chose for one family is taken in the other: it chooses another.
            Err(OpenError::Address { address, source })
                if tries > 0
                    && source.kind() == io::ErrorKind::AddrInUse
                    && !addresses.contains(&address) => {}
            done => return done,
        }
    }
}

/// Adopts the listeners of these addresses: all of them, and no others.
pub(super) fn adopt_tcp(
    addresses: &[SocketAddr],
    mut inherited: Vec<TcpListener>,
) -> Result<Vec<TcpListener>, OpenError> {
    let local = |listener: &TcpListener| listener.local_addr().ok();
    let not_inherited = |address: SocketAddr| OpenError::NotInherited { endpoint: address.to_string() };
    let mut listeners = Vec::with_capacity(addresses.len());
    for &configured in addresses {
        let fits = |address: SocketAddr| {
            address.ip() == configured.ip() && (configured.port() == 0 || address.port() == configured.port())
        };
        match inherited.iter().position(|listener| local(listener).is_some_and(fits)) {
            Some(index) => listeners.push(inherited.swap_remove(index)),
            None if is_optional(configured, addresses) => {}
            None => return Err(not_inherited(configured)),
        }
    }
    match inherited.first().and_then(local) {
        Some(other) => Err(not_inherited(other)),
        None => Ok(listeners),
    }
}

/// Adopts the unix socket at `path`, if the configuration names one.
pub(super) fn adopt_unix(
    path: Option<&Path>,
    inherited: Option<UnixListener>,
) -> Result<Option<UnixSocket>, OpenError> {
    match (path, inherited) {
        (None, None) => Ok(None),
        (Some(path), Some(listener)) => Ok(Some(UnixSocket { listener, file: SocketFile::at(path) })),
        (path, _) => {
            let endpoint = path.map_or_else(|| "a unix socket".into(), |path| path.display().to_string());
            Err(OpenError::NotInherited { endpoint })
        }
    }
}

fn try_open_tcp(addresses: &[SocketAddr]) -> Result<Vec<TcpListener>, OpenError> {
    let mut listeners = Vec::with_capacity(addresses.len());
    let mut chosen: Option<SocketAddr> = None;
    for &configured in addresses {
        let mut address = configured;
        if let Some(first) =
            chosen.filter(|first| configured.port() == 0 && first.is_ipv4() != address.is_ipv4())
        {
            address.set_port(first.port());
        }
        match open_listener(address) {
            Ok(listener) => {
                if configured.port() == 0 && chosen.is_none() {
                    chosen = listener.local_addr().ok();
                }
                listeners.push(listener);
            }
            Err(source) if is_optional(address, addresses) && lacks_family(&source) => {
                log::warn!("http: no IPv6 on this host, not listening on {address}: {source}");
            }
            Err(source) => return Err(OpenError::Address { address, source }),
        }
    }
    Ok(listeners)
}

fn open_listener(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    socket.set_reuse_address(true)?;
    // Accepted sockets inherit it, which saves a system call for each.
    socket.set_tcp_nodelay(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

/// Whether the address may be missing: `[::]` beside `0.0.0.0` is for hosts with IPv6.
fn is_optional(address: SocketAddr, addresses: &[SocketAddr]) -> bool {
    address.ip() == IpAddr::V6(Ipv6Addr::UNSPECIFIED)
        && addresses.iter().any(|other| other.ip() == IpAddr::V4(Ipv4Addr::UNSPECIFIED))
}

/// Whether the error says that the host has no IPv6.
fn lacks_family(error: &io::Error) -> bool {
    error.raw_os_error() == Some(EAFNOSUPPORT) || error.kind() == io::ErrorKind::AddrNotAvailable
}

/// A listening unix socket. Its file is removed with it, if it is still the same file.
#[derive(Debug)]
pub(super) struct UnixSocket {
    listener: UnixListener,
    file: SocketFile,
}

/// The file of a unix socket, removed when dropped.
#[derive(Debug)]
pub(super) struct SocketFile {
    path: PathBuf,
    /// Device and inode.
    identity: Option<FileIdentity>,
}

/// Opens the unix socket, if the configuration names one.
pub(super) fn open_unix(config: &ListenConfig) -> Result<Option<UnixSocket>, OpenError> {
    let open = |path: &PathBuf| UnixSocket::open(path, config.unix_access);
    config.unix_socket.as_ref().map(open).transpose()
}

impl UnixSocket {
    /// Makes the socket. Replaces a file that a dead process left.
    pub(super) fn open(path: &Path, access: SocketAccess) -> Result<Self, OpenError> {
        let failed = |source| OpenError::UnixSocket { path: path.to_owned(), source };
        remove_stale_socket(path)?;
        let socket = bind_unix(path).map_err(failed)?;
        let file = SocketFile::at(path);
        if access != SocketAccess::default() {
            set_access(path, access)?;
        }
        // Only from here on can clients connect, and only those that may.
        socket.listen(BACKLOG).map_err(failed)?;
        Ok(Self { listener: socket.into(), file })
    }

    /// Duplicates the listener.
    pub(super) fn try_clone_listener(&self) -> io::Result<UnixListener> {
        self.listener.try_clone()
    }

    /// Returns the listener, and the file to keep while it listens.
    pub(super) fn into_parts(self) -> (UnixListener, SocketFile) {
        (self.listener, self.file)
    }
}

/// Makes the socket with the default mode. The mask is that of the whole process: a file that another thread
/// makes at this very moment is closed to others as well, which does no harm, whereas the mask of a wider
/// mode would open it.
fn bind_unix(path: &Path) -> io::Result<Socket> {
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    socket.set_nonblocking(true)?;
    let address = SockAddr::unix(path)?;
    let mask = umask(Mode::from_bits_truncate(0o777 & !SocketAccess::MODE));
    let bound = socket.bind(&address);
    umask(mask);
    bound.map(|()| socket)
}

/// Sets group and mode of the socket at `path`. Both are set through a descriptor: a process that may write
/// to the folder can have put another file there, which is left alone.
fn set_access(path: &Path, access: SocketAccess) -> Result<(), OpenError> {
    let failed = |source| OpenError::UnixSocket { path: path.to_owned(), source };
    let open = OpenOptions::new().read(true).custom_flags(O_PATH | O_NOFOLLOW).open(path);
    let file: File = open.map_err(failed)?;
    let found = file.metadata().map_err(failed)?;
    if !found.file_type().is_socket() || found.uid() != geteuid().as_raw() || found.nlink() != 1 {
        let reason = "another file has taken the place of the socket";
        return Err(OpenError::UnixSocketTaken { path: path.to_owned(), reason });
    }
    if let Some(group) = access.group {
        let given = fchownat(&file, c"", None, Some(Gid::from_raw(group)), AtFlags::AT_EMPTY_PATH);
        given.map_err(|error| OpenError::UnixSocketGroup {
            path: path.to_owned(),
            group,
            source: error.into(),
        })?;
    }
    if access.mode != SocketAccess::MODE {
        // A descriptor opened by O_PATH has no fchmod.
        let itself = format!("/proc/self/fd/{}", file.as_raw_fd());
        fs::set_permissions(itself, Permissions::from_mode(access.mode)).map_err(failed)?;
    }
    Ok(())
}

impl SocketFile {
    fn at(path: &Path) -> Self {
        Self { path: path.to_owned(), identity: file_identity(path) }
    }

    /// Leaves the file where it is, for a successor.
    pub(super) fn keep(mut self) {
        self.identity = None;
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        if self.identity.is_some() && file_identity(&self.path) == self.identity {
            // Nothing depends on it: the next start replaces a stale file.
            let _ = fs::remove_file(&self.path);
        }
    }
}

fn file_identity(path: &Path) -> Option<FileIdentity> {
    fs::symlink_metadata(path).ok().map(|metadata| FileIdentity::of(&metadata))
}

fn remove_stale_socket(path: &Path) -> Result<(), OpenError> {
    let taken = |reason| OpenError::UnixSocketTaken { path: path.to_owned(), reason };
    match fs::symlink_metadata(path) {
        Err(_) => return Ok(()),
        Ok(file) if !file.file_type().is_socket() => return Err(taken("a file that is no socket is there")),
        Ok(_) => {}
    }
    match UnixStream::connect(path) {
        Ok(_) => Err(taken("another process answers there")),
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
            fs::remove_file(path).map_err(|source| OpenError::UnixSocket { path: path.to_owned(), source })
        }
        Err(source) => Err(OpenError::UnixSocket { path: path.to_owned(), source }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn addresses(texts: &[&str]) -> Vec<SocketAddr> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    #[test]
    fn both_families_get_the_same_port_where_the_system_chooses() {
        let listeners = open_tcp(&addresses(&["127.0.0.1:0", "[::1]:0"])).unwrap();
        let ports: Vec<u16> = listeners.iter().map(|l| l.local_addr().unwrap().port()).collect();
        assert_eq!(ports[0], ports[1]);
        assert_ne!(ports[0], 0);
    }

    #[test]
    fn a_taken_address_is_named() {
        let first = open_tcp(&addresses(&["127.0.0.1:0"])).unwrap();
        let address = first[0].local_addr().unwrap();
        let error = open_tcp(&[address]).unwrap_err();
        assert!(error.to_string().starts_with(&format!("cannot listen on {address}: ")), "{error}");
    }

    #[test]
    fn a_successor_takes_over_the_same_listeners_or_none() {
        let first = open_tcp(&addresses(&["127.0.0.1:0", "[::1]:0"])).unwrap();
        let inherited = || first.iter().map(|listener| listener.try_clone().unwrap()).collect::<Vec<_>>();
        let both = [first[1].local_addr().unwrap(), first[0].local_addr().unwrap()];
        assert_eq!(adopt_tcp(&both, inherited()).unwrap().len(), 2);
        let more = [both[0], both[1], "127.0.0.2:7".parse().unwrap()];
        for wanted in [&both[..1], &more] {
            let error = adopt_tcp(wanted, inherited()).unwrap_err().to_string();
            assert!(error.contains("a restart changes them"), "{error}");
        }
        assert!(adopt_unix(Some(Path::new("x")), None).is_err());
    }

    #[test]
    fn only_the_wildcard_of_a_host_without_ipv6_is_skipped() {
        let missing = io::Error::from_raw_os_error(97);
        let both = addresses(&["0.0.0.0:6969", "[::]:6969"]);
        assert!(lacks_family(&missing));
        assert!(is_optional(both[1], &both));
        assert!(!is_optional(both[1], &both[1..]));
        assert!(!is_optional(addresses(&["[::1]:6969"])[0], &both));
        assert!(!lacks_family(&io::Error::from(io::ErrorKind::AddrInUse)));
    }

    fn open(path: &Path, access: SocketAccess) -> Result<UnixSocket, OpenError> {
        UnixSocket::open(path, access)
    }

    fn scratch(name: &str) -> PathBuf {
        std::env::temp_dir().join(format!("hayate-{name}-{}-{:x}", std::process::id(), fastrand::u64(..)))
    }

    #[test]
    fn a_stale_unix_socket_is_replaced_and_a_live_one_is_not() {
        let path = scratch("unix");
        drop(UnixListener::bind(&path).unwrap());
        assert!(path.exists());
        let live = open(&path, SocketAccess::default()).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o660);
        let again = open(&path, SocketAccess::default());
        assert!(matches!(again, Err(OpenError::UnixSocketTaken { .. })));
        assert!(path.exists());
        drop(live);
        assert!(!path.exists());
    }

    #[test]
    fn nobody_can_connect_before_the_socket_is_given_to_whom_it_is_for() {
        let path = scratch("early");
        let group = if geteuid().is_root() { 40007 } else { nix::unistd::getegid().as_raw() };
        let look = || fs::metadata(&path).map(|file| (file.mode() & 0o777, file.gid())).unwrap();
        let bound = bind_unix(&path).unwrap();
        let early = UnixStream::connect(&path).unwrap_err();
        assert_eq!((early.kind(), look().0), (io::ErrorKind::ConnectionRefused, 0o660));
        set_access(&path, SocketAccess { mode: 0o606, group: Some(group) }).unwrap();
        let early = UnixStream::connect(&path).unwrap_err();
        assert_eq!((early.kind(), look()), (io::ErrorKind::ConnectionRefused, (0o606, group)));
        drop(bound);
        let socket = open(&path, SocketAccess { mode: 0o600, group: Some(group) }).unwrap();
        assert!(UnixStream::connect(&path).is_ok());
        assert_eq!(look(), (0o600, group));
        drop(socket);
        assert!(!path.exists());
    }

    #[test]
    fn what_is_put_in_the_place_of_the_socket_is_not_given_away() {
        let (place, other) = (scratch("place"), scratch("other"));
        let access = SocketAccess { mode: 0o666, group: None };
        let look = || fs::metadata(&other).unwrap().mode();
        let is_refused = || matches!(set_access(&place, access), Err(OpenError::UnixSocketTaken { .. }));
        let bound = bind_unix(&other).unwrap();
        let before = look();
        fs::hard_link(&other, &place).unwrap();
        assert!(is_refused(), "a socket that has another name too");
        fs::remove_file(&place).unwrap();
        std::os::unix::fs::symlink(&other, &place).unwrap();
        assert!(is_refused(), "a link");
        fs::remove_file(&place).unwrap();
        fs::write(&place, "precious").unwrap();
        assert!(is_refused(), "a file");
        if geteuid().is_root() {
            fs::remove_file(&place).unwrap();
            fs::rename(&other, &place).unwrap();
            std::os::unix::fs::lchown(&place, Some(40007), None).unwrap();
            assert!(is_refused(), "a socket of somebody else");
            fs::rename(&place, &other).unwrap();
        }
        assert_eq!(look(), before);
        drop(bound);
        _ = fs::remove_file(place);
        fs::remove_file(other).unwrap();
    }

    #[test]
    fn a_file_that_is_no_socket_stays() {
        let path = scratch("file");
        fs::write(&path, "precious").unwrap();
        let taken = open(&path, SocketAccess::default());
        assert!(matches!(taken, Err(OpenError::UnixSocketTaken { .. })));
        assert_eq!(fs::read(&path).unwrap(), b"precious");
        fs::remove_file(&path).unwrap();
    }
}
