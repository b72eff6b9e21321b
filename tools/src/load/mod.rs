//! `hayate-load`: loads any tracker, and measures its replies and what they cost.
//!
//! | module | what is in it |
//! |---|---|
//! | [`args`] | the command line |
//! | [`target`] | the tracker's URL and addresses |
//! | [`routes`] | from which address to which each socket or connection goes; its peers' ports |
//! | [`plan`] | what is requested: kinds, torrents, peers, events |
//! | [`pace`] | when requests are sent: the grid of the open loop; the peers left in a fill |
//! | [`udp`] | BEP 15 and BEP 41: octets, requests in flight, sockets, the loop |
//! | [`http`] | BEP 3: text, connections, the loop |
//! | [`session`] | the time of a run, its progress and its costs |
//! | [`measure`] | counts and latencies |
//! | [`usage`] | CPU time, memory and context switches of a process |
//! | [`report`] | the result, for people and as JSON |
//!
//! One thread does everything. It polls for replies, and at most sleeps for a fixed time: if it waited for
//! them in the kernel, the tracker would pay for waking it up.
//!
//! Absent on purpose: a second thread, TLS, and any look at the peers that are handed out.

pub mod args;
pub mod http;
pub mod measure;
pub mod pace;
pub mod plan;
pub mod report;
pub mod routes;
pub mod session;
pub mod target;
pub mod udp;
pub mod usage;

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

pub use args::Args;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use pace::SECOND;
use plan::Plan;
use report::Report;
use routes::Routes;
use target::{PASSKEY, Protocol, Target};

/// A reply over UDP in the closed loop counts as lost after this time.
const CLOSED_REPLY_TIMEOUT: u64 = SECOND / 4;
/// Any other reply counts as lost after this time.
const REPLY_TIMEOUT: u64 = 2 * SECOND;
/// How long an open loop sleeps when no request is due and no reply has come.
const IDLE_SLEEP: Duration = Duration::from_micros(50);
/// An open loop that did not send more than this share of the due requests is too slow to be trusted.
const BEHIND_MAX: f64 = 0.01;

/// Why there is no result.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// An option makes no sense; the text names it and says what is allowed.
    #[error("{0}")]
    Usage(String),
    /// The host has no address.
    #[error("{host}: {reason}")]
    Lookup {
        /// The host.
        host: String,
        /// The error of the system.
        reason: String,
    },
    /// A socket could not be opened.
    #[error("no socket from {from} to {to}: {reason}")]
    Socket {
        /// The source address.
        from: SocketAddr,
        /// The tracker.
        to: SocketAddr,
        /// The error of the system.
        reason: io::Error,
    },
    /// The process cannot be measured.
    #[error("--pid {pid}: {reason}")]
    Process {
        /// The process.
        pid: i32,
        /// The error of the system.
        reason: String,
    },
    /// The tracker answers no connect.
    #[error("{0} answers no connect")]
    NoConnect(SocketAddr),
    /// No request got a valid reply.
    #[error("{tracker}: no good reply; {lost} requests lost, {errors} errors")]
    NoReplies {
        /// The tracker.
        tracker: SocketAddr,
        /// Requests without any reply.
        lost: u64,
        /// Error replies and broken connections.
        errors: u64,
    },
    /// The tracker stopped answering in the middle of a fill.
    #[error("{0} has stopped answering; {1} peers were announced")]
    Silent(SocketAddr, u64),
    /// The system failed.
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// Loads a tracker as the options say, and returns the report.
///
/// # Errors
/// Fails when the options make no sense, or nothing was answered.
pub fn run(args: &Args) -> Result<String, LoadError> {
    let target = Target::resolve(&args.url)?;
    args.check(&target)?;
    let routes = Routes::new(args, &target)?;
    if let Some(pid) = args.pid {
        usage::Usage::read(pid).map_err(|error| LoadError::Usage(format!("--pid {pid}: {error}")))?;
    }
    // Each socket is an open file; if the limit cannot be raised, opening them fails with the reason.
    if let Ok((_, hard_limit)) = getrlimit(Resource::RLIMIT_NOFILE) {
        _ = setrlimit(Resource::RLIMIT_NOFILE, hard_limit, hard_limit);
    }
    let plan = Plan::new(args, target.protocol, routes.clone());
    let measured = match target.protocol {
        Protocol::Udp => udp::load(args, &target, &routes, plan)?,
        Protocol::Http => http::load(args, &target, &routes, plan)?,
    };
    let counts = measured.counts;
    if counts.replies() == 0 && counts.forged == 0 {
        let (lost, errors) = (counts.lost, counts.errors);
        return Err(LoadError::NoReplies { tracker: target.address, lost, errors });
    }
    if let Some(rate) = args.rate {
        let due = rate * measured.seconds;
        let sent = (counts.sent + counts.forged) as f64;
        if sent < due * (1.0 - BEHIND_MAX) - 1.0 {
            eprintln!("hayate-load: too slow: {sent} of {due:.0} requests were sent in time");
        }
    }
    let report = Report { target: &args.url, protocol: target.protocol, offered: args.rate, measured };
    Ok(if args.json { report.json() } else { report.text() })
}

/// Returns the path in all its forms: one for each passkey, or as it is.
///
/// # Errors
/// Fails when the file of passkeys cannot be read, or is empty.
fn paths(args: &Args, path: &str) -> Result<Vec<String>, LoadError> {
    let Some(file) = &args.passkeys else { return Ok(vec![path.to_owned()]) };
    let unusable = |reason: String| LoadError::Usage(format!("--passkeys {}: {reason}", file.display()));
    let text = std::fs::read_to_string(file).map_err(|error| unusable(error.to_string()))?;
    let keys = text.lines().map(str::trim).filter(|key| !key.is_empty());
    let paths: Vec<_> = keys.map(|key| path.replace(PASSKEY, key)).collect();
    if paths.is_empty() { Err(unusable("no passkey in it".into())) } else { Ok(paths) }
}
