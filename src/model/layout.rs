//! Where each tensor lies in the arena of weights. The order is part of every format: by name, compared as bytes.

use super::LlamaConfig;
use crate::protocol::codec::TensorShape;

/// How the name of a linear layer's bias ends.
const BIAS: &str = ".bias";

/// One tensor's place in the arena of weights.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TensorSpec {
    /// Hugging Face's name: `model.layers.0.self_attn.q_proj.weight`.
    pub name: String,
    /// Its shape; a linear layer is (out, in).
    pub shape: TensorShape,
    /// Where it starts, in values.
    pub offset: usize,
}

impl TensorSpec {
    /// How many values it has.
    pub fn numel(&self) -> usize {
        self.shape.numel() as usize
    }

    /// Is it the bias of a linear layer?
    pub fn is_bias(&self) -> bool {
        self.name.ends_with(BIAS)
    }

    /// Its values' places in the arena.
    pub fn range(&self) -> std::ops::Range<usize> {
        self.offset..self.offset + self.numel()
    }
}

/// All tensors in ascending order of name (by bytes), one after the other.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Layout {
    /// In the canonical order.
    pub tensors: Vec<TensorSpec>,
    /// Values in all.
    pub numel: usize,
}

impl LlamaConfig {
    /// The model's tensors. `lm_head.weight` is there only when it isn't the embedding.
    pub fn layout(&self) -> Layout {
        let (hidden, inner) = (self.hidden_size, self.intermediate_size);
        let (query, key_value) = (self.query_width(), self.key_value_width());
        let variant = self.variant;
        let mut tensors = vec![
            ("model.embed_tokens.weight".to_owned(), matrix(self.vocab_size, hidden)),
            ("model.norm.weight".to_owned(), vector(hidden)),
        ];
        if !self.tie_word_embeddings {
            tensors.push(("lm_head.weight".to_owned(), matrix(self.vocab_size, hidden)));
        }
        for layer in 0..self.num_hidden_layers {
            let part = |part: &str, shape| (format!("model.layers.{layer}.{part}"), shape);
            let linears = [
                ("self_attn.q_proj", query, hidden, variant.query_key_value_bias),
                ("self_attn.k_proj", key_value, hidden, variant.query_key_value_bias),
                ("self_attn.v_proj", key_value, hidden, variant.query_key_value_bias),
                ("self_attn.o_proj", hidden, query, variant.output_bias),
                ("mlp.gate_proj", inner, hidden, variant.mlp_bias),
                ("mlp.up_proj", inner, hidden, variant.mlp_bias),
                ("mlp.down_proj", hidden, inner, variant.mlp_bias),
            ];
            for (name, rows, cols, biased) in linears {
                tensors.push(part(&format!("{name}.weight"), matrix(rows, cols)));
                if biased {
                    tensors.push(part(&format!("{name}{BIAS}"), vector(rows)));
                }
            }
            tensors.push(part("input_layernorm.weight", vector(hidden)));
            tensors.push(part("post_attention_layernorm.weight", vector(hidden)));
        }
        Layout::new(tensors)
    }
}

fn vector(len: usize) -> TensorShape {
    // Every size of a checked config is far below 2³².
    TensorShape::Vector { len: len as u32 }
}

fn matrix(rows: usize, cols: usize) -> TensorShape {
    TensorShape::Matrix { rows: rows as u32, cols: cols as u32 }
}

impl Layout {
    fn new(mut tensors: Vec<(String, TensorShape)>) -> Self {
        tensors.sort_by(|(a, _), (b, _)| a.cmp(b));
        let mut numel = 0;
        let tensors = tensors
            .into_iter()
            .map(|(name, shape)| {
                let spec = TensorSpec { name, shape, offset: numel };
                numel += spec.numel();
                spec
            })
            .collect();
        Self { tensors, numel }
    }

    /// The shapes, in layout order: what the codec needs to know.
    pub fn shapes(&self) -> Vec<TensorShape> {
        self.tensors.iter().map(|tensor| tensor.shape).collect()
    }

    /// The tensor called `name`.
    pub fn find(&self, name: &str) -> Option<&TensorSpec> {
        let place = self.tensors.binary_search_by(|tensor| tensor.name.as_str().cmp(name)).ok()?;
        self.tensors.get(place)
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn tensors_lie_in_byte_order_of_their_names_without_gaps() {
        let mut config = super::super::checkpoint::tests::tiny();
        config.num_hidden_layers = 11;
        for tied in [true, false] {
            config.tie_word_embeddings = tied;
            let layout = config.layout();
            let names: Vec<&str> = layout.tensors.iter().map(|t| t.name.as_str()).collect();
            assert!(names.is_sorted());
            assert_eq!(names.contains(&"lm_head.weight"), !tied);
            // "10" sorts before "2".
            let at = |name: &str| names.iter().position(|n| *n == name).expect("present");
            assert!(at("model.layers.10.mlp.up_proj.weight") < at("model.layers.2.mlp.up_proj.weight"));
            let mut next = 0;
            for tensor in &layout.tensors {
                assert_eq!(tensor.offset, next);
                assert_eq!(layout.find(&tensor.name), Some(tensor));
                next += tensor.numel();
            }
            assert_eq!(next, layout.numel);
            assert_eq!(layout.shapes().len(), layout.tensors.len());
        }
    }

    #[test]
    fn the_tensors_are_as_many_values_as_the_size_check_counts_and_biases_follow_the_variant() {
        let mut config = super::super::checkpoint::tests::tiny();
        let biases = |config: &super::LlamaConfig| -> Vec<String> {
            let tensors = config.layout().tensors.into_iter().filter(super::TensorSpec::is_bias);
            tensors.map(|tensor| tensor.name.replace("model.layers.", "")).collect()
        };
        assert!(biases(&config).is_empty());
        for flags in 0..8 {
            config.variant.query_key_value_bias = flags & 1 != 0;
            config.variant.output_bias = flags & 2 != 0;
            config.variant.mlp_bias = flags & 4 != 0;
            assert_eq!(config.layout().numel as u64, config.numel());
        }
        config.variant.mlp_bias = false;
        let of = |layer: usize| ["k", "o", "q", "v"].map(|part| format!("{layer}.self_attn.{part}_proj.bias"));
        assert_eq!(biases(&config), [of(0), of(1)].concat());
    }
}
