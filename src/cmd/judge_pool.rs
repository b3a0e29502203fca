//! The threads that judge, seen to compute rightly before they do.

use std::num::NonZeroUsize;

use super::Failure;
use crate::config::Device;
use crate::judge::{Engine, JudgeError, Pool, self_test};
use crate::protocol::verdict::Score;

/// `threads` threads (0 or none: one a core) on the fastest instruction set, or the first CUDA device with these beside it,
/// after the judge's self-test.
pub(super) fn checked_engine(threads: Option<u32>, device: Device) -> Result<Engine, Failure> {
    let all = Pool::all_cores();
    let pool = match threads.and_then(|threads| NonZeroUsize::new(threads as usize)) {
        Some(threads) => Pool::new(all.isa(), threads),
        None => all,
    };
    let engine = match device {
        Device::Cpu => Engine::from(pool),
        Device::Cuda => Engine::gpu(pool, 0).map_err(|error| no_gpu(&error))?,
    };
    self_test(engine.clone()).map_err(|error| match error {
        JudgeError::Gpu(_) => no_gpu(&error),
        _ => Failure::bug(error),
    })?;
    Ok(engine)
}

/// A GPU that was asked for and can't be used: the CPU is never taken instead unasked.
pub(super) fn no_gpu(error: &JudgeError) -> Failure {
    Failure::usage(
        "no_gpu",
        error,
        "Judge on the CPU instead (without --gpu, device = \"cpu\"), to the same bits; a GPU needs NVIDIA's driver 450 or later",
    )
}

/// What `--gpu` and the configured device together ask for.
pub(super) fn judging_device(gpu: bool, configured: Device) -> Device {
    if gpu { Device::Cuda } else { configured }
}

/// A summed loss or gain in nats a token, for people: a score is 2⁻³² nats.
pub(super) fn nats_per_token(score: Score, tokens: u64) -> f64 {
    score.0 as f64 / 4_294_967_296.0 / tokens.max(1) as f64
}
