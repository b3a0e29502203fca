//! Canaries: held-out items whose labels mean nothing. Who answers them well has read the labels.
//!
//! Which items they are and what they are labelled follows from the held-out salt, so whoever replays a closed bounty finds
//! the same ones. Their answers never count towards a score.

use crate::protocol::held_out::uniform_below;

/// So many items are canaries.
pub const CANARIES: usize = 32;

/// A false alarm is rarer than one in this many evaluations.
const ALARMS_ONE_IN: u128 = 30_000;

/// With more classes than this the threshold of this many is used: stricter on nobody, and it still counts in 128 bits.
const MOST_CLASSES: u32 = 15;

const CONTEXT: &str = "l402t bounty canaries v1";

/// An item that isn't scored, and the class (by its number) that its label pretends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Canary {
    /// The item's place in the held-out part, from 0.
    pub item: usize,
    /// Below the number of classes.
    pub class: usize,
}

/// Draws the canaries of a held-out part: [`CANARIES`] distinct items in order, each with a uniform class. `None` where that
/// would leave fewer items than it takes, or there are fewer than two classes: then a bounty has none.
pub fn draw(salt: &[u8; 32], items: usize, classes: usize) -> Option<Vec<Canary>> {
    if items < 2 * CANARIES || classes < 2 {
        return None;
    }
    let mut hasher = blake3::Hasher::new_derive_key(CONTEXT);
    hasher.update(salt);
    hasher.update(&(items as u64).to_le_bytes());
    hasher.update(&(classes as u64).to_le_bytes());
    let mut stream = hasher.finalize_xof();
    let mut places: Vec<usize> = (0..items).collect();
    for drawn in 0..CANARIES {
        let other = drawn + uniform_below(&mut stream, (items - drawn) as u64) as usize;
        places.swap(drawn, other);
    }
    places.truncate(CANARIES);
    places.sort_unstable();
    let canary = |item| Canary { item, class: uniform_below(&mut stream, classes as u64) as usize };
    Some(places.into_iter().map(canary).collect())
}

/// So many hits or more among [`CANARIES`] random labels of `classes` classes (at least 2) are no accident: by chance they
/// happen less than once in 30,000 evaluations.
pub fn threshold(classes: usize) -> usize {
    let classes = u32::try_from(classes).unwrap_or(MOST_CLASSES).clamp(2, MOST_CLASSES);
    let wrong = u128::from(classes - 1);
    // Of all classes³² label strings, those that agree with given answers in exactly `hits` places: C(32, hits) · wrong³²⁻ʰ.
    let all = u128::from(classes).pow(CANARIES as u32);
    let mut agreeing = 0;
    let mut ways = 1u128;
    let mut wrongs = 1u128;
    for hits in (0..=CANARIES).rev() {
        agreeing += ways * wrongs;
        if agreeing > all / ALARMS_ONE_IN {
            return hits + 1;
        }
        ways = ways * hits as u128 / (CANARIES - hits + 1) as u128;
        wrongs *= wrong;
    }
    CANARIES
}

/// Did an answer hit so many canaries that its author must have seen their labels?
pub fn tripped(hits: usize, classes: usize) -> bool {
    hits >= threshold(classes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn twelve_hits_of_ten_classes_are_a_leak_and_eleven_are_luck() {
        assert_eq!(threshold(10), 12);
        assert!(tripped(12, 10));
        assert!(!tripped(11, 10));
    }

    #[test]
    fn fewer_classes_take_more_hits() {
        assert_eq!(threshold(2), 28);
        assert_eq!(threshold(3), 23);
        assert_eq!(threshold(4), 20);
        assert_eq!(threshold(15), 10);
        assert_eq!(threshold(1_000), threshold(15));
    }

    #[test]
    fn canaries_follow_from_the_salt_and_nothing_else() {
        let drawn = draw(&[1; 32], 400, 10).expect("enough items");
        assert_eq!(drawn.len(), CANARIES);
        assert!(drawn.windows(2).all(|pair| pair[0].item < pair[1].item));
        assert!(drawn.iter().all(|canary| canary.item < 400 && canary.class < 10));
        assert_eq!(draw(&[1; 32], 400, 10), Some(drawn.clone()));
        assert_ne!(draw(&[2; 32], 400, 10), Some(drawn));
    }

    #[test]
    fn too_small_a_part_has_no_canaries() {
        assert!(draw(&[1; 32], 63, 10).is_none());
        assert!(draw(&[1; 32], 64, 10).is_some());
        assert!(draw(&[1; 32], 400, 1).is_none());
    }

    #[test]
    fn honest_answers_do_not_trip_over_thousands_of_salts() {
        // Always the same class: as good as any guess against labels that mean nothing.
        let hits = |salt: u32| {
            let salt = *blake3::hash(&salt.to_le_bytes()).as_bytes();
            draw(&salt, 64, 10).expect("enough").iter().filter(|canary| canary.class == 3).count()
        };
        assert_eq!((0..2_000).filter(|salt| tripped(hits(*salt), 10)).count(), 0);
    }
}
