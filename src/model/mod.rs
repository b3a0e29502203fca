//! The model's description, shared by the judge and the trainer: config.json, tensor layout, checkpoints, Hugging
//! Face folders.
//!
//! Holds no arithmetic on weights: that is the judge's (DF32) and the trainer's (libtorch).

mod checkpoint;
mod config;
mod export;
#[cfg(test)]
pub(crate) mod fixtures;
mod layout;
mod pretrained;
mod safetensors;
pub mod tokens;
mod variant;

pub use checkpoint::Checkpoint;
pub use config::LlamaConfig;
pub use export::Export;
pub use l402t_kernels::rope::RopeScaling;
pub use layout::{Layout, TensorSpec};
pub use pretrained::Pretrained;
pub use safetensors::Dtype;
pub use variant::{Family, SlidingWindow, Variant};

/// A model or its weights that can't be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ModelError {
    /// config.json is not JSON, lacks a field or has one of the wrong type.
    #[error("config.json: {0}")]
    ConfigSyntax(String),
    /// config.json asks for something that this program's Llama doesn't do.
    #[error("config.json: {field} = {value} is not supported: {supported}")]
    Unsupported {
        /// The field.
        field: String,
        /// What it holds.
        value: String,
        /// What would be accepted.
        supported: &'static str,
    },
    /// A size out of bounds, or two that don't go together.
    #[error("config.json: {0}")]
    Size(String),
    /// A file of a model folder that can't be used.
    #[error("{path}: {problem}")]
    File {
        /// Which.
        path: String,
        /// What is wrong, and what to do.
        problem: String,
    },
    /// The bytes are not the safetensors format.
    #[error("checkpoint: not a safetensors file: {0}")]
    Format(String),
    /// The file lacks one of the model's tensors.
    #[error("checkpoint: tensor {0} is missing: is this the checkpoint of another config.json?")]
    MissingTensor(String),
    /// The file has a tensor that the model doesn't.
    #[error("checkpoint: tensor {0} is not part of the model: is this the checkpoint of another config.json?")]
    UnknownTensor(String),
    /// A tensor has another shape or element type.
    #[error("checkpoint: tensor {name} is {found}, the model's is {expected}")]
    WrongTensor {
        /// Its name.
        name: String,
        /// Element type and shape in the file.
        found: String,
        /// Element type and shape of the model.
        expected: String,
    },
    /// A weight is NaN or infinite.
    #[error("checkpoint: tensor {name} has a non-finite weight at {index}")]
    NonFinite {
        /// The tensor.
        name: String,
        /// Flat index in it.
        index: usize,
    },
}
