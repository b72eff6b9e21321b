//! Removes personal data from a cache: who announced, from where, and with which passkey. The result may be
//! published, so the random numbers come from a cryptographic generator: nothing in it tells its other
//! output.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::hash::Hash;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::ops::RangeInclusive;

use hayate_state::address::AddressClass;
use hayate_state::snapshot::plain;
use hayate_state::snapshot::site::{Multipliers, SiteSnapshot};
use rand::distr::Alphanumeric;
use rand::rngs::{StdRng, SysError, SysRng};
use rand::seq::SliceRandom;
use rand::{RngExt, SeedableRng};

/// The range of random ports.
const PORTS: RangeInclusive<u16> = 1024..=65533;
/// The characters of passkeys.
const LETTERS: u64 = 26 + 26 + 10;

/// There are fewer passkeys of a length than users with a passkey of that length.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{users} users have passkeys of {len} octets: letters and digits do not give that many different passkeys"
)]
pub struct NoPasskeys {
    /// The length.
    pub len: usize,
    /// The number of users that have a passkey of this length.
    pub users: u64,
}

/// Returns a generator whose output cannot be guessed, seeded by the system.
///
/// # Errors
/// Fails when the system provides no random numbers.
pub fn system_random() -> Result<StdRng, SysError> {
    StdRng::try_from_rng(&mut SysRng)
}

/// Gives users random ids from 1 on, distinct random passkeys, and the multipliers and visibility of new
/// users; gives peers the new id of their user, or 0, and random addresses. Everything else is kept. Returns
/// the number of peers that were removed because they could not be distinguished from others of the same
/// swarm.
///
/// # Errors
/// Fails when there are too few passkeys.
pub fn anonymize(site: &mut SiteSnapshot, random: &mut StdRng) -> Result<usize, NoPasskeys> {
    replace_passkeys(site, random)?;
    let ids = new_ids(site, random);
    let new_id = |old: u32| ids.get(&old).copied().unwrap_or(0);
    for user in &mut site.users {
        user.id = new_id(user.id);
        user.tracker_hide = false;
        user.multipliers = Multipliers::default();
    }
    for peer in site.torrents.iter_mut().flat_map(|torrent| &mut torrent.peers) {
        peer.user = new_id(peer.user);
        if let Some(v4) = &mut peer.v4 {
            (v4.address, v4.port) = (random_v4(random), random.random_range(PORTS));
        }
        if let Some(v6) = &mut peer.v6 {
            (v6.address, v6.port) = (random_v6(random), random.random_range(PORTS));
        }
    }
    let before = site.peers();
    site.sort_and_dedup();
    Ok(before - site.peers())
}

/// Gives peers random public addresses of their family, distinct within a torrent. Everything
/// else is kept.
pub fn anonymize_swarms(torrents: &mut Vec<plain::PlainTorrent>, random: &mut StdRng) {
    for torrent in &mut *torrents {
        let mut taken = HashSet::new();
        for peer in &mut torrent.peers {
            let is_v4 = peer.address.is_ipv4();
            peer.address = draw_unused(&mut taken, || {
                let address: IpAddr = if is_v4 { random_v4(random).into() } else { random_v6(random).into() };
                SocketAddr::new(address, random.random_range(PORTS))
            });
        }
    }
    // Otherwise peers would stay in the order of their old addresses.
    plain::merge_torrents(torrents);
}

/// Draws until the value is a new one; there must be enough values.
fn draw_unused<T: Clone + Eq + Hash>(taken: &mut HashSet<T>, mut draw: impl FnMut() -> T) -> T {
    loop {
        let drawn = draw();
        if taken.insert(drawn.clone()) {
            return drawn;
        }
    }
}

fn random_v4(random: &mut StdRng) -> Ipv4Addr {
    loop {
        // Seven of eight are public.
        let address = Ipv4Addr::from_bits(random.random());
        if AddressClass::of(address.into()).is_public() {
            return address;
        }
    }
}

/// Draws an address of 2000::/3, which contains all public addresses.
fn random_v6(random: &mut StdRng) -> Ipv6Addr {
    Ipv6Addr::from_bits(random.random::<u128>() >> 3 | 1 << 125)
}

fn replace_passkeys(site: &mut SiteSnapshot, random: &mut StdRng) -> Result<(), NoPasskeys> {
    let mut lengths = BTreeMap::new();
    site.users.iter().for_each(|user| *lengths.entry(user.passkey.len()).or_insert(0_u64) += 1);
    for (&len, &users) in &lengths {
        let passkeys = u32::try_from(len).ok().and_then(|len| LETTERS.checked_pow(len));
        if passkeys.is_some_and(|passkeys| passkeys < users) {
            return Err(NoPasskeys { len, users });
        }
    }
    let mut taken = HashSet::new();
    for user in &mut site.users {
        user.passkey =
            draw_unused(&mut taken, || user.passkey.iter().map(|_| random.sample(Alphanumeric)).collect());
    }
    Ok(())
}

/// Returns new ids by old ones, in an order that does not depend on the old ids.
fn new_ids(site: &SiteSnapshot, random: &mut StdRng) -> BTreeMap<u32, u32> {
    let old: BTreeSet<u32> = site.users.iter().map(|user| user.id).collect();
    let mut new: Vec<u32> = (1..).take(old.len()).collect();
    new.shuffle(random);
    old.into_iter().zip(new).collect()
}
