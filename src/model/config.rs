//! Hugging Face's config.json of a Llama: read strictly, because a setting that is silently ignored would make the judge
//! score another model than the one that is trained.

use serde_json::{Map, Value, json};

use super::ModelError;
use super::variant::{self, Family, Variant, shortest_decimal};

/// Bounds that keep a hostile config from asking for absurd memory; far above what home computers train.
const MAX_VOCAB: u64 = 1 << 20;
const MAX_WIDTH: u64 = 1 << 16;
const MAX_LAYERS: u64 = 512;
const MAX_POSITIONS: u64 = 1 << 20;
/// Most values of a model.
const MAX_NUMEL: u64 = 1 << 34;

/// Keys that don't change what the model computes.
const IGNORED: [&str; 35] = [
    "_attn_implementation_autoset",
    "_commit_hash",
    "_name_or_path",
    "bos_token_id",
    "chunk_size_feed_forward",
    "decoder_start_token_id",
    "dtype",
    "eos_token_id",
    "finetuning_task",
    "id2label",
    "initializer_range",
    "is_decoder",
    "is_encoder_decoder",
    "is_llama_config",
    "label2id",
    "name_or_path",
    "output_attentions",
    "output_hidden_states",
    "pad_token_id",
    "prefix",
    "pretraining_tp",
    "problem_type",
    "return_dict",
    "sep_token_id",
    "task_specific_params",
    "tokenizer_class",
    "torch_dtype",
    "torchscript",
    "transformers.js_config",
    "transformers_version",
    "unk_token_id",
    "unsloth_fixed",
    "unsloth_version",
    "use_bfloat16",
    "use_cache",
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
    /// What goes beyond a plain Llama.
    pub variant: Variant,
}

impl LlamaConfig {
    /// Reads config.json. A field with an unsupported value, and a field that isn't known to be harmless, is refused by
    /// name. `head_dim` defaults to hidden_size / num_attention_heads, a Llama's `num_key_value_heads` to
    /// num_attention_heads, `rms_norm_eps` to 1e-6, `rope_theta` to 10000, `tie_word_embeddings` to false and a Mistral's
    /// `sliding_window` to 4096, as in transformers.
    pub fn from_json(bytes: &[u8]) -> Result<LlamaConfig, ModelError> {
        let value: Value = serde_json::from_slice(bytes).map_err(|e| ModelError::ConfigSyntax(e.to_string()))?;
        let Value::Object(map) = value else {
            return Err(ModelError::ConfigSyntax("expected a JSON object".into()));
        };
        let mut fields = Fields::new(map);
        fields.refuse_unsupported()?;
        let config = fields.config()?;
        fields.map.retain(|key, _| !IGNORED.contains(&key.as_str()));
        if let Some((key, value)) = fields.unread() {
            return Err(unsupported(key, value, "remove the field if it changes nothing, or use another model"));
        }
        config.check()?;
        Ok(config)
    }

