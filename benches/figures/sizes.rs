//! The models that are judged and trained: Llamas of two sizes.

use l402t::model::{Checkpoint, LlamaConfig};

/// A Llama.
#[derive(Clone, Copy)]
pub(crate) struct Size {
    pub(crate) name: &'static str,
    pub(crate) vocabulary: u32,
    hidden: u32,
    inner: u32,
    layers: u32,
    heads: u32,
}

/// 25 million weights.
pub(crate) const SMALL: Size = Size { name: "25m", vocabulary: 12_288, hidden: 512, inner: 1_408, layers: 6, heads: 8 };
/// 124 million weights.
pub(crate) const LARGE: Size =
    Size { name: "124m", vocabulary: 50_304, hidden: 768, inner: 2_048, layers: 12, heads: 12 };

impl Size {
    pub(crate) fn config(&self) -> LlamaConfig {
        let Size { vocabulary, hidden, inner, layers, heads, .. } = self;
        let json = serde_json::json!({
            "architectures": ["LlamaForCausalLM"],
            "model_type": "llama",
            "hidden_act": "silu",
            "vocab_size": vocabulary,
            "hidden_size": hidden,
            "intermediate_size": inner,
            "num_hidden_layers": layers,
            "num_attention_heads": heads,
            "max_position_embeddings": 1_024,
            "rms_norm_eps": 1e-5,
            "tie_word_embeddings": true,
        });
        LlamaConfig::from_json(json.to_string().as_bytes()).expect("a Llama")
    }

    pub(crate) fn checkpoint(&self) -> Checkpoint {
        Checkpoint::init(self.config(), [1; 32])
    }
}
