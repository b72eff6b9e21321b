//! From which address to which each socket or connection goes, and which ports its peers announce.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use socket2::Socket;

use super::LoadError;
use super::args::{Args, Sources};
use super::target::{FIRST_PORT, PORTS, Target};
use crate::client::Family;

/// The route of one lane, that is, a socket or connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Route {
    /// The source address, with port 0.
    pub from: SocketAddr,
    /// The tracker.
    pub to: SocketAddr,
    /// Place among the lanes that have the same source address, from 0.
    place: u64,
    /// Number of lanes that have the same source address.
    sharers: u64,
}

impl Route {
    /// Makes the route of the only lane of its source address.
    #[must_use]
    pub const fn new(from: SocketAddr, to: SocketAddr) -> Self {
        Self { from, to, place: 0, sharers: 1 }
    }

    /// Binds a socket to the source address.
    ///
    /// # Errors
    /// Fails when the address is not one of this machine. An IPv6 address is not checked, because the kernel
    /// binds only freely to addresses that a local route gives to this machine (AnyIP).
    pub fn bind(&self, socket: &Socket) -> io::Result<()> {
        if self.from.is_ipv6() && !self.from.ip().is_unspecified() && !self.from.ip().is_loopback() {
            socket.set_freebind_v6(true)?;
        }
        socket.bind(&self.from.into())
    }
}

/// The routes of all lanes. Lane i of n has the peers i, i+n, i+2n, ..
#[derive(Clone, Debug)]
pub struct Routes(Vec<Route>);

impl Routes {
    /// Chooses the family and the source address of every lane.
    ///
    /// # Errors
    /// [`LoadError::Usage`] if the host has no address of a family that is needed, a source address is of a
    /// family that is not, or a fill has more peers than there are addresses and ports.
    pub fn new(args: &Args, target: &Target) -> Result<Self, LoadError> {
        let lanes = args.lanes(target.protocol);
        let over_ipv6 = match args.ipv6 {
            Some(share) => share_of(lanes, share)?,
            None if target.address.is_ipv6() => lanes,
            None => 0,
        };
        let mut v4 = FamilyRoutes::new(args, target, Family::V4, lanes - over_ipv6)?;
        let mut v6 = FamilyRoutes::new(args, target, Family::V6, over_ipv6)?;
        // So that the lanes of both families alternate as evenly as they can.
        let before = |lane: u32| u64::from(lane) * u64::from(over_ipv6) / u64::from(lanes);
        let mut route = |lane| {
            let family = if before(lane + 1) > before(lane) { &mut v6 } else { &mut v4 };
            family.as_mut().map(FamilyRoutes::next)
        };
        let routes = Self((0..lanes).filter_map(&mut route).collect());
        let fill = args.fill.map(|peers| ("--fill", peers));
        let refresh = args.refresh.map(|peers| ("--refresh", peers));
        let most = routes.capacity();
        match fill.or(refresh) {
            Some((option, peers)) if peers > most => Err(LoadError::Usage(format!(
                "{option} {peers}: at most {most} ({PORTS} ports of each source address); more addresses: \
                 --sockets or --connections with --sources ADDR/PREFIX"
            ))),
            _ => Ok(routes),
        }
    }

    /// Returns the routes, one for each lane.
    #[must_use]
    pub fn all(&self) -> &[Route] {
        &self.0
    }

    /// Returns the port of a peer. Peers of one source address share ports only when these are used up.
    #[must_use]
    pub fn port(&self, peer: u64) -> u16 {
        let lanes = self.0.len().max(1) as u64;
        let lane = usize::try_from(peer % lanes).ok().and_then(|lane| self.0.get(lane));
        let (place, sharers) = lane.map_or((0, 1), |route| (route.place, route.sharers));
        let port = (place.wrapping_add(sharers.wrapping_mul(peer / lanes)) % PORTS) as u16;
        port + FIRST_PORT
    }

