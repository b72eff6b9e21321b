//! The command line of `hayate-load`: every option, its range, and what must hold between options.

use std::fmt::Display;
use std::net::IpAddr;
use std::path::PathBuf;
use std::str::FromStr;

use clap::Parser;
use clap::builder::{RangedI64ValueParser, RangedU64ValueParser};

use super::LoadError;
use super::target::{PASSKEY, Protocol, Target};

/// Most torrents that fit into one scrape over UDP (BEP 15).
const SCRAPE_MAX: u16 = 74;

/// Loads a BitTorrent tracker over UDP or HTTP and measures its replies.
///
/// With --rate it offers that many requests a second whatever the tracker does (open loop), and latency
/// counts from the time a request was due. Without --rate it sends as fast as the tracker answers (closed
/// loop).
#[derive(Clone, Debug, Parser)]
#[command(name = "hayate-load", version)]
pub struct Args {
    /// udp://HOST:PORT or http://HOST:PORT/announce; {passkey} in the path is replaced.
    pub url: String,
    /// How long requests are sent and counted.
    #[arg(long, default_value = "10", value_parser = number(0.01, 1e6), value_name = "S")]
    pub seconds: f64,
    /// How long requests are sent before that, without being counted.
    #[arg(long, default_value = "0", value_parser = number(0.0, 1e6), value_name = "S")]
    pub warmup: f64,
    /// Requests offered per second (open loop).
    #[arg(long, value_parser = number(0.01, 1e8), value_name = "R")]
    pub rate: Option<f64>,
    /// Unanswered requests per UDP socket in the closed loop.
    #[arg(long, default_value_t = 64, value_parser = window(), value_name = "N")]
    pub window: u32,
    /// UDP sockets.
    #[arg(long, default_value_t = 16, value_parser = lanes(), value_name = "N")]
    pub sockets: u32,
    /// Share of the sockets or connections that use IPv6, 0 to 100 percent; the others use IPv4 [default: all
    /// use the first address of HOST].
    ///
    /// From 1 to 99 each family has at least one. HOST must be a name with addresses of the families that are
    /// used; `localhost` always has 127.0.0.1 and ::1.
    #[arg(long, value_parser = percent(), value_name = "PCT")]
    pub ipv6: Option<u8>,
    /// First source address; with --ipv6 one of each family, separated by a comma [default: 127.0.0.2 and ::1
    /// if the tracker is on a loopback address].
    ///
    /// Sockets take consecutive addresses if the tracker is on an IPv4 loopback address or a prefix is given.
    /// ::1 has no neighbours. For more IPv6 addresses, make a prefix local where tracker and load run, best
    /// in a network namespace, and give its first address and length here, as 2001:db8::1/64 after `unshare
    /// --net`, `ip link set lo up`, `ip -6 route add local 2001:db8::/64 dev lo`.
    #[arg(long, value_delimiter = ',', value_name = "ADDR[/PREFIX]")]
    pub sources: Vec<Sources>,
    /// HTTP connections at the same time, one request on each.
    #[arg(long, default_value_t = 64, value_parser = lanes(), value_name = "N")]
    pub connections: u32,
    /// A new HTTP connection for each request.
    #[arg(long)]
    pub close: bool,
    /// Shares of the requests in percent; HTTP has no connects and keeps the proportion of the others.
    #[arg(long, default_value = "connect=10,announce=85,scrape=5", value_name = "SHARES")]
    pub mix: Mix,
    /// Torrents per scrape.
    #[arg(long, default_value_t = 1, value_parser = torrents_of_a_scrape(), value_name = "N")]
    pub scrape_torrents: u16,
    /// Torrents to draw from.
    #[arg(long, default_value_t = 1_000_000, value_parser = count(), value_name = "N")]
    pub torrents: u64,
    /// Exponent of the Zipf distribution of torrents; 0 = uniform.
    #[arg(long, default_value = "0", value_parser = number(0.0, 10.0), value_name = "S")]
    pub zipf: f64,
    /// With --fill or --refresh: the first N torrents get exactly one peer, the others one each and then all
    /// the rest, drawn.
    #[arg(long, default_value_t = 0, value_name = "N")]
    pub singles: u64,
    /// Peers to draw from, shared out among the sockets. Beyond 64512 for each source address they
    /// share ports, and so, to most trackers, are one peer.
    #[arg(long, default_value_t = 2_000_000, value_parser = count(), value_name = "N")]
    pub peers: u64,
    /// Share of the peers that are seeders, in percent.
    #[arg(long, default_value_t = 75, value_parser = percent(), value_name = "PCT")]
    pub seeders: u8,
    /// Share of the announces with event=stopped, in percent.
    #[arg(long, default_value_t = 0, value_parser = percent(), value_name = "PCT")]
    pub stopped: u8,
    /// Octets that each announce adds to the totals of the announce before it, whichever peer sent that.
    #[arg(long, value_name = "OCTETS", default_value_t = 0)]
    pub traffic: u64,
    /// Share of the announces with event=completed, in percent.
    #[arg(long, default_value_t = 0, value_parser = percent(), value_name = "PCT")]
    pub completed: u8,
    /// Peers wanted in an announce; -1 = the tracker chooses.
    #[arg(long, default_value_t = 30, value_parser = num_want(), value_name = "N")]
    #[arg(allow_negative_numbers = true)]
    pub num_want: i32,
    /// Seed of all random choices.
    #[arg(long, default_value_t = 1, value_name = "N")]
    pub seed: u64,
    /// Announce N new peers, each once (again if the reply is lost), and end.
    #[arg(long, value_parser = count(), value_name = "N", conflicts_with_all = ["rate", "warmup", "forged"])]
    pub fill: Option<u64>,
    /// Announce again the first N peers of an earlier --fill, drawn, each in its torrent. Needs the options
    /// of the fill: --torrents, --singles, --zipf, --seed, --sockets or --connections, --sources, --ipv6.
    #[arg(long, value_parser = count(), value_name = "N", conflicts_with_all = ["fill", "fresh_torrents"])]
    pub refresh: Option<u64>,
    /// Share of the announces over UDP with a random connection id, which must not be answered, in percent.
    #[arg(long, default_value_t = 0, value_parser = percent(), value_name = "PCT")]
    pub forged: u8,
    /// Every announce names a torrent that was never named before.
    #[arg(long, conflicts_with = "singles")]
    pub fresh_torrents: bool,
    /// Passkeys for {passkey}, one per line.
    #[arg(long, value_name = "FILE")]
    pub passkeys: Option<PathBuf>,
    /// The tracker's process, whose CPU time, memory and context switches are measured.
    #[arg(long, value_parser = clap::value_parser!(i32).range(1..), value_name = "PID")]
    pub pid: Option<i32>,
    /// Print one JSON object.
    #[arg(long)]
    pub json: bool,
    /// Show no progress.
    #[arg(long)]
    pub quiet: bool,
}

