//! Hooks: what an operator may put between the rules of a mode and the swarm (`rules/hooks.md#chains`), in
//! every mode, over UDP and HTTP.
//!
//! A hook is one file: a type with its options, a [`Hook`], and one line in `HOOKS`. `docs/HOOKS.md` shows
//! how. Hooks run on the threads that answer requests: they must not wait for anything.
//!
//! | module | what is in it |
//! |---|---|
//! | `approval` | the hooks `client approval` and `torrent approval` |
//! | `jwt` | the hook `jwt` |
//! | [`jwk`], `token_cache` | its keys, and the tokens that it has verified lately |
//! | [`interval`] | the hook `interval variation` |
//! | `request_url` | the URL of a request, as hooks see it |

mod approval;
pub mod interval;
pub mod jwk;
mod jwt;
mod request_url;
mod token_cache;

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use serde_json::{Map, Value};

pub use request_url::{OwnedUrl, RequestUrl};

use crate::announce::{Announce, Refusal};
use crate::clock::Now;
use crate::ids::InfoHash;
use jwk::KeyringSource;

/// The decision of a hook. The client gets the text of the refusal.
pub type Verdict = Result<(), Refusal>;

/// A hook: it may look at, refuse or change announces. It lives in the [`Policy`](crate::Policy), and is
/// dropped when a reload has replaced that.
pub trait Hook: Send + Sync + fmt::Debug {
    /// Decides about an announce, and may change its answer.
    ///
    /// # Errors
    /// Fails with the refusal. After that of a prehook the client gets its text, nothing is stored, and no
    /// further hook runs. After that of a posthook the client is answered as usual, but the announce does not
    /// change the swarm.
    fn announce(&self, visit: &mut AnnounceVisit<'_>) -> Verdict;

    /// Returns by how many seconds it lengthens an interval at most.
    fn interval_increase_max(&self) -> u32 {
        0
    }

    /// Decides about a scrape.
    ///
    /// # Errors
    /// Fails with the refusal.
    fn scrape(&self, visit: &ScrapeVisit<'_>) -> Verdict {
        let _ = visit;
        Ok(())
    }
}

/// One announce on its way through the hooks.
#[derive(Debug)]
pub struct AnnounceVisit<'a> {
    /// When it arrived.
    pub now: Now,
    /// Its fields.
    pub announce: &'a Announce,
    /// Its source and URL.
    pub url: RequestUrl<'a>,
    /// The interval of the answer, in seconds.
    pub interval_seconds: u32,
    /// The minimum interval of the answer, in seconds (HTTP only); 0 = none.
    pub min_interval_seconds: u32,
    /// Whether peers and counts stay out of the reply.
    pub skip_reply: bool,
    /// Whether the swarm stays unchanged.
    pub skip_swarm: bool,
    notes: Vec<(&'static str, String)>,
}

impl<'a> AnnounceVisit<'a> {
    /// Makes a visit that no hook has seen yet, with the interval and the minimum interval of the answer.
    #[must_use]
    pub fn new(now: Now, announce: &'a Announce, url: RequestUrl<'a>, intervals: (u32, u32)) -> Self {
        Self {
            now,
            announce,
            url,
            interval_seconds: intervals.0,
            min_interval_seconds: intervals.1,
            skip_reply: false,
            skip_swarm: false,
            notes: Vec::new(),
        }
    }

    /// Leaves a value for the hooks behind this one.
    pub fn set_note(&mut self, name: &'static str, value: String) {
        self.notes.push((name, value));
    }

    /// Returns the last value that a hook before this one has left under that name.
    #[must_use]
    pub fn note(&self, name: &str) -> Option<&str> {
        self.notes.iter().rev().find(|(known, _)| *known == name).map(|(_, value)| value.as_str())
    }
}

/// One scrape on its way through the hooks.
#[derive(Clone, Copy, Debug)]
pub struct ScrapeVisit<'a> {
    /// When it arrived.
    pub now: Now,
    /// The torrents in it.
    pub info_hashes: &'a [InfoHash],
    /// Its source and URL.
    pub url: RequestUrl<'a>,
}

/// What hooks are built from, beside their options.
#[derive(Clone, Copy)]
pub struct HookInputs<'a> {
    /// The source of keys.
    pub keyrings: &'a dyn KeyringSource,
}

