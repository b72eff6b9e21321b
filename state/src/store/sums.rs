//! Sums that stop at the end of their range, as SQL for both backends.

/// The new value of a column to which a number that is not negative is added: at most `$most`, and never less
/// than before. Written so that no step overflows, whatever the sign of the column: SQLite would continue
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

/// An amount of octets: limited to a signed 64-bit number, which every language can read.
macro_rules! amount {
    ($column:literal, $more:literal) => {
        $crate::store::sums::sum!($column, $more, "9223372036854775807")
    };
}

/// A count or a time, in a signed 32-bit column.
macro_rules! count {
    ($column:literal, $more:literal) => {
        $crate::store::sums::sum!($column, $more, "2147483647")
    };
}

pub(super) use {amount, count, sum};
