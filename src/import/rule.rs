//! How durations and numbers of the reference tracker become settings: what an absent one meant, and the
//! nearest value if one is out of range.

use std::time::Duration;

use super::block::Block;
use super::report::{Draft, ImportError};
use crate::config::bounded::duration_text;

/// What becomes of a duration that is absent or not above zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum WhenUnset {
    /// It is the default, as in the reference tracker.
    Default,
    /// It is the default, but the reference tracker did something else.
    DefaultDiffers,
    /// It is zero.
    Zero,
}

/// How one duration is converted.
#[derive(Debug)]
pub(super) struct DurationRule<'a> {
    pub(super) name: &'a str,
    /// The new key.
    pub(super) to: &'a str,
    pub(super) default: Duration,
    pub(super) when_unset: WhenUnset,
    pub(super) min: Duration,
    pub(super) max: Duration,
}

/// Takes a duration from the block, puts it, and reports it.
pub(super) fn take_duration(
    block: &mut Block,
    draft: &mut Draft,
    rule: &DurationRule<'_>,
) -> Result<Duration, ImportError> {
    let mut notes = Vec::new();
    let given = block.duration(rule.name)?;
    let nanoseconds = given.map_or(0, |given| given.nanoseconds);
    let wanted = Duration::from_nanos(u64::try_from(nanoseconds).unwrap_or(0));
    if given.is_some_and(|given| given.bare) {
        let text = duration_text(wanted);
        notes.push(format!("a number without a unit is taken as {text}; from 1000000000 on as nanoseconds"));
    }
    let value = match rule.when_unset {
        WhenUnset::Zero if nanoseconds >= 0 => wanted,
        WhenUnset::Zero => {
            notes.push("it was below zero".into());
            Duration::ZERO
        }
        _ if nanoseconds > 0 => wanted,
        WhenUnset::Default => rule.default,
        WhenUnset::DefaultDiffers => {
            let what = if given.is_some() { "not above zero" } else { "missing" };
            notes.push(format!("it was {what}, so clients were told 0"));
            rule.default
        }
    };
    let within = value.clamp(rule.min, rule.max);
    if within != value {
        notes.push(format!("{} is out of range, the nearest is taken", duration_text(value)));
    }
    let mut text = format!("{} = {}", rule.to, duration_text(within));
    if given.is_none() && rule.when_unset != WhenUnset::DefaultDiffers {
        text += ", the reference tracker's default";
    }
    draft.put(rule.to, duration_text(within));
    draft.report_converted(block.key(rule.name), &text, &notes);
    Ok(within)
}

/// How one whole number is converted.
#[derive(Debug)]
pub(super) struct IntRule<'a> {
    pub(super) name: &'a str,
    pub(super) default: u32,
    pub(super) min: u32,
    pub(super) max: u32,
}

/// A value from a block, and the notes about it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct ConvertedValue<T> {
    pub(super) key: String,
    pub(super) value: T,
    /// Whether the block has the key.
    pub(super) given: bool,
    pub(super) notes: Vec<String>,
}

/// Takes a number from the block. The reference tracker takes its default if the number is not above zero.
pub(super) fn take_int(block: &mut Block, rule: &IntRule<'_>) -> Result<ConvertedValue<u32>, ImportError> {
    let given = block.int(rule.name)?;
    let mut notes = Vec::new();
    let wanted = given.filter(|number| *number > 0).unwrap_or(i128::from(rule.default));
    let within = wanted.clamp(i128::from(rule.min), i128::from(rule.max));
    if within != wanted {
        notes.push(format!("{wanted} is out of range, the nearest is taken"));
    }
    let value = u32::try_from(within).unwrap_or(rule.max);
    Ok(ConvertedValue { key: block.key(rule.name), value, given: given.is_some(), notes })
}

/// Takes a switch from the block, and puts and reports it.
pub(super) fn take_switch(
    block: &mut Block,
    draft: &mut Draft,
    (name, to): (&str, &str),
    default: bool,
) -> Result<bool, ImportError> {
    let given = block.switch(name)?;
    let value = given.unwrap_or(default);
    let mut text = format!("{to} = {value}");
    if given.is_none() {
        text += ", the reference tracker's default";
    }
    draft.put(to, value);
    draft.mapped(block.key(name), text);
    Ok(value)
}
