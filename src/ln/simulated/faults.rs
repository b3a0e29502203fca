//! What may go wrong in a simulated network, and the seeded dice that decide when it does.
//!
//! Everything random comes from here, so that a seed and an order of calls fix what happens.

use crate::protocol::amount::Ppm;

/// How often and how long things go wrong. [`Faults::NONE`] is a network where everything happens at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Faults {
    /// Each step of a payment (arrival, claim, refund, notice) waits for up to this many further calls to any node.
    pub delay_steps_max: u32,
    /// Events that are never delivered.
    pub events_dropped: Ppm,
    /// Events that are delivered twice.
    pub events_duplicated: Ppm,
    /// Calls that are carried out but whose answer is lost: the caller sees [`LnError::Unavailable`].
    ///
    /// [`LnError::Unavailable`]: crate::ln::LnError::Unavailable
    pub answers_lost: Ppm,
    /// Calls that never reach the node: the caller sees the same error.
    pub calls_lost: Ppm,
    /// Questions about a payment to which the node has no answer now: [`PaymentStatus::Unknown`].
    ///
    /// [`PaymentStatus::Unknown`]: crate::ln::PaymentStatus::Unknown
    pub status_unknown: Ppm,
}

impl Faults {
    /// Nothing goes wrong.
    pub const NONE: Faults = Faults {
        delay_steps_max: 0,
        events_dropped: Ppm::ZERO,
        events_duplicated: Ppm::ZERO,
        answers_lost: Ppm::ZERO,
        calls_lost: Ppm::ZERO,
        status_unknown: Ppm::ZERO,
    };
}

/// BLAKE3 in counter mode.
#[derive(Debug)]
pub(super) struct Dice {
    key: [u8; 32],
    throws: u64,
}

impl Dice {
    pub(super) fn new(seed: u64) -> Self {
        Self { key: blake3::derive_key("l402t simulated lightning dice v1", &seed.to_le_bytes()), throws: 0 }
    }

    /// 32 fresh bytes.
    pub(super) fn bytes32(&mut self) -> [u8; 32] {
        self.throws += 1;
        *blake3::keyed_hash(&self.key, &self.throws.to_le_bytes()).as_bytes()
    }

    /// 0 ..= `max`.
    pub(super) fn up_to(&mut self, max: u32) -> u64 {
        let [a, b, c, d, ..] = self.bytes32();
        u64::from(u32::from_le_bytes([a, b, c, d])) % (u64::from(max) + 1)
    }

    /// True with the given probability.
    pub(super) fn happens(&mut self, probability: Ppm) -> bool {
        probability != Ppm::ZERO && self.up_to(999_999) < u64::from(probability.get())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_seed_throws_the_same_and_another_seed_does_not() {
        let throws = |seed| {
            let mut dice = Dice::new(seed);
            (0..8).map(|_| dice.up_to(1_000_000)).collect::<Vec<_>>()
        };
        assert_eq!(throws(1), throws(1));
        assert_ne!(throws(1), throws(2));
    }

    #[test]
    fn probabilities_are_kept() {
        let mut dice = Dice::new(3);
        let tenth = Ppm::new(100_000).expect("valid");
        let hits = (0..10_000).filter(|_| dice.happens(tenth)).count();
        assert!((800..1_200).contains(&hits), "{hits}");
        assert!(!(0..1_000).any(|_| dice.happens(Ppm::ZERO)));
        assert!((0..1_000).all(|_| dice.happens(Ppm::ONE)));
    }
}
