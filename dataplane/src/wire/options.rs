//! The list of options that IPv4 (RFC 791 section 3.1) and TCP (RFC 9293 section 3.2) both end their
//! headers with: a kind, a length that counts both, and a value; two kinds are one byte alone.

const END: u8 = 0;
const NO_OPERATION: u8 = 1;

/// One option of a list.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Entry<'p> {
    /// Which option it is.
    pub kind: u8,
    /// Where its value begins, in bytes from the start of the list: often an odd number.
    pub at: usize,
    /// What it says, without kind and length.
    pub value: &'p [u8],
}

/// The options of a list in order, up to its end or to the first that makes no sense.
#[derive(Debug, Clone)]
pub struct Options<'p> {
    list: &'p [u8],
    at: usize,
}

impl<'p> Options<'p> {
    /// Those of `list`, which is what follows the fixed part of a header.
    #[inline]
    pub fn of(list: &'p [u8]) -> Self {
        Self { list, at: 0 }
    }
}

impl<'p> Iterator for Options<'p> {
    type Item = Entry<'p>;

    #[inline]
    fn next(&mut self) -> Option<Entry<'p>> {
        while let Some((&kind, rest)) = self.list.get(self.at..)?.split_first() {
            match (kind, rest) {
                (END, _) => return None,
                (NO_OPERATION, _) => self.at += 1,
                (_, &[length, ..]) => {
                    let (length, at) = (usize::from(length), self.at + 2);
                    let end = self.at + length;
                    let value = self.list.get(at..end)?; // none too if the length is below 2
                    self.at = end;
                    return Some(Entry { kind, at, value });
                }
                (_, []) => return None,
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_walk_ends_at_the_end_and_where_a_length_makes_no_sense() {
        let kinds = |list: &[u8]| Options::of(list).map(|entry| entry.kind).collect::<Vec<_>>();
        assert_eq!(kinds(&[1, 1, 8, 3, 9, 4, 2, 0, 5, 2]), [8, 4]);
        assert_eq!(kinds(&[4, 2, 9]), [4]);
        assert_eq!(kinds(&[4, 2, 9, 0, 4, 2]), [4]);
        assert_eq!(kinds(&[4, 2, 9, 1, 4, 2]), [4]);
        assert_eq!(kinds(&[4, 2, 9, 5, 4, 2]), [4]);
        assert_eq!(kinds(&[]), [0; 0]);
    }

    proptest! {
        #[test]
        fn any_bytes_are_walked_within_themselves_and_forwards(list in prop::collection::vec(0u8..12, 0..41)) {
            let mut behind = 0;
            for entry in Options::of(&list) {
                prop_assert!(entry.at >= behind + 2);
                behind = entry.at + entry.value.len();
                prop_assert_eq!(&list[entry.at..behind], entry.value);
                prop_assert_eq!(list[entry.at - 2], entry.kind);
            }
            prop_assert!(behind <= list.len());
        }
    }
}
