//! RoPE's table of angles, from f64 basic operations.

use crate::scalar::{exp64, ln64, sin_cos64};

/// How a model's frequencies are stretched, so that it reads more than it was first trained on. All f32 fields are finite
/// and at least 1.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub enum RopeScaling {
    /// Not at all.
    #[default]
    None,
    /// Every frequency divided by `factor`.
    Linear {
        /// How many times as long.
        factor: f32,
    },
    /// Llama 3's: low frequencies divided by `factor`, high ones left, those between blended.
    Llama3 {
        /// How many times as long.
        factor: f32,
        /// Frequencies that turn fewer times than this over the first training's length are low.
        low_freq_factor: f32,
        /// Frequencies that turn more often than this are high; larger than `low_freq_factor`.
        high_freq_factor: f32,
        /// The length of the first training, in tokens.
        original_positions: u32,
    },
}

impl RopeScaling {
    fn scaled(self, frequency: f64) -> f64 {
        match self {
            RopeScaling::None => frequency,
            RopeScaling::Linear { factor } => frequency / f64::from(factor),
            RopeScaling::Llama3 { factor, low_freq_factor, high_freq_factor, original_positions } => {
                let (low, high) = (f64::from(low_freq_factor), f64::from(high_freq_factor));
                let turns = f64::from(original_positions) * frequency / std::f64::consts::TAU;
                let stretched = frequency / f64::from(factor);
                if turns > high {
                    frequency
                } else if turns < low {
                    stretched
                } else {
                    let share = (turns - low) / (high - low);
                    (1.0 - share) * stretched + share * frequency
                }
            }
        }
    }
}

/// Radians a position: `base^(−2i / head_dim)`, scaled, for i in 0 .. head_dim / 2. f64 basic operations only: the same bits
/// everywhere. `base` is at least 1.
pub fn frequencies(head_dim: usize, base: f64, scaling: RopeScaling) -> Vec<f64> {
    assert!(head_dim.is_multiple_of(2) && base >= 1.0);
    let log_base = ln64(base);
    let plain = (0..head_dim / 2).map(|i| exp64(-(2.0 * i as f64 / head_dim as f64) * log_base));
    plain.map(|frequency| scaling.scaled(frequency)).collect()
}

/// cos and sin of `position · frequency` for each of [`frequencies`].
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
    pub fn new(positions: usize, head_dim: usize, base: f64, scaling: RopeScaling) -> Self {
        assert!(positions <= 1 << 20);
        let half = head_dim / 2;
        let frequencies = frequencies(head_dim, base, scaling);
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
        let table = RopeTable::new(300, 64, 10_000.0, RopeScaling::None);
        for (position, i) in [(0, 0), (1, 0), (299, 31), (17, 5)] {
            let angle = position as f64 * 10_000f64.powf(-(2.0 * i as f64) / 64.0);
            let (cos, sin) = table.at(position);
            assert!((f64::from(cos[i]) - angle.cos()).abs() < 1e-7);
            assert!((f64::from(sin[i]) - angle.sin()).abs() < 1e-7);
        }
        let all: Vec<f32> = table.cos.iter().chain(&table.sin).copied().collect();
        assert_eq!(crate::tests::hash(&all), 0x1677_268b_1afc_afe4);
    }

    #[test]
    fn scaled_frequencies_are_those_of_transformers() {
        // inv_freq as transformers' ROPE_INIT_FUNCTIONS give it for head_dim 16, in f32.
        let linear = RopeScaling::Linear { factor: 4.0 };
        let llama3 =
            RopeScaling::Llama3 { factor: 8.0, low_freq_factor: 1.0, high_freq_factor: 4.0, original_positions: 256 };
        let of_linear = [
            0.25,
            0.079056941,
            0.0250000004,
            0.00790569466,
            0.00249999994,
            0.000790569466,
            0.000250000012,
            7.90569466e-05,
        ];
        let of_llama3 = [
            1.0,
            0.193922758,
            0.0105382307,
            0.000911583134,
            0.000176776681,
            3.42810235e-05,
            6.64786967e-06,
            1.28917316e-06,
        ];
        let expected = [(10_000.0, linear, of_linear), (500_000.0, llama3, of_llama3)];
        for (base, scaling, expected) in expected {
            for (found, expected) in frequencies(16, base, scaling).iter().zip(expected) {
                assert!((found / expected - 1.0).abs() < 1e-6, "{scaling:?}: {found}, transformers {expected}");
            }
        }
    }

    #[test]
    fn the_bits_of_scaled_tables_stay_what_they_were() {
        let llama3 =
            RopeScaling::Llama3 { factor: 8.0, low_freq_factor: 1.0, high_freq_factor: 4.0, original_positions: 64 };
        let tables = [RopeScaling::Linear { factor: 2.5 }, llama3].map(|s| RopeTable::new(300, 64, 10_000.0, s));
        let all: Vec<f32> = tables.iter().flat_map(|table| table.cos.iter().chain(&table.sin)).copied().collect();
        assert_eq!(crate::tests::hash(&all), 0x34e6_3f4c_6f81_2115);
    }
}
