//! AdamW over the arena (Loshchilov & Hutter, arXiv 1711.05101), with a linear warm-up and a clip of the gradient's norm.
//!
//! On the CPU one pass over memory for the norm and one for the step, the same bits with any number of threads; on a GPU
//! libtorch's operations. Weight decay touches matrices only: decaying a norm's gain pulls it to zero for nothing.

use std::num::NonZeroUsize;
use std::thread;

use tch::{Device, Kind, Tensor};

use super::TrainError;
use super::state::OptimiserState;
use crate::model::{Layout, TensorSpec};
use crate::protocol::amount::Ppm;
use crate::protocol::codec::TensorShape;
use crate::protocol::manifest::TrainingParams;
use crate::sys;

/// Keeps the division finite where a weight has had no gradient yet.
const EPSILON: f64 = 1e-8;
/// Values that a thread takes at a time, and whose squares are added up before the rest: a constant, so that the norm's
/// bits don't depend on the threads.
const PIECE: usize = 1 << 14;
/// Sums that run side by side within a piece, for the processor's vector units.
const LANES: usize = 16;

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
    moments: Moments,
    steps: u64,
}

/// Running means of the gradient and of its square, (numel) each.
#[derive(Debug)]
enum Moments {
    /// In this process's memory.
    Host { first: Vec<f32>, second: Vec<f32> },
    /// On a GPU.
    Device { first: Tensor, second: Tensor },
}

/// What one step does to every value.
#[derive(Clone, Copy, Debug)]
struct Step {
    /// What the gradient is multiplied by first.
    clip: f64,
    /// What decayed weights keep.
    keep: f64,
    /// The learning rate over the first moment's bias correction.
    rate: f64,
    /// One over the square root of the second moment's bias correction.
    scale: f64,
    beta1: f64,
    beta2: f64,
}

impl AdamW {
    /// With moments of zero.
    pub(super) fn new(params: &TrainingParams, layout: &Layout, device: Device) -> Result<Self, TrainError> {
        let fraction = |ppm: Ppm| f64::from(ppm.get()) * 1e-6;
        let zeros = || Tensor::f_zeros([layout.numel as i64], (Kind::Float, device));
        let moments = match device {
            Device::Cpu => Moments::Host { first: vec![0.0; layout.numel], second: vec![0.0; layout.numel] },
            Device::Cuda(_) | Device::Mps | Device::Vulkan => Moments::Device { first: zeros()?, second: zeros()? },
        };
        Ok(Self {
            learning_rate: f64::from(params.learning_rate_nano) * 1e-9,
            warmup_steps: params.warmup_steps,
            beta1: fraction(params.beta1_ppm),
            beta2: fraction(params.beta2_ppm),
            weight_decay: fraction(params.weight_decay_ppm),
            clip_norm: (params.clip_norm_micro > 0).then_some(f64::from(params.clip_norm_micro) * 1e-6),
            moments,
            steps: 0,
        })
    }

    /// Takes over saved moments, (numel) each.
    pub(super) fn load(&mut self, state: &OptimiserState) -> Result<(), TrainError> {
        let _no_grad = tch::no_grad_guard();
        match &mut self.moments {
            Moments::Host { first, second } => {
                first.copy_from_slice(&state.first_moment);
                second.copy_from_slice(&state.second_moment);
            }
            Moments::Device { first, second } => {
                first.f_copy_(&Tensor::f_from_slice(&state.first_moment)?)?;
                second.f_copy_(&Tensor::f_from_slice(&state.second_moment)?)?;
            }
        }
        self.steps = state.steps;
        Ok(())
    }

    /// The moments, to be saved.
    pub(super) fn save(&self) -> Result<OptimiserState, TrainError> {
        let (first_moment, second_moment) = match &self.moments {
            Moments::Host { first, second } => (first.clone(), second.clone()),
            Moments::Device { first, second } => (Vec::try_from(first)?, Vec::try_from(second)?),
        };
        Ok(OptimiserState { steps: self.steps, first_moment, second_moment })
    }

