//! What goes beyond a plain Llama: families, biases, scaled rotary embedding, sliding windows. Read as strictly as the rest
//! of config.json.

use l402t_kernels::rope::RopeScaling;
use serde_json::{Map, Value, json};

use super::ModelError;
use super::config::{Fields, unsupported};

/// transformers' default where a Mistral doesn't say.
const MISTRAL_WINDOW: usize = 4096;
/// transformers' default where a Qwen2 doesn't say.
const QWEN2_WINDOW_LAYERS: usize = 28;
/// Longest first training that Llama 3's scaling may name, in tokens.
const MAX_ORIGINAL_POSITIONS: usize = 1 << 20;
/// Most times that a context may be stretched.
const MAX_FACTOR: f32 = 1024.0;

/// Whose config.json it is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Family {
    /// `LlamaForCausalLM`: Llama 2 and 3, SmolLM2, TinyLlama.
    #[default]
    Llama,
    /// `MistralForCausalLM`.
    Mistral,
    /// `Qwen2ForCausalLM`.
    Qwen2,
}

impl Family {
    const ALL: [Family; 3] = [Family::Llama, Family::Mistral, Family::Qwen2];

    /// config.json's `model_type`.
    pub const fn model_type(self) -> &'static str {
        match self {
            Family::Llama => "llama",
            Family::Mistral => "mistral",
            Family::Qwen2 => "qwen2",
        }
    }

    /// config.json's one entry of `architectures`.
    pub const fn architecture(self) -> &'static str {
        match self {
            Family::Llama => "LlamaForCausalLM",
            Family::Mistral => "MistralForCausalLM",
            Family::Qwen2 => "Qwen2ForCausalLM",
        }
    }

    pub(super) fn read(fields: &mut Fields) -> Result<Family, ModelError> {
        let by_type = match fields.take("model_type") {
            None => None,
            Some(value) => {
                let family = Family::ALL.into_iter().find(|family| value == family.model_type());
                let supported = "only \"llama\", \"mistral\" and \"qwen2\"";
                Some(family.ok_or_else(|| unsupported("model_type", &value, supported))?)
            }
        };
        let by_architecture = match fields.take("architectures") {
            None | Some(Value::Null) => None,
            Some(value) => {
                let family = Family::ALL.into_iter().find(|family| value == json!([family.architecture()]));
                let family = family.filter(|family| by_type.is_none_or(|by_type| by_type == *family));
                let supported = "only LlamaForCausalLM, MistralForCausalLM or Qwen2ForCausalLM, as model_type has it";
                Some(family.ok_or_else(|| unsupported("architectures", &value, supported))?)
            }
        };
        Ok(by_type.or(by_architecture).unwrap_or_default())
    }
}

/// Layers from `first_layer` on see only so many tokens back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SlidingWindow {
    /// Most tokens that one sees, itself among them.
    pub tokens: usize,
    /// The first layer that is so limited.
    pub first_layer: usize,
}

/// What goes beyond a plain Llama; by default nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Variant {
    /// Whose config.json it is.
    pub family: Family,
    /// How the rotary embedding is stretched.
    pub rope_scaling: RopeScaling,
    /// Do q_proj, k_proj and v_proj add a bias?
    pub query_key_value_bias: bool,
    /// Does o_proj add a bias?
    pub output_bias: bool,
    /// Do gate_proj, up_proj and down_proj add a bias?
    pub mlp_bias: bool,
    /// Layers that don't see everything before a token.
    pub sliding_window: Option<SlidingWindow>,
}

impl Variant {
    /// The most tokens that one sees in `layer`, itself among them; `None`: all before it.
    pub fn window(&self, layer: usize) -> Option<usize> {
        self.sliding_window.filter(|window| layer >= window.first_layer).map(|window| window.tokens)
    }

