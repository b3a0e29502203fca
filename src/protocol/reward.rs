//! From gains to money: shares of the pool in integer ppm, then whole tranches. Rounding is always down.

use super::amount::{Msat, Ppm};
use super::manifest::{JudgeParams, RewardParams};
use super::verdict::Score;

/// Most tranches of one reward: below LDK's and LND's in-flight limits with room for several contributions.
pub const MAX_TRANCHES: u32 = 10;

/// The reward's amounts, smallest first: unit, 2 units, 4 units … The unit is the locked maximum divided by 2ⁿ − 1,
/// rounded down.
pub fn tranche_amounts(params: &RewardParams) -> Vec<Msat> {
    let tranches = params.tranches.min(MAX_TRANCHES);
    let units = (1u64 << tranches) - 1;
    let max = params.pool_msat.share_floor(params.max_share_ppm).msat();
    let unit = max.checked_div(units).unwrap_or(0);
    (0..tranches).map(|bit| Msat::new(unit << bit)).collect()
}

/// The smallest summed gain that is paid, for a batch of `predicted_tokens`: at least `min_gain_per_token` each and
/// more than nothing, and at least `min_gain_of_median_ppm` of the (lower) median of those `gains` that are.
pub fn min_gain(params: &JudgeParams, predicted_tokens: u64, gains: &[Score]) -> Score {
    let gain = u128::from(params.min_gain_per_token) * u128::from(predicted_tokens);
    let absolute = i64::try_from(gain).unwrap_or(i64::MAX).max(1);
    let mut enough: Vec<i64> = gains.iter().map(|gain| gain.0).filter(|gain| *gain >= absolute).collect();
    enough.sort_unstable();
    let median = enough.get(enough.len().saturating_sub(1) / 2).copied().unwrap_or(0);
    let relative = i128::from(median) * i128::from(params.min_gain_of_median_ppm.get()) / 1_000_000;
    // A part of the median, so it fits.
    Score(absolute.max(relative as i64))
}

/// Each accepted gain's share of the pool: `⌊gain · 10⁶ / Σ gains⌋`, at most `max_share_ppm`. Gains are positive.
pub fn shares(params: &RewardParams, gains: &[Score]) -> Vec<Ppm> {
    let total: u128 = gains.iter().map(|gain| positive(*gain)).sum();
    gains
        .iter()
        .map(|gain| {
            let share = (positive(*gain) * 1_000_000).checked_div(total).unwrap_or(0);
            // share ≤ 1,000,000 because each gain is part of the total.
            Ppm::new(share as u32).unwrap_or(Ppm::ONE).min(params.max_share_ppm)
        })
        .collect()
}

fn positive(gain: Score) -> u128 {
    u128::from(gain.0.max(0).unsigned_abs())
}

/// A share of the pool in whole tranches: the bit mask of the tranches to settle, and their sum.
pub fn tranches_for(params: &RewardParams, share: Ppm) -> (u32, Msat) {
    let amounts = tranche_amounts(params);
    let unit = amounts.first().map_or(0, |unit| unit.msat());
    let owed = params.pool_msat.share_floor(share).msat();
    let most = (1u64 << amounts.len()) - 1;
    let units = owed.checked_div(unit).unwrap_or(0).min(most);
    // units < 2¹⁰ and unit · units ≤ owed, so neither narrows nor overflows.
    (units as u32, Msat::new(unit * units))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn params(pool: u64, max_share: u32, tranches: u32) -> RewardParams {
        RewardParams {
            pool_msat: Msat::new(pool),
            max_share_ppm: Ppm::new(max_share).expect("valid"),
            tranches,
            fee_msat: Msat::ZERO,
            hold_blocks: 144,
        }
    }

    #[test]
    fn tranches_are_binary_and_never_exceed_the_maximum() {
        let amounts = tranche_amounts(&params(24_000_000, 500_000, 5));
        let msat: Vec<u64> = amounts.iter().map(|a| a.msat()).collect();
        assert_eq!(msat, [387_096, 774_192, 1_548_384, 3_096_768, 6_193_536]);
        assert!(msat.iter().sum::<u64>() <= 12_000_000);
    }

    #[test]
    fn a_share_settles_the_tranches_that_sum_to_it() {
        let params = params(24_000_000, 500_000, 5);
        let (mask, reward) = tranches_for(&params, Ppm::new(333_333).expect("valid"));
        // 7,999,992 msat are 20 units of 387,096.
        assert_eq!((mask, reward), (20, Msat::new(20 * 387_096)));
        assert_eq!(tranches_for(&params, Ppm::ZERO), (0, Msat::ZERO));
        assert_eq!(tranches_for(&params, Ppm::ONE).0, 31);
    }

    #[test]
    fn noise_beside_honest_work_is_not_paid() {
        let judge = JudgeParams {
            df32_version: 1,
            min_gain_per_token: 10,
            min_gain_of_median_ppm: Ppm::new(100_000).expect("valid"),
            copy_overlap_ppm: Ppm::ONE,
            outer_lr_ppm: Ppm::ONE,
        };
        let gains = |values: &[i64]| values.iter().copied().map(Score).collect::<Vec<_>>();
        // Below 10 a token: not counted, so the median of 5,000, 6,000 and 7,000 decides.
        assert_eq!(min_gain(&judge, 2, &gains(&[7_000, -3, 19, 5_000, 6_000])), Score(600));
        // Noise alone is held to the absolute minimum, and nothing at all is never enough.
        assert_eq!(min_gain(&judge, 2, &gains(&[-5, 3])), Score(20));
        assert_eq!(min_gain(&JudgeParams { min_gain_per_token: 0, ..judge }, 2, &[]), Score(1));
    }

    proptest! {
        #[test]
        fn no_round_pays_more_than_its_pool(
            pool in 0u64..1 << 50,
            max_share in 0u32..=1_000_000,
            tranches in 0u32..=MAX_TRANCHES,
            gains in proptest::collection::vec(0i64..=i64::MAX, 0..20),
        ) {
            let params = params(pool, max_share, tranches);
            let gains: Vec<Score> = gains.into_iter().map(Score).collect();
            let paid: u64 = shares(&params, &gains)
                .into_iter()
                .map(|share| {
                    let (mask, reward) = tranches_for(&params, share);
                    let settled: u64 = tranche_amounts(&params)
                        .iter()
                        .enumerate()
                        .filter(|(bit, _)| mask >> bit & 1 == 1)
                        .map(|(_, amount)| amount.msat())
                        .sum();
                    assert_eq!(settled, reward.msat());
                    settled
                })
                .sum();
            prop_assert!(paid <= pool);
        }
    }
}
