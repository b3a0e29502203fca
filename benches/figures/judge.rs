//! The judge: held-out tokens scored a second, beside libtorch in fp32, and the memory that it takes.

use std::num::NonZeroUsize;

use l402t::judge::{HeldOutBatch, Isa, Pool, Scorer};

use crate::memory::peak_bytes_of;
use crate::report::{Measured, Report, fastest_in_turns};
use crate::sizes::{LARGE, SMALL, Size};

/// Predicted tokens of a window.
const WINDOW_TOKENS: u32 = 512;
const ROUNDS: usize = 3;
const MIB: f64 = (1 << 20) as f64;

/// What is scored, and on how many windows.
const SCORED: [(Size, u32); 2] = [(SMALL, 8), (LARGE, 4)];

fn batch(size: Size, windows: u32) -> HeldOutBatch {
    let window = |w: u32| (0..=WINDOW_TOKENS).map(|t| (w * 31 + t * 7_919) % size.vocabulary).collect();
    HeldOutBatch::new(&size.config(), (0..windows).map(window).collect()).expect("fits the model")
}

pub(crate) fn measure(report: &mut Report) {
    for (size, windows) in SCORED {
        for threads in [1, 2] {
            let suffix = if threads == 1 { String::new() } else { format!("_{threads}_threads") };
            let name = format!("judge.forward_{}{suffix}", size.name);
            report.figure(&name, "tokens/s", || Some(forward(size, windows, NonZeroUsize::new(threads)?)));
        }
        report.figure(&format!("judge.memory_{}", size.name), "MiB", || memory(size));
    }
}

/// The reference is libtorch on the same weights, windows and number of threads.
fn forward(size: Size, windows: u32, threads: NonZeroUsize) -> Measured {
    let (checkpoint, batch) = (size.checkpoint(), batch(size, windows));
    let mut scorer = Scorer::new(&checkpoint.config, batch.predicted_per_window(), Pool::new(Isa::best(), threads));
    let tokens = batch.predicted_tokens() as f64;
    let mut judge = || {
        scorer.loss(&checkpoint.weights, &batch).expect("finite");
    };
    #[cfg(feature = "torch")]
    {
        let model = crate::torch::Model::new(&checkpoint, WINDOW_TOKENS.into(), threads);
        let [judge_s, torch_s] = fastest_in_turns(
            ROUNDS,
            [&mut judge, &mut || {
                model.loss(batch.windows());
            }],
        );
        Measured { value: tokens / judge_s, reference: Some(tokens / torch_s) }
    }
    #[cfg(not(feature = "torch"))]
    {
        let [judge_s] = fastest_in_turns(ROUNDS, [&mut judge]);
        Measured::alone(tokens / judge_s)
    }
}

/// Weights and all that scoring them takes, on two threads; the reference is the weights and one window's activations of
/// one block: twice the residual stream, queries and their mixed values, keys, values, gate and up.
fn memory(size: Size) -> Option<Measured> {
    let config = size.config();
    let row = config.hidden_size + config.query_width() + config.key_value_width() + config.intermediate_size;
    let least = (config.layout().numel + WINDOW_TOKENS as usize * 2 * row) * size_of::<f32>();
    let peak = peak_bytes_of(&[size.name])?;
    Some(Measured { value: peak as f64 / MIB, reference: Some(least as f64 / MIB) })
}

/// What a child process does whose memory is measured.
pub(crate) fn score_once(name: &str) {
    let (size, windows) = SCORED.into_iter().find(|(size, _)| size.name == name).expect("a size of ours");
    let (checkpoint, batch) = (size.checkpoint(), batch(size, windows));
    let pool = Pool::new(Isa::best(), NonZeroUsize::new(2).expect("two"));
    let mut scorer = Scorer::new(&checkpoint.config, batch.predicted_per_window(), pool);
    scorer.loss(&checkpoint.weights, &batch).expect("finite");
}
