//! The fields of one announce or scrape and of its answer, the same for the UDP server and the HTTP gateway.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use crate::ids::{InfoHash, PeerId};

/// Octets of one IPv4 peer on the wire: address and port (BEP 15, BEP 23).
pub const PEER_V4_LEN: usize = 6;
/// Octets of one IPv6 peer on the wire: address and port (BEP 7, BEP 15).
pub const PEER_V6_LEN: usize = 18;

/// The event of an announce (BEP 3, BEP 15, BEP 21). Anything unknown is [`Event::None`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Event {
    /// A regular announce.
    #[default]
    None,
    /// The download just finished.
    Completed,
    /// The session begins.
    Started,
    /// The session ends: the peer leaves the swarm.
    Stopped,
    /// A partial seed (BEP 21): the client has all that it wants, but not the whole torrent.
    Paused,
}

/// One announce, as the UDP server or the HTTP gateway has read it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Announce {
    /// The torrent.
    pub info_hash: InfoHash,
    /// The client's session.
    pub peer_id: PeerId,
    /// The address at which the peer is reached; never an IPv4-mapped IPv6 address.
    pub address: IpAddr,
    /// The port the peer listens on; 0 is refused, 1 is counted but not handed out.
    pub port: u16,
    /// Octets uploaded in this session.
    pub uploaded: u64,
    /// Octets downloaded in this session.
    pub downloaded: u64,
    /// Octets still missing; 0 means seeder.
    pub left: u64,
    /// The event.
    pub event: Event,
    /// Peers to hand out, at most; the server has applied its default and its maximum.
    pub num_want: u16,
}

/// The counts of one swarm, for scrapes and answers. `completed` counts finished downloads (HTTP calls it
/// `downloaded` in a scrape).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Tally {
    /// Peers with `left` = 0 (HTTP: complete).
    pub seeders: u32,
    /// Downloads finished since the torrent became known (HTTP: downloaded).
    pub completed: u32,
    /// All other peers (HTTP: incomplete).
    pub leechers: u32,
    /// Leechers that are partial seeds (BEP 21). Counted for scrapes only: 0 in the answer to an announce,
    /// which has no field for it.
    pub paused: u32,
}

/// The answer to an announce; the peers are in the [`Handout`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Answer {
    /// Seconds until the client should announce again.
    pub interval_seconds: u32,
    /// Shortest time between two announces in seconds; 0 = not sent.
    pub min_interval_seconds: u32,
    /// The counts after this announce, the requester and both families included.
    pub tally: Tally,
}

/// The reason for which an announce or scrape was refused. The client gets [`Refusal::text`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// Port 0, or below 1024 with `announce.strict_port`.
    InvalidPort,
    /// No peer can be reached at the address: unspecified, multicast, broadcast, IPv6 link-local.
    InvalidAddress,
    /// The torrent is denied, or not registered in a closed mode.
    UnregisteredTorrent,
    /// `enable_scrape` is false.
    ScrapeDisabled,
    /// No enabled user has this passkey (mode private).
    InvalidPasskey,
    /// The port is below 1024 with `announce.strict_port` (mode private).
    WellKnownPort,
    /// The `peer_id` begins like that of no approved client (mode private).
    ClientNotApproved,
    /// The torrent is not registered (mode private).
    UnknownTorrent,
    /// The torrent is registered, but pruned or unavailable (mode private).
    UnavailableTorrent,
    /// The user may only seed (mode private).
    DownloadDisabled,
    /// The hook `client approval` does not admit the client.
    UnapprovedClient,
    /// The hook `torrent approval` does not admit the torrent.
    UnapprovedTorrent,
    /// The hook `jwt` needs a token.
    MissingJwt,
    /// The token is not one that the hook `jwt` accepts.
    InvalidJwt,
    /// A hook that is not part of this crate refuses.
    Hook(HookText),
}

