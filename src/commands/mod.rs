//! What each command does, except serving.
//!
//! | module | what is in it |
//! |---|---|
//! | [`cli`] | the command line |
//! | [`remote`] | commands that send requests to the running tracker |
//! | [`site`] | users, torrents and clients of a site |

pub(crate) mod cli;
mod remote;
mod site;

use std::io::Write;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, anyhow, bail};
use clap::CommandFactory;
use hayate_state::store::{Backend, RequiredTables};
use hayate_state::{Clock, Event, PeerId};
use hayate_tools::client::{AnnounceRequest, Family, Limits};
use hayate_tools::{e2e, probe};

use crate::commands::cli::{
    Command, CommandLine, E2e, Probe, ProbeAnnounce, ProbeEvent, ProbeScrape, Target,
};
use crate::config::document::{Log, LogFormat, Mode};
use crate::config::{Config, Document, Environment, NOT_READ, Settings, Source, show};
use crate::daemon::jwk_fetch::NoFetch;
use crate::import::ImportReport;
use crate::process::lock::{Holder, LockView};
use crate::process::logging;
use crate::{daemon, import};

/// Runs the command line, and returns the exit code of the process.
///
/// # Errors
/// Fails when the command fails. The error is printed as the last line, and the exit code is 1.
pub(crate) fn run(line: &CommandLine) -> anyhow::Result<ExitCode> {
    match &line.command {
        Some(Command::ImportConfig { file, output }) => {
            print_import(import::import_config(file, output.as_deref()))
        }
        Some(Command::ImportLists { files, output }) => {
            print_import(import::import_lists(files, output.as_deref()))
        }
        command => run_command(line, command.as_ref()).map(|()| ExitCode::SUCCESS),
    }
}

fn run_command(line: &CommandLine, command: Option<&Command>) -> anyhow::Result<()> {
    match command {
        // These are handled in `run`, for they have exit codes of their own.
        Some(Command::ImportConfig { .. } | Command::ImportLists { .. }) => Ok(()),
        None | Some(Command::Run) => daemon::serve(&config_source(line)?, &line.output),
        Some(Command::CheckConfig) => check_config(line),
        Some(Command::PrintConfig) => print_config(line),
        Some(Command::Migrate { print }) => migrate(line, *print),
        Some(Command::User(command)) => {
            print(site::run_user(command, &settings_as_user(line)?, line.output.json)?.as_bytes())
        }
        Some(Command::Torrent(command)) => {
            print(site::run_torrent(command, &settings_as_user(line)?, line.output.json)?.as_bytes())
        }
        Some(Command::Client(command)) => {
            print(site::run_client(command, &settings_as_user(line)?, line.output.json)?.as_bytes())
        }
        Some(Command::Token(command)) => {
            let settings = read_settings(line)?.1;
            print(site::credit::run_token(command, &settings, line.output.json)?.as_bytes())
        }
        Some(Command::Freeleech(command)) => {
            let settings = read_settings(line)?.1;
            print(site::credit::run_freeleech(command, &settings, line.output.json)?.as_bytes())
        }
        Some(Command::Explain { user, torrent }) => {
            print(remote::explain(*user, *torrent, &read_settings(line)?.1)?.as_bytes())
        }
        Some(Command::Access(command)) => print(remote::access(command, &read_settings(line)?.1)?.as_bytes()),
        Some(Command::Export) => print(remote::export(&read_settings(line)?.1, line.output.json)?.as_bytes()),
        Some(Command::Report(command)) => {
            print(remote::report(*command, &read_settings(line)?.1, line.output.json)?.as_bytes())
        }
        Some(Command::Upgrade { timeout }) => upgrade(line, *timeout),
        Some(Command::Schema) => print(show::schema().as_bytes()),
        Some(Command::Completions { shell }) => completions(*shell),
        Some(Command::Man) => man(),
        Some(Command::Probe { request }) => probe(request, line.output.json),
        Some(Command::E2e(options)) => run_e2e(line, options),
    }
}

/// Time between two checks whether an upgrade is done.
const UPGRADE_POLL: Duration = Duration::from_millis(50);

/// Returns where the configuration is read from.
fn config_source(line: &CommandLine) -> anyhow::Result<Source> {
    let environment = Environment::from_variables(std::env::vars_os()).context(NOT_READ)?;
    Source::new(line.config.as_deref(), environment).context(NOT_READ)
}

/// Reads the configuration and everything that it names.
fn read_settings(line: &CommandLine) -> anyhow::Result<(Config, Settings)> {
    config_source(line)?.read_settings(&NoFetch).context(NOT_READ)
}

/// Returns the settings for a command that works in `state_dir`. If this process is root, it becomes the user
/// of the tracker first, who might have put links of any name into that folder.
fn settings_as_user(line: &CommandLine) -> anyhow::Result<Settings> {
    let (_, settings) = read_settings(line)?;
    if let Some(identity) = settings.identity.as_ref().filter(|_| nix::unistd::geteuid().is_root()) {
        identity.become_user()?;
    }
    Ok(settings)
}