    /// The config.json of this model: what [`LlamaConfig::from_json`] and transformers read.
    pub fn to_json(&self) -> String {
        let mut value = json!({
            "head_dim": self.head_dim,
            "hidden_act": "silu",
            "hidden_size": self.hidden_size,
            "intermediate_size": self.intermediate_size,
            "max_position_embeddings": self.max_position_embeddings,
            "num_attention_heads": self.num_attention_heads,
            "num_hidden_layers": self.num_hidden_layers,
            "num_key_value_heads": self.num_key_value_heads,
            "rms_norm_eps": shortest_decimal(self.rms_norm_eps),
            "tie_word_embeddings": self.tie_word_embeddings,
            "torch_dtype": "float32",
            "vocab_size": self.vocab_size,
        });
        if let Value::Object(map) = &mut value {
            self.variant.write(map, self.rope_theta);
        }
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
    pub(super) fn numel(&self) -> u64 {
        let [hidden, inner, vocab, layers] =
            [self.hidden_size, self.intermediate_size, self.vocab_size, self.num_hidden_layers].map(|n| n as u64);
        let attention = 2 * hidden * (self.query_width() as u64 + self.key_value_width() as u64);
        let heads = if self.tie_word_embeddings { 1 } else { 2 };
        let Variant { query_key_value_bias, output_bias, mlp_bias, .. } = self.variant;
        let on = |bias: bool, values: u64| if bias { values } else { 0 };
        let biases = on(query_key_value_bias, self.query_width() as u64 + 2 * self.key_value_width() as u64)
            + on(output_bias, hidden)
            + on(mlp_bias, 2 * inner + hidden);
        layers * (attention + 3 * hidden * inner + 2 * hidden + biases) + heads * vocab * hidden + hidden
    }
}

pub(super) fn unsupported(field: &str, value: &Value, supported: &'static str) -> ModelError {
    let value: String = value.to_string().chars().take(120).collect();
    ModelError::Unsupported { field: field.into(), value, supported }
}

/// The fields not yet read.
pub(super) struct Fields {
    map: Map<String, Value>,
}

impl Fields {
    pub(super) fn new(map: Map<String, Value>) -> Self {
        Self { map }
    }

    /// A field that nobody took.
    pub(super) fn unread(&self) -> Option<(&String, &Value)> {
        self.map.iter().next()
    }

    pub(super) fn contains(&self, field: &str) -> bool {
        self.map.contains_key(field)
    }

    pub(super) fn take(&mut self, field: &str) -> Option<Value> {
        self.map.remove(field)
    }

    /// A field that has one of the accepted values, or isn't there.
    pub(super) fn only(&mut self, field: &str, accepted: &[Value], supported: &'static str) -> Result<(), ModelError> {
        match self.map.remove(field) {
            Some(value) if !accepted.contains(&value) => Err(unsupported(field, &value, supported)),
            Some(_) | None => Ok(()),
        }
    }

    fn refuse_unsupported(&mut self) -> Result<(), ModelError> {
        self.only("hidden_act", &[json!("silu")], "only \"silu\"")?;
        self.only("attention_dropout", &[json!(0), json!(0.0)], "only 0")?;
        self.only("partial_rotary_factor", &[json!(1), json!(1.0)], "only 1")?;
        self.only("rope_interleaved", &[json!(false)], "only false")?;
        self.only("quantization_config", &[Value::Null], "only null: use the weights before they were quantised")
    }

