//! AdamW over the arena (Loshchilov & Hutter, arXiv 1711.05101), with a linear warm-up and a clip of the gradient's norm.
//!
//! Weight decay touches matrices only: decaying a norm's gain pulls it to zero for nothing.

use std::ops::Range;

use tch::{Device, Kind, Tensor};

use super::TrainError;
use super::state::OptimiserState;
use crate::model::Layout;
use crate::protocol::amount::Ppm;
use crate::protocol::codec::TensorShape;
use crate::protocol::manifest::TrainingParams;

/// Keeps the division finite where a weight has had no gradient yet.
const EPSILON: f64 = 1e-8;

/// The optimiser and its moments.
#[derive(Debug)]
pub(super) struct AdamW {
    learning_rate: f64,
    warmup_steps: u32,
    beta1: f64,
    beta2: f64,
    weight_decay: f64,
    /// `None`: no clip.
    clip_norm: Option<f64>,
    /// Stretches of the arena that decay.
    decayed: Vec<Range<usize>>,
    /// (numel)
    first_moment: Tensor,
    /// (numel)
    second_moment: Tensor,
    steps: u64,
}

impl AdamW {
    /// With moments of zero.
    pub(super) fn new(params: &TrainingParams, layout: &Layout, device: Device) -> Result<Self, TrainError> {
        let fraction = |ppm: Ppm| f64::from(ppm.get()) * 1e-6;
        let zeros = || Tensor::f_zeros([layout.numel as i64], (Kind::Float, device));
        Ok(Self {
            learning_rate: f64::from(params.learning_rate_nano) * 1e-9,
            warmup_steps: params.warmup_steps,
            beta1: fraction(params.beta1_ppm),
            beta2: fraction(params.beta2_ppm),
            weight_decay: fraction(params.weight_decay_ppm),
            clip_norm: (params.clip_norm_micro > 0).then_some(f64::from(params.clip_norm_micro) * 1e-6),
            decayed: matrices(layout),
            first_moment: zeros()?,
            second_moment: zeros()?,
            steps: 0,
        })
    }

    /// Takes over saved moments.
    pub(super) fn load(&mut self, state: &OptimiserState) -> Result<(), TrainError> {
        let _no_grad = tch::no_grad_guard();
        self.first_moment.f_copy_(&Tensor::f_from_slice(&state.first_moment)?)?;
        self.second_moment.f_copy_(&Tensor::f_from_slice(&state.second_moment)?)?;
        self.steps = state.steps;
        Ok(())
    }

    /// The moments, to be saved.
    pub(super) fn save(&self) -> Result<OptimiserState, TrainError> {
        Ok(OptimiserState {
            steps: self.steps,
            first_moment: Vec::try_from(&self.first_moment)?,
            second_moment: Vec::try_from(&self.second_moment)?,
        })
    }

    /// One step on `arena` against `gradient`, both (numel). Returns the gradient's norm before the clip; if it isn't
    /// finite, nothing was changed.
    pub(super) fn step(&mut self, arena: &mut Tensor, gradient: &mut Tensor) -> Result<f64, TrainError> {
        let _no_grad = tch::no_grad_guard();
        let norm = gradient.f_norm()?.f_double_value(&[])?;
        if !norm.is_finite() {
            return Ok(norm);
        }
        if let Some(clip) = self.clip_norm.filter(|clip| norm > *clip) {
            let _ = gradient.f_mul_scalar_(clip / norm)?;
        }
        self.steps += 1;
        let learning_rate = self.current_learning_rate();
        for range in &self.decayed {
            let mut matrix = arena.f_narrow(0, range.start as i64, range.len() as i64)?;
            let _ = matrix.f_mul_scalar_(1.0 - learning_rate * self.weight_decay)?;
        }
        let _ = self.first_moment.f_lerp_(gradient, 1.0 - self.beta1)?;
        let _ = self.second_moment.f_lerp_(&gradient.f_square()?, 1.0 - self.beta2)?;
        let steps = i32::try_from(self.steps).unwrap_or(i32::MAX);
        let (correction1, correction2) = (1.0 - self.beta1.powi(steps), 1.0 - self.beta2.powi(steps));
        let mut scale = self.second_moment.f_sqrt()?;
        let _ = scale.f_mul_scalar_(1.0 / correction2.sqrt())?;
        let _ = scale.f_add_scalar_(EPSILON)?;
        let mut change = self.first_moment.f_div(&scale)?;
        let _ = change.f_mul_scalar_(learning_rate / correction1)?;
        let _ = arena.f_sub_(&change)?;
        Ok(norm)
    }

    /// Rises from zero over the optimiser's first `warmup_steps` steps, wherever in a round they fall: a peer that
    /// joins late warms up too.
    fn current_learning_rate(&self) -> f64 {
        if self.steps >= u64::from(self.warmup_steps) {
            return self.learning_rate;
        }
        self.learning_rate * self.steps as f64 / f64::from(self.warmup_steps)
    }
}

/// The layout's matrices, neighbours joined.
fn matrices(layout: &Layout) -> Vec<Range<usize>> {
    let mut ranges: Vec<Range<usize>> = Vec::new();
    for spec in &layout.tensors {
        match (spec.shape, ranges.last_mut()) {
            (TensorShape::Vector { .. }, _) => {}
            (TensorShape::Matrix { .. }, Some(last)) if last.end == spec.offset => last.end = spec.range().end,
            (TensorShape::Matrix { .. }, _) => ranges.push(spec.range()),
        }
    }
    ranges
}
