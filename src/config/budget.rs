//! `memory.max`: a size, or `auto`.

use std::borrow::Cow;
use std::fmt;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::{Error, Unexpected, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::bounded::{SizeIn, TIB, parse_size};

/// The largest budget.
const BUDGET_MAX: u64 = 16 * TIB;
const AUTO: &str = "auto";

/// Octets that the swarms may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum MemoryBudget {
    /// Half of the memory that there is.
    Auto,
    /// This many octets; 0 = no limit.
    Octets(SizeIn<0, BUDGET_MAX>),
}

impl MemoryBudget {
    /// Returns the budget in octets; `half` is half of the memory that there is.
    pub(crate) fn octets(self, half: u64) -> u64 {
        match self {
            Self::Auto => half,
            Self::Octets(size) => size.octets(),
        }
    }
}

impl fmt::Display for MemoryBudget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Auto => f.write_str(AUTO),
            Self::Octets(size) => size.fmt(f),
        }
    }
}

impl Serialize for MemoryBudget {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Auto => serializer.serialize_str(AUTO),
            Self::Octets(size) => size.serialize(serializer),
        }
    }
}

impl<'de> Deserialize<'de> for MemoryBudget {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct BudgetVisitor;
        impl Visitor<'_> for BudgetVisitor {
            type Value = MemoryBudget;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("auto, or a size from 0 to 16TiB, in octets or as text with KiB, MiB, GiB, TiB")
            }

            fn visit_u64<E: Error>(self, value: u64) -> Result<MemoryBudget, E> {
                let size =
                    SizeIn::within(value).ok_or_else(|| E::invalid_value(Unexpected::Unsigned(value), &self));
                size.map(MemoryBudget::Octets)
            }

            fn visit_i64<E: Error>(self, value: i64) -> Result<MemoryBudget, E> {
                let octets = u64::try_from(value);
                self.visit_u64(
                    octets.map_err(|_| E::invalid_value(Unexpected::Signed(value), &BudgetVisitor))?,
                )
            }

            fn visit_str<E: Error>(self, text: &str) -> Result<MemoryBudget, E> {
                if text == AUTO {
                    return Ok(MemoryBudget::Auto);
                }
                let size = parse_size(text).and_then(SizeIn::within);
                size.map(MemoryBudget::Octets).ok_or_else(|| E::invalid_value(Unexpected::Str(text), &self))
            }
        }
        deserializer.deserialize_any(BudgetVisitor)
    }
}

impl JsonSchema for MemoryBudget {
    fn schema_name() -> Cow<'static, str> {
        "Budget".into()
    }

    fn inline_schema() -> bool {
        true
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "anyOf": [
            { "type": "integer", "minimum": 0, "maximum": BUDGET_MAX },
            { "type": "string", "pattern": "^(auto|[0-9]+(KiB|MiB|GiB|TiB)?)$" },
        ] })
    }
}
