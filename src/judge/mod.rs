//! The judge: decode, apply, score, verdict and outer step in DF32, and the replay of a round.
//!
//! Everything here is a function of its arguments: the same bytes in, the same verdicts and the same next checkpoint out, on
//! every machine. No libtorch, no libm and no BLAS call may be made from here, and nothing is read or written.

mod aggregate;
mod clip;
mod engine;
#[cfg(test)]
mod fixtures;
mod forward;
#[cfg(any(feature = "cuda", test))]
mod gpu;
mod held_out;
mod outer;
mod overlap;
pub mod replay;
mod round;
mod self_test;
mod values;

pub use aggregate::{CatchUp, CatchUpError};
pub use clip::clip_digest;
pub use engine::Engine;
pub use forward::Scorer;
pub use held_out::HeldOutBatch;
pub use l402t_kernels::cuda::CudaError;
pub use l402t_kernels::{Isa, Pool};
pub use outer::{ClippedUpdate, outer_step};
pub use overlap::chance_overlap;
pub use round::{Progress, RoundInput, RoundJudgement, Submission, judge_round};
pub use self_test::{KnownAnswer, self_test};

use crate::protocol::codec::UnsupportedParams;

/// The version of the rules (the `df32_version` of a manifest) that this judge follows.
pub const DF32_VERSION: u32 = 1;

/// Why a round can't be judged. None of these is a contribution's doing: those get a verdict.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum JudgeError {
    /// The manifest asks for other rules.
    #[error(
        "the run asks for version {0} of the judge's arithmetic, this program has version {DF32_VERSION}: update it"
    )]
    UnknownRules(u32),
    /// The manifest asks for another codec, or one that the model's shapes don't fit.
    #[error("the run's codec can't be used: {0}")]
    Codec(#[from] UnsupportedParams),
    /// A held-out window can't be scored on.
    #[error("held-out window {window}: {problem}")]
    Window {
        /// Its place in the batch.
        window: usize,
        /// What is wrong with it.
        problem: String,
    },
    /// There is nothing to score on.
    #[error("the held-out batch is empty")]
    EmptyBatch,
    /// The round's own checkpoint has no finite loss.
    #[error("the loss of the round's checkpoint is not finite: the run can't go on from it")]
    CheckpointNotFinite,
    /// Arithmetic on this machine isn't what it should be.
    #[error(
        "the judge's self-test failed on {engine} ({what}): this machine would judge wrongly; choose another instruction \
         set, or the CPU instead of the GPU, and please report it"
    )]
    SelfTest {
        /// The instruction set and threads, or the GPU.
        engine: String,
        /// Which part differed.
        what: &'static str,
    },
    /// The GPU that was asked for can't be used, or failed while judging.
    #[error("can't judge on the GPU: {0}")]
    Gpu(#[from] CudaError),
}
