//! Hugging Face's config.json of a Llama: read strictly, because a setting that is silently ignored would make the judge
//! score another model than the one that is trained.

use serde_json::{Map, Value, json};

use super::ModelError;

/// Bounds that keep a hostile config from asking for absurd memory; far above what home computers train.
const MAX_VOCAB: u64 = 1 << 20;
const MAX_WIDTH: u64 = 1 << 16;
const MAX_LAYERS: u64 = 512;
const MAX_POSITIONS: u64 = 1 << 20;
/// Most values of a model.
const MAX_NUMEL: u64 = 1 << 34;

/// Keys that don't change what the model computes.
const IGNORED: [&str; 13] = [
    "_name_or_path",
    "_commit_hash",
    "bos_token_id",
    "dtype",
    "eos_token_id",
    "initializer_range",
    "pad_token_id",
    "pretraining_tp",
    "torch_dtype",
    "transformers_version",
    "use_cache",
    "unk_token_id",
    "name_or_path",
];

/// A Llama-style decoder, as Hugging Face's config.json describes it.
#[derive(Clone, Debug, PartialEq)]
pub struct LlamaConfig {
    /// Tokens in the vocabulary (256: bytes).
    pub vocab_size: usize,
    /// Width of the residual stream.
    pub hidden_size: usize,
    /// Width of the SwiGLU.
    pub intermediate_size: usize,
    /// Decoder blocks.
    pub num_hidden_layers: usize,
    /// Query heads.
    pub num_attention_heads: usize,
    /// Key and value heads (grouped-query attention).
    pub num_key_value_heads: usize,
    /// Width of a head; even.
    pub head_dim: usize,
    /// Longest sequence.
    pub max_position_embeddings: usize,
    /// RMSNorm's ε.
    pub rms_norm_eps: f32,
    /// RoPE's base, a whole number.
    pub rope_theta: f64,
    /// Is the head the embedding?
    pub tie_word_embeddings: bool,
}

impl LlamaConfig {
    /// Reads config.json. A field with an unsupported value, and a field that isn't known to be harmless, is refused by
    /// name. `head_dim` defaults to hidden_size / num_attention_heads, `num_key_value_heads` to num_attention_heads,
    /// `rms_norm_eps` to 1e-6, `rope_theta` to 10000 and `tie_word_embeddings` to false, as in transformers.
    pub fn from_json(bytes: &[u8]) -> Result<LlamaConfig, ModelError> {
        let value: Value = serde_json::from_slice(bytes).map_err(|e| ModelError::ConfigSyntax(e.to_string()))?;
        let Value::Object(map) = value else {
            return Err(ModelError::ConfigSyntax("expected a JSON object".into()));
        };
        let mut fields = Fields { map };
        fields.refuse_unsupported()?;
        let config = fields.sizes()?;
        if let Some((key, value)) = fields.map.iter().find(|(key, _)| !IGNORED.contains(&key.as_str())) {
            return Err(unsupported(key, value, "remove the field, or use a plain Llama"));
        }
        config.check()?;
        Ok(config)
    }

    /// The config.json of this model: what [`LlamaConfig::from_json`] and transformers read.
    pub fn to_json(&self) -> String {
        let value = json!({
            "architectures": ["LlamaForCausalLM"],
            "attention_bias": false,
            "head_dim": self.head_dim,
            "hidden_act": "silu",
            "hidden_size": self.hidden_size,
            "intermediate_size": self.intermediate_size,
            "max_position_embeddings": self.max_position_embeddings,
            "mlp_bias": false,
            "model_type": "llama",
            "num_attention_heads": self.num_attention_heads,
            "num_hidden_layers": self.num_hidden_layers,
            "num_key_value_heads": self.num_key_value_heads,
            "rms_norm_eps": shortest_decimal(self.rms_norm_eps),
            "rope_theta": self.rope_theta,
            "tie_word_embeddings": self.tie_word_embeddings,
            "torch_dtype": "float32",
            "vocab_size": self.vocab_size,
        });
        format!("{value:#}\n")
    }

    /// Width of all query heads together.
    pub fn query_width(&self) -> usize {
        self.num_attention_heads * self.head_dim
    }

    /// Width of all key heads together, and of all value heads.
    pub fn key_value_width(&self) -> usize {
        self.num_key_value_heads * self.head_dim
    }

