//! Weights, and their one encoding: safetensors with tensors in layout order and no metadata.
//!
//! Bytes come from the network: sizes are checked against the model before anything is copied.

use std::sync::Arc;

use super::safetensors::{self, Dtype};
use super::{Layout, LlamaConfig, ModelError};
use crate::protocol::codec::TensorShape;
use crate::protocol::ids::Blake3Hash;

const INIT: &str = "l402t initial weights v1";

/// Weights: one f32 arena in layout order.
#[derive(Clone, Debug)]
pub struct Checkpoint {
    /// The model.
    pub config: Arc<LlamaConfig>,
    /// Where each tensor is.
    pub layout: Arc<Layout>,
    /// (layout.numel)
    pub weights: Vec<f32>,
}

impl Checkpoint {
    /// Fresh weights, the same bits everywhere: norms are 1, biases 0, the rest is bell-shaped with standard deviation 0.02.
    ///
    /// Each weight is the sum of four 16-bit integers of a BLAKE3 stream (keyed by seed and tensor name), centred and
    /// multiplied by one f32 constant: integer arithmetic and a single rounding, no libm.
    pub fn init(config: LlamaConfig, seed: [u8; 32]) -> Checkpoint {
        // The sum of four uniform 16-bit integers has mean 2·65535 and standard deviation 65536/√3 = 37837.2.
        const MEAN: i32 = 2 * 65_535;
        const SCALE: f32 = 0.02 / 37_837.2;
        let layout = config.layout();
        let mut weights = vec![1.0; layout.numel];
        for tensor in &layout.tensors {
            if let TensorShape::Vector { .. } = tensor.shape {
                if tensor.is_bias() {
                    weights[tensor.range()].fill(0.0);
                }
                continue;
            }
            let mut hasher = blake3::Hasher::new_derive_key(INIT);
            hasher.update(&seed);
            hasher.update(tensor.name.as_bytes());
            let mut stream = hasher.finalize_xof();
            for chunk in weights[tensor.range()].chunks_mut(512) {
                let mut bytes = [0; 512 * 8];
                let bytes = &mut bytes[..8 * chunk.len()];
                stream.fill(bytes);
                for (weight, b) in chunk.iter_mut().zip(bytes.chunks_exact(8)) {
                    let sum: i32 = b.chunks_exact(2).map(|b| i32::from(u16::from_le_bytes([b[0], b[1]]))).sum();
                    *weight = (sum - MEAN) as f32 * SCALE;
                }
            }
        }
        Checkpoint { config: Arc::new(config), layout: Arc::new(layout), weights }
    }

    /// Reads a safetensors file that holds exactly the model's tensors, as finite F32.
    pub fn from_safetensors(config: LlamaConfig, bytes: &[u8]) -> Result<Checkpoint, ModelError> {
        let layout = config.layout();
        let (header, data) = safetensors::split(bytes)?;
        header.check_coverage(data.len() as u64)?;
        if let Some(name) = header.names().find(|name| layout.find(name).is_none()) {
            return Err(ModelError::UnknownTensor(name.to_owned()));
        }
        let mut weights = Vec::with_capacity(layout.numel.min(data.len() / 4));
        for spec in &layout.tensors {
            let entry = header.find(&spec.name).ok_or_else(|| ModelError::MissingTensor(spec.name.clone()))?;
            if entry.check(spec)? != Dtype::F32 {
                return Err(entry.wrong(spec, "F32"));
            }
            // check_coverage has shown start ≤ end ≤ data.len().
            let [start, end] = entry.data_offsets.map(|offset| offset as usize);
            Dtype::F32.widen(&data[start..end], &mut weights);
            check_finite(&weights[spec.offset..], &spec.name)?;
        }
        Ok(Checkpoint { config: Arc::new(config), layout: Arc::new(layout), weights })
    }

    /// The canonical file: the same weights always give the same bytes.
    pub fn to_safetensors(&self) -> Vec<u8> {
        let mut bytes = safetensors::header(&self.layout.tensors, Dtype::F32, safetensors::Metadata::None);
        bytes.reserve(4 * self.weights.len());
        bytes.extend(self.weights.iter().flat_map(|weight| weight.to_le_bytes()));
        bytes
    }

    /// BLAKE3 of the canonical file: the checkpoint's name everywhere.
    pub fn hash(&self) -> Blake3Hash {
        let mut hasher = blake3::Hasher::new();
        hasher.update(&safetensors::header(&self.layout.tensors, Dtype::F32, safetensors::Metadata::None));
        let mut buffer = Vec::with_capacity(4 * 16_384);
        for chunk in self.weights.chunks(16_384) {
            buffer.clear();
            buffer.extend(chunk.iter().flat_map(|weight| weight.to_le_bytes()));
            hasher.update(&buffer);
        }
        Blake3Hash::from_bytes(*hasher.finalize().as_bytes())
    }

    /// The values of the tensor at `place` in layout order.
    pub fn tensor(&self, place: usize) -> &[f32] {
        &self.weights[self.layout.tensors[place].range()]
    }

    /// The values of the tensor called `name`.
    pub fn tensor_named(&self, name: &str) -> Option<&[f32]> {
        self.weights.get(self.layout.find(name)?.range())
    }
}

