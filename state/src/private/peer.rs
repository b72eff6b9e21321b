//! One peer of a registered torrent: a session of a user, reached over up to one address of each family.

use std::net::IpAddr;

use crate::announce::{PEER_V4_LEN, PEER_V6_LEN};
use crate::clock::{Now, Tick};
use crate::ids::PeerId;
use crate::store::total::SessionTotals;

/// Unix seconds, for records. Enough until the year 2106.
pub(super) type UnixSeconds = u32;

/// Seconds of the steady clock, for ages: nobody can set it. They count from so far back that peers of an
/// earlier process have a place in them.
pub(super) type Moment = u32;
/// The moment of tick 0.
const ORIGIN: Moment = 1 << 31;

/// The moment of a tick.
pub(super) fn moment(tick: Tick) -> Moment {
    tick.0.saturating_add(ORIGIN)
}

/// The moment of a time that was written down in Unix seconds. One that is still to come is now.
pub(super) fn moment_from_unix(unix: i64, now: Now) -> Moment {
    let age = unix_now(now).saturating_sub(unix).max(0);
    moment(now.tick).saturating_sub(Moment::try_from(age).unwrap_or(Moment::MAX))
}

/// A moment in Unix seconds, to be written down.
pub(super) fn unix_from_moment(at: Moment, now: Now) -> i64 {
    let age = moment(now.tick).saturating_sub(at);
    unix_now(now).saturating_sub(age.into()).max(0)
}

fn unix_now(now: Now) -> i64 {
    i64::try_from(now.unix_seconds).unwrap_or(i64::MAX)
}

/// Peers of one user in one swarm, at most. Nobody has more clients at one torrent; but a client that is
/// started again and again has a new `peer_id` each time, so one more takes the place of the one that was
/// silent for longest.
pub(super) const SESSIONS_MAX: usize = 16;

/// A peer over IPv4 as it goes on the wire: address and port. All zeros: it has none.
pub(super) type EndpointV4 = [u8; PEER_V4_LEN];
/// A peer over IPv6 as it goes on the wire, and when it was heard of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct EndpointV6 {
    pub(super) wire: [u8; PEER_V6_LEN],
    pub(super) seen: Moment,
}

/// No IPv4 address.
pub(super) const NO_V4: EndpointV4 = [0; PEER_V4_LEN];
/// Ports below this are never handed out, so high octets of ports below this are not.
const WELL_KNOWN_PORTS: u16 = 1024;
const HIGH_OCTETS: u8 = (WELL_KNOWN_PORTS >> 8) as u8;

/// What is known of a peer besides whose it is and where it is reached.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Session {
    pub(super) peer_id: PeerId,
    pub(super) client: u32,
    pub(super) uploaded: u64,
    pub(super) downloaded: u64,
    pub(super) left: u64,
    pub(super) started: UnixSeconds,
    /// When it was heard of, as records say it.
    pub(super) announced: UnixSeconds,
    /// When it was heard of, for its age.
    pub(super) heard: Moment,
    /// When the IPv4 address was heard of.
    pub(super) v4_seen: Moment,
    pub(super) last: Credit,
}

impl Session {
    /// What it has reported so far.
    pub(super) fn totals(&self) -> SessionTotals {
        let Self { uploaded, downloaded, started, announced, .. } = *self;
        SessionTotals { uploaded, downloaded, started, announced, is_gone: false }
    }

    /// Goes on from what it has reported before.
    pub(super) fn resume(&mut self, standing: SessionTotals, now: Now) {
        (self.uploaded, self.downloaded) = (standing.uploaded, standing.downloaded);
        (self.started, self.announced) = (standing.started, standing.announced);
        self.heard = moment_from_unix(standing.announced.into(), now);
    }
}

/// What one announce has added to the ledger.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Credit {
    /// Octets uploaded since the announce before.
    pub raw_up: u64,
    /// Octets downloaded since the announce before.
    pub raw_down: u64,
    /// Octets credited as uploaded.
    pub up: u64,
    /// Octets credited as downloaded.
    pub down: u64,
    /// Seconds since the announce before, if they count.
    pub active_seconds: u32,
}

/// A peer on its way into or out of a swarm.
#[derive(Clone, Debug)]
pub(super) struct UserPeer {
    pub(super) user: u32,
    pub(super) v4: EndpointV4,
    pub(super) v6: Option<Box<EndpointV6>>,
    pub(super) session: Session,
}

impl UserPeer {
    /// Notes where the peer is reached now, and forgets the other family's address if nobody has heard of it
    /// since `limit`.
    pub(super) fn note_address(&mut self, address: IpAddr, port: u16, now: Moment, limit: Moment) {
        match address {
            IpAddr::V4(address) => {
                (self.v4, self.session.v4_seen) = (wire_endpoint(address.octets(), port), now);
            }
            IpAddr::V6(address) => {
                let v6 = EndpointV6 { wire: wire_endpoint(address.octets(), port), seen: now };
                match &mut self.v6 {
                    Some(known) => **known = v6,
                    None => self.v6 = Some(Box::new(v6)),
                }
            }
        }
        self.forget_before(limit);
    }

    pub(super) fn shown_families(&self) -> ShownFamilies {
        ShownFamilies::from_endpoints(&self.v4, self.v6.as_deref())
    }

    /// 1 for each family over which it is reached.
    pub(super) fn family_counts(&self) -> (u32, u32) {
        (u32::from(self.v4 != NO_V4), u32::from(self.v6.is_some()))
    }

    /// Forgets addresses that nobody has heard of since `limit`.
    pub(super) fn forget_before(&mut self, limit: Moment) {
        if self.session.v4_seen < limit {
            self.v4 = NO_V4;
        }
        if self.v6.as_ref().is_some_and(|v6| v6.seen < limit) {
            self.v6 = None;
        }
    }
}

/// Address and port, as they go on the wire.
pub(super) fn wire_endpoint<const ADDRESS: usize, const LEN: usize>(
    address: [u8; ADDRESS],
    port: u16,
) -> [u8; LEN] {
    const { assert!(ADDRESS + 2 == LEN) };
    let mut wire = [0; LEN];
    let octets = address.into_iter().chain(port.to_be_bytes());
    wire.iter_mut().zip(octets).for_each(|(to, from)| *to = from);
    wire
}

/// Which addresses of a peer may be handed out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum ShownFamilies {
    V4,
    V6,
    Both,
    /// It has none, or well-known ports.
    Nobody,
}

impl ShownFamilies {
    pub(super) fn from_endpoints(v4: &EndpointV4, v6: Option<&EndpointV6>) -> Self {
        match (is_shown(v4), v6.is_some_and(|v6| is_shown(&v6.wire))) {
            (true, false) => Self::V4,
            (false, true) => Self::V6,
            (true, true) => Self::Both,
            (false, false) => Self::Nobody,
        }
    }

    /// Is there one of IPv4, and one of IPv6?
    pub(super) fn v4_and_v6(self) -> (bool, bool) {
        (matches!(self, Self::V4 | Self::Both), matches!(self, Self::V6 | Self::Both))
    }
}

/// May this be handed out? Not what stands for no address, nor a well-known port.
fn is_shown<const LEN: usize>(wire: &[u8; LEN]) -> bool {
    wire.get(LEN - 2).is_some_and(|&high| high >= HIGH_OCTETS)
}