    /// One step on `arena` (numel) against a gradient for each of the layout's tensors. Returns the gradient's norm before
    /// the clip; if it isn't finite, nothing was changed.
    pub(super) fn step(
        &mut self,
        arena: &mut Tensor,
        gradients: Vec<Tensor>,
        layout: &Layout,
    ) -> Result<f64, TrainError> {
        let _no_grad = tch::no_grad_guard();
        let gradients: Vec<Tensor> = gradients
            .iter()
            .map(|gradient| gradient.f_to_kind(Kind::Float)?.f_contiguous())
            .collect::<Result<_, _>>()?;
        let threads = usize::try_from(tch::get_num_threads()).ok().and_then(NonZeroUsize::new);
        let threads = threads.unwrap_or(NonZeroUsize::MIN);
        let norm = match &self.moments {
            Moments::Host { .. } => sum_of_squares(&floats(&gradients)?, threads).sqrt(),
            Moments::Device { .. } => device_norm(&gradients)?,
        };
        if !norm.is_finite() {
            return Ok(norm);
        }
        self.steps += 1;
        let step = self.coefficients(norm);
        match &mut self.moments {
            Moments::Host { first, second } => {
                let weights = sys::tensor_floats_mut(arena).ok_or_else(not_plain)?;
                let pieces = pieces(layout, weights, first, second, &floats(&gradients)?);
                in_threads(threads, pieces, |piece| piece.update(&step));
            }
            Moments::Device { first, second } => device_step(arena, first, second, &gradients, layout, &step)?,
        }
        Ok(norm)
    }

    fn coefficients(&self, norm: f64) -> Step {
        let steps = i32::try_from(self.steps).unwrap_or(i32::MAX);
        let learning_rate = self.current_learning_rate();
        Step {
            clip: self.clip_norm.filter(|clip| norm > *clip).map_or(1.0, |clip| clip / norm),
            keep: 1.0 - learning_rate * self.weight_decay,
            rate: learning_rate / (1.0 - self.beta1.powi(steps)),
            scale: 1.0 / (1.0 - self.beta2.powi(steps)).sqrt(),
            beta1: self.beta1,
            beta2: self.beta2,
        }
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

fn not_plain() -> TrainError {
    TrainError::Torch("a tensor is not plain f32 in the CPU's memory".into())
}

fn floats(gradients: &[Tensor]) -> Result<Vec<&[f32]>, TrainError> {
    gradients.iter().map(|gradient| sys::tensor_floats(gradient).ok_or_else(not_plain)).collect()
}

/// Some values of one tensor, with everything that a step reads and writes of them.
struct Piece<'a> {
    weights: &'a mut [f32],
    first: &'a mut [f32],
    second: &'a mut [f32],
    gradient: &'a [f32],
    decays: bool,
}

impl Piece<'_> {
    /// θ ← keep·θ − rate·m / (scale·√v + ε), after m and v have taken in the gradient.
    fn update(&mut self, step: &Step) {
        let keep = if self.decays { step.keep as f32 } else { 1.0 };
        let (clip, rate, scale) = (step.clip as f32, step.rate as f32, step.scale as f32);
        let (into_first, into_second) = ((1.0 - step.beta1) as f32, (1.0 - step.beta2) as f32);
        let moments = self.first.iter_mut().zip(&mut *self.second);
        for ((weight, (first, second)), gradient) in self.weights.iter_mut().zip(moments).zip(self.gradient) {
            let gradient = gradient * clip;
            *first += into_first * (gradient - *first);
            *second += into_second * (gradient * gradient - *second);
            *weight = *weight * keep - rate * *first / (scale * second.sqrt() + EPSILON as f32);
        }
    }
}

