//! Training: data, model, inner loop (libtorch through tch, feature `torch`), error feedback and compression.
//!
//! What is computed here is fast, not reproducible between machines: nothing of it may decide about money or the next
//! checkpoint. That is the judge's.

#[cfg(feature = "torch")]
mod adamw;
#[cfg(feature = "torch")]
mod backward;
pub mod compress;
pub mod data;
#[cfg(feature = "torch")]
mod device;
#[cfg(feature = "torch")]
pub mod inner;
#[cfg(feature = "torch")]
mod llama;
pub mod state;

use std::path::PathBuf;

/// Why training stopped or could not start.
#[derive(Debug, thiserror::Error)]
pub enum TrainError {
    /// A setting of the run that can't be trained with.
    #[error("the run can't be trained: {0}")]
    Settings(String),
    /// The corpus is shorter than one sequence and its last target.
    #[error(
        "{tokens} training tokens are too few: one sequence and its last target take {needed}; use more text or \
         shorter sequences"
    )]
    TooLittleData {
        /// What there is.
        tokens: usize,
        /// What one sequence takes.
        needed: usize,
    },
    /// `--gpu` on a machine that can't.
    #[error(
        "no CUDA device can be used: {0}. Point LIBTORCH at a libtorch with CUDA and check the driver with nvidia-smi, \
         or leave --gpu out to train on the CPU"
    )]
    CudaUnavailable(String),
    /// libtorch refused an operation.
    #[error("libtorch: {0}")]
    Torch(String),
    /// The loss or the gradient is NaN or infinite; the weights were not touched by it.
    #[error(
        "inner step {step}: the {what} is not finite; the round's checkpoint or learning rate is unusable in this \
         precision: try fp32 if this was bf16"
    )]
    NonFinite {
        /// The inner step, from 0.
        step: u32,
        /// Loss or gradient.
        what: &'static str,
    },
    /// Asked to stop; a snapshot was handed to the observer.
    #[error("training was stopped before inner step {next_step}")]
    Cancelled {
        /// The step to go on with.
        next_step: u32,
    },
    /// A snapshot or state of another model, round or checkpoint.
    #[error("saved training state does not fit: {0}")]
    StateMismatch(String),
    /// Local state could not be read or written.
    #[error("{path}: {source}; check free disk space and permissions")]
    State {
        /// The file.
        path: PathBuf,
        /// The cause.
        source: std::io::Error,
    },
}

#[cfg(feature = "torch")]
impl From<tch::TchError> for TrainError {
    fn from(error: tch::TchError) -> Self {
        // libtorch appends a C++ backtrace of many lines.
        TrainError::Torch(error.to_string().lines().next().unwrap_or_default().to_owned())
    }
}