    fn config(&mut self) -> Result<LlamaConfig, ModelError> {
        let family = Family::read(self)?;
        let (rope_theta, rope_scaling) = variant::rotary(self)?;
        let num_hidden_layers = self.required("num_hidden_layers")?;
        if num_hidden_layers as u64 > MAX_LAYERS {
            let message = format!("num_hidden_layers = {num_hidden_layers} is not in 1 ..= {MAX_LAYERS}");
            return Err(ModelError::Size(message));
        }
        let variant = Variant::read(self, family, num_hidden_layers, rope_scaling)?;
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
            num_hidden_layers,
            num_attention_heads,
            num_key_value_heads: match family {
                Family::Llama => self.optional("num_key_value_heads")?.unwrap_or(num_attention_heads),
                // transformers' default is a number of its own there.
                Family::Mistral | Family::Qwen2 => self.required("num_key_value_heads")?,
            },
            head_dim,
            max_position_embeddings: self.required("max_position_embeddings")?,
            rms_norm_eps: self.epsilon()?,
            rope_theta,
            tie_word_embeddings: self.flag("tie_word_embeddings")?,
            variant,
        })
    }

    pub(super) fn required(&mut self, field: &str) -> Result<usize, ModelError> {
        self.optional(field)?.ok_or_else(|| ModelError::ConfigSyntax(format!("{field} is missing")))
    }

    pub(super) fn optional(&mut self, field: &str) -> Result<Option<usize>, ModelError> {
        match self.map.remove(field) {
            None | Some(Value::Null) => Ok(None),
            // Bounded here so that no later product overflows.
            Some(value) => match value.as_u64() {
                Some(number) if number <= MAX_VOCAB => Ok(Some(number as usize)),
                Some(_) | None => Err(ModelError::Size(format!("{field} = {value} is not in 1 ..= {MAX_VOCAB}"))),
            },
        }
    }

    pub(super) fn flag(&mut self, field: &str) -> Result<bool, ModelError> {
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
        let narrow = narrow(wide).filter(|narrow| (f32::MIN_POSITIVE..=1.0).contains(narrow));
        narrow.ok_or_else(|| ModelError::Size(format!("rms_norm_eps = {wide} is not a small positive number")))
    }

    /// A number in 1 ..= `max`, rounded to f32.
    pub(super) fn factor(&mut self, field: &str, max: f32) -> Result<f32, ModelError> {
        let wide = self.number(field, f64::NAN)?;
        let narrow = narrow(wide).filter(|narrow| (1.0..=max).contains(narrow));
        narrow.ok_or_else(|| ModelError::Size(format!("{field} = {wide} is not in 1 ..= {max}")))
    }

    pub(super) fn theta(&mut self) -> Result<f64, ModelError> {
        let theta = self.number("rope_theta", 10_000.0)?;
        // Whole numbers below 2⁴⁰ are exact in every parser.
        if !((2.0..1_099_511_627_776.0).contains(&theta) && (theta as u64).to_string() == theta.to_string()) {
            return Err(ModelError::Size(format!("rope_theta = {theta} is not a whole number of 2 or more")));
        }
        Ok(theta)
    }
}