/// Cuts the arena, both moments and the gradients into pieces that lie within one tensor.
fn pieces<'a>(
    layout: &Layout,
    mut weights: &'a mut [f32],
    mut first: &'a mut [f32],
    mut second: &'a mut [f32],
    gradients: &[&'a [f32]],
) -> Vec<Piece<'a>> {
    let mut pieces = Vec::with_capacity(layout.numel / PIECE + layout.tensors.len());
    for (spec, gradient) in layout.tensors.iter().zip(gradients) {
        for gradient in gradient.chunks(PIECE) {
            let (of_weights, of_first, of_second);
            (of_weights, weights) = weights.split_at_mut(gradient.len());
            (of_first, first) = first.split_at_mut(gradient.len());
            (of_second, second) = second.split_at_mut(gradient.len());
            pieces.push(Piece {
                weights: of_weights,
                first: of_first,
                second: of_second,
                gradient,
                decays: is_matrix(spec),
            });
        }
    }
    pieces
}

fn is_matrix(spec: &TensorSpec) -> bool {
    match spec.shape {
        TensorShape::Matrix { .. } => true,
        TensorShape::Vector { .. } => false,
    }
}

/// Lets each thread work on a run of neighbouring items.
fn in_threads<T: Send>(threads: NonZeroUsize, mut items: Vec<T>, work: impl Fn(&mut T) + Sync) {
    let share = items.len().div_ceil(threads.get()).max(1);
    let work = &work;
    thread::scope(|scope| {
        let mut shares = items.chunks_mut(share);
        let own = shares.next();
        for share in shares {
            scope.spawn(move || share.iter_mut().for_each(work));
        }
        own.into_iter().flatten().for_each(work);
    });
}

/// In f64, piece by piece.
fn sum_of_squares(gradients: &[&[f32]], threads: NonZeroUsize) -> f64 {
    let pieces: Vec<&[f32]> = gradients.iter().flat_map(|gradient| gradient.chunks(PIECE)).collect();
    let mut sums = vec![0.0_f64; pieces.len()];
    let items: Vec<(&[f32], &mut f64)> = pieces.into_iter().zip(&mut sums).collect();
    in_threads(threads, items, |(piece, sum)| {
        let mut lanes = [0.0_f32; LANES];
        let chunks = piece.chunks_exact(LANES);
        let rest: f32 = chunks.remainder().iter().map(|value| value * value).sum();
        for chunk in chunks {
            lanes.iter_mut().zip(chunk).for_each(|(lane, value)| *lane += value * value);
        }
        **sum = lanes.iter().map(|lane| f64::from(*lane)).sum::<f64>() + f64::from(rest);
    });
    sums.iter().sum()
}

/// As libtorch's clip_grad_norm_: the norm of the tensors' norms.
fn device_norm(gradients: &[Tensor]) -> Result<f64, TrainError> {
    let norms: Vec<Tensor> = gradients.iter().map(Tensor::f_norm).collect::<Result<_, _>>()?;
    Ok(Tensor::f_stack(&norms, 0)?.f_norm()?.f_double_value(&[])?)
}

