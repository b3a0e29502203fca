//! Scores: decimal numbers as integers, with as many decimals as the bounty declares. Never a float.

use std::fmt;

use serde::{Deserialize, Deserializer, Serialize};

/// The most of a score's units, either way: differences of two scores, times any amount of money, fit 128 bits.
pub const MAX_UNITS: i64 = 1_000_000_000_000_000;

/// How many decimals a bounty's scores have, 0 ..= 9: one unit is 10⁻ᵈ.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct Decimals(u8);

impl Decimals {
    /// The most.
    pub const MAX: Decimals = Decimals(9);

    /// `None` above 9.
    pub const fn new(decimals: u8) -> Option<Self> {
        if decimals <= Self::MAX.0 { Some(Self(decimals)) } else { None }
    }

    /// How many.
    pub const fn get(self) -> u8 {
        self.0
    }

    /// The units of 1: 10ᵈ.
    pub const fn one(self) -> u64 {
        10u64.pow(self.0 as u32)
    }
}

impl<'de> Deserialize<'de> for Decimals {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let decimals = u8::deserialize(deserializer)?;
        Decimals::new(decimals).ok_or_else(|| serde::de::Error::custom(format!("{decimals} decimals are more than 9")))
    }
}

/// Why a text is not a score.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ScoreError {
    /// Not digits, with at most one point among them and a minus before them.
    #[error("{0:?} is not a decimal number such as 0.25, -3 or 18072")]
    NotANumber(String),
    /// More decimals than the bounty declares.
    #[error("{0:?} has more than the declared {decimals} decimals: print it with {decimals}", decimals = .1.get())]
    TooPrecise(String, Decimals),
    /// More than [`MAX_UNITS`].
    #[error("{0:?} is too large: a score has at most 10^15 units of its last decimal")]
    TooLarge(String),
}

/// A score in units of its bounty's last decimal, within ±[`MAX_UNITS`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(transparent)]
pub struct Score(i64);

impl Score {
    /// `None` beyond ±[`MAX_UNITS`].
    pub const fn from_units(units: i64) -> Option<Self> {
        if units >= -MAX_UNITS && units <= MAX_UNITS { Some(Self(units)) } else { None }
    }

    /// In units.
    pub const fn units(self) -> i64 {
        self.0
    }

    /// Reads `-?digits[.digits]` with at most `decimals` digits behind the point: no exponent, sign `+`, blank, or
    /// leading zero, so that what a scorer meant is never guessed.
    pub fn parse(text: &str, decimals: Decimals) -> Result<Self, ScoreError> {
        let quoted = || text.chars().take(40).collect::<String>();
        let not_a_number = || ScoreError::NotANumber(quoted());
        let (negative, digits) = text.strip_prefix('-').map_or((false, text), |rest| (true, rest));
        let (whole, fraction) = match digits.split_once('.') {
            Some((whole, fraction)) if !fraction.is_empty() => (whole, fraction),
            Some(_) => return Err(not_a_number()),
            None => (digits, ""),
        };
        let is_digits = |part: &str| part.bytes().all(|byte| byte.is_ascii_digit());
        let leading_zero = whole.len() > 1 && whole.starts_with('0');
        if whole.is_empty() || leading_zero || !is_digits(whole) || !is_digits(fraction) {
            return Err(not_a_number());
        }
        if fraction.len() > usize::from(decimals.get()) {
            return Err(ScoreError::TooPrecise(quoted(), decimals));
        }
        let padding = std::iter::repeat_n(b'0', usize::from(decimals.get()) - fraction.len());
        let units = whole.bytes().chain(fraction.bytes()).chain(padding).try_fold(0i64, |units, digit| {
            units.checked_mul(10)?.checked_add(i64::from(digit - b'0')).filter(|units| *units <= MAX_UNITS)
        });
        let units = units.ok_or_else(|| ScoreError::TooLarge(quoted()))?;
        Ok(Self(if negative { -units } else { units }))
    }

    /// As [`Score::parse`] reads it, with every decimal.
    pub const fn shown(self, decimals: Decimals) -> Shown {
        Shown(self, decimals)
    }
}

impl<'de> Deserialize<'de> for Score {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let units = i64::deserialize(deserializer)?;
        Score::from_units(units).ok_or_else(|| serde::de::Error::custom(format!("{units} units are beyond 10^15")))
    }
}

/// A score and how to write it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shown(Score, Decimals);

impl fmt::Display for Shown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Shown(score, decimals) = *self;
        let sign = if score.0 < 0 { "-" } else { "" };
        let (whole, rest) = (score.0.unsigned_abs() / decimals.one(), score.0.unsigned_abs() % decimals.one());
        match usize::from(decimals.get()) {
            0 => write!(f, "{sign}{whole}"),
            width => write!(f, "{sign}{whole}.{rest:0width$}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn decimals(decimals: u8) -> Decimals {
        Decimals::new(decimals).expect("few")
    }

    #[test]
    fn scores_are_read_in_units_of_the_last_decimal() {
        let four = |text| Score::parse(text, decimals(4)).map(Score::units);
        assert_eq!(four("0.8719"), Ok(8_719));
        assert_eq!(four("0.9"), Ok(9_000));
        assert_eq!(four("-12"), Ok(-120_000));
        assert_eq!(Score::parse("18072", decimals(0)).map(Score::units), Ok(18_072));
    }

    #[test]
    fn what_is_not_plainly_a_number_is_no_score() {
        let nonsense = [
            "", "-", "nan", "NaN", "inf", "1e5", "+1", " 1", "1 ", "1.", ".5", "01", "1.2.3", "0x10", "٣", "--1", "1,5",
        ];
        for text in nonsense {
            assert_eq!(Score::parse(text, decimals(4)), Err(ScoreError::NotANumber(text.into())), "{text:?}");
        }
        assert_eq!(Score::parse("0.12345", decimals(4)), Err(ScoreError::TooPrecise("0.12345".into(), decimals(4))));
        assert_eq!(Score::parse("1.0", decimals(0)), Err(ScoreError::TooPrecise("1.0".into(), decimals(0))));
        let large = "1000000.000000001";
        assert_eq!(Score::parse(large, decimals(9)), Err(ScoreError::TooLarge(large.into())));
        assert!(Score::parse("1000000", decimals(9)).is_ok());
        assert!(matches!(Score::parse(&"9".repeat(10_000), decimals(0)), Err(ScoreError::TooLarge(_))));
    }

    #[test]
    fn no_statement_carries_a_score_or_decimals_out_of_range() {
        assert!(serde_json::from_str::<Score>("1000000000000001").is_err());
        assert!(serde_json::from_str::<Score>("0.5").is_err());
        assert!(serde_json::from_str::<Decimals>("10").is_err());
    }

    proptest! {
        #[test]
        fn what_is_shown_is_read_back(units in -MAX_UNITS..=MAX_UNITS, places in 0u8..=9) {
            let score = Score::from_units(units).expect("in range");
            prop_assert_eq!(Score::parse(&score.shown(decimals(places)).to_string(), decimals(places)), Ok(score));
        }
    }
}
