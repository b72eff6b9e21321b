//! The commands that use the admin API of a running tracker: `hayate access`, `export`, `report`, `explain`.

use std::fmt::Write;
use std::time::Duration;

use anyhow::{Context, bail};
use clap::Subcommand;
use hayate_state::InfoHash;
use hayate_tools::client::{self, Family, Limits};
use serde_json::Value;

use crate::admin::TorrentName;
use crate::config::Settings;

/// Longest time that the running tracker may take to answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(600);
/// Longest answer, in octets: a list of six million torrents.
const ANSWER_MAX: u64 = 256 << 20;
/// Most torrents in one request, whose line may have 8 KiB.
const TORRENTS_PER_REQUEST: usize = 100;

/// The list of torrents of a running tracker.
#[derive(Debug, Subcommand)]
pub(crate) enum AccessCommand {
    /// Add torrents to the list.
    Add {
        /// The info_hashes, 40 hexadecimal digits each.
        #[arg(required = true)]
        info_hashes: Vec<InfoHash>,
    },
    /// Remove torrents from the list.
    Remove {
        /// The info_hashes, 40 hexadecimal digits each.
        #[arg(required = true)]
        info_hashes: Vec<InfoHash>,
    },
    /// Print the list in force, one torrent a line.
    List,
}

/// Reports of a running tracker.
#[derive(Clone, Copy, Debug, Subcommand)]
pub(crate) enum ReportCommand {
    /// Which clients announce how often (needs metrics.clients).
    Clients {
        /// Number of clients, the most frequent first.
        #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=1000))]
        top: u32,
    },
    /// The torrents with the most peers.
    Torrents {
        /// Number of torrents, the largest first.
        #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=1000))]
        top: u32,
    },
    /// Which addresses exceed the rate limit (needs limits.per_minute).
    Offenders {
        /// Number of addresses, the worst first.
        #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=1000))]
        top: u32,
    },
}

/// Runs `hayate access ..` and returns the text to print.
///
/// # Errors
/// Fails when no tracker answers, or it refuses the request.
pub(crate) fn access(command: &AccessCommand, settings: &Settings) -> anyhow::Result<String> {
    let (word, info_hashes) = match command {
        AccessCommand::List => return send_request(settings, "access/list"),
        AccessCommand::Add { info_hashes } => ("add", info_hashes),
        AccessCommand::Remove { info_hashes } => ("remove", info_hashes),
    };
    let mut answer = String::new();
    for chunk in info_hashes.chunks(TORRENTS_PER_REQUEST) {
        let query: Vec<_> = chunk.iter().map(|info_hash| format!("info_hash={info_hash}")).collect();
        match send_request(settings, &format!("access/{word}?{}", query.join("&"))) {
            Ok(more) => answer += &more,
            // The requests before are carried out already.
            Err(error) if answer.is_empty() => return Err(error),
            Err(error) => return Err(error.context(format!("done so far:\n{answer}and then"))),
        }
    }
    Ok(answer)
}

/// Runs `hayate export` and returns the text to print.
///
/// # Errors
/// Fails when no tracker answers, or the file cannot be written.
pub(crate) fn export(settings: &Settings, json: bool) -> anyhow::Result<String> {
    let answer = send_request(settings, "export")?;
    if json {
        return Ok(answer);
    }
    let value: Value = serde_json::from_str(&answer).context("reading the answer")?;
    let (path, torrents) = (cell_text(value.get("path")), cell_text(value.get("torrents")));
    let seconds = value.get("seconds").and_then(Value::as_f64).unwrap_or_default();
    Ok(format!("{torrents} torrents written to {path} in {seconds:.1} s\n"))
}