    fn check(&self) -> Result<(), ModelError> {
        let bounds = [
            ("vocab_size", self.vocab_size, MAX_VOCAB),
            ("hidden_size", self.hidden_size, MAX_WIDTH),
            ("intermediate_size", self.intermediate_size, MAX_WIDTH * 4),
            ("num_hidden_layers", self.num_hidden_layers, MAX_LAYERS),
            ("num_attention_heads", self.num_attention_heads, MAX_WIDTH),
            ("num_key_value_heads", self.num_key_value_heads, MAX_WIDTH),
            ("head_dim", self.head_dim, MAX_WIDTH),
            ("max_position_embeddings", self.max_position_embeddings, MAX_POSITIONS),
        ];
        for (field, value, max) in bounds {
            if value == 0 || value as u64 > max {
                return Err(ModelError::Size(format!("{field} = {value} is not in 1 ..= {max}")));
            }
        }
        let (heads, kv) = (self.num_attention_heads, self.num_key_value_heads);
        if !heads.is_multiple_of(kv) {
            let message = format!("num_attention_heads = {heads} is not a multiple of num_key_value_heads = {kv}");
            return Err(ModelError::Size(message));
        }
        if !self.head_dim.is_multiple_of(2) {
            return Err(ModelError::Size(format!("head_dim = {} is odd: RoPE turns pairs", self.head_dim)));
        }
        let query_width = heads as u64 * self.head_dim as u64;
        if query_width > MAX_WIDTH {
            let message = format!("num_attention_heads × head_dim = {query_width} is more than {MAX_WIDTH}");
            return Err(ModelError::Size(message));
        }
        let numel = self.numel();
        if numel > MAX_NUMEL {
            return Err(ModelError::Size(format!("the model has {numel} values, more than {MAX_NUMEL}")));
        }
        Ok(())
    }

    /// Values in the model. With the bounds on single sizes in force it can't overflow.
    fn numel(&self) -> u64 {
        let [hidden, inner, vocab, layers] =
            [self.hidden_size, self.intermediate_size, self.vocab_size, self.num_hidden_layers].map(|n| n as u64);
        let attention = 2 * hidden * (self.query_width() as u64 + self.key_value_width() as u64);
        let heads = if self.tie_word_embeddings { 1 } else { 2 };
        layers * (attention + 3 * hidden * inner + 2 * hidden) + heads * vocab * hidden + hidden
    }
}

/// The f64 whose shortest decimal is the f32's own (so that 1e-5 is written as 1e-5).
fn shortest_decimal(value: f32) -> f64 {
    value.to_string().parse().unwrap_or(f64::from(value))
}

fn unsupported(field: &str, value: &Value, supported: &'static str) -> ModelError {
    let value: String = value.to_string().chars().take(120).collect();
    ModelError::Unsupported { field: field.into(), value, supported }
}

/// The fields not yet read.
struct Fields {
    map: Map<String, Value>,
}