/// The text with which a hook refuses. All of them are equal, because they share one counter.
#[derive(Clone, Copy, Debug)]
pub struct HookText(pub &'static str);

impl PartialEq for HookText {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

impl Eq for HookText {}

impl Refusal {
    /// Every variant, in the order of the counters.
    pub const ALL: [Self; 15] = [
        Self::InvalidPort,
        Self::InvalidAddress,
        Self::UnregisteredTorrent,
        Self::ScrapeDisabled,
        Self::InvalidPasskey,
        Self::WellKnownPort,
        Self::ClientNotApproved,
        Self::UnknownTorrent,
        Self::UnavailableTorrent,
        Self::DownloadDisabled,
        Self::UnapprovedClient,
        Self::UnapprovedTorrent,
        Self::MissingJwt,
        Self::InvalidJwt,
        Self::Hook(HookText("refused by a hook")),
    ];

    /// Returns the text for the client: static, printable ASCII, at most 72 octets.
    #[must_use]
    pub fn text(self) -> &'static str {
        match self {
            Self::InvalidPort => "invalid port",
            Self::InvalidAddress => "invalid IP",
            Self::UnregisteredTorrent => "unregistered torrent",
            Self::ScrapeDisabled => "scrape disabled",
            Self::InvalidPasskey => "Your passkey is invalid",
            Self::WellKnownPort => "Unacceptable request - port must be outside of well-known range",
            Self::ClientNotApproved => "Your client is not approved",
            Self::UnknownTorrent | Self::UnavailableTorrent => "This torrent does not exist",
            Self::DownloadDisabled => "Your download privileges are disabled",
            Self::UnapprovedClient => "unapproved client",
            Self::UnapprovedTorrent => "unapproved torrent",
            Self::MissingJwt => "unapproved request: missing jwt",
            Self::InvalidJwt => "unapproved request: invalid jwt",
            Self::Hook(HookText(text)) => text,
        }
    }

    /// Returns the value of the label `reason` in metrics.
    #[must_use]
    pub fn label(self) -> &'static str {
        match self {
            Self::InvalidPort => "invalid_port",
            Self::InvalidAddress => "invalid_address",
            Self::UnregisteredTorrent => "unregistered_torrent",
            Self::ScrapeDisabled => "scrape_disabled",
            Self::InvalidPasskey => "invalid_passkey",
            Self::WellKnownPort => "well_known_port",
            Self::ClientNotApproved => "client_not_approved",
            Self::UnknownTorrent => "unknown_torrent",
            Self::UnavailableTorrent => "unavailable_torrent",
            Self::DownloadDisabled => "download_disabled",
            Self::UnapprovedClient => "unapproved_client",
            Self::UnapprovedTorrent => "unapproved_torrent",
            Self::MissingJwt => "missing_jwt",
            Self::InvalidJwt => "invalid_jwt",
            Self::Hook(_) => "hook",
        }
    }

    /// Returns the seconds that mode private tells an HTTP client to wait (`rules/private.md#failures`).
    #[must_use]
    pub fn interval_seconds(self) -> u32 {
        match self {
            Self::UnknownTorrent => 300,
            Self::UnavailableTorrent => 900,
            _ => 3600,
        }
    }
}

/// Buffers for the peers of one answer, owned by the caller: 6 octets a peer in `v4`, 18 octets in `v6`. A
/// server whose reply cannot carry a family leaves its buffer empty.
#[derive(Debug)]
pub struct Handout<'b> {
    /// IPv4 peers.
    pub v4: PeerWriter<'b, PEER_V4_LEN>,
    /// IPv6 peers.
    pub v6: PeerWriter<'b, PEER_V6_LEN>,
}

impl<'b> Handout<'b> {
    /// Makes a handout with room for as many whole peers as fit into each slice.
    pub fn new(v4: &'b mut [u8], v6: &'b mut [u8]) -> Self {
        Self { v4: PeerWriter::new(v4), v6: PeerWriter::new(v6) }
    }
}

/// A buffer that fills with the peers of one family, `LEN` octets each, as they go on the wire.
#[derive(Debug)]
pub struct PeerWriter<'b, const LEN: usize> {
    octets: &'b mut [u8],
    used: usize,
    ids: Option<&'b mut Vec<PeerId>>,
}

impl<'b, const LEN: usize> PeerWriter<'b, LEN> {
    /// Makes a writer with room for as many whole peers as fit into `octets`.
    pub fn new(octets: &'b mut [u8]) -> Self {
        Self { octets, used: 0, ids: None }
    }

    /// Collects peer ids, too, in the order of the peers (list form of BEP 3).
    pub fn with_ids(mut self, ids: &'b mut Vec<PeerId>) -> Self {
        self.ids = Some(ids);
        self
    }

    /// Returns the number of peers that still fit.
    #[must_use]
    pub fn room(&self) -> usize {
        (self.octets.len() - self.used) / LEN
    }

    /// Returns the number of octets written, a multiple of `LEN`.
    #[must_use]
    pub fn used(&self) -> usize {
        self.used
    }

    /// Returns the number of peers written.
    #[must_use]
    pub fn peers(&self) -> usize {
        self.used / LEN
    }

