//! The model in libtorch: the same function of the same weights as the judge's, up to rounding.
//!
//! RMSNorm, rotary embedding (rotate-half), grouped-query attention, SwiGLU, tied or untied head, and the model's variant:
//! biases, scaled frequencies, sliding windows. Every operation is the fallible one: libtorch's exceptions become errors.

use l402t_kernels::rope;
use tch::{Device, Kind, Reduction, Tensor};

use super::TrainError;
use super::inner::Precision;
use crate::model::{Layout, LlamaConfig};
use crate::protocol::codec::TensorShape;

/// One block's parameters: indices into [`Llama::parameters`].
#[derive(Clone, Copy, Debug)]
struct Block {
    input_norm: usize,
    query: Linear,
    key: Linear,
    value: Linear,
    output: Linear,
    windowed: bool,
    mlp_norm: usize,
    gate: Linear,
    up: Linear,
    down: Linear,
}

/// A linear layer's parameters.
#[derive(Clone, Copy, Debug)]
struct Linear {
    weight: usize,
    bias: Option<usize>,
}

/// The model over an arena of weights.
#[derive(Debug)]
pub(super) struct Llama {
    config: LlamaConfig,
    precision: Precision,
    /// Leaves that share the arena's memory, in layout order.
    parameters: Vec<Tensor>,
    embedding: usize,
    head: Linear,
    final_norm: usize,
    blocks: Vec<Block>,
    /// For each block, all of its parameters.
    block_parameters: Vec<Vec<usize>>,
}

/// What a batch of sequences asks of the model.
#[derive(Debug)]
pub(super) struct Batch {
    /// (B, T): the tokens that are read.
    pub(super) read: Tensor,
    /// (B · T): each token's successor.
    pub(super) expected: Tensor,
}

impl Batch {
    /// sequences: (B, T + 1) of i64
    pub(super) fn new(sequences: &Tensor) -> Result<Self, TrainError> {
        let targets = sequences.size()[1] - 1;
        Ok(Self {
            read: sequences.f_narrow(1, 0, targets)?.f_contiguous()?,
            expected: sequences.f_narrow(1, 1, targets)?.f_reshape([-1])?,
        })
    }
}

/// What depends on positions alone: cosines and sines of the rotary embedding, and the sliding window's mask.
#[derive(Debug)]
pub(super) struct Rope {
    /// (positions, head_dim / 2)
    cos: Tensor,
    /// (positions, head_dim / 2)
    sin: Tensor,
    /// (positions, positions) of bool: may the row's token see the column's? `None` where no layer sees less than all before.
    window: Option<Tensor>,
}

impl Rope {
    /// Tables for positions `0 .. positions`: f64 rounded to f32.
    pub(super) fn new(config: &LlamaConfig, positions: usize, device: Device) -> Result<Self, TrainError> {
        let half = config.head_dim / 2;
        let frequencies = rope::frequencies(config.head_dim, config.rope_theta, config.variant.rope_scaling);
        let angles: Vec<f64> = (0..positions)
            .flat_map(|position| frequencies.iter().map(move |frequency| position as f64 * frequency))
            .collect();
        let table = |f: fn(f64) -> f64| -> Result<Tensor, TrainError> {
            let values: Vec<f32> = angles.iter().map(|angle| f(*angle) as f32).collect();
            let table = Tensor::f_from_slice(&values)?.f_view([positions as i64, half as i64])?;
            Ok(table.f_to_device(device)?)
        };
        let tokens = config.variant.sliding_window.map(|window| window.tokens).filter(|tokens| *tokens < positions);
        let window = tokens.map(|tokens| window_mask(positions, tokens, device)).transpose()?;
        Ok(Self { cos: table(f64::cos)?, sin: table(f64::sin)?, window })
    }

    /// Turns x: (B, heads, T, head_dim).
    fn turn(&self, x: &Tensor, precision: Precision) -> Result<Tensor, TrainError> {
        let positions = x.size()[2];
        let (cos, sin) = (self.cos.f_narrow(0, 0, positions)?, self.sin.f_narrow(0, 0, positions)?);
        let halves = x.f_to_kind(Kind::Float)?.f_chunk(2, -1)?;
        let (low, high) = (&halves[0], &halves[1]);
        let turned_low = low.f_mul(&cos)?.f_sub(&high.f_mul(&sin)?)?;
        let turned_high = high.f_mul(&cos)?.f_add(&low.f_mul(&sin)?)?;
        let turned = Tensor::f_cat(&[turned_low, turned_high], -1)?;
        Ok(turned.f_to_kind(precision.kind())?)
    }
}