/// Runs `hayate report ..` and returns the text to print.
///
/// # Errors
/// Fails when no tracker answers, or it has no such report.
pub(crate) fn report(command: ReportCommand, settings: &Settings, json: bool) -> anyhow::Result<String> {
    let (name, top) = match command {
        ReportCommand::Clients { top } => ("clients", top),
        ReportCommand::Torrents { top } => ("torrents", top),
        ReportCommand::Offenders { top } => ("offenders", top),
    };
    let answer = send_request(settings, &format!("{name}?top={top}"))?;
    if json {
        return Ok(answer);
    }
    let value: Value = serde_json::from_str(&answer).context("reading the answer")?;
    let rows = value.get(name).and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    let rest = match command {
        ReportCommand::Clients { .. } => format!("all others: {}\n", cell_text(value.get("others"))),
        ReportCommand::Torrents { .. } => String::new(),
        ReportCommand::Offenders { .. } => {
            format!("requests beyond the limit, of all addresses: {}\n", cell_text(value.get("beyond")))
        }
    };
    Ok(table(rows) + &rest)
}

/// Runs `hayate explain USER TORRENT` and returns the text to print.
///
/// # Errors
/// Fails when no tracker answers, or it is not in mode private.
pub(crate) fn explain(user: u32, torrent: TorrentName, settings: &Settings) -> anyhow::Result<String> {
    send_request(settings, &format!("explain?user={user}&torrent={torrent}"))
}

/// Sends a request to the tracker that runs with these settings.
fn send_request(settings: &Settings, target: &str) -> anyhow::Result<String> {
    let Some(token) = &settings.admin_token else {
        bail!("admin.token_file is not set: the tracker answers no admin request without a token");
    };
    let Some(address) = settings.listen.metrics_addresses.first() else {
        bail!("metrics.addr is empty: the tracker has no address for admin requests");
    };
    let mut address = *address;
    if address.ip().is_unspecified() {
        address.set_ip(if address.is_ipv4() {
            [127, 0, 0, 1].into()
        } else {
            std::net::Ipv6Addr::LOCALHOST.into()
        });
    }
    let token = String::from_utf8_lossy(&token.0);
    let url = format!("http://{address}/{token}/{target}");
    let limits = Limits { family: Family::Any, timeout: ANSWER_TIMEOUT, retries: 0, user_agent: "hayate" };
    let answer = client::http::get_up_to(&url, &limits, ANSWER_MAX)
        .map(|(status, body)| (status, String::from_utf8_lossy(&body).into_owned()));
    match answer {
        Ok((200, text)) => Ok(text),
        Ok((404, _)) => {
            let command = target.split('?').next().unwrap_or_default();
            bail!("the tracker at {address}: the token is wrong, or {command} does not exist in its mode")
        }
        Ok((_, text)) => bail!("{}", text.trim_end().trim_start_matches("failure: ")),
        // The text of the error would name the URL, and so the token.
        Err(_) => bail!("no tracker answers at {address}"),
    }
}

/// Returns the rows as a table, under the names of the columns of the first row.
fn table(rows: &[Value]) -> String {
    let cells = |row: &Value| -> Vec<String> {
        row.as_object().into_iter().flat_map(|row| row.values()).map(|cell| cell_text(Some(cell))).collect()
    };
    let Some(first) = rows.first().and_then(Value::as_object) else { return "none\n".into() };
    let mut lines = vec![first.keys().cloned().collect::<Vec<_>>()];
    lines.extend(rows.iter().map(cells));
    let width = |column| lines.iter().filter_map(|line| line.get(column)).map(String::len).max();
    let widths: Vec<_> = (0..first.len()).filter_map(width).collect();
    let mut text = String::new();
    for line in &lines {
        let padded = line.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}"));
        // Writing to a String cannot fail.
        let _ = writeln!(text, "{}", padded.collect::<Vec<_>>().join("  ").trim_end());
    }
    text
}

fn cell_text(cell: Option<&Value>) -> String {
    match cell {
        None => String::new(),
        Some(Value::String(text)) => text.clone(),
        Some(other) => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_has_columns_under_their_names() {
        let rows = [r#"{"client": "TR4060", "announces": 7}"#, r#"{"client": "X", "announces": 11}"#];
        let rows: Vec<Value> = rows.iter().map(|row| serde_json::from_str(row).unwrap()).collect();
        assert_eq!(table(&rows), "client  announces\nTR4060  7\nX       11\n");
        assert_eq!(table(&[]), "none\n");
    }
}