/// Builds a hook from its options.
pub type HookBuilder = fn(&Map<String, Value>, HookInputs<'_>) -> Result<Box<dyn Hook>, HookError>;

/// Every hook there is, by the name that the configuration has for it.
const HOOKS: [(&str, HookBuilder); 4] = [
    ("client approval", approval::build_client_approval),
    ("torrent approval", approval::build_torrent_approval),
    ("jwt", jwt::build),
    ("interval variation", interval::build),
];

/// The reason for which a hook cannot be built.
#[derive(Debug, thiserror::Error)]
pub enum HookError {
    /// No hook has this name.
    #[error("middleware driver with that name does not exist")]
    Unknown,
    /// The hook is twice in its list.
    #[error("the hook is twice in this list")]
    Twice,
    /// Its options are not accepted.
    #[error("{0}")]
    Options(String),
}

/// A hook with its name in the configuration.
#[derive(Debug)]
struct NamedHook {
    name: &'static str,
    hook: Box<dyn Hook>,
}

/// All hooks of the configuration, in their order. Owned by the [`Policy`](crate::Policy).
#[derive(Debug, Default)]
pub struct Hooks {
    pre: Vec<NamedHook>,
    post: Vec<NamedHook>,
    unstored: AtomicU64,
}

/// Name and options of a hook, as the configuration has them.
pub type HookConfig<'a> = (&'a str, &'a Map<String, Value>);

impl Hooks {
    /// Builds all hooks.
    ///
    /// # Errors
    /// Fails with the name of the first hook that cannot be built, and the reason.
    pub fn build<'a>(
        pre: impl Iterator<Item = HookConfig<'a>>,
        post: impl Iterator<Item = HookConfig<'a>>,
        inputs: HookInputs<'_>,
    ) -> Result<Arc<Self>, (String, HookError)> {
        Ok(Arc::new(Self {
            pre: build_chain(pre, inputs)?,
            post: build_chain(post, inputs)?,
            unstored: AtomicU64::new(0),
        }))
    }

    /// Takes hooks that a program has built, for tests and for trackers built on this crate.
    #[must_use]
    pub fn from_hooks(
        pre: Vec<(&'static str, Box<dyn Hook>)>,
        post: Vec<(&'static str, Box<dyn Hook>)>,
    ) -> Arc<Self> {
        let named = |hooks: Vec<(&'static str, Box<dyn Hook>)>| {
            hooks.into_iter().map(|(name, hook)| NamedHook { name, hook }).collect()
        };
        Arc::new(Self { pre: named(pre), post: named(post), unstored: AtomicU64::new(0) })
    }

    /// Whether there are no hooks.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.pre.is_empty() && self.post.is_empty()
    }

    /// Iterates over the names of the hooks, prehooks first.
    pub fn names(&self) -> impl Iterator<Item = &'static str> {
        self.pre.iter().chain(&self.post).map(|named| named.name)
    }

    /// Returns by how many seconds all hooks together lengthen an interval at most.
    #[must_use]
    pub fn interval_increase_max(&self) -> u32 {
        self.pre.iter().map(|named| named.hook.interval_increase_max()).fold(0, u32::saturating_add)
    }

    /// Returns the number of announces that a posthook has kept out of their swarm.
    #[must_use]
    pub fn unstored(&self) -> u64 {
        self.unstored.load(Ordering::Relaxed)
    }

    /// Shows an announce to the prehooks.
    pub(crate) fn run_prehooks(&self, visit: &mut AnnounceVisit<'_>) -> Verdict {
        self.pre.iter().try_for_each(|named| named.hook.announce(visit))
    }

    /// Shows an announce to the posthooks. Returns whether it may change its swarm.
    pub(crate) fn run_posthooks(&self, visit: &mut AnnounceVisit<'_>) -> bool {
        for NamedHook { name, hook } in &self.post {
            if let Err(refusal) = hook.announce(visit) {
                log::debug!("post-announce hooks failed: {name}: {}", refusal.text());
                self.unstored.fetch_add(1, Ordering::Relaxed);
                return false;
            }
        }
        !visit.skip_swarm
    }

    /// Shows a scrape to all hooks; only prehooks can refuse it.
    pub(crate) fn run_scrape_hooks(&self, visit: &ScrapeVisit<'_>) -> Verdict {
        self.pre.iter().try_for_each(|named| named.hook.scrape(visit))?;
        for NamedHook { name, hook } in &self.post {
            if let Err(refusal) = hook.scrape(visit) {
                log::debug!("post-scrape hooks failed: {name}: {}", refusal.text());
                break;
            }
        }
        Ok(())
    }
}

fn build_chain<'a>(
    entries: impl Iterator<Item = HookConfig<'a>>,
    inputs: HookInputs<'_>,
) -> Result<Vec<NamedHook>, (String, HookError)> {
    let mut hooks: Vec<NamedHook> = Vec::new();
    for (name, options) in entries {
        let fail = |error| (name.to_owned(), error);
        let (name, build) =
            *HOOKS.iter().find(|(known, _)| *known == name).ok_or_else(|| fail(HookError::Unknown))?;
        if hooks.iter().any(|known| known.name == name) {
            return Err(fail(HookError::Twice));
        }
        hooks.push(NamedHook { name, hook: build(options, inputs).map_err(fail)? });
    }
    Ok(hooks)
}

/// Reads the options of a hook.
///
/// # Errors
/// Fails when an option is missing, unknown or of another type.
pub fn parse_options<T: serde::de::DeserializeOwned>(options: &Map<String, Value>) -> Result<T, HookError> {
    let value = Value::Object(options.clone());
    serde_path_to_error::deserialize(value).map_err(|error| HookError::Options(error.to_string()))
}

#[cfg(test)]
mod tests;
