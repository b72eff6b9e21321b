//! Socket addresses and control messages of Linux, which the kernel writes beside a datagram and reads beside
//! a reply, as octets. Read and written without `unsafe`; a record that is not understood is left out.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6};

use libc::c_int;

/// Octets of `struct sockaddr_in6`, the longest address here.
const SOCKADDR_LEN: usize = 28;
/// Octets for the control messages of one datagram: packet info of IPv6 (40 octets) and the drop count (24).
const CONTROL_LEN: usize = 80;
/// Octets of `struct cmsghdr`, as the kernel has it: length, level, type.
const HEADER_LEN: usize = size_of::<usize>() + 2 * size_of::<c_int>();

/// A buffer for a socket address.
#[derive(Clone, Copy, Debug)]
#[repr(C, align(8))]
pub(super) struct SockAddr(pub(super) [u8; SOCKADDR_LEN]);

/// A buffer for control messages.
#[derive(Clone, Copy, Debug)]
#[repr(C, align(8))]
pub(super) struct ControlMessages(pub(super) [u8; CONTROL_LEN]);

/// What the control messages of a datagram say.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Ancillary {
    /// The address to which the datagram was sent, on sockets that report it.
    pub(super) destination: Option<Destination>,
    /// Datagrams that the socket has dropped since it was opened, modulo 2^32; absent while there are none.
    pub(super) drops: Option<u32>,
}

/// The address to which a datagram was sent, and from which its reply must come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Destination {
    pub(super) address: IpAddr,
    /// The interface; 0 unless the address alone is ambiguous, as on an IPv6 link.
    interface: u32,
}

impl SockAddr {
    pub(super) const EMPTY: Self = Self([0; SOCKADDR_LEN]);

    /// Returns the address and port; `None` for any other family.
    pub(super) fn socket_addr(&self) -> Option<SocketAddr> {
        let octets = self.0.as_slice();
        let port = u16::from_be_bytes(octets_at(octets, 2)?);
        match c_int::from(u16::from_ne_bytes(octets_at(octets, 0)?)) {
            libc::AF_INET => Some((Ipv4Addr::from(octets_at::<4>(octets, 4)?), port).into()),
            libc::AF_INET6 => {
                let address = Ipv6Addr::from(octets_at::<16>(octets, 8)?);
                let scope = u32::from_ne_bytes(octets_at(octets, 24)?);
                Some(SocketAddrV6::new(address, port, 0, scope).into())
            }
            _ => None,
        }
    }
}

impl ControlMessages {
    pub(super) const EMPTY: Self = Self([0; CONTROL_LEN]);

    /// Reads the first `len` octets; glibc and musl give that number different types.
    pub(super) fn parse(&self, len: impl TryInto<usize>) -> Ancillary {
        let mut ancillary = Ancillary::default();
        let mut rest = self.0.get(..len.try_into().unwrap_or(0)).unwrap_or_default();
        // Every round takes at least a header away.
        while let Some((level, kind, data, next)) = first_message(rest) {
            match (level, kind) {
                (libc::IPPROTO_IP, libc::IP_PKTINFO) => ancillary.destination = Destination::read_v4(data),
                (libc::IPPROTO_IPV6, libc::IPV6_PKTINFO) => {
                    ancillary.destination = Destination::read_v6(data)
                }
                (libc::SOL_SOCKET, libc::SO_RXQ_OVFL) => {
                    ancillary.drops = octets_at(data, 0).map(u32::from_ne_bytes);
                }
                _ => {}
            }
            rest = next;
        }
        ancillary
    }