impl Args {
    /// Checks what must hold between the options.
    ///
    /// # Errors
    /// Fails with [`LoadError::Usage`], naming the option.
    pub fn check(&self, target: &Target) -> Result<(), LoadError> {
        let http = target.protocol == Protocol::Http;
        let usage = |text: String| Err(LoadError::Usage(text));
        let needs_passkey = target.path.contains(PASSKEY);
        if needs_passkey != self.passkeys.is_some() {
            return usage(format!("--passkeys FILE and {PASSKEY} in the URL go together"));
        }
        if self.stopped + self.completed > 100 {
            return usage("--stopped and --completed together: at most 100".into());
        }
        if http && self.forged > 0 {
            return usage("--forged: only over UDP are there connection ids to forge".into());
        }
        if http && self.fill.is_none() && self.mix.announce + self.mix.scrape == 0 {
            return usage("--mix: HTTP has no connects, announce or scrape must be more than 0".into());
        }
        if http && self.fill.is_none() && self.mix.scrape > 0 && target.scrape_path().is_none() {
            return usage("--mix: nothing in the URL becomes /scrape (BEP 48), scrape must be 0".into());
        }
        let Some(fill) = self.fill.or(self.refresh) else {
            return if self.singles > 0 {
                usage("--singles: only with --fill or --refresh".into())
            } else {
                Ok(())
            };
        };
        if self.singles > self.torrents || self.singles == self.torrents && fill > self.singles {
            return usage(format!("--singles {}: fewer than --torrents ({})", self.singles, self.torrents));
        }
        Ok(())
    }

    /// Returns the number of sockets or connections.
    #[must_use]
    pub fn lanes(&self, protocol: Protocol) -> u32 {
        match protocol {
            Protocol::Udp => self.sockets,
            Protocol::Http => self.connections,
        }
    }
}

fn percent() -> RangedI64ValueParser<u8> {
    clap::value_parser!(u8).range(0..=100)
}

fn count() -> RangedU64ValueParser {
    clap::value_parser!(u64).range(1..=1 << 40)
}

fn lanes() -> RangedI64ValueParser<u32> {
    clap::value_parser!(u32).range(1..=60_000)
}

fn window() -> RangedI64ValueParser<u32> {
    clap::value_parser!(u32).range(1..=65_536)
}

fn torrents_of_a_scrape() -> RangedI64ValueParser<u16> {
    clap::value_parser!(u16).range(1..=SCRAPE_MAX.into())
}

fn num_want() -> RangedI64ValueParser<i32> {
    clap::value_parser!(i32).range(-1..)
}

