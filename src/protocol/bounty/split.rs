//! One data set, split: four fifths are public, one fifth is held out. Which is which, only the salt knows.

use std::cmp::Ordering;

use crate::protocol::ids::Blake3Hash;

const CONTEXT: &str = "l402t bounty split v1";

/// One item of five is held out.
const HELD_OUT_ONE_IN: usize = 5;

/// The items of either part, by their places in the whole, in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Split {
    /// What everybody gets.
    pub public: Vec<usize>,
    /// What is scored.
    pub held_out: Vec<usize>,
}

/// Splits by a salted hash of each item's content: equal items land in the same part, so that no held-out item is public too.
/// A fifth is held out, rounded down, less the copies of what is public.
pub fn split<T: AsRef<[u8]>>(salt: &[u8; 32], items: &[T]) -> Split {
    let mut ranked: Vec<(Blake3Hash, usize)> = items
        .iter()
        .enumerate()
        .map(|(place, item)| (Blake3Hash::derive(CONTEXT, &[salt.as_slice(), item.as_ref()].concat()), place))
        .collect();
    ranked.sort_unstable();
    let border = ranked.len() / HELD_OUT_ONE_IN;
    let first_public = ranked.get(border).map(|(hash, _)| *hash);
    let held_out =
        |(hash, _): &&(Blake3Hash, usize)| first_public.is_some_and(|first| hash.cmp(&first) == Ordering::Less);
    let mut split = Split {
        held_out: ranked.iter().filter(held_out).map(|(_, place)| *place).collect(),
        public: ranked.iter().filter(|entry| !held_out(entry)).map(|(_, place)| *place).collect(),
    };
    split.held_out.sort_unstable();
    split.public.sort_unstable();
    split
}

#[cfg(test)]
mod tests {
    use super::*;

    fn items(count: u32) -> Vec<[u8; 4]> {
        (0..count).map(u32::to_le_bytes).collect()
    }

    #[test]
    fn a_fifth_is_held_out_and_every_item_is_somewhere() {
        let split = split(&[1; 32], &items(1_797));
        assert_eq!((split.held_out.len(), split.public.len()), (359, 1_438));
        let mut all = [split.held_out, split.public].concat();
        all.sort_unstable();
        assert_eq!(all, (0..1_797).collect::<Vec<_>>());
    }

    #[test]
    fn another_salt_holds_out_other_items_and_the_same_one_the_same() {
        let items = items(100);
        assert_eq!(split(&[1; 32], &items), split(&[1; 32], &items));
        assert_ne!(split(&[1; 32], &items), split(&[2; 32], &items));
    }

    #[test]
    fn no_copy_of_a_public_item_is_held_out() {
        for salt in 0..50 {
            let items: Vec<[u8; 1]> = (0..60).map(|place| [place % 7]).collect();
            let split = split(&[salt; 32], &items);
            let public: Vec<_> = split.public.iter().map(|place| items[*place]).collect();
            assert!(split.held_out.iter().all(|place| !public.contains(&items[*place])));
            assert!(split.held_out.len() <= 12);
        }
    }

    #[test]
    fn nothing_and_little_are_split_too() {
        assert_eq!(split(&[1; 32], &items(0)), Split { public: vec![], held_out: vec![] });
        assert_eq!(split(&[1; 32], &items(4)).held_out.len(), 0);
        assert_eq!(split(&[1; 32], &items(5)).held_out.len(), 1);
    }
}
