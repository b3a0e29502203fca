//! RoPE's table of angles, from f64 basic operations.

use crate::scalar::{exp64, ln64, sin_cos64};

/// cos and sin of `position · base^(−2i / head_dim)` for i in 0 .. head_dim / 2.
#[derive(Clone, Debug, PartialEq)]
pub struct RopeTable {
    half: usize,
    /// (positions, head_dim / 2)
    cos: Vec<f32>,
    /// (positions, head_dim / 2)
    sin: Vec<f32>,
}

impl RopeTable {
    /// For positions 0 .. `positions` (at most 2²⁰), an even `head_dim` and a base of at least 1.
    pub fn new(positions: usize, head_dim: usize, base: f64) -> Self {
        assert!(positions <= 1 << 20 && head_dim.is_multiple_of(2) && base >= 1.0);
        let half = head_dim / 2;
        let log_base = ln64(base);
        let frequencies: Vec<f64> = (0..half).map(|i| exp64(-(2.0 * i as f64 / head_dim as f64) * log_base)).collect();
        let mut cos = Vec::with_capacity(positions * half);
        let mut sin = Vec::with_capacity(positions * half);
        for position in 0..positions {
            for frequency in &frequencies {
                let (s, c) = sin_cos64(position as f64 * frequency);
                cos.push(c as f32);
                sin.push(s as f32);
            }
        }
        Self { half, cos, sin }
    }

    /// (cos, sin) of a position, head_dim / 2 each.
    pub fn at(&self, position: usize) -> (&[f32], &[f32]) {
        let range = position * self.half..(position + 1) * self.half;
        (&self.cos[range.clone()], &self.sin[range])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn angles_are_right_and_their_bits_stay_what_they_were() {
        let table = RopeTable::new(300, 64, 10_000.0);
        for (position, i) in [(0, 0), (1, 0), (299, 31), (17, 5)] {
            let angle = position as f64 * 10_000f64.powf(-(2.0 * i as f64) / 64.0);
            let (cos, sin) = table.at(position);
            assert!((f64::from(cos[i]) - angle.cos()).abs() < 1e-7);
            assert!((f64::from(sin[i]) - angle.sin()).abs() < 1e-7);
        }
        let all: Vec<f32> = table.cos.iter().chain(&table.sin).copied().collect();
        assert_eq!(crate::tests::hash(&all), 0x1677_268b_1afc_afe4);
    }
}