    /// Adds as many of the peers as there is room for.
    pub(crate) fn extend(&mut self, peers: &[[u8; LEN]]) {
        let flat = peers.as_flattened();
        let len = flat.len().min(self.room() * LEN);
        if let (Some(to), Some(from)) = (self.octets.get_mut(self.used..self.used + len), flat.get(..len)) {
            to.copy_from_slice(from);
            self.used += len;
        }
    }

    /// Adds one peer, and its id where ids are collected.
    pub(crate) fn push(&mut self, peer: &[u8; LEN], id: PeerId) {
        self.extend(std::slice::from_ref(peer));
        if let Some(ids) = &mut self.ids {
            ids.push(id);
        }
    }

    /// Adds one peer, and its id where ids are collected; only then is `id` called.
    pub(crate) fn push_with(&mut self, peer: &[u8; LEN], id: impl FnOnce() -> PeerId) {
        self.extend(std::slice::from_ref(peer));
        if let Some(ids) = &mut self.ids {
            ids.push(id());
        }
    }

    /// Replaces a peer that was written, and its id where ids are collected.
    pub(crate) fn replace(&mut self, index: usize, peer: &[u8; LEN], id: PeerId) {
        if let Some(slot) = self.octets.get_mut(index * LEN..(index + 1) * LEN) {
            slot.copy_from_slice(peer);
        }
        if let Some(slot) = self.ids.as_mut().and_then(|ids| ids.get_mut(index)) {
            *slot = id;
        }
    }

    /// Whether this peer was written already.
    pub(crate) fn contains(&self, peer: &[u8; LEN]) -> bool {
        let written: &[[u8; LEN]] = self.octets.get(..self.used).unwrap_or_default().as_chunks().0;
        written.contains(peer)
    }
}

/// A peer as it goes on the wire.
#[derive(Clone, Copy, Debug)]
pub(crate) enum WirePeer {
    V4([u8; PEER_V4_LEN]),
    V6([u8; PEER_V6_LEN]),
}

impl WirePeer {
    /// Returns the peer that announces.
    pub(crate) fn from_announce(announce: &Announce) -> Self {
        Self::from_address(announce.address, announce.port)
    }

    /// Returns the peer at this address and port.
    #[inline]
    pub(crate) fn from_address(address: IpAddr, port: u16) -> Self {
        match address {
            IpAddr::V4(address) => {
                // As one number: octets written one by one would stall the read of all of them.
                let number = u64::from(address.to_bits()) << 16 | u64::from(port);
                let [_, _, peer @ ..] = number.to_be_bytes();
                Self::V4(peer)
            }
            IpAddr::V6(address) => {
                let mut peer = [0; PEER_V6_LEN];
                if let Some((host, rest)) = peer.split_first_chunk_mut::<16>() {
                    *host = address.octets();
                    rest.copy_from_slice(&port.to_be_bytes());
                }
                Self::V6(peer)
            }
        }
    }

    /// Returns its address and port.
    pub(crate) fn socket_addr(self) -> SocketAddr {
        match self {
            Self::V4(octets) => SocketAddr::new(octets.address(), octets.port()),
            Self::V6(octets) => SocketAddr::new(octets.address(), octets.port()),
        }
    }
}

/// The octets of one peer on the wire: address, then port (BEP 15, BEP 7).
pub(crate) trait Endpoint: Copy + Eq {
    fn address(&self) -> IpAddr;
    fn port(&self) -> u16;
    /// Returns what `announce.peers_per_address` counts as one address: an IPv4 address, an IPv6 /64.
    fn address_key(&self) -> u64;
}

impl Endpoint for [u8; 6] {
    fn address(&self) -> IpAddr {
        let [a, b, c, d, ..] = *self;
        Ipv4Addr::new(a, b, c, d).into()
    }

    fn port(&self) -> u16 {
        let [.., high, low] = *self;
        u16::from_be_bytes([high, low])
    }

    fn address_key(&self) -> u64 {
        let [a, b, c, d, ..] = *self;
        u32::from_be_bytes([a, b, c, d]).into()
    }
}

impl Endpoint for [u8; 18] {
    fn address(&self) -> IpAddr {
        let [address @ .., _, _] = *self;
        Ipv6Addr::from(address).into()
    }

    fn port(&self) -> u16 {
        let [.., high, low] = *self;
        u16::from_be_bytes([high, low])
    }

    fn address_key(&self) -> u64 {
        let [a, b, c, d, e, f, g, h, ..] = *self;
        u64::from_be_bytes([a, b, c, d, e, f, g, h])
    }
}

/// Whether both count as one address.
pub(crate) fn have_same_address_key<E: Endpoint>(one: &E, other: &E) -> bool {
    one.address_key() == other.address_key()
}
