//! The order in which a second run gets the items: one that nobody can guess and everybody can draw again.

use crate::protocol::held_out::uniform_below;

const CONTEXT: &str = "l402t bounty order v1";

/// A permutation of `items` places that follows from the salt. It leaves no order as it was, unless there is but one item:
/// answers that depend on their neighbours change with it.
pub fn permutation(salt: &[u8; 32], items: usize) -> Vec<usize> {
    let mut hasher = blake3::Hasher::new_derive_key(CONTEXT);
    hasher.update(salt);
    let mut stream = hasher.finalize_xof();
    let mut order: Vec<usize> = (0..items).collect();
    // Sattolo's algorithm: one cycle through all places, so that no item stays where it was.
    for last in (1..items).rev() {
        order.swap(last, uniform_below(&mut stream, last as u64) as usize);
    }
    order
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_item_moves_and_none_is_lost() {
        for items in 2..200 {
            let order = permutation(&[3; 32], items);
            assert!(order.iter().enumerate().all(|(place, item)| place != *item));
            let mut sorted = order;
            sorted.sort_unstable();
            assert_eq!(sorted, (0..items).collect::<Vec<_>>());
        }
        assert_eq!(permutation(&[3; 32], 1), [0]);
        assert!(permutation(&[3; 32], 0).is_empty());
    }

    #[test]
    fn the_order_follows_from_the_salt() {
        assert_eq!(permutation(&[1; 32], 50), permutation(&[1; 32], 50));
        assert_ne!(permutation(&[1; 32], 50), permutation(&[2; 32], 50));
    }
}
