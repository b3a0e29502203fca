//! The judge: held-out tokens scored a second, beside libtorch in fp32, and the memory that it takes.

use std::num::NonZeroUsize;

use l402t::judge::{HeldOutBatch, Isa, Pool, Scorer};
use l402t::model::{Checkpoint, LlamaConfig};

use crate::memory::peak_bytes_of;
use crate::report::{Measured, Report, fastest_in_turns};

/// Predicted tokens of a window.
const WINDOW_TOKENS: u32 = 512;
const ROUNDS: usize = 3;
const MIB: f64 = (1 << 20) as f64;

/// A Llama to score.
#[derive(Clone, Copy)]
struct Size {
    name: &'static str,
    vocabulary: u32,
    hidden: u32,
    inner: u32,
    layers: u32,
    heads: u32,
    windows: u32,
}

const SIZES: [Size; 2] = [
    Size { name: "25m", vocabulary: 12_288, hidden: 512, inner: 1_408, layers: 6, heads: 8, windows: 8 },
    Size { name: "124m", vocabulary: 50_304, hidden: 768, inner: 2_048, layers: 12, heads: 12, windows: 4 },
];

impl Size {
    fn config(&self) -> LlamaConfig {
        let Size { vocabulary, hidden, inner, layers, heads, .. } = self;
        let json = serde_json::json!({
            "architectures": ["LlamaForCausalLM"],
            "model_type": "llama",
            "hidden_act": "silu",
            "vocab_size": vocabulary,
            "hidden_size": hidden,
            "intermediate_size": inner,
            "num_hidden_layers": layers,
            "num_attention_heads": heads,
            "max_position_embeddings": 1_024,
            "rms_norm_eps": 1e-5,
            "tie_word_embeddings": true,
        });
        LlamaConfig::from_json(json.to_string().as_bytes()).expect("a Llama")
    }

    fn checkpoint(&self) -> Checkpoint {
        Checkpoint::init(self.config(), [1; 32])
    }

    fn batch(&self) -> HeldOutBatch {
        let window = |w: u32| (0..=WINDOW_TOKENS).map(|t| (w * 31 + t * 7_919) % self.vocabulary).collect();
        HeldOutBatch::new(&self.config(), (0..self.windows).map(window).collect()).expect("fits the model")
    }
}

pub(crate) fn measure(report: &mut Report) {
    for size in SIZES {
        for threads in [1, 2] {
            let suffix = if threads == 1 { String::new() } else { format!("_{threads}_threads") };
            let name = format!("judge.forward_{}{suffix}", size.name);
            report.figure(&name, "tokens/s", || Some(forward(size, NonZeroUsize::new(threads)?)));
        }
        report.figure(&format!("judge.memory_{}", size.name), "MiB", || memory(size));
    }
}

/// The reference is libtorch on the same weights, windows and number of threads.
fn forward(size: Size, threads: NonZeroUsize) -> Measured {
    let (checkpoint, batch) = (size.checkpoint(), size.batch());
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
    let size = SIZES.into_iter().find(|size| size.name == name).expect("a size of ours");
    let (checkpoint, batch) = (size.checkpoint(), size.batch());
    let pool = Pool::new(Isa::best(), NonZeroUsize::new(2).expect("two"));
    let mut scorer = Scorer::new(&checkpoint.config, batch.predicted_per_window(), pool);
    scorer.loss(&checkpoint.weights, &batch).expect("finite");
}