/// (positions, positions): each token sees itself and the `tokens` − 1 before it.
fn window_mask(positions: usize, tokens: usize, device: Device) -> Result<Tensor, TrainError> {
    let all = Tensor::f_ones([positions as i64, positions as i64], (Kind::Bool, device))?;
    Ok(all.f_tril(0)?.f_triu(1 - tokens as i64)?)
}

impl Llama {
    /// The model over `arena`: (layout.numel) f32 values in layout order. Writing to the arena changes the model.
    pub(super) fn new(
        config: &LlamaConfig,
        layout: &Layout,
        arena: &Tensor,
        precision: Precision,
    ) -> Result<Self, TrainError> {
        let mut parameters = Vec::with_capacity(layout.tensors.len());
        for spec in &layout.tensors {
            let shape = match spec.shape {
                TensorShape::Vector { len } => vec![i64::from(len)],
                TensorShape::Matrix { rows, cols } => vec![i64::from(rows), i64::from(cols)],
            };
            let values = arena.f_narrow(0, spec.offset as i64, spec.numel() as i64)?;
            parameters.push(values.f_reshape(shape)?.f_detach()?.f_set_requires_grad(true)?);
        }
        let place = |name: &str| {
            layout
                .tensors
                .iter()
                .position(|spec| spec.name == name)
                .ok_or_else(|| TrainError::Settings(format!("the model's layout lacks {name}")))
        };
        let blocks = (0..config.num_hidden_layers)
            .map(|layer| {
                let norm = |part: &str| place(&format!("model.layers.{layer}.{part}.weight"));
                let linear = |part: &str| -> Result<Linear, TrainError> {
                    let bias = format!("model.layers.{layer}.{part}.bias");
                    let bias = layout.tensors.iter().position(|spec| spec.name == bias);
                    Ok(Linear { weight: norm(part)?, bias })
                };
                Ok(Block {
                    input_norm: norm("input_layernorm")?,
                    query: linear("self_attn.q_proj")?,
                    key: linear("self_attn.k_proj")?,
                    value: linear("self_attn.v_proj")?,
                    output: linear("self_attn.o_proj")?,
                    windowed: config.variant.window(layer).is_some(),
                    mlp_norm: norm("post_attention_layernorm")?,
                    gate: linear("mlp.gate_proj")?,
                    up: linear("mlp.up_proj")?,
                    down: linear("mlp.down_proj")?,
                })
            })
            .collect::<Result<_, TrainError>>()?;
        let embedding = place("model.embed_tokens.weight")?;
        let weight = if config.tie_word_embeddings { embedding } else { place("lm_head.weight")? };
        let head = Linear { weight, bias: None };
        let final_norm = place("model.norm.weight")?;
        let block_parameters = (0..config.num_hidden_layers)
            .map(|layer| {
                let prefix = format!("model.layers.{layer}.");
                (0..layout.tensors.len()).filter(|place| layout.tensors[*place].name.starts_with(&prefix)).collect()
            })
            .collect();
        Ok(Self {
            config: config.clone(),
            precision,
            parameters,
            embedding,
            head,
            final_norm,
            blocks,
            block_parameters,
        })
    }

    /// The leaves to differentiate by, in layout order.
    pub(super) fn parameters(&self) -> &[Tensor] {
        &self.parameters
    }

    /// Blocks.
    pub(super) fn layers(&self) -> usize {
        self.blocks.len()
    }

    /// Indices of a block's parameters.
    pub(super) fn block_parameters(&self, layer: usize) -> &[usize] {
        &self.block_parameters[layer]
    }

    /// Indices of the parameters of [`Llama::embed`] and of [`Llama::loss_after_blocks`]. A tied head is in both.
    pub(super) fn outer_parameters(&self) -> (usize, [usize; 2]) {
        (self.embedding, [self.final_norm, self.head.weight])
    }

    /// Mean cross-entropy in nats of predicting each token's successor; the rope covers T positions.
    pub(super) fn loss(&self, batch: &Batch, rope: &Rope) -> Result<Tensor, TrainError> {
        let mut stream = self.embed(&batch.read)?;
        for layer in 0..self.layers() {
            stream = self.block(layer, &stream, rope)?;
        }
        self.loss_after_blocks(&stream, &batch.expected)
    }

    /// tokens: (B, T) → the residual stream: (B, T, D), f32
    pub(super) fn embed(&self, tokens: &Tensor) -> Result<Tensor, TrainError> {
        Ok(Tensor::f_embedding(&self.parameters[self.embedding], tokens, -1, false, false)?)
    }

