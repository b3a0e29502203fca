//! Which bytes of a blob a `Range` header asks for (RFC 9110, section 14).

/// What to send.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Selection {
    /// Everything: there was no range, or one that a server may ignore (another unit, several ranges, nonsense).
    Whole,
    /// From `first` to `last`, both included.
    Part {
        /// First byte.
        first: u64,
        /// Last byte.
        last: u64,
    },
    /// The range begins past the end.
    Unsatisfiable,
}

/// Reads a `Range` header's value for a body of `length` bytes.
pub(super) fn select(range: &str, length: u64) -> Selection {
    let Some((unit, spec)) = range.split_once('=') else { return Selection::Whole };
    let Some((first, last)) = spec.trim().split_once('-') else { return Selection::Whole };
    if !unit.trim().eq_ignore_ascii_case("bytes") {
        return Selection::Whole;
    }
    match (number(first), number(last)) {
        (Some(Bound::None), Some(Bound::At(suffix))) => match (suffix, length) {
            (0, _) | (_, 0) => Selection::Unsatisfiable,
            _ => Selection::Part { first: length.saturating_sub(suffix), last: length - 1 },
        },
        (Some(Bound::At(first)), Some(Bound::None)) => part(first, u64::MAX, length),
        (Some(Bound::At(first)), Some(Bound::At(last))) if first <= last => part(first, last, length),
        _ => Selection::Whole,
    }
}

fn part(first: u64, last: u64, length: u64) -> Selection {
    match length.checked_sub(1) {
        Some(end) if first <= end => Selection::Part { first, last: last.min(end) },
        _ => Selection::Unsatisfiable,
    }
}

enum Bound {
    None,
    At(u64),
}

/// Digits (saturating), or nothing; `None` for anything else.
fn number(text: &str) -> Option<Bound> {
    match text.trim() {
        "" => Some(Bound::None),
        digits if digits.bytes().all(|b| b.is_ascii_digit()) => Some(Bound::At(digits.parse().unwrap_or(u64::MAX))),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::Selection::{Part, Unsatisfiable, Whole};
    use super::*;

    #[test]
    fn single_ranges_are_served() {
        for (range, expected) in [
            ("bytes=0-", Part { first: 0, last: 9 }),
            ("bytes=3-5", Part { first: 3, last: 5 }),
            ("BYTES = 3 - 500", Part { first: 3, last: 9 }),
            ("bytes=-4", Part { first: 6, last: 9 }),
            ("bytes=-400", Part { first: 0, last: 9 }),
            ("bytes=9-99999999999999999999999", Part { first: 9, last: 9 }),
        ] {
            assert_eq!(select(range, 10), expected, "{range}");
        }
    }

    #[test]
    fn what_lies_past_the_end_can_not_be_satisfied() {
        for range in ["bytes=10-", "bytes=10-20", "bytes=-0", "bytes=99999999999999999999999-"] {
            assert_eq!(select(range, 10), Unsatisfiable, "{range}");
        }
        assert_eq!(select("bytes=0-", 0), Unsatisfiable);
        assert_eq!(select("bytes=-1", 0), Unsatisfiable);
    }

    #[test]
    fn what_a_server_may_ignore_is_ignored() {
        for range in
            ["", "bytes", "bytes=", "bytes=-", "bytes=5-3", "bytes=0-1,3-4", "lines=0-1", "bytes=a-b", "bytes=+1-2"]
        {
            assert_eq!(select(range, 10), Whole, "{range}");
        }
    }
}