    pub(super) fn read(
        fields: &mut Fields,
        family: Family,
        layers: usize,
        rope_scaling: RopeScaling,
    ) -> Result<Variant, ModelError> {
        let bias = |fields: &mut Fields, field| match family {
            Family::Llama => fields.flag(field),
            Family::Mistral | Family::Qwen2 => {
                fields.only(field, &[json!(false)], "only false in this family").map(|()| false)
            }
        };
        let attention_bias = bias(fields, "attention_bias")?;
        let mlp_bias = bias(fields, "mlp_bias")?;
        Ok(Variant {
            family,
            rope_scaling,
            query_key_value_bias: attention_bias || family == Family::Qwen2,
            output_bias: attention_bias,
            mlp_bias,
            sliding_window: sliding_window(fields, family, layers)?,
        })
    }

    /// Adds what [`Variant::read`] reads.
    pub(super) fn write(&self, map: &mut Map<String, Value>, rope_theta: f64) {
        let mut set = |key: &str, value: Value| map.insert(key.to_owned(), value);
        set("architectures", json!([self.family.architecture()]));
        set("model_type", json!(self.family.model_type()));
        set("rope_theta", json!(rope_theta));
        match self.rope_scaling {
            RopeScaling::None => None,
            RopeScaling::Linear { factor } => {
                set("rope_scaling", json!({ "rope_type": "linear", "factor": shortest_decimal(factor) }))
            }
            RopeScaling::Llama3 { factor, low_freq_factor, high_freq_factor, original_positions } => set(
                "rope_scaling",
                json!({
                    "rope_type": "llama3",
                    "factor": shortest_decimal(factor),
                    "low_freq_factor": shortest_decimal(low_freq_factor),
                    "high_freq_factor": shortest_decimal(high_freq_factor),
                    "original_max_position_embeddings": original_positions,
                }),
            ),
        };
        let window = self.sliding_window;
        match self.family {
            Family::Llama => {
                set("attention_bias", json!(self.output_bias));
                set("mlp_bias", json!(self.mlp_bias));
            }
            Family::Mistral => {
                set("sliding_window", json!(window.map(|window| window.tokens)));
            }
            Family::Qwen2 => {
                set("use_sliding_window", json!(window.is_some()));
                if let Some(window) = window {
                    set("sliding_window", json!(window.tokens));
                    set("max_window_layers", json!(window.first_layer));
                }
            }
        }
    }
}

/// The f64 whose shortest decimal is the f32's own (so that 1e-5 is written as 1e-5).
pub(super) fn shortest_decimal(value: f32) -> f64 {
    value.to_string().parse().unwrap_or(f64::from(value))
}

fn sliding_window(fields: &mut Fields, family: Family, layers: usize) -> Result<Option<SlidingWindow>, ModelError> {
    let given = fields.contains("sliding_window");
    let tokens = fields.optional("sliding_window")?;
    let tokens = if given || family != Family::Mistral { tokens } else { Some(MISTRAL_WINDOW) };
    let used = fields.flag("use_sliding_window")?;
    let full_layers = fields.optional("max_window_layers")?.unwrap_or(QWEN2_WINDOW_LAYERS);
    let window = match family {
        Family::Llama => match tokens {
            None => None,
            Some(tokens) => return Err(unsupported("sliding_window", &json!(tokens), "only null in a Llama")),
        },
        Family::Mistral => tokens.map(|tokens| SlidingWindow { tokens, first_layer: 0 }),
        Family::Qwen2 if used => {
            let tokens = tokens.ok_or_else(|| {
                ModelError::ConfigSyntax("sliding_window is missing, and use_sliding_window is true".into())
            })?;
            Some(SlidingWindow { tokens, first_layer: full_layers }).filter(|window| window.first_layer < layers)
        }
        Family::Qwen2 => None,
    };
    if window.is_some_and(|window| window.tokens == 0) {
        return Err(ModelError::Size("sliding_window = 0: a token sees itself at least".into()));
    }
    check_layer_types(fields, window, layers)?;
    Ok(window)
}