    /// The residual stream before a block → after it: (B, T, D), f32
    pub(super) fn block(&self, layer: usize, stream: &Tensor, rope: &Rope) -> Result<Tensor, TrainError> {
        let block = &self.blocks[layer];
        let attended = self.attention(block, &self.norm(stream, block.input_norm)?, rope)?;
        let stream = stream.f_add(&attended)?;
        let fed = self.mlp(block, &self.norm(&stream, block.mlp_norm)?)?;
        Ok(stream.f_add(&fed)?)
    }

    /// stream: (…, D), expected: one token for each of its rows → their mean cross-entropy
    pub(super) fn loss_after_blocks(&self, stream: &Tensor, expected: &Tensor) -> Result<Tensor, TrainError> {
        let logits = self.logits_after_blocks(stream)?.f_view([-1, self.config.vocab_size as i64])?;
        Ok(logits.f_cross_entropy_loss::<&Tensor>(expected, None, Reduction::Mean, -100, 0.0)?)
    }

    /// tokens: (B, T) → logits: (B, T, V), f32; the rope covers T positions.
    pub(super) fn logits(&self, tokens: &Tensor, rope: &Rope) -> Result<Tensor, TrainError> {
        let mut stream = self.embed(tokens)?;
        for layer in 0..self.layers() {
            stream = self.block(layer, &stream, rope)?;
        }
        self.logits_after_blocks(&stream)
    }

    /// stream: (…, D) → logits: (…, V), f32
    fn logits_after_blocks(&self, stream: &Tensor) -> Result<Tensor, TrainError> {
        Ok(self.linear(&self.norm(stream, self.final_norm)?, self.head)?.f_to_kind(Kind::Float)?)
    }

    fn norm(&self, x: &Tensor, weight: usize) -> Result<Tensor, TrainError> {
        let epsilon = f64::from(self.config.rms_norm_eps);
        Ok(x.f_rms_norm([self.config.hidden_size as i64], Some(&self.parameters[weight]), epsilon)?)
    }

    /// In the chosen precision; autocast does nothing on the CPU, so the casts are explicit.
    fn linear(&self, x: &Tensor, linear: Linear) -> Result<Tensor, TrainError> {
        let kind = self.precision.kind();
        let weight = self.parameters[linear.weight].f_to_kind(kind)?;
        let bias = linear.bias.map(|bias| self.parameters[bias].f_to_kind(kind)).transpose()?;
        Ok(x.f_to_kind(kind)?.f_linear(&weight, bias.as_ref())?)
    }

    /// x: (B, T, D) → (B, T, D), f32
    fn attention(&self, block: &Block, x: &Tensor, rope: &Rope) -> Result<Tensor, TrainError> {
        let (batch, length) = (x.size()[0], x.size()[1]);
        let (heads, shared) = (self.config.num_attention_heads as i64, self.config.num_key_value_heads as i64);
        let width = self.config.head_dim as i64;
        let split = |projected: Tensor, heads: i64| -> Result<Tensor, TrainError> {
            Ok(projected.f_view([batch, length, heads, width])?.f_transpose(1, 2)?)
        };
        // Query heads h·(heads/shared) .. share key and value head h.
        let spread = |x: Tensor| -> Result<Tensor, TrainError> {
            if heads == shared {
                return Ok(x);
            }
            let grouped = x.f_unsqueeze(2)?.f_expand([batch, shared, heads / shared, length, width], false)?;
            Ok(grouped.f_reshape([batch, heads, length, width])?)
        };
        // Cast once for all three.
        let x = &x.f_to_kind(self.precision.kind())?;
        let query = rope.turn(&split(self.linear(x, block.query)?, heads)?, self.precision)?;
        let key = spread(rope.turn(&split(self.linear(x, block.key)?, shared)?, self.precision)?)?;
        let value = spread(split(self.linear(x, block.value)?, shared)?)?;
        let window = rope.window.as_ref().filter(|_| block.windowed);
        let causal = window.is_none();
        let attended = Tensor::f_scaled_dot_product_attention(&query, &key, &value, window, 0.0, causal, None, false)?;
        let joined = attended.f_transpose(1, 2)?.f_reshape([batch, length, heads * width])?;
        Ok(self.linear(&joined, block.output)?.f_to_kind(Kind::Float)?)
    }

    /// x: (B, T, D) → (B, T, D), f32
    fn mlp(&self, block: &Block, x: &Tensor) -> Result<Tensor, TrainError> {
        let x = &x.f_to_kind(self.precision.kind())?;
        let gate = self.linear(x, block.gate)?.f_silu()?;
        let up = self.linear(x, block.up)?;
        Ok(self.linear(&gate.f_mul(&up)?, block.down)?.f_to_kind(Kind::Float)?)
    }
}
