//! Changes that a person or a site's back end makes: a few statements in one transaction, the same text for
//! both backends, with `?` for each value.

use super::StoreError;

/// A value of a statement or of an answer.
#[derive(Clone, Debug, PartialEq)]
pub enum SqlValue {
    /// NULL.
    Null,
    /// A whole number.
    Number(i64),
    /// Any other number.
    Real(f64),
    /// Text or octets: answers do not tell them apart.
    Octets(Vec<u8>),
    /// Text, in statements.
    Text(String),
}

impl SqlValue {
    /// The number, if it is one that an id can be.
    #[must_use]
    pub fn id(&self) -> Option<u32> {
        match self {
            Self::Number(number) => u32::try_from(*number).ok(),
            _ => None,
        }
    }
}

impl From<u32> for SqlValue {
    fn from(number: u32) -> Self {
        Self::Number(number.into())
    }
}

impl From<i64> for SqlValue {
    fn from(number: i64) -> Self {
        Self::Number(number)
    }
}

impl From<bool> for SqlValue {
    fn from(flag: bool) -> Self {
        Self::Number(flag.into())
    }
}

impl From<f64> for SqlValue {
    fn from(number: f64) -> Self {
        Self::Real(number)
    }
}

impl From<&str> for SqlValue {
    fn from(text: &str) -> Self {
        Self::Text(text.to_owned())
    }
}

impl From<&[u8]> for SqlValue {
    fn from(octets: &[u8]) -> Self {
        Self::Octets(octets.to_vec())
    }
}

/// The tables within a transaction.
pub trait Tables {
    /// Waits until no other change is under way and holds up further ones: what is looked up from now on is
    /// so until the transaction ends. To be called before anything else.
    ///
    /// # Errors
    /// When the backend refuses, or another change takes too long.
    fn lock_edits(&mut self) -> Result<(), StoreError>;

    /// Runs a statement; gives how many rows it has found to change, and the id of a row it has made.
    ///
    /// # Errors
    /// When the backend refuses.
    fn run_statement(&mut self, sql: &str, values: &[SqlValue]) -> Result<(u64, u64), StoreError>;

    /// The rows of an answer.
    ///
    /// # Errors
    /// When the backend refuses.
    fn query_rows(&mut self, sql: &str, values: &[SqlValue]) -> Result<Vec<Vec<SqlValue>>, StoreError>;
}
