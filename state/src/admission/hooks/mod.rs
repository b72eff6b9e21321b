//! Hooks: what an operator may put between the rules of a mode and the swarm (`rules/hooks.md#chains`), in
//! every mode and on both servers.
//!
//! A hook is one file: a type with its options, a [`Hook`], and one line in `HOOKS`. `docs/HOOKS.md` shows
//! how. Hooks run on the threads that answer: they must not wait for anything.
//!
//! | hook | file |
//! |---|---|
//! | `client approval`, `torrent approval` | `approval.rs` |
//! | `jwt` | `jwt.rs`, its keys in `jwk.rs`, what it remembers in `token_cache.rs` |
//! | `interval variation` | `interval.rs` |

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

/// What a hook decides. The client is told the text of the refusal.
pub type Verdict = Result<(), Refusal>;

/// Something that may look at, refuse or change announces. It is dropped when a reload has replaced it.
pub trait Hook: Send + Sync + fmt::Debug {
    /// Decides about an announce, and may change what is answered.
    ///
    /// # Errors
    /// Why it is refused. As a prehook: the client is told so, nothing is stored, and no further hook runs.
    /// As a posthook: the client is answered as usual, but the announce does not change the swarm.
    fn announce(&self, visit: &mut AnnounceVisit<'_>) -> Verdict;

    /// Decides about a scrape.
    ///
    /// # Errors
    /// Why it is refused.
    fn scrape(&self, visit: &ScrapeVisit<'_>) -> Verdict {
        let _ = visit;
        Ok(())
    }
}

/// One announce on its way through the hooks.
#[derive(Debug)]
pub struct AnnounceVisit<'a> {
    /// When it came.
    pub now: Now,
    /// What it announces.
    pub announce: &'a Announce,
    /// Who said it, and with which words.
    pub url: RequestUrl<'a>,
    /// The interval that the client will be told, in seconds.
    pub interval_seconds: u32,
    /// The same of the least interval (HTTP only); 0 = not said.
    pub min_interval_seconds: u32,
    /// Leave peers and counts out of the reply.
    pub skip_reply: bool,
    /// Do not change the swarm.
    pub skip_swarm: bool,
    notes: Vec<(&'static str, String)>,
}

impl<'a> AnnounceVisit<'a> {
    /// An announce that no hook has seen yet, and that will be told these intervals.
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

    /// What a hook before this one has left under that name; the newest.
    #[must_use]
    pub fn note(&self, name: &str) -> Option<&str> {
        self.notes.iter().rev().find(|(known, _)| *known == name).map(|(_, value)| value.as_str())
    }
}

/// One scrape on its way through the hooks.
#[derive(Clone, Copy, Debug)]
pub struct ScrapeVisit<'a> {
    /// When it came.
    pub now: Now,
    /// The torrents it asks for.
    pub info_hashes: &'a [InfoHash],
    /// Who said it, and with which words.
    pub url: RequestUrl<'a>,
}

/// What hooks are built from beside their options.
#[derive(Clone, Copy)]
pub struct HookInputs<'a> {
    /// Where keys come from.
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

/// Why a hook cannot be built.
#[derive(Debug, thiserror::Error)]
pub enum HookError {
    /// There is no such hook.
    #[error("middleware driver with that name does not exist")]
    Unknown,
    /// The hook is twice in its list.
    #[error("the hook is twice in this list")]
    Twice,
    /// Its options are not accepted.
    #[error("{0}")]
    Options(String),
}

/// A hook of the configuration.
#[derive(Debug)]
struct NamedHook {
    name: &'static str,
    hook: Box<dyn Hook>,
}

/// The hooks of the configuration, in their order.
#[derive(Debug, Default)]
pub struct Hooks {
    pre: Vec<NamedHook>,
    post: Vec<NamedHook>,
    unstored: AtomicU64,
}

/// Name and options of a hook, as the configuration has them.
pub type HookConfig<'a> = (&'a str, &'a Map<String, Value>);

impl Hooks {
    /// Builds all hooks, or none.
    ///
    /// # Errors
    /// The name of the first that cannot be built, and why.
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

    /// Hooks made by a program, for tests and for those who build their own tracker.
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

    /// Is there none?
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.pre.is_empty() && self.post.is_empty()
    }

    /// Their names, prehooks first.
    pub fn names(&self) -> impl Iterator<Item = &'static str> {
        self.pre.iter().chain(&self.post).map(|named| named.name)
    }

    /// Announces that a posthook has kept out of their swarm.
    #[must_use]
    pub fn unstored(&self) -> u64 {
        self.unstored.load(Ordering::Relaxed)
    }

    /// Shows an announce to the prehooks.
    pub(crate) fn run_prehooks(&self, visit: &mut AnnounceVisit<'_>) -> Verdict {
        self.pre.iter().try_for_each(|named| named.hook.announce(visit))
    }

    /// Shows an announce to the posthooks. False if it must not change its swarm.
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
/// What is wrong with them.
pub fn parse_options<T: serde::de::DeserializeOwned>(options: &Map<String, Value>) -> Result<T, HookError> {
    let value = Value::Object(options.clone());
    serde_path_to_error::deserialize(value).map_err(|error| HookError::Options(error.to_string()))
}

#[cfg(test)]
mod tests;