fn check_config(line: &CommandLine) -> anyhow::Result<()> {
    let (config, mut settings) = read_settings(line)?;
    settings.warn_of_unreadable_files(&config);
    for warning in &settings.warnings {
        eprint(&format!("warning: {warning}"));
    }
    settings.notes.iter().for_each(|note| eprint(note));
    if let Some(note) = note_of_peer_ids(&config.document) {
        eprint(note);
    }
    print(b"the configuration is good\n")
}

/// Returns a note about what tools that check trackers may miss in replies.
fn note_of_peer_ids(document: &Document) -> Option<&'static str> {
    let Document { mode, http, announce, .. } = document;
    let by_http = !http.addr.is_off() || !http.https_addr.is_off() || !http.unix_socket.is_empty();
    (*mode != Mode::Private && by_http && !announce.keep_peer_ids).then_some(
        "announce.keep_peer_ids is off: replies in list form (compact=0) carry no \"peer id\", which some \
         checkers of trackers ask for",
    )
}

fn print_config(line: &CommandLine) -> anyhow::Result<()> {
    let config = config_source(line)?.read_config().context(NOT_READ)?;
    for line in config.origins() {
        eprint(&line);
    }
    print(config.json().as_bytes())
}

fn migrate(line: &CommandLine, print_only: bool) -> anyhow::Result<()> {
    let settings = settings_as_user(line)?;
    let Some(dsn) = settings.storage.dsn else {
        bail!("database.dsn is empty: there is no database to migrate");
    };
    let backend = Backend::new(dsn, "", RequiredTables::Own);
    if print_only {
        let mut text: String =
            backend.statements().iter().map(|statement| format!("{statement};\n")).collect();
        for proposal in backend.proposals() {
            text.push_str(
                "-- A table that was there before is left as it is. This would be good for it; it ",
            );
            text.push_str("takes a while:\n");
            text.push_str(&format!("-- {proposal};\n"));
        }
        return print(text.as_bytes());
    }
    backend.migrate().with_context(|| format!("migrating {}", backend.dsn()))?;
    print(format!("{} is ready\n", backend.dsn()).as_bytes())
}

/// Asks the tracker that runs in the same `state_dir` to hand over, and waits for the outcome.
fn upgrade(line: &CommandLine, timeout: Duration) -> anyhow::Result<()> {
    let settings = settings_as_user(line)?;
    let folder = &settings.storage.state_dir;
    let reading_lock = || format!("the lock in {}", folder.display());
    let not_running = || anyhow!("no tracker runs with state_dir {}", folder.display());
    let lock = LockView::open(folder).with_context(reading_lock)?.ok_or_else(not_running)?;
    let pid = match lock.holder().with_context(reading_lock)?.ok_or_else(not_running)? {
        Holder::Process(pid) => pid,
        holder => bail!("state_dir {} is used by {holder}; send it SIGUSR2", folder.display()),
    };
    let before = lock.record();
    lock.request_upgrade(pid).with_context(|| format!("asking process {pid}"))?;
    let clock = Clock::start();
    while clock.uptime() < timeout {
        std::thread::sleep(UPGRADE_POLL);
        match lock.holder().with_context(reading_lock)? {
            None => bail!("process {pid} has ended, and no other has taken over"),
            Some(Holder::Process(now)) if now != pid => {
                return print(format!("process {now} serves instead of {pid}\n").as_bytes());
            }
            Some(_) => {}
        }
        if let Some(now) = lock.record().filter(|now| Some(now) != before.as_ref() && !now.refusal.is_empty())
        {
            bail!("process {pid} keeps serving: {}", now.refusal);
        }
    }
    bail!("process {pid} still serves; its log says why")
}

/// Prints the report of an import, and its result unless that was written to a file.
fn print_import(report: ImportReport) -> anyhow::Result<ExitCode> {
    report.lines.iter().for_each(|line| eprint(line));
    let imported = report.result?;
    if let Some(text) = imported.stdout {
        print(&text)?;
    }
    Ok(imported.exit_code)
}

fn completions(shell: clap_complete::Shell) -> anyhow::Result<()> {
    let mut text = Vec::new();
    clap_complete::generate(shell, &mut CommandLine::command(), "hayate", &mut text);
    print(&text)
}

fn man() -> anyhow::Result<()> {
    let mut page = Vec::new();
    manual(&mut page).context("writing the manual page")?;
    print(&page)
}

/// Writes the manual page: the command line as a whole, then a section for each command.
fn manual(page: &mut Vec<u8>) -> std::io::Result<()> {
    let line = CommandLine::command();
    clap_mangen::Man::new(line.clone()).render(page)?;
    line.get_subcommands().try_for_each(|command| manual_section("hayate", command, page))
}

