//! Sums that stop at the end of their range, as SQL that both backends read.

/// What a column becomes when a number that is not negative is added: at most `$most`, and never less than it
/// was. Written so that no step of it can be too large, whatever the sign of the column: SQLite would go on
/// with a floating point number.
macro_rules! sum {
    ($column:literal, $more:literal, $most:literal) => {
        concat!(
            $column,
            " = CASE WHEN ",
            $column,
            " <= ",
            $most,
            " - ",
            $more,
            " THEN ",
            $column,
            " + ",
            $more,
            " WHEN ",
            $column,
            " < ",
            $most,
            " THEN ",
            $most,
            " ELSE ",
            $column,
            " END"
        )
    };
}

/// An amount of octets: every language can read what a signed number of 64 bits holds.
macro_rules! amount {
    ($column:literal, $more:literal) => {
        $crate::store::sums::sum!($column, $more, "9223372036854775807")
    };
}

/// A count or a time, in a column of 32 bits with a sign.
macro_rules! count {
    ($column:literal, $more:literal) => {
        $crate::store::sums::sum!($column, $more, "2147483647")
    };
}

pub(super) use {amount, count, sum};