impl Fields {
    fn refuse_unsupported(&mut self) -> Result<(), ModelError> {
        let rules: [(&str, &[Value], &'static str); 9] = [
            ("architectures", &[json!(["LlamaForCausalLM"])], "only [\"LlamaForCausalLM\"]"),
            ("model_type", &[json!("llama")], "only \"llama\""),
            ("hidden_act", &[json!("silu")], "only \"silu\""),
            ("rope_scaling", &[Value::Null], "only null"),
            ("sliding_window", &[Value::Null], "only null"),
            ("attention_bias", &[json!(false)], "only false"),
            ("mlp_bias", &[json!(false)], "only false"),
            ("attention_dropout", &[json!(0), json!(0.0)], "only 0"),
            ("quantization_config", &[Value::Null], "only null"),
        ];
        for (field, accepted, supported) in rules {
            match self.map.remove(field) {
                Some(value) if !accepted.contains(&value) => return Err(unsupported(field, &value, supported)),
                Some(_) | None => {}
            }
        }
        Ok(())
    }

    fn sizes(&mut self) -> Result<LlamaConfig, ModelError> {
        let hidden_size = self.required("hidden_size")?;
        let num_attention_heads = self.required("num_attention_heads")?;
        let head_dim = match self.optional("head_dim")? {
            Some(head_dim) => head_dim,
            None if num_attention_heads > 0 && hidden_size.is_multiple_of(num_attention_heads) => {
                hidden_size / num_attention_heads
            }
            None => {
                let message = format!(
                    "hidden_size = {hidden_size} is not a multiple of num_attention_heads = {num_attention_heads}, and there is no head_dim"
                );
                return Err(ModelError::Size(message));
            }
        };
        Ok(LlamaConfig {
            vocab_size: self.required("vocab_size")?,
            hidden_size,
            intermediate_size: self.required("intermediate_size")?,
            num_hidden_layers: self.required("num_hidden_layers")?,
            num_attention_heads,
            num_key_value_heads: self.optional("num_key_value_heads")?.unwrap_or(num_attention_heads),
            head_dim,
            max_position_embeddings: self.required("max_position_embeddings")?,
            rms_norm_eps: self.epsilon()?,
            rope_theta: self.theta()?,
            tie_word_embeddings: self.flag("tie_word_embeddings")?,
        })
    }

    fn required(&mut self, field: &str) -> Result<usize, ModelError> {
        self.optional(field)?.ok_or_else(|| ModelError::ConfigSyntax(format!("{field} is missing")))
    }

    fn optional(&mut self, field: &str) -> Result<Option<usize>, ModelError> {
        match self.map.remove(field) {
            None | Some(Value::Null) => Ok(None),
            // Bounded here so that no later product overflows.
            Some(value) => match value.as_u64() {
                Some(number) if number <= MAX_VOCAB => Ok(Some(number as usize)),
                Some(_) | None => Err(ModelError::Size(format!("{field} = {value} is not in 1 ..= {MAX_VOCAB}"))),
            },
        }
    }

    fn flag(&mut self, field: &str) -> Result<bool, ModelError> {
        match self.map.remove(field) {
            None => Ok(false),
            Some(Value::Bool(flag)) => Ok(flag),
            Some(value) => Err(ModelError::ConfigSyntax(format!("{field} = {value} is not true or false"))),
        }
    }

    fn number(&mut self, field: &str, default: f64) -> Result<f64, ModelError> {
        match self.map.remove(field) {
            None => Ok(default),
            Some(value) => {
                value.as_f64().ok_or_else(|| ModelError::ConfigSyntax(format!("{field} = {value} is not a number")))
            }
        }
    }

    fn epsilon(&mut self) -> Result<f32, ModelError> {
        let wide = self.number("rms_norm_eps", 1e-6)?;
        let narrow = wide as f32;
        // A JSON parser may be one f64 ulp off; the f32 must not depend on that.
        let stable = [wide.next_down(), wide.next_up()].iter().all(|w| (*w as f32).to_bits() == narrow.to_bits());
        if !(stable && (f32::MIN_POSITIVE..=1.0).contains(&narrow)) {
            return Err(ModelError::Size(format!("rms_norm_eps = {wide} is not a small positive number")));
        }
        Ok(narrow)
    }

    fn theta(&mut self) -> Result<f64, ModelError> {
        let theta = self.number("rope_theta", 10_000.0)?;
        // Whole numbers below 2⁴⁰ are exact in every parser.
        if !((2.0..1_099_511_627_776.0).contains(&theta) && (theta as u64).to_string() == theta.to_string()) {
            return Err(ModelError::Size(format!("rope_theta = {theta} is not a whole number of 2 or more")));
        }
        Ok(theta)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(field: &str, value: Value) -> Result<LlamaConfig, ModelError> {
        let mut map = json!({
            "model_type": "llama", "vocab_size": 256, "hidden_size": 64, "intermediate_size": 160,
            "num_hidden_layers": 2, "num_attention_heads": 4, "max_position_embeddings": 128,
            "bos_token_id": 1, "rope_scaling": null,
        });
        map[field] = value;
        LlamaConfig::from_json(map.to_string().as_bytes())
    }

    #[test]
    fn defaults_are_those_of_transformers() {
        let config = with("use_cache", json!(true)).expect("valid");
        assert_eq!((config.head_dim, config.num_key_value_heads), (16, 4));
        assert_eq!(config.rms_norm_eps.to_bits(), 1e-6f32.to_bits());
        assert_eq!(config.rope_theta.to_bits(), 10_000f64.to_bits());
        assert!(!config.tie_word_embeddings);
    }

    #[test]
    fn what_is_written_is_read_back() {
        let mut config = with("tie_word_embeddings", json!(true)).expect("valid");
        config.rms_norm_eps = 1e-5;
        assert_eq!(LlamaConfig::from_json(config.to_json().as_bytes()), Ok(config.clone()));
        assert!(config.to_json().contains("\"rms_norm_eps\": 1e-5") || config.to_json().contains("0.00001"));
    }

    #[test]
    fn unsupported_features_are_refused_by_name() {
        for (field, value) in [
            ("rope_scaling", json!({"type": "linear"})),
            ("attention_bias", json!(true)),
            ("mlp_bias", json!(true)),
            ("hidden_act", json!("gelu")),
            ("sliding_window", json!(4096)),
            ("architectures", json!(["MistralForCausalLM"])),
            ("model_type", json!("qwen2")),
            ("attention_dropout", json!(0.1)),
            ("some_new_feature", json!(1)),
        ] {
            let error = with(field, value).expect_err(field).to_string();
            assert!(error.contains(field), "{error}");
        }
    }

    #[test]
    fn absurd_sizes_are_refused() {
        for (field, value) in [
            ("vocab_size", json!(1u64 << 40)),
            ("hidden_size", json!(0)),
            ("hidden_size", json!(-1)),
            ("hidden_size", json!(63)),
            ("head_dim", json!(15)),
            ("num_key_value_heads", json!(3)),
            ("num_hidden_layers", json!(1000)),
            ("intermediate_size", json!("160")),
            ("rms_norm_eps", json!(0)),
            ("rope_theta", json!(10_000.5)),
            ("tie_word_embeddings", json!(1)),
        ] {
            with(field, value).expect_err(field);
        }
        LlamaConfig::from_json(b"[]").expect_err("not an object");
        LlamaConfig::from_json(b"{").expect_err("not JSON");
    }
}
