//! What an improvement pays: budget · (g(claim) − g(best)), in msat and rounded down, where g runs from 0 at the baseline to
//! 1 at the target.
//!
//! The sum telescopes: whoever improves in however many steps, under however many names, all of them together get at most
//! budget · g(best), which is never more than the budget.

use serde::{Deserialize, Serialize};

use super::score::{Decimals, Score};
use crate::protocol::amount::Msat;

/// Which way is better.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Direction {
    /// More is better.
    Higher,
    /// Less is better.
    Lower,
}

impl Direction {
    /// By how many units `to` is better than `from`; negative where it is worse.
    pub const fn improvement(self, from: Score, to: Score) -> i64 {
        // Scores are within ±10¹⁵ units: the difference fits.
        match self {
            Direction::Higher => to.units() - from.units(),
            Direction::Lower => from.units() - to.units(),
        }
    }

    /// The score that is `units` better than `from`; `None` beyond what a score may be.
    pub fn better_by(self, from: Score, units: u64) -> Option<Score> {
        let units = i64::try_from(units).ok()?;
        let moved = match self {
            Direction::Higher => from.units().checked_add(units),
            Direction::Lower => from.units().checked_sub(units),
        };
        moved.and_then(Score::from_units)
    }
}

/// From what to what a bounty pays.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Scale {
    direction: Direction,
    baseline: Score,
    /// Units from baseline to target; not 0.
    span: u64,
}

impl Scale {
    /// `None` unless the target is better than the baseline.
    pub fn new(direction: Direction, baseline: Score, target: Score) -> Option<Self> {
        let span = u64::try_from(direction.improvement(baseline, target)).ok().filter(|span| *span > 0)?;
        Some(Self { direction, baseline, span })
    }

    /// g's numerator: units from the baseline to `score`, at least none and at most all. Its denominator is the span.
    fn progress(&self, score: Score) -> u64 {
        let units = self.direction.improvement(self.baseline, score);
        u64::try_from(units).unwrap_or(0).min(self.span)
    }

    /// `⌊budget · (g(claim) − g(best))⌋`; nothing where the claim is no better.
    pub fn payout(&self, budget: Msat, claim: Score, best: Score) -> Msat {
        let units = self.progress(claim).saturating_sub(self.progress(best));
        let product = u128::from(budget.msat()) * u128::from(units);
        // units ≤ span, so the quotient is at most the budget and fits.
        Msat::new((product / u128::from(self.span)) as u64)
    }
}

