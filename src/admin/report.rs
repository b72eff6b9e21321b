//! The export of all torrents on demand, and reports of clients, torrents and offenders.

use hayate_state::admission::rate_limit::Offender;
use hayate_state::ids::ClientId;
use hayate_state::report::ReportRow;
use hayate_state::report::export::{ExportError, Exported};
use serde_json::{Value, json};

use super::query::AdminQuery;
use super::{AdminContext, Answer, failure};

/// Rows of a report if the request does not name a number.
const TOP_DEFAULT: u32 = 20;
/// Most rows of a report.
const TOP_MAX: u32 = 1000;

impl AdminContext {
    pub(super) fn export(&self, source: &str) -> Answer {
        match self.exporter.export() {
            Ok(Exported { path, torrents, took }) => {
                let (path, seconds) = (path.display().to_string(), took.as_secs_f64());
                log::info!("export by {source}: {torrents} torrents to {path} in {seconds:.1} s");
                json_answer(&json!({ "path": path, "torrents": torrents, "seconds": seconds }))
            }
            Err(error @ ExportError::Busy) => failure(409, error),
            Err(error) => failure(503, error),
        }
    }

    pub(super) fn clients(&self, query: &AdminQuery) -> Answer {
        let most = match rows_wanted(query) {
            Ok(most) => most,
            Err(text) => return failure(400, text),
        };
        let policy = self.policy.current();
        let Some(clients) = &policy.client_stats else {
            return failure(400, "metrics.clients is off: announces are not counted by client");
        };
        let (named, mut others) = clients.counts();
        let (listed, rest) = named.split_at(most.min(named.len()));
        others += rest.iter().map(|(_, announces)| announces).sum::<u64>();
        let rows: Vec<_> = listed.iter().map(client_json).collect();
        json_answer(&json!({ "clients": rows, "others": others }))
    }

    pub(super) fn torrents(&self, query: &AdminQuery) -> Answer {
        let rows = match rows_wanted(query) {
            Ok(most) => self.reporter.top(most),
            Err(text) => return failure(400, text),
        };
        match rows {
            Ok(rows) => {
                json_answer(&json!({ "torrents": rows.iter().map(torrent_json).collect::<Vec<_>>() }))
            }
            Err(_) => failure(503, "the tracker is stopping"),
        }
    }

    pub(super) fn offenders(&self, query: &AdminQuery) -> Answer {
        let most = match rows_wanted(query) {
            Ok(most) => most,
            Err(text) => return failure(400, text),
        };
        let policy = self.policy.current();
        let Some(limits) = &policy.rate_limit else {
            return failure(400, "limits.per_minute is 0: no address is rate-limited");
        };
        let offenders = limits.limiter.offenders(most);
        let rows: Vec<_> = offenders.iter().map(offender_json).collect();
        json_answer(&json!({ "offenders": rows, "beyond": limits.limiter.over_limit_total() }))
    }
}

fn client_json((client, announces): &(ClientId, u64)) -> Value {
    json!({ "client": client.to_string(), "announces": announces })
}

fn offender_json(Offender { address, over_limit }: &Offender) -> Value {
    json!({ "address": address.to_string(), "beyond": over_limit })
}

fn torrent_json(ReportRow { info_hash, peers, completed }: &ReportRow) -> Value {
    json!({
        "info_hash": info_hash.to_string(),
        "seeders_ipv4": peers.v4_seeders,
        "leechers_ipv4": peers.v4_leechers,
        "seeders_ipv6": peers.v6_seeders,
        "leechers_ipv6": peers.v6_leechers,
        "completed": completed,
    })
}

/// Returns the number of rows that the request wants.
fn rows_wanted(query: &AdminQuery) -> Result<usize, String> {
    let top = query.number("top")?.unwrap_or(TOP_DEFAULT);
    if !(1..=TOP_MAX).contains(&top) {
        return Err(format!("top is not a number from 1 to {TOP_MAX}"));
    }
    Ok(usize::try_from(top).unwrap_or_default())
}

fn json_answer(value: &Value) -> Answer {
    (200, format!("{value}\n"))
}