    /// Returns how many peers, counted from the first, have an address and a port that no other has.
    #[must_use]
    pub fn capacity(&self) -> u64 {
        let lanes = self.0.len() as u64;
        let first_beyond = |(lane, route): (u64, &Route)| {
            lane + lanes * PORTS.saturating_sub(route.place).div_ceil(route.sharers)
        };
        (0..).zip(&self.0).map(first_beyond).min().unwrap_or(0)
    }
}

/// Returns how many of the lanes are `share` percent: at least one and not all, unless it is 0 or 100.
fn share_of(lanes: u32, share: u8) -> Result<u32, LoadError> {
    match share {
        0 => Ok(0),
        100.. => Ok(lanes),
        _ if lanes < 2 => {
            let text =
                format!("--ipv6 {share}: at least two --sockets or --connections, one for each family");
            Err(LoadError::Usage(text))
        }
        share => Ok(((lanes * u32::from(share) + 50) / 100).clamp(1, lanes - 1)),
    }
}

/// Hands out the routes of one family.
struct FamilyRoutes {
    to: SocketAddr,
    first: IpAddr,
    /// Whether each lane has an address of its own.
    varies: bool,
    lanes: u64,
    given: u64,
}

impl FamilyRoutes {
    /// Returns `None` if no lane is of this family.
    fn new(args: &Args, target: &Target, family: Family, lanes: u32) -> Result<Option<Self>, LoadError> {
        let usage = |text: String| Err(LoadError::Usage(text));
        let name = if family == Family::V6 { "IPv6" } else { "IPv4" };
        let mut sources = args.sources.iter().filter(|sources| family.has(sources.first));
        let (sources, second) = (sources.next(), sources.next());
        if let Some(Sources { first, .. }) = second {
            return usage(format!("--sources {first}: at most one address of each family"));
        }
        if lanes == 0 {
            return match sources {
                Some(Sources { first, .. }) => usage(format!("--sources {first}: nothing goes over {name}")),
                None => Ok(None),
            };
        }
        let mut addresses = [Some(target.address), target.other].into_iter().flatten();
        let Some(to) = addresses.find(|address| family.has(address.ip())) else {
            return usage(format!("--ipv6: {} has no {name} address", target.authority));
        };
        Ok(Some(Self {
            to,
            first: sources.map_or_else(|| default_source(to.ip()), |sources| sources.first),
            varies: to.is_ipv4() && to.ip().is_loopback() || sources.is_some_and(|one| one.prefix.is_some()),
            lanes: lanes.into(),
            given: 0,
        }))
    }

    /// Returns the route of the next lane.
    fn next(&mut self) -> Route {
        let place = self.given;
        self.given += 1;
        if !self.varies {
            return Route {
                place,
                sharers: self.lanes,
                ..Route::new(SocketAddr::new(self.first, 0), self.to)
            };
        }
        let address = match self.first {
            IpAddr::V4(v4) => {
                let step = u32::try_from(place).unwrap_or(u32::MAX);
                Ipv4Addr::from_bits(v4.to_bits().wrapping_add(step)).into()
            }
            IpAddr::V6(v6) => Ipv6Addr::from_bits(v6.to_bits().wrapping_add(place.into())).into(),
        };
        Route::new(SocketAddr::new(address, 0), self.to)
    }
}