    /// Writes the one message that makes a reply leave from `from`; returns the octets used.
    pub(super) fn write_source(&mut self, from: Destination) -> usize {
        match from.address {
            IpAddr::V4(v4) => {
                let info = [[0; 4], v4.octets(), [0; 4]];
                self.write_message(libc::IPPROTO_IP, libc::IP_PKTINFO, info.as_flattened())
            }
            IpAddr::V6(v6) => {
                let mut info = [0; 20];
                let fields = v6.octets().into_iter().chain(from.interface.to_ne_bytes());
                info.iter_mut().zip(fields).for_each(|(to, from)| *to = from);
                self.write_message(libc::IPPROTO_IPV6, libc::IPV6_PKTINFO, &info)
            }
        }
    }

    fn write_message(&mut self, level: c_int, kind: c_int, data: &[u8]) -> usize {
        let len = HEADER_LEN + data.len();
        let header = len.to_ne_bytes().into_iter().chain(level.to_ne_bytes()).chain(kind.to_ne_bytes());
        let message = header.chain(data.iter().copied());
        self.0.iter_mut().zip(message).for_each(|(to, from)| *to = from);
        aligned(len)
    }
}

impl Destination {
    /// Reads `struct in_pktinfo`: interface, local address, address in the header. The local address is the
    /// one that replies come from, also where the header says broadcast.
    fn read_v4(data: &[u8]) -> Option<Self> {
        let address = Ipv4Addr::from(octets_at::<4>(data, 4)?);
        Some(Self { address: address.into(), interface: 0 })
    }

    /// Reads `struct in6_pktinfo`: address, interface. No reply can come from a multicast address.
    fn read_v6(data: &[u8]) -> Option<Self> {
        let address = Ipv6Addr::from(octets_at::<16>(data, 0)?);
        let interface = u32::from_ne_bytes(octets_at(data, 16)?);
        let interface = if address.is_unicast_link_local() { interface } else { 0 };
        (!address.is_multicast()).then_some(Self { address: address.into(), interface })
    }
}

/// Returns the first control message: level, type, data, and what follows it.
fn first_message(control: &[u8]) -> Option<(c_int, c_int, &[u8], &[u8])> {
    let len = usize::from_ne_bytes(octets_at(control, 0)?);
    let level = c_int::from_ne_bytes(octets_at(control, size_of::<usize>())?);
    let kind = c_int::from_ne_bytes(octets_at(control, size_of::<usize>() + size_of::<c_int>())?);
    let data = control.get(HEADER_LEN..len)?;
    Some((level, kind, data, control.get(aligned(len)..).unwrap_or_default()))
}

fn octets_at<const N: usize>(octets: &[u8], offset: usize) -> Option<[u8; N]> {
    octets.get(offset..)?.first_chunk().copied()
}

/// Control messages begin at multiples of the machine word.
fn aligned(len: usize) -> usize {
    len.next_multiple_of(size_of::<usize>())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_back() {
        for address in ["192.0.2.7", "2001:db8::7"] {
            let written = Destination { address: address.parse().unwrap(), interface: 0 };
            let mut control = ControlMessages::EMPTY;
            let len = control.write_source(written);
            assert_eq!(control.parse(len), Ancillary { destination: Some(written), drops: None });
        }
    }

    #[test]
    fn the_interface_is_kept_where_the_address_needs_it() {
        let link = Destination { address: "fe80::7".parse().unwrap(), interface: 3 };
        let site = Destination { address: "fd09::7".parse().unwrap(), interface: 3 };
        let mut control = ControlMessages::EMPTY;
        let len = control.write_source(link);
        assert_eq!(control.parse(len).destination, Some(link));
        let len = control.write_source(site);
        assert_eq!(control.parse(len).destination, Some(Destination { interface: 0, ..site }));
    }

    #[test]
    fn arbitrary_control_octets_are_read_without_panic() {
        let seed = fastrand::u64(..);
        println!("seed {seed}");
        let mut random = fastrand::Rng::with_seed(seed);
        for _ in 0..20_000 {
            let mut control = ControlMessages::EMPTY;
            control.0.iter_mut().for_each(|octet| *octet = random.u8(..) & 0x3f);
            control.0[1..8].fill(0);
            let _ = control.parse(random.usize(..100));
        }
    }
}
