//! The command line.

use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};
use hayate_state::InfoHash;

use crate::admin::TorrentName;
use crate::commands::remote::{AccessCommand, ReportCommand};
use crate::commands::site::credit::{FreeleechCommand, TokenCommand};
use crate::commands::site::{ClientCommand, TorrentCommand, UserCommand};
use crate::config::bounded::parse_duration;
use crate::config::document::LogFormat;

/// A BitTorrent tracker: UDP first (BEP 15), with an HTTP gateway in front of the same swarms.
#[derive(Debug, Parser)]
#[command(name = "hayate", version, after_help = EXAMPLES, subcommand_negates_reqs = true)]
pub(crate) struct CommandLine {
    /// What to do; without a command, hayate serves.
    #[command(subcommand)]
    pub(crate) command: Option<Command>,
    /// The configuration, JSON or (.yaml, .yml) YAML; $VAR and ${VAR} are expanded. Default: tracker.json in
    /// the current folder, or else built-in defaults.
    #[arg(short, long, global = true, value_name = "PATH")]
    pub(crate) config: Option<String>,
    #[command(flatten)]
    pub(crate) output: OutputOptions,
}

const EXAMPLES: &str = "Examples:
  hayate                          an open tracker on UDP and HTTP port 6969
  hayate check-config -c t.yaml   is this configuration valid?
  hayate e2e                      does the tracker on this machine work?

Environment: HAYATE__UDP__WORKERS=2 stands for the key udp.workers; RUST_LOG sets what is logged.
Exit: 0 clean stop or success, 1 any error, 2 wrong command line, 3 imported, but see the report.";

/// Options of the output.
#[derive(Clone, Debug, Default, Args)]
pub(crate) struct OutputOptions {
    /// Log more; wins over RUST_LOG and log.level.
    #[arg(long, global = true)]
    pub(crate) debug: bool,
    /// Log one JSON object a line; probe and lists answer in JSON.
    #[arg(long, global = true)]
    pub(crate) json: bool,
    /// Never use colours; without this they are used on terminals.
    #[arg(long, global = true)]
    pub(crate) nocolors: bool,
    /// How log lines look; --json wins.
    #[arg(long, global = true, value_name = "FORMAT")]
    pub(crate) log_format: Option<LogFormat>,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Serve, as without a command.
    Run,
    /// Read and check the configuration and all files that it names; open no sockets.
    CheckConfig,
    /// Print the configuration in force as JSON, secrets masked; on stderr, where it came from.
    PrintConfig,
    /// Bring the database to the schema of this version; safe to repeat.
    Migrate {
        /// Print the statements; change nothing.
        #[arg(long)]
        print: bool,
    },
    /// Users of a site (mode private), in its database.
    #[command(subcommand)]
    User(UserCommand),
    /// Registered torrents of a site (mode private), in its database.
    #[command(subcommand)]
    Torrent(TorrentCommand),
    /// Approved clients of a site (mode private), in its database.
    #[command(subcommand)]
    Client(ClientCommand),
    /// Freeleech tokens of a site (mode private), in its database: what this user downloads of this torrent
    /// is not credited.
    #[command(subcommand)]
    Token(TokenCommand),
    /// Freeleech of a whole site or of groups of torrents (mode private), in its database.
    #[command(subcommand)]
    Freeleech(FreeleechCommand),
    /// Ask the running tracker why the last announces of a user were accepted or refused, and what was
    /// credited (mode private; needs admin.token_file).
    Explain {
        /// The user's id.
        user: u32,
        /// The info_hash, 40 hexadecimal digits, or the id.
        torrent: TorrentName,
    },
    /// Change or print the list of torrents of the running tracker, and its file access.path (needs
    /// admin.token_file).
    #[command(subcommand)]
    Access(AccessCommand),
    /// Have the running tracker write the counts of all torrents to export.path (needs admin.token_file).
    Export,
    /// Report the clients or the largest torrents of the running tracker, or the addresses beyond its rate
    /// limit (needs admin.token_file).
    #[command(subcommand)]
    Report(ReportCommand),
    /// Replace the running tracker by the program that is installed now, without losing a datagram.
    Upgrade {
        /// How long the new process may take.
        #[arg(long, default_value = "2m", value_parser = duration_arg)]
        timeout: Duration,
    },
    /// Make a tracker.json from chihaya's YAML or kuroneko's config.json; report on stderr what became of
    /// each key. Exit code 3: done, but something was changed or dropped.
    ImportConfig {
        /// The configuration of the other tracker.
        file: PathBuf,
        /// The file to write [default: stdout].
        #[arg(short, long, value_name = "FILE")]
        output: Option<PathBuf>,
    },
    /// Merge lists of torrents of opentracker, aquatic or chihaya into one for access.path. Exit code 3:
    /// done, but there are lines that are no info_hash.
    ImportLists {
        /// The lists.
        #[arg(required = true)]
        files: Vec<PathBuf>,
        /// The file to write [default: stdout].
        #[arg(short, long, value_name = "FILE")]
        output: Option<PathBuf>,
    },
    /// Print the JSON Schema of tracker.json.
    Schema,
    /// Print completions for a shell.
    Completions {
        /// The shell.
        shell: clap_complete::Shell,
    },
    /// Print the manual page (troff).
    Man,
    /// Send one request to any tracker and print the reply.
    Probe {
        /// What to send.
        #[command(subcommand)]
        request: Probe,
    },
    /// Test a running tracker: two peers announce over each protocol and must see each other.
    E2e(E2e),
}

