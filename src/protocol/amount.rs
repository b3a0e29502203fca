//! Money: integer millisatoshi and integer parts per million. Never a float.

use std::fmt;

use serde::{Deserialize, Serialize};

/// An amount in millisatoshi (1 sat = 1,000 msat).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Msat(u64);

impl Msat {
    /// Nothing.
    pub const ZERO: Msat = Msat(0);

    /// More than will ever exist (21 million bitcoin): a decoder's upper bound.
    pub const MAX_MONEY: Msat = Msat(21_000_000 * 100_000_000 * 1_000);

    /// An amount in millisatoshi.
    pub const fn new(msat: u64) -> Self {
        Msat(msat)
    }

    /// An amount in whole satoshi; `None` past `u64`.
    pub const fn from_sat(sat: u64) -> Option<Self> {
        match sat.checked_mul(1_000) {
            Some(msat) => Some(Msat(msat)),
            None => None,
        }
    }

    /// The amount in millisatoshi.
    pub const fn msat(self) -> u64 {
        self.0
    }

    /// The amount in whole satoshi, rounded down.
    pub const fn sat_floor(self) -> u64 {
        self.0 / 1_000
    }

    /// `self + other`; `None` on overflow.
    pub const fn checked_add(self, other: Msat) -> Option<Msat> {
        match self.0.checked_add(other.0) {
            Some(msat) => Some(Msat(msat)),
            None => None,
        }
    }

    /// `self − other`; `None` below zero.
    pub const fn checked_sub(self, other: Msat) -> Option<Msat> {
        match self.0.checked_sub(other.0) {
            Some(msat) => Some(Msat(msat)),
            None => None,
        }
    }

    /// `self × factor`; `None` on overflow.
    pub const fn checked_mul(self, factor: u64) -> Option<Msat> {
        match self.0.checked_mul(factor) {
            Some(msat) => Some(Msat(msat)),
            None => None,
        }
    }

    /// `⌊self × share⌋`, computed in 128 bits, so it can't overflow.
    pub fn share_floor(self, share: Ppm) -> Msat {
        let product = u128::from(self.0) * u128::from(share.get());
        // share ≤ 1,000,000, so the quotient is at most self.0 and fits.
        Msat((product / u128::from(Ppm::ONE.get())) as u64)
    }

    /// The sum; `None` on overflow.
    pub fn checked_sum(amounts: impl IntoIterator<Item = Msat>) -> Option<Msat> {
        amounts.into_iter().try_fold(Msat::ZERO, Msat::checked_add)
    }
}

impl fmt::Display for Msat {
    /// Satoshi with three decimals where there are any: `12 sat`, `0.5 sat`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (sat, rest) = (self.0 / 1_000, self.0 % 1_000);
        if rest == 0 {
            write!(f, "{sat} sat")
        } else {
            let decimals = format!("{rest:03}");
            write!(f, "{sat}.{} sat", decimals.trim_end_matches('0'))
        }
    }
}

/// Parts per million, 0 ..= 1,000,000.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(transparent)]
pub struct Ppm(u32);

impl Ppm {
    /// Nothing.
    pub const ZERO: Ppm = Ppm(0);
    /// The whole.
    pub const ONE: Ppm = Ppm(1_000_000);

    /// `None` above 1,000,000.
    pub const fn new(ppm: u32) -> Option<Self> {
        if ppm <= 1_000_000 { Some(Ppm(ppm)) } else { None }
    }

    /// The number of parts.
    pub const fn get(self) -> u32 {
        self.0
    }

    /// `⌊part × 10⁶ / whole⌋`, at most 1,000,000; zero when `whole` is zero.
    pub fn ratio_floor(part: u64, whole: u64) -> Ppm {
        if whole == 0 {
            return Ppm::ZERO;
        }
        let ratio = u128::from(part) * 1_000_000 / u128::from(whole);
        Ppm(ratio.min(1_000_000) as u32)
    }
}

impl<'de> Deserialize<'de> for Ppm {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let ppm = u32::deserialize(deserializer)?;
        Ppm::new(ppm).ok_or_else(|| serde::de::Error::custom(format!("{ppm} is more than 1,000,000 parts per million")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_round_down_and_never_exceed_the_whole() {
        let pool = Msat::new(1_000_001);
        assert_eq!(pool.share_floor(Ppm::new(333_333).expect("valid")), Msat::new(333_333));
        assert_eq!(Msat::new(u64::MAX).share_floor(Ppm::ONE), Msat::new(u64::MAX));
        assert_eq!(Ppm::ratio_floor(1, 3).get(), 333_333);
        assert_eq!(Ppm::ratio_floor(5, 3), Ppm::ONE);
        assert_eq!(Ppm::ratio_floor(5, 0), Ppm::ZERO);
    }

    #[test]
    fn amounts_print_in_satoshi() {
        assert_eq!(Msat::new(12_000).to_string(), "12 sat");
        assert_eq!(Msat::new(1_050).to_string(), "1.05 sat");
    }

    #[test]
    fn too_many_parts_are_refused() {
        assert!(serde_json::from_str::<Ppm>("1000001").is_err());
        assert_eq!(serde_json::from_str::<Ppm>("1000000").expect("valid"), Ppm::ONE);
    }
}