/// A JSON parser may be one f64 ulp off: `None` where the f32 would depend on that.
fn narrow(wide: f64) -> Option<f32> {
    let narrow = wide as f32;
    [wide.next_down(), wide.next_up()].iter().all(|w| (*w as f32).to_bits() == narrow.to_bits()).then_some(narrow)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::RopeScaling;

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
        let plain = with("tie_word_embeddings", json!(true)).expect("valid");
        for variant in crate::model::fixtures::variants() {
            // A config.json has one attention_bias for all four, and a window that no layer has is not kept.
            let mut config = LlamaConfig { variant, rms_norm_eps: 1e-5, ..plain.clone() };
            config.variant.sliding_window = variant.sliding_window.filter(|window| window.first_layer < 2);
            assert_eq!(LlamaConfig::from_json(config.to_json().as_bytes()), Ok(config.clone()));
            assert!(config.to_json().contains("\"rms_norm_eps\": 1e-5") || config.to_json().contains("0.00001"));
        }
    }

    /// config.json of a small model with these fields set or replaced.
    fn having(fields: Value) -> Result<LlamaConfig, ModelError> {
        let mut map = json!({
            "vocab_size": 256, "hidden_size": 64, "intermediate_size": 160, "num_hidden_layers": 3,
            "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 128,
        });
        if let (Value::Object(map), Value::Object(fields)) = (&mut map, fields) {
            map.extend(fields);
        }
        LlamaConfig::from_json(map.to_string().as_bytes())
    }

    #[test]
    fn both_ways_to_write_the_rotary_embedding_mean_the_same() {
        let old = having(json!({"rope_theta": 500_000.0, "rope_scaling": {"type": "linear", "factor": 2}}));
        let new = having(json!({"rope_parameters": {"rope_type": "linear", "factor": 2.0, "rope_theta": 500_000.0}}));
        assert_eq!(old.as_ref().expect("valid").variant.rope_scaling, RopeScaling::Linear { factor: 2.0 });
        assert_eq!(old, new);
        let llama3 = json!({
            "rope_type": "llama3", "factor": 32.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
            "original_max_position_embeddings": 8192,
        });
        let config = having(json!({"rope_theta": 500_000.0, "rope_scaling": llama3})).expect("valid");
        let scaling =
            RopeScaling::Llama3 { factor: 32.0, low_freq_factor: 1.0, high_freq_factor: 4.0, original_positions: 8192 };
        assert_eq!(config.variant.rope_scaling, scaling);
        let dynamic = having(json!({"rope_scaling": {"rope_type": "dynamic", "factor": 4.0}})).expect("valid");
        assert_eq!(dynamic.variant, Variant::default());
    }

    #[test]
    fn families_bring_their_own_defaults() {
        let mistral = having(json!({"model_type": "mistral"})).expect("valid");
        assert_eq!((mistral.variant.window(0), mistral.variant.query_key_value_bias), (Some(4096), false));
        let null = having(json!({"architectures": ["MistralForCausalLM"], "sliding_window": null})).expect("valid");
        assert_eq!((null.variant.family, null.variant.sliding_window), (Family::Mistral, None));
        let qwen = having(json!({"model_type": "qwen2", "sliding_window": 8, "max_window_layers": 1})).expect("valid");
        let Variant { query_key_value_bias, output_bias, mlp_bias, sliding_window, .. } = qwen.variant;
        assert_eq!((query_key_value_bias, output_bias, mlp_bias, sliding_window), (true, false, false, None));
        let windows = json!({
            "model_type": "qwen2", "sliding_window": 8, "use_sliding_window": true, "max_window_layers": 1,
            "layer_types": ["full_attention", "sliding_attention", "sliding_attention"],
        });
        let qwen = having(windows).expect("valid");
        assert_eq!([0, 1, 2].map(|layer| qwen.variant.window(layer)), [None, Some(8), Some(8)]);
    }

    #[test]
    fn unsupported_features_are_refused_by_name() {
        for (field, fields) in [
            ("hidden_act", json!({"hidden_act": "gelu"})),
            ("sliding_window", json!({"sliding_window": 4096})),
            ("architectures", json!({"architectures": ["GPT2LMHeadModel"]})),
            ("architectures", json!({"model_type": "llama", "architectures": ["MistralForCausalLM"]})),
            ("model_type", json!({"model_type": "qwen3"})),
            ("attention_dropout", json!({"attention_dropout": 0.1})),
            ("attention_bias", json!({"model_type": "qwen2", "attention_bias": true})),
            ("num_key_value_heads", json!({"model_type": "mistral", "num_key_value_heads": null})),
            ("some_new_feature", json!({"some_new_feature": 1})),
            ("quantization_config", json!({"quantization_config": {"bits": 4}})),
            ("partial_rotary_factor", json!({"partial_rotary_factor": 0.5})),
            ("rope_scaling.rope_type", json!({"rope_scaling": {"rope_type": "yarn", "factor": 4.0}})),
            ("rope_parameters.attention_factor", json!({"rope_parameters": {"attention_factor": 2.0}})),
            ("rope_scaling", json!({"rope_scaling": "linear"})),
            ("rope_theta", json!({"rope_theta": 1000.0, "rope_parameters": {"rope_theta": 10_000.0}})),
            ("factor", json!({"rope_scaling": {"type": "linear"}})),
            ("factor", json!({"rope_scaling": {"type": "linear", "factor": 0.5}})),
            ("factor", json!({"rope_scaling": {"type": "linear", "factor": 1e30}})),
            ("layer_types", json!({"layer_types": ["sliding_attention", "full_attention", "full_attention"]})),
            ("sliding_window", json!({"model_type": "qwen2", "use_sliding_window": true})),
            ("sliding_window", json!({"model_type": "mistral", "sliding_window": 0})),
        ] {
            let error = having(fields).expect_err(field).to_string();
            assert!(error.contains(field), "{field}: {error}");
        }
        let crossed = json!({"rope_scaling": {
            "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 4.0, "high_freq_factor": 4.0,
            "original_max_position_embeddings": 64,
        }});
        assert!(having(crossed).expect_err("crossed").to_string().contains("low_freq_factor"));
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
