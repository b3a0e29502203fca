//! What is locked for a submission: one tranche that gives its fee back, and binary ones that make up its reward.
//!
//! The fee's tranche is earned where a submission fails by no fault of its author. The reward's are all earned, unless an
//! earlier submission of the same round was paid for a part of the improvement: then as many as what is left covers.

use super::verdict::{FeeFate, Outcome};
use crate::protocol::amount::Msat;

/// Tranches of a reward: 1, 2, 4 … units.
const MOST_REWARD_TRANCHES: u32 = 5;
/// Tranches of a submission: its fee's and its reward's.
pub const MOST_TRANCHES: u32 = 1 + MOST_REWARD_TRANCHES;
/// A tranche has 1 sat at least: less can't be enforced, nor carried by every node.
pub const LEAST_TRANCHE: Msat = Msat::new(1_000);

/// What is locked for one submission.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Offer {
    /// Gives the fee back; none where there is no fee.
    fee: Option<Msat>,
    /// Smallest first; together the whole offer.
    reward: Vec<Msat>,
}

impl Offer {
    /// The tranches of an offer. `None` for less than 1 sat.
    pub fn new(offer: Msat, fee: Msat) -> Option<Self> {
        let fits = |count: &u32| LEAST_TRANCHE.msat() * units(*count) <= offer.msat();
        let count = (1..=MOST_REWARD_TRANCHES).rev().find(fits)?;
        let unit = offer.msat() / units(count);
        let rest = offer.msat() - unit * units(count);
        let last = count - 1;
        let amount = |bit: u32| Msat::new((unit << bit) + if bit == last { rest } else { 0 });
        Some(Self { fee: fee_tranche(fee), reward: (0..count).map(amount).collect() })
    }

    /// The offer that these are the tranches of, where they are those of one with this fee.
    pub fn read(tranches: &[Msat], fee: Msat) -> Option<Self> {
        let reward = match fee_tranche(fee) {
            Some(_) => tranches.get(1..)?,
            None => tranches,
        };
        let offer = Self::new(Msat::checked_sum(reward.iter().copied())?, fee)?;
        (offer.tranches() == tranches).then_some(offer)
    }

    /// Every tranche: the fee's first.
    pub fn tranches(&self) -> Vec<Msat> {
        self.fee.into_iter().chain(self.reward.iter().copied()).collect()
    }

    /// The most that it pays as a reward.
    pub fn most(&self) -> Msat {
        // The parts of one amount.
        Msat::checked_sum(self.reward.iter().copied()).unwrap_or(Msat::ZERO)
    }

    /// The reward's tranches that what is `left` of it covers: their bit mask among all tranches, and their sum.
    pub fn covered(&self, left: Msat) -> (u32, Msat) {
        let first = u32::from(self.fee.is_some());
        let (mut mask, mut sum) = (0, Msat::ZERO);
        for (bit, amount) in self.reward.iter().enumerate().rev() {
            let with = sum.checked_add(*amount).filter(|with| *with <= left);
            if let Some(with) = with {
                (mask, sum) = (mask | 1 << (first + bit as u32), with);
            }
        }
        (mask, sum)
    }

    /// The tranches that an outcome pays: their bit mask, and their sum.
    pub fn paid(&self, outcome: &Outcome) -> (u32, Msat) {
        match (outcome, outcome.fee(), self.fee) {
            (Outcome::Reached { reward_msat }, ..) => self.covered(*reward_msat),
            (Outcome::Rejected { .. }, FeeFate::Refunded, Some(fee)) => (1, fee),
            (Outcome::Rejected { .. }, FeeFate::Refunded | FeeFate::Kept, _) => (0, Msat::ZERO),
        }
    }
}

/// The tranche that gives a fee back, the first of a submission; `None` where the fee is too small for one.
pub fn fee_tranche(fee: Msat) -> Option<Msat> {
    (fee >= LEAST_TRANCHE).then_some(fee)
}

