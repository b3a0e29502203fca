//! `l402t judge bench`: what this machine computes and how fast, for two strangers to compare.

use std::num::NonZeroUsize;

use serde::Serialize;

use super::{Answer, Context, Failure};
use crate::cli::{JudgeArgs, JudgeBenchArgs, JudgeCommand};
use crate::clock::Stopwatch;
use crate::judge::{HeldOutBatch, Isa, KnownAnswer, Pool, Scorer};
use crate::model::{Checkpoint, LlamaConfig};
use crate::protocol::codec::TensorShape;
use crate::protocol::ids::Blake3Hash;

/// Predicted tokens of a window.
const WINDOW_TOKENS: u32 = 256;
/// Windows a thread, so that all threads have as much to do.
const WINDOWS_A_THREAD: u32 = 2;
/// A path is measured again and again for this long, and at least once more after warming up.
const MEASURED_MS: u64 = 1_000;
/// 3.9 million weights: small enough for the slowest path, large enough that no first-level cache holds a matrix.
const MODEL: &str = r#"{
    "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_act": "silu", "vocab_size": 2048,
    "hidden_size": 256, "intermediate_size": 704, "num_hidden_layers": 4, "num_attention_heads": 4,
    "max_position_embeddings": 256, "rms_norm_eps": 1e-5, "tie_word_embeddings": true
}"#;

/// What `--json` prints.
#[derive(Debug, Serialize)]
struct Report {
    threads: usize,
    /// What it should be.
    known_answer: Blake3Hash,
    right: bool,
    /// Slowest first.
    paths: Vec<PathReport>,
}

/// One instruction set.
#[derive(Debug, Serialize)]
struct PathReport {
    path: String,
    /// What it is.
    known_answer: Blake3Hash,
    right: bool,
    /// Held-out tokens scored.
    tokens_per_s: f64,
    /// Of the products with the model's matrices alone.
    gflop_per_s: f64,
}

/// Runs the command.
pub fn run(args: &JudgeArgs, context: &Context) -> Result<Answer, Failure> {
    context.log_to_stderr()?;
    match &args.command {
        JudgeCommand::Bench(args) => bench(args, context),
    }
}

fn bench(args: &JudgeBenchArgs, context: &Context) -> Result<Answer, Failure> {
    let threads = match args.threads.and_then(|threads| NonZeroUsize::new(threads as usize)) {
        Some(threads) => threads,
        None => std::thread::available_parallelism().unwrap_or(NonZeroUsize::MIN),
    };
    let config = LlamaConfig::from_json(MODEL.as_bytes()).map_err(Failure::bug)?;
    let checkpoint = Checkpoint::init(config, [1; 32]);
    let batch = batch(&checkpoint.config, threads)?;
    let mut paths = Vec::new();
    context.ui.line(format!("{:<9} {:>12} {:>10}  known answer", "path", "tokens/s", "Gflop/s"));
    for isa in Isa::available() {
        let pool = Pool::new(isa, threads);
        let KnownAnswer { found, right } = KnownAnswer::compute(pool);
        let tokens_per_s = tokens_per_s(&checkpoint, &batch, pool);
        let path = PathReport {
            path: isa.to_string(),
            known_answer: found,
            right,
            tokens_per_s,
            gflop_per_s: tokens_per_s * flops_a_token(&checkpoint) / 1e9,
        };
        let said = if right { "" } else { "  WRONG" };
        context
            .ui
            .line(format!("{:<9} {:>12.0} {:>10.1}  {found}{said}", path.path, path.tokens_per_s, path.gflop_per_s));
        paths.push(path);
    }
    let right = paths.iter().all(|path| path.right);
    let known_answer = KnownAnswer::expected();
    let report = Report { threads: threads.get(), known_answer, right, paths };
    Ok(if right {
        context.ui.line("right: this machine judges as every other one");
        Answer::yes(report)
    } else {
        let message = format!("wrong: the known answer is {known_answer}; this machine must not judge");
        context.ui.line(format!("{message}, please report it"));
        Answer::no(report, Failure::negative("wrong_known_answer", message, "Please report it with what was printed"))
    })
}

fn batch(config: &LlamaConfig, threads: NonZeroUsize) -> Result<HeldOutBatch, Failure> {
    let vocabulary = u32::try_from(config.vocab_size).unwrap_or(u32::MAX);
    let window = |w: u32| (0..=WINDOW_TOKENS).map(|t| (w * 31 + t * 7) % vocabulary).collect();
    let windows = WINDOWS_A_THREAD * u32::try_from(threads.get()).unwrap_or(1);
    HeldOutBatch::new(config, (0..windows).map(window).collect()).map_err(Failure::bug)
}

fn tokens_per_s(checkpoint: &Checkpoint, batch: &HeldOutBatch, pool: Pool) -> f64 {
    let mut scorer = Scorer::new(&checkpoint.config, batch.predicted_per_window(), pool);
    let all = Stopwatch::start();
    let mut fastest = f64::INFINITY;
    let mut warm = false;
    loop {
        let once = Stopwatch::start();
        scorer.loss(&checkpoint.weights, batch);
        if warm {
            fastest = fastest.min(once.elapsed().as_secs_f64());
            if all.elapsed_ms() >= MEASURED_MS {
                return batch.predicted_tokens() as f64 / fastest;
            }
        }
        warm = true;
    }
}

/// Two a weight of a matrix, the tied head included.
fn flops_a_token(checkpoint: &Checkpoint) -> f64 {
    let matrices = checkpoint.layout.tensors.iter().filter(|spec| matches!(spec.shape, TensorShape::Matrix { .. }));
    matrices.map(|spec| 2.0 * spec.numel() as f64).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_measured_model_can_be_scored() {
        let config = LlamaConfig::from_json(MODEL.as_bytes()).expect("a Llama");
        let batch = batch(&config, NonZeroUsize::MIN).expect("it fits the model");
        assert_eq!(batch.predicted_tokens(), u64::from(WINDOWS_A_THREAD * WINDOW_TOKENS));
    }
}