/// The request to send.
#[derive(Debug, Subcommand)]
pub(crate) enum Probe {
    /// Announce a peer and print the peers that the tracker hands out.
    Announce(ProbeAnnounce),
    /// Ask for the counts of swarms.
    Scrape(ProbeScrape),
}

/// Where and how to send the request.
#[derive(Clone, Debug, Args)]
pub(crate) struct Target {
    /// The tracker: udp://HOST:PORT[/PATH], http://... or https://... up to and including /announce.
    pub(crate) url: String,
    /// Ask over IPv4 only.
    #[arg(short = '4', long, conflicts_with = "ipv6")]
    pub(crate) ipv4: bool,
    /// Ask over IPv6 only.
    #[arg(short = '6', long)]
    pub(crate) ipv6: bool,
    /// How long to wait for each reply.
    #[arg(long, default_value = "5s", value_parser = duration_arg)]
    pub(crate) timeout: Duration,
    /// How often to send again over UDP.
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u32).range(0..=8))]
    pub(crate) retries: u32,
}

/// One announce by hand.
#[derive(Clone, Debug, Args)]
pub(crate) struct ProbeAnnounce {
    #[command(flatten)]
    pub(crate) target: Target,
    /// The torrent: 40 hexadecimal digits.
    pub(crate) hash: InfoHash,
    /// The port the peer says it listens on; 1 is counted by hayate, but never handed out.
    #[arg(long, default_value_t = 1)]
    pub(crate) port: u16,
    /// Octets the peer says it still misses; 0 = seeder.
    #[arg(long, default_value_t = 1)]
    pub(crate) left: u64,
    /// Octets the peer says it uploaded.
    #[arg(long, default_value_t = 0)]
    pub(crate) uploaded: u64,
    /// Octets the peer says it downloaded.
    #[arg(long, default_value_t = 0)]
    pub(crate) downloaded: u64,
    /// What the peer says happened.
    #[arg(long, value_enum, default_value_t = ProbeEvent::None)]
    pub(crate) event: ProbeEvent,
    /// Peers wanted [default: the tracker chooses].
    #[arg(long)]
    pub(crate) numwant: Option<u16>,
    /// The peer's id, up to 20 characters [default: random].
    #[arg(long)]
    pub(crate) peer_id: Option<String>,
    /// The address the peer claims.
    #[arg(long)]
    pub(crate) ip: Option<IpAddr>,
    /// Ask for the list form of BEP 3 instead of the compact one (HTTP).
    #[arg(long)]
    pub(crate) list: bool,
}

/// What a peer says happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum ProbeEvent {
    /// A regular announce.
    None,
    /// The download is complete.
    Completed,
    /// The session begins.
    Started,
    /// The session ends.
    Stopped,
    /// A partial seed (BEP 21).
    Paused,
}

/// One scrape by hand.
#[derive(Clone, Debug, Args)]
pub(crate) struct ProbeScrape {
    #[command(flatten)]
    pub(crate) target: Target,
    /// The torrents: 40 hexadecimal digits each.
    #[arg(required = true)]
    pub(crate) hashes: Vec<InfoHash>,
}

/// Options of the end-to-end test.
#[derive(Clone, Debug, Args)]
pub(crate) struct E2e {
    /// URL of HTTP announces; empty = skip HTTP.
    #[arg(long, alias = "httpaddr", value_name = "URL", default_value = "http://127.0.0.1:6969/announce")]
    pub(crate) http: String,
    /// URL of the UDP tracker; empty = skip UDP.
    #[arg(long, alias = "udpaddr", value_name = "URL", default_value = "udp://127.0.0.1:6969")]
    pub(crate) udp: String,
    /// Pause between the announces of the two peers.
    #[arg(long, default_value = "1s", value_parser = duration_arg)]
    pub(crate) delay: Duration,
    /// The torrent, for trackers that serve only registered ones [default: a new random one for each
    /// protocol].
    #[arg(long, value_name = "HEX")]
    pub(crate) infohash: Option<InfoHash>,
}

/// Reads whole seconds, or a text such as `300ms`.
fn duration_arg(text: &str) -> Result<Duration, String> {
    let seconds = text.parse().ok().map(Duration::from_secs);
    seconds
        .or_else(|| parse_duration(text))
        .ok_or_else(|| "expected seconds, or a text such as 300ms, 2s, 1m".into())
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_holds_together() {
        CommandLine::command().debug_assert();
    }

    #[test]
    fn options_may_stand_before_or_behind_the_command() {
        for words in
            [["hayate", "-c", "x.json", "check-config"], ["hayate", "check-config", "--config", "x.json"]]
        {
            let line = CommandLine::try_parse_from(words).unwrap();
            assert_eq!(line.config.as_deref(), Some("x.json"));
            assert!(matches!(line.command, Some(Command::CheckConfig)));
        }
        assert!(CommandLine::try_parse_from(["hayate"]).unwrap().command.is_none());
    }

    #[test]
    fn e2e_knows_the_names_of_the_reference() {
        let words = ["hayate", "e2e", "--httpaddr", "", "--udpaddr", "udp://[::1]:7", "--delay", "300ms"];
        let Some(Command::E2e(e2e)) = CommandLine::try_parse_from(words).unwrap().command else {
            panic!("not e2e")
        };
        assert_eq!((e2e.http.as_str(), e2e.udp.as_str()), ("", "udp://[::1]:7"));
        assert_eq!(e2e.delay, Duration::from_millis(300));
    }

    #[test]
    fn a_wrong_command_line_exits_with_2() {
        for words in [vec!["hayate", "--bogus"], vec!["hayate", "probe", "scrape", "udp://x:1", "12"]] {
            assert_eq!(CommandLine::try_parse_from(words).unwrap_err().exit_code(), 2);
        }
    }
}