/// Returns a parser of numbers in a range.
fn number(min: f64, max: f64) -> impl Fn(&str) -> Result<f64, String> + Clone {
    move |text| match text.parse() {
        Ok(number) if (min..=max).contains(&number) => Ok(number),
        _ => Err(format!("expected a number from {min} to {max}")),
    }
}

/// Shares of the requests in percent; they sum to 100.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mix {
    /// Connects (UDP).
    pub connect: u8,
    /// Announces.
    pub announce: u8,
    /// Scrapes.
    pub scrape: u8,
}

impl FromStr for Mix {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mut mix = Self { connect: 0, announce: 0, scrape: 0 };
        for part in text.split(',') {
            let wrong = || format!("{part:?}: expected connect=, announce= or scrape= and 0 to 100");
            let (name, share) = part.split_once('=').ok_or_else(wrong)?;
            let field = match name.trim() {
                "connect" => &mut mix.connect,
                "announce" => &mut mix.announce,
                "scrape" => &mut mix.scrape,
                _ => return Err(wrong()),
            };
            *field = share.trim().parse().ok().filter(|share| *share <= 100).ok_or_else(wrong)?;
        }
        let sum = u16::from(mix.connect) + u16::from(mix.announce) + u16::from(mix.scrape);
        if sum == 100 { Ok(mix) } else { Err(format!("the shares sum to {sum}, not to 100")) }
    }
}

/// The addresses that sockets are bound to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sources {
    /// The address of the first socket.
    pub first: IpAddr,
    /// Length of the prefix that the following addresses lie in.
    pub prefix: Option<u8>,
}

impl FromStr for Sources {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong =
            |_: &dyn Display| "expected an address, or an address and the length of a prefix".to_owned();
        let (first, prefix) = match text.split_once('/') {
            Some((first, prefix)) => (first, Some(prefix.parse().map_err(|error| wrong(&error))?)),
            None => (text, None),
        };
        let first: IpAddr = first.parse().map_err(|error| wrong(&error))?;
        let longest = if first.is_ipv4() { 32 } else { 128 };
        match prefix {
            Some(prefix) if prefix > longest => Err(format!("the prefix is at most {longest} long")),
            _ => Ok(Self { first, prefix }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn args(line: &str) -> Args {
        Args::try_parse_from(format!("hayate-load {line}").split(' ')).unwrap()
    }

    fn usage_error(line: &str) -> String {
        let args = args(line);
        let target = Target::resolve(&args.url).unwrap();
        match args.check(&target) {
            Err(LoadError::Usage(text)) => text,
            other => panic!("{line}: {other:?}"),
        }
    }

    #[test]
    fn a_mix_sums_to_100() {
        let mix = Mix { connect: 20, announce: 77, scrape: 3 };
        assert_eq!("connect=20,scrape=3,announce=77".parse(), Ok(mix));
        assert_eq!("announce=100".parse(), Ok(Mix { connect: 0, announce: 100, scrape: 0 }));
        for (text, part) in [
            ("connect=50,announce=49", "sum to 99"),
            ("announce=101", "\"announce=101\""),
            ("announce=100,stop=0", "\"stop=0\""),
            ("announce", "\"announce\""),
            ("", "expected connect="),
        ] {
            let error = text.parse::<Mix>().unwrap_err();
            assert!(error.contains(part), "{text}: {error}");
        }
    }

    #[test]
    fn the_defaults_are_those_of_the_manual() {
        let args = args("udp://127.0.0.1:7");
        assert_eq!((args.seconds, args.warmup, args.rate, args.window), (10.0, 0.0, None, 64));
        assert_eq!((args.sockets, args.connections, args.scrape_torrents), (16, 64, 1));
        assert_eq!(args.mix, Mix { connect: 10, announce: 85, scrape: 5 });
        assert_eq!((args.torrents, args.zipf, args.peers, args.seeders), (1_000_000, 0.0, 2_000_000, 75));
        assert_eq!((args.num_want, args.seed), (30, 1));
    }

    #[test]
    fn options_that_contradict_one_another_are_named() {
        for (line, part) in [
            ("udp://127.0.0.1:7/{passkey}", "--passkeys"),
            ("udp://127.0.0.1:7 --passkeys keys", "--passkeys"),
            ("udp://127.0.0.1:7 --stopped 60 --completed 41", "--stopped"),
            ("udp://127.0.0.1:7 --singles 7", "--singles"),
            ("udp://127.0.0.1:7 --fill 9 --torrents 7 --singles 7", "--singles"),
            ("http://127.0.0.1:7/announce --forged 7", "--forged"),
            ("http://127.0.0.1:7/announce --mix connect=100", "--mix"),
            ("http://127.0.0.1:7/other", "--mix"),
        ] {
            assert!(usage_error(line).contains(part), "{line}: {}", usage_error(line));
        }
    }
}
