//! The hooks of chihaya. Names and options are the same; entries that its hooks refuse at the start are
//! removed here.

use std::time::Duration;

use hayate_state::InfoHash;
use hayate_state::admission::hooks::interval::DELTA_MAX;
use serde_json::{Map, Value, json};

use super::block::Block;
use super::report::{Draft, ImportError};
use crate::config::bounded::duration_text;

/// Octets of the client at the beginning of a peer id.
const CLIENT_LEN: usize = 6;
/// Default time between two readings of a set of keys.
const KEYS_PAUSE: Duration = Duration::from_secs(300);

/// Converts the list of hooks `name`.
pub(super) fn convert(block: &mut Block, name: &str, draft: &mut Draft) -> Result<(), ImportError> {
    let mut hooks = Vec::new();
    let list = block.key(name);
    for (index, node) in block.list(name)?.into_iter().enumerate() {
        let mut entry = Block::new(format!("{list}[{index}]"), Some(node))?;
        hooks.extend(convert_hook(&mut entry, draft, name == "posthooks")?);
        entry.finish(draft);
    }
    if !hooks.is_empty() {
        draft.put(name, hooks);
    }
    Ok(())
}

fn convert_hook(entry: &mut Block, draft: &mut Draft, post: bool) -> Result<Option<Value>, ImportError> {
    let (name, key) = (entry.text("name")?, entry.key("name"));
    let mut options = entry.block("options")?;
    let converted = match name.as_str() {
        "client approval" => approval(&mut options, draft, (&name, is_client, "is not 6 octets"))?,
        "torrent approval" => {
            approval(&mut options, draft, (&name, is_torrent, "is not 40 hexadecimal digits"))?
        }
        "jwt" => jwt(&mut options, draft)?,
        "interval variation" if post => {
            draft.dropped(key, "\"interval variation\" has no effect among posthooks");
            return Ok(None);
        }
        "interval variation" => interval_variation(&mut options, draft)?,
        other => {
            draft.dropped(key, format!("there is no hook {other:?}"));
            return Ok(None);
        }
    };
    draft.mapped(key, format!("{name:?}, with its options"));
    options.finish(draft);
    Ok(Some(json!({ "name": name, "options": converted })))
}

fn is_client(text: &str) -> bool {
    text.len() == CLIENT_LEN
}

fn is_torrent(text: &str) -> bool {
    text.parse::<InfoHash>().is_ok()
}

/// Converts the lists of an approval hook. An invalid entry can match nothing, so it may be dropped; but an
/// empty list would mean that there is no list.
fn approval(
    options: &mut Block,
    draft: &mut Draft,
    (name, good, wrong): (&str, fn(&str) -> bool, &str),
) -> Result<Map<String, Value>, ImportError> {
    let mut lists = Map::new();
    for which in ["whitelist", "blacklist"] {
        let (key, all) = (options.key(which), options.texts(which)?);
        let (fit, unfit): (Vec<_>, Vec<_>) = all.into_iter().partition(|text| good(text));
        if let (true, Some(text)) = (fit.is_empty(), unfit.first()) {
            return Err(ImportError::new(key, format!("{text:?} {wrong}, and no other entry is there")));
        }
        for text in unfit {
            draft.dropped(&key, format!("{text:?} {wrong}; the reference tracker refuses it"));
        }
        if fit.is_empty() {
            continue;
        }
        if lists.is_empty() {
            lists.insert(which.to_owned(), fit.into());
        } else {
            let text = "both lists in one hook, which the reference tracker refuses; the whitelist counts";
            draft.dropped(key, text);
        }
    }
    if lists.is_empty() {
        draft.mapped(options.key("whitelist"), format!("both lists of {name:?} are empty: no effect"));
    }
    Ok(lists)
}

fn jwt(options: &mut Block, draft: &mut Draft) -> Result<Map<String, Value>, ImportError> {
    let mut converted = Map::new();
    for name in ["issuer", "audience", "jwk_set_url"] {
        let text = options.text(name)?;
        if text.is_empty() {
            return Err(ImportError::new(options.key(name), "it is missing, and needed"));
        }
        converted.insert(name.to_owned(), text.into());
    }
    let name = "jwk_set_update_interval";
    let given = options.duration(name)?;
    let wanted = given.map_or(0, |given| given.nanoseconds);
    let wanted = Duration::from_nanos(u64::try_from(wanted).unwrap_or(0));
    let pause = if wanted.is_zero() { KEYS_PAUSE } else { wanted.max(Duration::from_secs(1)) };
    let text = duration_text(pause);
    if wanted.is_zero() {
        draft.changed(options.key(name), format!("it was not set, which meant without pause; {text} now"));
    } else if given.is_some_and(|given| given.bare) || pause != wanted {
        let was = duration_text(wanted);
        draft.changed(options.key(name), format!("it was read as {was}; {text} now"));
    }
    converted.insert(name.to_owned(), text.into());
    Ok(converted)
}

fn interval_variation(options: &mut Block, draft: &mut Draft) -> Result<Map<String, Value>, ImportError> {
    let refuse = |options: &Block, name: &str| {
        ImportError::new(options.key(name), format!("invalid {name}, as the reference tracker says too"))
    };
    let (probability, delta) = ("modify_response_probability", "max_increase_delta");
    let chance = options.number(probability)?.unwrap_or(0.0);
    if !(chance > 0.0 && chance <= 1.0) {
        return Err(refuse(options, probability));
    }
    let seconds = options.int(delta)?.and_then(|seconds| u32::try_from(seconds).ok()).unwrap_or(0);
    if seconds == 0 {
        return Err(refuse(options, delta));
    }
    let most = seconds.min(DELTA_MAX);
    if most != seconds {
        draft.changed(options.key(delta), format!("it was {seconds}; {most} is the most here"));
    }
    let name = "modify_min_interval";
    let both = options.switch(name)?.unwrap_or(false);
    Ok(Map::from_iter([
        (probability.to_owned(), chance.into()),
        (delta.to_owned(), most.into()),
        (name.to_owned(), both.into()),
    ]))
}