fn units(count: u32) -> u64 {
    (1 << count) - 1
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::protocol::bounty::verdict::Rejection;

    fn offer(msat: u64, fee: u64) -> Offer {
        Offer::new(Msat::new(msat), Msat::new(fee)).expect("1 sat or more")
    }

    fn msat(amounts: &[u64]) -> Vec<Msat> {
        amounts.iter().copied().map(Msat::new).collect()
    }

    #[test]
    fn an_offer_is_made_of_its_fee_and_binary_tranches_that_sum_to_it() {
        assert_eq!(offer(31_000, 5_000).tranches(), msat(&[5_000, 1_000, 2_000, 4_000, 8_000, 16_000]));
        assert_eq!(offer(31_500, 0).tranches(), msat(&[1_016, 2_032, 4_064, 8_128, 16_260]));
        assert_eq!(offer(6_999, 1_000).tranches(), msat(&[1_000, 2_333, 4_666]));
        assert_eq!(offer(1_000, 0).tranches(), msat(&[1_000]));
        assert_eq!(Offer::new(Msat::new(999), Msat::ZERO), None);
    }

    #[test]
    fn tranches_are_read_back_only_as_an_offer_would_make_them() {
        let read = |tranches: &[u64], fee| Offer::read(&msat(tranches), Msat::new(fee));
        assert_eq!(read(&[5_000, 2_333, 4_666], 5_000), Some(offer(6_999, 5_000)));
        assert_eq!(read(&[2_333, 4_666], 0), Some(offer(6_999, 0)));
        assert_eq!(read(&[2_333, 4_666], 999), Some(offer(6_999, 999)));
        for (tranches, fee) in [
            (&[2_333, 4_666][..], 2_333),
            (&[4_999, 2_333, 4_666], 5_000),
            (&[5_000, 4_666, 2_333], 5_000),
            (&[5_000, 6_999], 5_000),
            (&[5_000, 999], 5_000),
            (&[5_000], 5_000),
            (&[5_000, u64::MAX, u64::MAX], 5_000),
            (&[], 5_000),
            (&[], 0),
        ] {
            assert_eq!(read(tranches, fee), None, "{tranches:?} with a fee of {fee}");
        }
    }

    #[test]
    fn a_reached_claim_pays_all_and_less_where_less_is_left() {
        let offer = offer(31_000, 5_000);
        let paid = |reward| offer.paid(&Outcome::Reached { reward_msat: Msat::new(reward) });
        assert_eq!(paid(31_000), (0b111110, Msat::new(31_000)));
        assert_eq!(paid(13_500), (0b011010, Msat::new(13_000)));
        assert_eq!(paid(999), (0, Msat::ZERO));
    }

    #[test]
    fn a_fee_comes_back_only_where_its_payer_is_not_at_fault() {
        let paid = |fee, reason| offer(31_000, fee).paid(&Outcome::Rejected { reason });
        assert_eq!(paid(5_000, Rejection::ScorerFailed), (1, Msat::new(5_000)));
        assert_eq!(paid(5_000, Rejection::BuildFailed), (0, Msat::ZERO));
        assert_eq!(paid(0, Rejection::ScorerFailed), (0, Msat::ZERO));
    }

    proptest! {
        #[test]
        fn no_tranche_is_below_a_satoshi_and_no_payment_above_what_is_left(
            most in 1_000u64..1 << 50, fee in 0u64..1 << 30, left in 0u64..1 << 50,
        ) {
            let offer = offer(most, fee);
            prop_assert!(offer.tranches().iter().all(|tranche| *tranche >= LEAST_TRANCHE));
            prop_assert!(offer.tranches().len() <= MOST_TRANCHES as usize);
            prop_assert_eq!(Offer::read(&offer.tranches(), Msat::new(fee)), Some(offer.clone()));
            prop_assert_eq!(offer.most(), Msat::new(most));
            let (mask, sum) = offer.covered(Msat::new(left));
            prop_assert!(sum <= Msat::new(left));
            let tranches = offer.tranches();
            let of_mask = tranches.iter().enumerate().filter(|(bit, _)| mask >> bit & 1 == 1);
            prop_assert_eq!(Msat::checked_sum(of_mask.map(|(_, amount)| *amount)), Some(sum));
            if left >= most {
                prop_assert_eq!(sum, Msat::new(most));
            }
        }
    }
}
