//! Gradients of a batch's loss: from the whole graph at once, or block by block with each block's activations computed a
//! second time when they are needed (Chen et al., arXiv 1604.06174).
//!
//! libtorch's C interface starts every backward pass at a scalar. A block's is ⟨output, upstream⟩, whose gradient is that
//! of the block for the upstream gradient, with no rounding of its own.

use tch::Tensor;

use super::TrainError;
use super::inner::Activations;
use super::llama::{Batch, Llama, Rope};

/// Most logits that exist at a time where activations are computed again: 64 MiB of f32.
const MAX_LOGITS: i64 = 1 << 24;

/// A batch's mean loss in nats a token, and `weight` times its gradient by each parameter.
pub(super) fn gradients(
    model: &Llama,
    batch: &Batch,
    rope: &Rope,
    weight: f64,
    activations: Activations,
) -> Result<(f64, Vec<Tensor>), TrainError> {
    match activations {
        Activations::Keep => {
            let loss = model.loss(batch, rope)?;
            let gradients = Tensor::f_run_backward(&[weighted(&loss, weight)?], model.parameters(), false, false)?;
            Ok((loss.f_double_value(&[])?, gradients))
        }
        Activations::Recompute => Blockwise::new(model).run(batch, rope, weight),
    }
}

fn weighted(loss: &Tensor, weight: f64) -> Result<Tensor, TrainError> {
    if weight.to_bits() == 1.0_f64.to_bits() { Ok(loss.shallow_clone()) } else { Ok(loss.f_mul_scalar(weight)?) }
}

/// Keeps one residual stream a block and the activations of one block at a time.
struct Blockwise<'a> {
    model: &'a Llama,
    gradients: Vec<Option<Tensor>>,
}

impl<'a> Blockwise<'a> {
    fn new(model: &'a Llama) -> Self {
        Self { model, gradients: model.parameters().iter().map(|_| None).collect() }
    }

    fn run(mut self, batch: &Batch, rope: &Rope, weight: f64) -> Result<(f64, Vec<Tensor>), TrainError> {
        let mut streams = self.forward(batch, rope)?;
        let (embedding, _) = self.model.outer_parameters();
        let Some(last) = streams.pop() else { return Err(TrainError::Settings("the model has no blocks".into())) };
        let (loss, mut upstream) = self.head(&last, &batch.expected, weight)?;
        drop(last);
        for (layer, stream) in streams.into_iter().enumerate().rev() {
            let stream = stream.f_detach()?.f_set_requires_grad(true)?;
            let output = self.model.block(layer, &stream, rope)?;
            upstream =
                self.back(&output, &upstream, Some(&stream), self.model.block_parameters(layer))?.unwrap_or(upstream);
        }
        self.back(&self.model.embed(&batch.read)?, &upstream, None, &[embedding])?;
        let complete = self.gradients.into_iter().zip(self.model.parameters());
        let gradients = complete.map(|(gradient, parameter)| {
            Ok(match gradient {
                Some(gradient) => gradient,
                None => parameter.f_zeros_like()?,
            })
        });
        Ok((loss, gradients.collect::<Result<_, TrainError>>()?))
    }

    /// The residual stream before each block, and after the last.
    fn forward(&self, batch: &Batch, rope: &Rope) -> Result<Vec<Tensor>, TrainError> {
        let _no_grad = tch::no_grad_guard();
        let mut streams = vec![self.model.embed(&batch.read)?];
        for layer in 0..self.model.layers() {
            streams.push(self.model.block(layer, &streams[layer], rope)?);
        }
        Ok(streams)
    }

    /// The loss, some rows at a time, and its gradient by the stream after the last block.
    fn head(&mut self, last: &Tensor, expected: &Tensor, weight: f64) -> Result<(f64, Tensor), TrainError> {
        let (_, parameters) = self.model.outer_parameters();
        let vocabulary = self.model.parameters()[parameters[1]].size()[0];
        let rows = last.f_reshape([-1, last.size()[2]])?;
        let (count, most) = (rows.size()[0], (MAX_LOGITS / vocabulary).max(1));
        let mut loss = 0.0;
        let mut upstream = Vec::new();
        for first in (0..count).step_by(most as usize) {
            let taken = most.min(count - first);
            let share = taken as f64 / count as f64;
            let stream = rows.f_narrow(0, first, taken)?.f_detach()?.f_set_requires_grad(true)?;
            let mean = self.model.loss_after_blocks(&stream, &expected.f_narrow(0, first, taken)?)?;
            upstream.extend(self.keep(&weighted(&mean, weight * share)?, Some(&stream), &parameters)?);
            loss += mean.f_double_value(&[])? * share;
        }
        Ok((loss, Tensor::f_cat(&upstream, 0)?.f_view_as(last)?))
    }

    /// Carries a gradient back over one part of the model; returns the one by `input`.
    fn back(
        &mut self,
        output: &Tensor,
        upstream: &Tensor,
        input: Option<&Tensor>,
        parameters: &[usize],
    ) -> Result<Option<Tensor>, TrainError> {
        let root = output.f_reshape([-1])?.f_dot(&upstream.f_reshape([-1])?)?;
        self.keep(&root, input, parameters)
    }

    /// Adds the parameters' gradients to those so far, and returns the one by `input`.
    fn keep(
        &mut self,
        root: &Tensor,
        input: Option<&Tensor>,
        parameters: &[usize],
    ) -> Result<Option<Tensor>, TrainError> {
        let leaves: Vec<&Tensor> =
            input.into_iter().chain(parameters.iter().map(|place| &self.model.parameters()[*place])).collect();
        let mut gradients = Tensor::f_run_backward(&[root], &leaves, false, false)?.into_iter();
        let by_input = if input.is_some() { gradients.next() } else { None };
        for (place, gradient) in parameters.iter().zip(gradients) {
            let kept = &mut self.gradients[*place];
            *kept = Some(match kept.take() {
                Some(mut sum) => sum.f_add_(&gradient)?,
                None => gradient,
            });
        }
        Ok(by_input)
    }
}