/// How far a rate measured on `items` items may be off by chance: two standard errors at worst (at one half), which is
/// 1/√items, in units and rounded up. A smaller step than that could be noise, and pays for guessing.
pub fn noise_of_rate(decimals: Decimals, items: u64) -> u64 {
    let one = u128::from(decimals.one());
    let square = (one * one).div_ceil(u128::from(items.max(1)));
    let root = square.isqrt();
    // one ≤ 10⁹, so its root is too.
    (if root * root < square { root + 1 } else { root }) as u64
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn score(units: i64) -> Score {
        Score::from_units(units).expect("in range")
    }

    fn scale(direction: Direction, baseline: i64, target: i64) -> Scale {
        Scale::new(direction, score(baseline), score(target)).expect("better")
    }

    const BUDGET: Msat = Msat::new(100_000_000);

    #[test]
    fn half_of_the_way_pays_half_of_the_budget() {
        let accuracy = scale(Direction::Higher, 8_720, 9_860);
        assert_eq!(accuracy.payout(BUDGET, score(9_290), score(8_720)), Msat::new(50_000_000));
        // 1 of 1,140 units, rounded down.
        assert_eq!(accuracy.payout(BUDGET, score(8_721), score(8_720)), Msat::new(87_719));
        assert_eq!(accuracy.payout(BUDGET, score(9_860), score(9_290)), Msat::new(50_000_000));
    }

    #[test]
    fn where_less_is_better_less_pays_more() {
        let bytes = scale(Direction::Lower, 27_550, 18_072);
        assert_eq!(bytes.payout(BUDGET, score(18_072), score(27_550)), BUDGET);
        // 4,739 of 9,478 bytes.
        assert_eq!(bytes.payout(BUDGET, score(22_811), score(27_550)), Msat::new(50_000_000));
        assert_eq!(bytes.payout(BUDGET, score(30_000), score(27_550)), Msat::ZERO);
    }

    #[test]
    fn beyond_the_target_and_before_the_baseline_nothing_more_is_paid() {
        let accuracy = scale(Direction::Higher, 100, 200);
        assert_eq!(accuracy.payout(BUDGET, score(900), score(100)), BUDGET);
        assert_eq!(accuracy.payout(BUDGET, score(900), score(200)), Msat::ZERO);
        assert_eq!(accuracy.payout(BUDGET, score(100), score(-500)), Msat::ZERO);
        assert_eq!(accuracy.payout(BUDGET, score(150), score(180)), Msat::ZERO);
    }

    #[test]
    fn a_target_must_be_better_than_its_baseline() {
        assert!(Scale::new(Direction::Higher, score(5), score(5)).is_none());
        assert!(Scale::new(Direction::Higher, score(5), score(4)).is_none());
        assert!(Scale::new(Direction::Lower, score(5), score(6)).is_none());
    }

    #[test]
    fn the_noise_of_a_rate_falls_with_the_root_of_the_items() {
        let four = Decimals::new(4).expect("few");
        assert_eq!(noise_of_rate(four, 2_000), 224);
        assert_eq!(noise_of_rate(four, 400), 500);
        assert_eq!(noise_of_rate(four, 359), 528);
        assert_eq!(noise_of_rate(four, 0), 10_000);
        assert_eq!(noise_of_rate(Decimals::MAX, u64::MAX), 1);
    }

    proptest! {
        #[test]
        fn all_payments_together_never_pass_the_budget(
            budget in 0u64..=Msat::MAX_MONEY.msat(),
            baseline in -1_000_000_000_000_000i64..=1_000_000_000_000_000,
            target in -1_000_000_000_000_000i64..=1_000_000_000_000_000,
            claims in proptest::collection::vec(-1_000_000_000_000_000i64..=1_000_000_000_000_000, 0..30),
        ) {
            prop_assume!(baseline != target);
            let direction = if target > baseline { Direction::Higher } else { Direction::Lower };
            let scale = scale(direction, baseline, target);
            let (mut best, mut paid) = (score(baseline), 0u128);
            for claim in claims.into_iter().map(score) {
                if direction.improvement(best, claim) > 0 {
                    paid += u128::from(scale.payout(Msat::new(budget), claim, best).msat());
                    best = claim;
                }
            }
            let whole = scale.payout(Msat::new(budget), best, score(baseline));
            prop_assert!(paid <= u128::from(whole.msat()));
            prop_assert!(whole.msat() <= budget);
        }

        #[test]
        fn splitting_an_improvement_among_identities_gains_nothing(
            budget in 0u64..=Msat::MAX_MONEY.msat(),
            steps in proptest::collection::vec(1i64..1_000_000, 1..10),
            span in 1i64..10_000_000,
        ) {
            let scale = scale(Direction::Higher, 0, span);
            let total: i64 = steps.iter().sum();
            let at_once = scale.payout(Msat::new(budget), score(total), score(0)).msat();
            let (mut best, mut split) = (0, 0);
            for step in steps {
                split += scale.payout(Msat::new(budget), score(best + step), score(best)).msat();
                best += step;
            }
            prop_assert!(split <= at_once);
        }

        #[test]
        fn the_noise_bound_is_the_least_that_covers_two_standard_errors(places in 0u8..=9, items in 1u64..1 << 40) {
            let decimals = Decimals::new(places).expect("few");
            let one = u128::from(decimals.one());
            let bound = u128::from(noise_of_rate(decimals, items));
            prop_assert!(bound * bound * u128::from(items) >= one * one);
            prop_assert!((bound - 1) * (bound - 1) * u128::from(items) < one * one);
        }
    }
}
