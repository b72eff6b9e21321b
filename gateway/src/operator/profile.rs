//! Profiles on demand, in the form of Go's pprof: where the process spends its time
//! (`rules/operations.md#profiles`).

use std::borrow::Cow;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use hayate_state::query;
use pprof::ProfilerGuardBuilder;
use pprof::protos::Message;

use crate::engine::message::Response;

/// Samples per second of each running thread.
const FREQUENCY: i32 = 99;
/// Seconds of a profile: the default, and the most.
const SECONDS_DEFAULT: u64 = 30;
const SECONDS_MAX: u64 = 60;

const INDEX: &str = "profile?seconds=N: where the processor's time goes, 1 to 60 seconds, as protobuf\n\
    cmdline: how the process was started\n";

/// Whether a profile is being made: there is one at a time.
static IS_PROFILING: AtomicBool = AtomicBool::new(false);

/// Returns the page of this name; it may take a minute.
pub(crate) fn render_page(leaf: &[u8], query: &[u8]) -> Response {
    match leaf {
        b"" => Response::text(200, INDEX),
        b"cmdline" => Response::owned_text(200, command_line()),
        b"profile" => match read_seconds(query) {
            Some(seconds) => take_profile(Duration::from_secs(seconds)),
            None => Response::text(400, "seconds: a number from 1 to 60 is needed\n"),
        },
        _ => Response::not_found(),
    }
}

/// Returns how the process was started, without what may be secret: options and paths, but no values of
/// options.
fn command_line() -> String {
    let words = std::env::args().map(|word| match word.split_once('=') {
        Some((name, _)) => format!("{name}=..."),
        None => word,
    });
    words.collect::<Vec<_>>().join("\0")
}

fn read_seconds(query: &[u8]) -> Option<u64> {
    let mut values =
        query::pairs(query).filter(|(name, _)| *name == b"seconds").filter_map(|(_, value)| value);
    let Some(value) = values.next() else { return Some(SECONDS_DEFAULT) };
    let seconds = str::from_utf8(value).ok()?.parse().ok()?;
    (1..=SECONDS_MAX).contains(&seconds).then_some(seconds)
}

fn take_profile(time: Duration) -> Response {
    if IS_PROFILING.swap(true, Ordering::Acquire) {
        return Response::text(409, "another profile is being made\n");
    }
    let made = sample_stacks(time);
    IS_PROFILING.store(false, Ordering::Release);
    match made {
        Ok(octets) => Response {
            status: 200,
            content_type: "application/octet-stream",
            body: Cow::Owned(octets),
            close: false,
        },
        Err(error) => {
            log::error!("http: no profile can be made: {error}");
            Response::text(500, "internal server error\n")
        }
    }
}

fn sample_stacks(time: Duration) -> pprof::Result<Vec<u8>> {
    // Signals in these libraries would interrupt what must not be interrupted.
    let guard = ProfilerGuardBuilder::default()
        .frequency(FREQUENCY)
        .blocklist(&["libc", "libgcc", "pthread", "vdso"])
        .build()?;
    std::thread::sleep(time);
    Ok(guard.report().build()?.pprof()?.encode_to_vec())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_one_to_sixty_seconds_are_profiled() {
        for (query, expected) in [
            (&b""[..], Some(30)),
            (b"seconds=1", Some(1)),
            (b"x=7&seconds=60", Some(60)),
            (b"seconds=0", None),
            (b"seconds=61", None),
            (b"seconds=", None),
            (b"seconds=-1", None),
        ] {
            assert_eq!(read_seconds(query), expected, "{query:?}");
        }
        assert_eq!(render_page(b"profile", b"seconds=x").status, 400);
        assert_eq!(render_page(b"heap", b"").status, 404);
    }
}