/// Newer configs list each layer's kind, too: it must be the same as the other fields say.
fn check_layer_types(fields: &mut Fields, window: Option<SlidingWindow>, layers: usize) -> Result<(), ModelError> {
    let kind = |layer| match window {
        Some(window) if layer >= window.first_layer => "sliding_attention",
        Some(_) | None => "full_attention",
    };
    let expected: Vec<&str> = (0..layers).map(kind).collect();
    fields.only(
        "layer_types",
        &[json!(expected), Value::Null],
        "only what sliding_window, use_sliding_window and max_window_layers say",
    )
}

/// `rope_theta` and the scaling, from `rope_parameters` (transformers 5) or `rope_theta` and `rope_scaling`.
pub(super) fn rotary(fields: &mut Fields) -> Result<(f64, RopeScaling), ModelError> {
    let (mut theta, top_level) = (10_000.0, fields.contains("rope_theta"));
    if top_level {
        theta = fields.theta()?;
    }
    let old = fields.take("rope_scaling").filter(|value| !value.is_null());
    let new = fields.take("rope_parameters").filter(|value| !value.is_null());
    let (field, value) = match (old, new) {
        (None, None) => return Ok((theta, RopeScaling::None)),
        (Some(value), None) => ("rope_scaling", value),
        (None, Some(value)) => ("rope_parameters", value),
        (Some(old), Some(new)) if old == new => ("rope_parameters", new),
        (Some(old), Some(_)) => return Err(unsupported("rope_scaling", &old, "only what rope_parameters says, too")),
    };
    let Value::Object(map) = value else {
        return Err(unsupported(field, &value, "null or an object"));
    };
    let mut inner = Fields::new(map);
    if inner.contains("rope_theta") {
        let inner_theta = inner.theta()?;
        if top_level && inner_theta.to_bits() != theta.to_bits() {
            return Err(unsupported("rope_theta", &json!(theta), "only the one of rope_parameters"));
        }
        theta = inner_theta;
    }
    let scaling = scaling(&mut inner, field)?;
    match inner.unread() {
        Some((key, value)) => Err(unsupported(&format!("{field}.{key}"), value, "remove the field")),
        None => Ok((theta, scaling)),
    }
}

fn scaling(inner: &mut Fields, field: &str) -> Result<RopeScaling, ModelError> {
    // The older name of the same.
    let older = inner.take("type");
    let kind = inner.take("rope_type").or(older).unwrap_or(json!("default"));
    inner.only("partial_rotary_factor", &[json!(1), json!(1.0)], "only 1")?;
    let scaling = match kind.as_str() {
        Some("default") => RopeScaling::None,
        Some("linear") => RopeScaling::Linear { factor: inner.factor("factor", MAX_FACTOR)? },
        // It begins to stretch past max_position_embeddings, and no sequence here is that long.
        Some("dynamic") => inner.factor("factor", MAX_FACTOR).map(|_| RopeScaling::None)?,
        Some("llama3") => {
            let original = inner.required("original_max_position_embeddings")?;
            if original == 0 || original > MAX_ORIGINAL_POSITIONS {
                let message = format!("{field}.original_max_position_embeddings = {original} is out of range");
                return Err(ModelError::Size(message));
            }
            let factor = inner.factor("factor", MAX_FACTOR)?;
            let low_freq_factor = inner.factor("low_freq_factor", MAX_FACTOR)?;
            let high_freq_factor = inner.factor("high_freq_factor", MAX_FACTOR)?;
            if low_freq_factor >= high_freq_factor {
                let message = format!(
                    "{field}.low_freq_factor = {low_freq_factor} is not below high_freq_factor = {high_freq_factor}"
                );
                return Err(ModelError::Size(message));
            }
            RopeScaling::Llama3 { factor, low_freq_factor, high_freq_factor, original_positions: original as u32 }
        }
        Some(_) | None => {
            let supported = "only \"default\", \"linear\", \"dynamic\" and \"llama3\"";
            return Err(unsupported(&format!("{field}.rope_type"), &kind, supported));
        }
    };
    Ok(scaling)
}
