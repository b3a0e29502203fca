//! A Llama in libtorch, fp32, written as one writes it in PyTorch: what the judge's speed is compared with.

use std::num::NonZeroUsize;

use l402t::model::Checkpoint;
use l402t::protocol::codec::TensorShape;
use tch::{Kind, Reduction, Tensor, no_grad};

#[derive(Debug)]
pub(crate) struct Model {
    checkpoint: Checkpoint,
    /// In layout order.
    tensors: Vec<Tensor>,
    /// (positions, head_dim), each half of a row the same angles
    cos: Tensor,
    /// (positions, head_dim)
    sin: Tensor,
}

impl Model {
    /// For sequences of `positions` tokens. Sets libtorch's number of threads.
    pub(crate) fn new(checkpoint: &Checkpoint, positions: i64, threads: NonZeroUsize) -> Self {
        tch::set_num_threads(i32::try_from(threads.get()).expect("few"));
        let tensor = |spec: &l402t::model::TensorSpec| {
            let values = Tensor::from_slice(&checkpoint.weights[spec.range()]);
            match spec.shape {
                TensorShape::Vector { .. } => values,
                TensorShape::Matrix { rows, cols } => values.view([i64::from(rows), i64::from(cols)]),
            }
        };
        let tensors = checkpoint.layout.tensors.iter().map(tensor).collect();
        let half = checkpoint.config.head_dim / 2;
        let frequency =
            |pair: usize| checkpoint.config.rope_theta.powf(-2.0 * pair as f64 / checkpoint.config.head_dim as f64);
        let angles: Vec<f64> =
            (0..positions).flat_map(|at| (0..2 * half).map(move |i| at as f64 * frequency(i % half))).collect();
        let angles = Tensor::from_slice(&angles).view([positions, 2 * half as i64]);
        let (cos, sin) = (angles.cos().to_kind(Kind::Float), angles.sin().to_kind(Kind::Float));
        Self { checkpoint: checkpoint.clone(), tensors, cos, sin }
    }

    fn tensor(&self, name: &str) -> &Tensor {
        let place = self.checkpoint.layout.tensors.iter().position(|spec| spec.name == name);
        &self.tensors[place.expect("a Llama has it")]
    }

    /// The summed cross-entropy in nats.
    pub(crate) fn loss(&self, windows: &[Vec<u32>]) -> f64 {
        no_grad(|| self.forward(windows))
    }

    fn forward(&self, windows: &[Vec<u32>]) -> f64 {
        let config = &self.checkpoint.config;
        let tokens: Vec<i64> = windows.iter().flatten().map(|token| i64::from(*token)).collect();
        let (batch, length) = (windows.len() as i64, windows[0].len() as i64 - 1);
        let sequences = Tensor::from_slice(&tokens).view([batch, length + 1]);
        let embedding = self.tensor("model.embed_tokens.weight");
        let mut x = Tensor::embedding(embedding, &sequences.narrow(1, 0, length), -1, false, false);
        for layer in 0..config.num_hidden_layers {
            let part = |name: &str| self.tensor(&format!("model.layers.{layer}.{name}.weight"));
            let normed = self.norm(&x, part("input_layernorm"));
            let heads = |name: &str| {
                let split = [batch, length, -1, config.head_dim as i64];
                linear(&normed, part(name)).view(split).transpose(1, 2)
            };
            let (q, k) = (self.turn(&heads("self_attn.q_proj")), self.turn(&heads("self_attn.k_proj")));
            let v = heads("self_attn.v_proj");
            let mixed = Tensor::scaled_dot_product_attention::<&Tensor>(&q, &k, &v, None, 0.0, true, None, false);
            let mixed = mixed.transpose(1, 2).reshape([batch, length, -1]);
            x += linear(&mixed, part("self_attn.o_proj"));
            let normed = self.norm(&x, part("post_attention_layernorm"));
            let inner = linear(&normed, part("mlp.gate_proj")).silu() * linear(&normed, part("mlp.up_proj"));
            x += linear(&inner, part("mlp.down_proj"));
        }
        let x = self.norm(&x, self.tensor("model.norm.weight"));
        // A window at a time: the logits of all would only be slower to write and read.
        (0..batch)
            .map(|window| {
                let logits = linear(&x.get(window), embedding);
                let targets = sequences.get(window).narrow(0, 1, length);
                logits.cross_entropy_loss::<&Tensor>(&targets, None, Reduction::Sum, -100, 0.0).double_value(&[])
            })
            .sum()
    }

    fn norm(&self, x: &Tensor, gain: &Tensor) -> Tensor {
        let config = &self.checkpoint.config;
        x.rms_norm([config.hidden_size as i64], Some(gain), f64::from(config.rms_norm_eps))
    }

    /// x: (B, heads, T, head_dim)
    fn turn(&self, x: &Tensor) -> Tensor {
        let halves = x.chunk(2, -1);
        x * &self.cos + Tensor::cat(&[halves[1].neg(), halves[0].shallow_clone()], -1) * &self.sin
    }
}

fn linear(x: &Tensor, weight: &Tensor) -> Tensor {
    x.linear::<&Tensor>(weight, None)
}
