//! Little-endian numbers and octets, taken one after another from a slice that may end too early.

/// Takes numbers off the front of a slice.
#[derive(Clone, Debug)]
pub(super) struct OctetReader<'o> {
    remaining: &'o [u8],
    at: usize,
}

/// A method for each number type: little-endian, `None` if the slice ends too early.
macro_rules! numbers {
    ($($number:ident)*) => {$(
        pub(super) fn $number(&mut self) -> Option<$number> {
            self.array().map($number::from_le_bytes)
        }
    )*};
}

impl<'o> OctetReader<'o> {
    pub(super) fn new(octets: &'o [u8]) -> Self {
        Self { remaining: octets, at: 0 }
    }

    /// The number of octets taken so far.
    pub(super) fn at(&self) -> usize {
        self.at
    }

    /// The number of octets left.
    pub(super) fn len(&self) -> usize {
        self.remaining.len()
    }

    pub(super) fn array<const LEN: usize>(&mut self) -> Option<[u8; LEN]> {
        let (head, rest) = self.remaining.split_first_chunk()?;
        self.remaining = rest;
        self.at += LEN;
        Some(*head)
    }

    pub(super) fn slice(&mut self, len: usize) -> Option<&'o [u8]> {
        let (head, rest) = self.remaining.split_at_checked(len)?;
        self.remaining = rest;
        self.at += len;
        Some(head)
    }

    numbers!(u8 u16 u32 u64 i32 i64 f64);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_little_endian_and_nothing_is_taken_that_is_not_there() {
        let mut octets = OctetReader::new(&[7, 0, 11, 13, 0, 0, 0, 17]);
        assert_eq!((octets.u16(), octets.u8(), octets.u32()), (Some(7), Some(11), Some(13)));
        assert_eq!((octets.u64(), octets.slice(2), octets.at(), octets.len()), (None, None, 7, 1));
        assert_eq!(octets.slice(1), Some(&[17][..]));
    }
}
