//! The threads that judge, seen to compute rightly before they do.

use std::num::NonZeroUsize;

use super::Failure;
use crate::judge::{Pool, self_test};
use crate::protocol::verdict::Score;

/// `threads` threads (0 or none: one a core) on the fastest instruction set, after the judge's self-test.
pub(super) fn checked_pool(threads: Option<u32>) -> Result<Pool, Failure> {
    let all = Pool::all_cores();
    let pool = match threads.and_then(|threads| NonZeroUsize::new(threads as usize)) {
        Some(threads) => Pool::new(all.isa(), threads),
        None => all,
    };
    self_test(pool).map_err(Failure::bug)?;
    Ok(pool)
}

/// A summed loss or gain in nats a token, for people: a score is 2⁻³² nats.
pub(super) fn nats_per_token(score: Score, tokens: u64) -> f64 {
    score.0 as f64 / 4_294_967_296.0 / tokens.max(1) as f64
}