fn manual_section(above: &str, command: &clap::Command, page: &mut Vec<u8>) -> std::io::Result<()> {
    let name = format!("{above} {}", command.get_name());
    if command.has_subcommands() {
        return command.get_subcommands().try_for_each(|command| manual_section(&name, command, page));
    }
    let mut section = Vec::new();
    let man = clap_mangen::Man::new(command.clone().bin_name(&name));
    man.render_description_section(&mut section)?;
    if command.get_arguments().next().is_some() {
        man.render_options_section(&mut section)?;
    }
    let section = String::from_utf8_lossy(&section).replace(".SH DESCRIPTION\n", "").replace(".SH", ".SS");
    writeln!(page, ".SH {}\n{section}", name.to_uppercase())
}

/// Writes to stdout.
///
/// # Errors
/// Fails when stdout cannot be written to, unless its reader has gone.
fn print(text: &[u8]) -> anyhow::Result<()> {
    let mut out = std::io::stdout().lock();
    let written = out.write_all(text).and_then(|()| out.flush());
    match written {
        // The reader, for example `head`, has seen enough.
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(()),
        other => other.context("writing to stdout"),
    }
}

/// Writes one line to stderr; if that is closed, the line is lost.
fn eprint(line: &str) {
    let _ = writeln!(std::io::stderr(), "{line}");
}

fn probe(request: &Probe, json: bool) -> anyhow::Result<()> {
    let format = if json { probe::Format::Json } else { probe::Format::Text };
    let reply = match request {
        Probe::Announce(options) => {
            let (target, announce) = (&options.target, probe_announce(options)?);
            probe::announce(&target.url, &announce, &client_limits(target), format)
                .context("announce failed")?
        }
        Probe::Scrape(ProbeScrape { target, hashes }) => {
            probe::scrape(&target.url, hashes, &client_limits(target), format).context("scrape failed")?
        }
    };
    print(reply.as_bytes())
}

fn client_limits(target: &Target) -> Limits {
    let family = match (target.ipv4, target.ipv6) {
        (true, _) => Family::V4,
        (_, true) => Family::V6,
        _ => Family::Any,
    };
    Limits { family, timeout: target.timeout, retries: target.retries, user_agent: probe::USER_AGENT }
}

fn probe_announce(options: &ProbeAnnounce) -> anyhow::Result<AnnounceRequest> {
    let mut request = AnnounceRequest::new(options.hash);
    if let Some(text) = &options.peer_id {
        request.peer_id = parse_peer_id(text)
            .ok_or_else(|| anyhow!("--peer-id {text:?}: at most 20 octets are allowed"))?;
    }
    request.port = options.port;
    request.left = options.left;
    request.uploaded = options.uploaded;
    request.downloaded = options.downloaded;
    request.num_want = options.numwant;
    request.address = options.ip;
    request.compact = !options.list;
    request.event = match options.event {
        ProbeEvent::None => Event::None,
        ProbeEvent::Completed => Event::Completed,
        ProbeEvent::Started => Event::Started,
        ProbeEvent::Stopped => Event::Stopped,
        ProbeEvent::Paused => Event::Paused,
    };
    Ok(request)
}

/// Returns the text filled up with `-`, or `None` if it is too long.
fn parse_peer_id(text: &str) -> Option<PeerId> {
    let mut id = PeerId([b'-'; 20]);
    id.0.get_mut(..text.len())?.copy_from_slice(text.as_bytes());
    Some(id)
}

fn run_e2e(line: &CommandLine, options: &E2e) -> anyhow::Result<()> {
    let format = if line.output.json { LogFormat::Json } else { LogFormat::Text };
    logging::start(&line.output, &Log { format, ..Log::default() });
    e2e::run(&e2e::Options {
        http: options.http.clone(),
        udp: options.udp.clone(),
        delay: options.delay,
        info_hash: options.infohash,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_short_peer_id_is_filled_up() {
        assert_eq!(&parse_peer_id("-HY0100-").unwrap().0, b"-HY0100-------------");
        assert!(parse_peer_id(&"x".repeat(21)).is_none());
    }

    #[test]
    fn manual_and_completions_are_written() {
        let mut text = Vec::new();
        manual(&mut text).unwrap();
        let page = String::from_utf8(text).unwrap();
        for section in [".SH HAYATE CHECK-CONFIG\n", ".SH HAYATE PROBE ANNOUNCE\n", ".SH HAYATE E2E\n"] {
            assert!(page.contains(section), "{section} is missing in {page}");
        }
        let mut script = Vec::new();
        clap_complete::generate(
            clap_complete::Shell::Bash,
            &mut CommandLine::command(),
            "hayate",
            &mut script,
        );
        assert!(String::from_utf8(script).unwrap().contains("print-config"));
    }
}