fn default_source(tracker: IpAddr) -> IpAddr {
    match tracker {
        IpAddr::V4(v4) if v4.is_loopback() => Ipv4Addr::new(127, 0, 0, 2).into(),
        IpAddr::V6(v6) if v6.is_loopback() => Ipv6Addr::LOCALHOST.into(),
        IpAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        IpAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use clap::Parser;

    use super::*;

    fn try_routes(line: &str) -> Result<Routes, LoadError> {
        let args = Args::try_parse_from(format!("hayate-load {line}").split(' ')).unwrap();
        Routes::new(&args, &Target::resolve(&args.url).unwrap())
    }

    fn routes(line: &str) -> Routes {
        try_routes(line).unwrap()
    }

    fn over_ipv6(routes: &Routes) -> Vec<bool> {
        routes.all().iter().map(|route| route.to.is_ipv6()).collect()
    }

    #[test]
    fn sockets_take_consecutive_addresses_where_they_may() {
        for (line, lane, expected) in [
            ("udp://127.0.0.1:7 --sockets 301", 300, "127.0.1.46:0"),
            ("udp://127.0.0.1:7 --sources 127.0.0.99", 2, "127.0.0.101:0"),
            ("udp://[::1]:7", 3, "[::1]:0"),
            ("udp://[::1]:7 --sources fd00::fffe/64", 3, "[fd00::1:1]:0"),
            ("udp://192.0.2.7:7", 3, "0.0.0.0:0"),
            ("udp://192.0.2.7:7 --sources 10.0.0.7", 3, "10.0.0.7:0"),
        ] {
            assert_eq!(routes(line).all()[lane].from.to_string(), expected, "{line}");
        }
    }

    #[test]
    fn families_alternate_and_each_has_addresses_of_its_own() {
        let routes = routes("udp://localhost:7 --sockets 6 --ipv6 33 --sources fd00::7/64,127.0.0.9");
        assert_eq!(over_ipv6(&routes), [false, false, true, false, false, true]);
        let from: Vec<_> = routes.all().iter().map(|route| route.from.ip().to_string()).collect();
        assert_eq!(from, ["127.0.0.9", "127.0.0.10", "fd00::7", "127.0.0.11", "127.0.0.12", "fd00::8"]);
    }

    #[test]
    fn the_share_is_one_of_whole_sockets_and_none_only_at_0_and_100() {
        for (share, expected) in [(0, 0), (1, 1), (33, 5), (50, 8), (99, 15), (100, 16)] {
            let routes = routes(&format!("udp://localhost:7 --ipv6 {share}"));
            let count = over_ipv6(&routes).into_iter().filter(|over| *over).count();
            assert_eq!((count, routes.all().len()), (expected, 16), "{share}");
        }
    }

    #[test]
    fn peers_up_to_the_capacity_have_an_address_and_port_of_their_own() {
        for (line, expected) in [
            ("udp://127.0.0.1:7 --sockets 2", 2 * PORTS),
            ("udp://[::1]:7 --sockets 7", PORTS),
            ("udp://[::1]:7 --sockets 2 --sources fd00::1/64", 2 * PORTS),
            // Three lanes share `::1`, one has an IPv4 address for itself.
            ("udp://localhost:7 --sockets 4 --ipv6 75", 4 * PORTS / 3 + 1),
        ] {
            let routes = routes(line);
            assert_eq!(routes.capacity(), expected, "{line}");
            let peer = |number: u64| {
                let lane = usize::try_from(number).unwrap() % routes.all().len();
                (routes.all()[lane].from, routes.port(number))
            };
            let peers: HashSet<_> = (0..expected).map(peer).collect();
            assert_eq!(peers.len() as u64, expected, "{line}");
            assert!(peers.contains(&peer(expected)), "{line}: one more has a place of its own");
        }
    }

    #[test]
    fn addresses_that_are_missing_too_few_or_not_needed_are_named() {
        for (line, part) in [
            ("udp://127.0.0.1:7 --ipv6 50", "127.0.0.1:7 has no IPv6 address"),
            ("udp://[::1]:7 --ipv6 0", "[::1]:7 has no IPv4 address"),
            ("udp://localhost:7 --ipv6 50 --sockets 1", "--ipv6 50"),
            ("udp://127.0.0.1:7 --fill 64513 --sockets 1", "--fill 64513"),
            ("udp://[::1]:7 --fill 64513", "at most 64512"),
            ("udp://[::1]:7 --refresh 64513", "--refresh 64513"),
            ("udp://127.0.0.1:7 --sources ::1", "--sources ::1: nothing goes over IPv6"),
            ("udp://127.0.0.1:7 --sources 127.0.0.2,127.0.0.9", "--sources 127.0.0.9"),
        ] {
            match try_routes(line) {
                Err(LoadError::Usage(text)) => assert!(text.contains(part), "{line}: {text}"),
                other => panic!("{line}: {other:?}"),
            }
        }
    }
}