/// No weight of the tensor is NaN or infinite.
pub(super) fn check_finite(values: &[f32], name: &str) -> Result<(), ModelError> {
    match values.iter().position(|weight| !weight.is_finite()) {
        Some(index) => Err(ModelError::NonFinite { name: name.to_owned(), index }),
        None => Ok(()),
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::super::safetensors::shape_of;
    use super::*;

    pub(in crate::model) fn tiny() -> LlamaConfig {
        LlamaConfig {
            vocab_size: 32,
            hidden_size: 16,
            intermediate_size: 24,
            num_hidden_layers: 2,
            num_attention_heads: 4,
            num_key_value_heads: 2,
            head_dim: 4,
            max_position_embeddings: 32,
            rms_norm_eps: 1e-5,
            rope_theta: 10_000.0,
            tie_word_embeddings: true,
            variant: Default::default(),
        }
    }

    #[test]
    fn a_checkpoint_survives_the_round_trip_and_its_hash_is_of_its_bytes() {
        let checkpoint = Checkpoint::init(tiny(), [7; 32]);
        let bytes = checkpoint.to_safetensors();
        assert_eq!(checkpoint.hash(), Blake3Hash::of(&bytes));
        let read = Checkpoint::from_safetensors(tiny(), &bytes).expect("valid");
        assert_eq!(read.to_safetensors(), bytes);
        assert_eq!(read.tensor_named("model.norm.weight").map(<[f32]>::len), Some(16));
    }

    #[test]
    fn initial_weights_stay_what_they_were() {
        let checkpoint = Checkpoint::init(tiny(), [7; 32]);
        assert_eq!(checkpoint.hash().to_string(), "9f53a9c085aa8d88bb14439e89f3996d53f0ba1f95187b53ca89ba34b6ae8999");
        let embedding = checkpoint.tensor_named("model.embed_tokens.weight").expect("present");
        let variance = embedding.iter().map(|w| f64::from(*w).powi(2)).sum::<f64>() / embedding.len() as f64;
        assert!((0.017..0.023).contains(&variance.sqrt()), "{variance}");
        assert_ne!(checkpoint.hash(), Checkpoint::init(tiny(), [8; 32]).hash());
    }

    #[test]
    fn tensors_may_come_in_any_order_and_with_metadata() {
        let checkpoint = Checkpoint::init(tiny(), [7; 32]);
        let mut header = serde_json::Map::new();
        header.insert("__metadata__".into(), serde_json::json!({"format": "pt"}));
        let mut data = Vec::new();
        for (place, tensor) in checkpoint.layout.tensors.iter().enumerate().rev() {
            let start = data.len();
            data.extend(checkpoint.tensor(place).iter().flat_map(|w| w.to_le_bytes()));
            let entry = serde_json::json!({
                "dtype": "F32", "shape": shape_of(tensor.shape), "data_offsets": [start, data.len()]
            });
            header.insert(tensor.name.clone(), entry);
        }
        let json = serde_json::Value::Object(header).to_string();
        let mut bytes = (json.len() as u64).to_le_bytes().to_vec();
        bytes.extend(json.bytes());
        bytes.extend(data);
        let read = Checkpoint::from_safetensors(tiny(), &bytes).expect("valid");
        assert_eq!(read.hash(), checkpoint.hash());
    }

    #[test]
    fn damaged_files_are_refused() {
        let checkpoint = Checkpoint::init(tiny(), [7; 32]);
        let bytes = checkpoint.to_safetensors();
        for cut in [0, 7, 8, 100, bytes.len() - 1] {
            Checkpoint::from_safetensors(tiny(), &bytes[..cut]).expect_err("truncated");
        }
        let longer = [bytes.as_slice(), &[0]].concat();
        assert!(matches!(Checkpoint::from_safetensors(tiny(), &longer), Err(ModelError::Format(_))));
        let mut huge = bytes.clone();
        huge[..8].copy_from_slice(&u64::MAX.to_le_bytes());
        assert!(matches!(Checkpoint::from_safetensors(tiny(), &huge), Err(ModelError::Format(_))));
        let mut nan = checkpoint.clone();
        nan.weights[3] = f32::NAN;
        let error = Checkpoint::from_safetensors(tiny(), &nan.to_safetensors()).expect_err("not finite");
        assert_eq!(error, ModelError::NonFinite { name: "model.embed_tokens.weight".into(), index: 3 });
    }

    #[test]
    fn the_checkpoint_of_another_model_is_refused_by_tensor_name() {
        let bytes = Checkpoint::init(tiny(), [7; 32]).to_safetensors();
        let mut untied = tiny();
        untied.tie_word_embeddings = false;
        let missing = ModelError::MissingTensor("lm_head.weight".into());
        assert_eq!(Checkpoint::from_safetensors(untied.clone(), &bytes).expect_err("missing"), missing);
        let unknown = ModelError::UnknownTensor("lm_head.weight".into());
        let more = Checkpoint::init(untied, [7; 32]).to_safetensors();
        assert_eq!(Checkpoint::from_safetensors(tiny(), &more).expect_err("unknown"), unknown);
        let mut wider = tiny();
        wider.vocab_size = 33;
        assert!(matches!(Checkpoint::from_safetensors(wider, &bytes), Err(ModelError::WrongTensor { .. })));
    }
}