fn device_step(
    arena: &mut Tensor,
    first: &mut Tensor,
    second: &mut Tensor,
    gradients: &[Tensor],
    layout: &Layout,
    step: &Step,
) -> Result<(), TrainError> {
    let flat: Vec<Tensor> = gradients.iter().map(|gradient| gradient.f_view([-1])).collect::<Result<_, _>>()?;
    let mut gradient = Tensor::f_cat(&flat, 0)?;
    let _ = gradient.f_mul_scalar_(step.clip)?;
    for spec in layout.tensors.iter().filter(|spec| is_matrix(spec)) {
        let mut matrix = arena.f_narrow(0, spec.offset as i64, spec.numel() as i64)?;
        let _ = matrix.f_mul_scalar_(step.keep)?;
    }
    let _ = first.f_lerp_(&gradient, 1.0 - step.beta1)?;
    let _ = second.f_lerp_(&gradient.f_square()?, 1.0 - step.beta2)?;
    let mut scale = second.f_sqrt()?;
    let _ = scale.f_mul_scalar_(step.scale)?;
    let _ = scale.f_add_scalar_(EPSILON)?;
    let mut change = first.f_div(&scale)?;
    let _ = change.f_mul_scalar_(step.rate)?;
    let _ = arena.f_sub_(&change)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::LlamaConfig;

    fn layout() -> Layout {
        let config = LlamaConfig::from_json(include_bytes!("../../tests/small-model.json")).expect("a model");
        config.layout()
    }

    fn noise(seed: u8, count: usize) -> Vec<f32> {
        let mut bytes = vec![0; 2 * count];
        blake3::Hasher::new().update(&[seed]).finalize_xof().fill(&mut bytes);
        bytes.chunks_exact(2).map(|b| f32::from(i16::from_le_bytes([b[0], b[1]])) / 3e4).collect()
    }

    /// Three steps' worth of moments and weights.
    fn stepped(layout: &Layout, threads: NonZeroUsize) -> (f64, [Vec<f32>; 3]) {
        let step = Step { clip: 0.5, keep: 0.999, rate: 0.01, scale: 1.5, beta1: 0.9, beta2: 0.95 };
        let [mut weights, mut first, mut second] =
            [noise(1, layout.numel), vec![0.0; layout.numel], vec![0.0; layout.numel]];
        let mut norm = 0.0;
        for seed in 2..5 {
            let gradient = noise(seed, layout.numel);
            let gradients: Vec<&[f32]> = layout.tensors.iter().map(|spec| &gradient[spec.range()]).collect();
            norm += sum_of_squares(&gradients, threads);
            let pieces = pieces(layout, &mut weights, &mut first, &mut second, &gradients);
            in_threads(threads, pieces, |piece| piece.update(&step));
        }
        (norm, [weights, first, second])
    }

    #[test]
    fn the_step_has_the_same_bits_with_any_number_of_threads() {
        let layout = layout();
        let bits = |values: &[Vec<f32>; 3]| values.concat().iter().map(|v| v.to_bits()).collect::<Vec<u32>>();
        let (norm, alone) = stepped(&layout, NonZeroUsize::MIN);
        for threads in 2..6 {
            let (of_many, many) = stepped(&layout, NonZeroUsize::new(threads).expect("not zero"));
            assert_eq!(norm.to_bits(), of_many.to_bits(), "{threads} threads");
            assert!(bits(&alone) == bits(&many), "{threads} threads");
        }
    }

    #[test]
    fn the_step_is_the_one_of_the_paper_in_f64() {
        let layout = layout();
        let (norm, [weights, first, second]) = stepped(&layout, NonZeroUsize::MIN);
        let [mut w, mut m, mut v] = [noise(1, layout.numel), vec![0.0; layout.numel], vec![0.0; layout.numel]]
            .map(|values| values.into_iter().map(f64::from).collect::<Vec<f64>>());
        let mut squares = 0.0;
        for seed in 2..5 {
            let gradient = noise(seed, layout.numel);
            for spec in &layout.tensors {
                let keep = if is_matrix(spec) { 0.999 } else { 1.0 };
                for place in spec.range() {
                    let g = f64::from(gradient[place]);
                    squares += g * g;
                    let g = 0.5 * g;
                    m[place] = 0.9 * m[place] + 0.1 * g;
                    v[place] = 0.95 * v[place] + 0.05 * g * g;
                    w[place] = w[place] * keep - 0.01 * m[place] / (1.5 * v[place].sqrt() + EPSILON);
                }
            }
        }
        assert!((norm / squares - 1.0).abs() < 1e-6, "{norm}, expected {squares}");
        for (what, got, expected) in [("weight", weights, w), ("m", first, m), ("v", second, v)] {
            for (place, (got, expected)) in got.iter().zip(&expected).enumerate() {
                assert!((f64::from(*got) - expected).abs() < 1e-5, "{what} {place}: {got}, expected {expected}");
            }
        }
    }
}
