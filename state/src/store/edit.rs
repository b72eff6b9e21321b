//! Changes that a person or a site's back end makes: a few statements in one transaction, with the same text
//! for both backends and `?` for each value.

use super::StoreError;

/// A value in a statement or a result row.
#[derive(Clone, Debug, PartialEq)]
pub enum SqlValue {
    /// NULL.
    Null,
    /// A whole number.
    Number(i64),
    /// Any other number.
    Real(f64),
    /// Text or octets: result rows do not distinguish them.
    Octets(Vec<u8>),
    /// Text, in statements.
    Text(String),
}

impl SqlValue {
    /// Returns the number if it is in the range of an id.
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

/// Access to the tables within a transaction.
pub trait Tables {
    /// Waits until no other edit is under way and blocks further ones: what is read from now on holds until
    /// the transaction ends. Called before anything else.
    ///
    /// # Errors
    /// Fails when the backend refuses, or another edit takes too long.
    fn lock_edits(&mut self) -> Result<(), StoreError>;

    /// Runs a statement; returns the number of rows matched, and the id of an inserted row.
    ///
    /// # Errors
    /// Fails when the backend refuses.
    fn run_statement(&mut self, sql: &str, values: &[SqlValue]) -> Result<(u64, u64), StoreError>;

    /// Returns the rows of a query.
    ///
    /// # Errors
    /// Fails when the backend refuses.
    fn query_rows(&mut self, sql: &str, values: &[SqlValue]) -> Result<Vec<Vec<SqlValue>>, StoreError>;
}
