//! The inner loop: trained tokens a second, beside PyTorch on the same libtorch where `./x transformers` has fetched it, and
//! the memory that a step takes.

use std::io::{BufRead, BufReader, Write as _};
use std::num::NonZeroI32;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::atomic::AtomicBool;

use l402t::clock::Stopwatch;
use l402t::model::tokens::Tokens;
use l402t::protocol::amount::Ppm;
use l402t::protocol::ids::{PeerId, RoundNumber, RunId};
use l402t::protocol::manifest::TrainingParams;
use l402t::train::data::{Assignment, TrainingData};
use l402t::train::inner::{Activations, Begin, InnerLoop, Observer, Precision, StepReport, Trainer, TrainerOptions};
use l402t::train::state::OptimiserState;

use crate::memory::{peak_bytes, peak_bytes_of};
use crate::report::{Measured, Report};
use crate::sizes::SMALL;

const MICRO_BATCH: u32 = 4;
/// As many as it takes for the activations to be most of what a step needs.
const MEMORY_MICRO_BATCH: u32 = 32;
const SEQUENCE_TOKENS: u32 = 256;
/// Steps that are measured, after one that warms up.
const STEPS: u32 = 5;
const THREADS: NonZeroI32 = NonZeroI32::new(2).expect("not zero");
/// What a child is to measure.
pub(crate) const KEEP: &str = "train.keep";
pub(crate) const RECOMPUTE: &str = "train.recompute";
const MIB: f64 = (1 << 20) as f64;

pub(crate) fn measure(report: &mut Report) {
    report.figure("train.step", "tokens/s", || Some(step(Precision::F32)));
    report.figure("train.step_bf16", "tokens/s", || Some(step(Precision::Bf16)));
    // The reference is the memory with all activations kept.
    report.figure("train.memory_gradient_checkpointing", "MiB", || {
        let mib = |work| peak_bytes_of(&[work]).map(|bytes| bytes as f64 / MIB);
        Some(Measured { value: mib(RECOMPUTE)?, reference: mib(KEEP) })
    });
}

fn params(steps: u32, micro_batch: u32) -> TrainingParams {
    let ppm = |value| Ppm::new(value).expect("at most one");
    TrainingParams {
        inner_steps: steps,
        micro_batch,
        gradient_accumulation: 1,
        sequence_tokens: SEQUENCE_TOKENS,
        learning_rate_nano: 1_000_000,
        warmup_steps: 0,
        beta1_ppm: ppm(900_000),
        beta2_ppm: ppm(950_000),
        weight_decay_ppm: ppm(100_000),
        clip_norm_micro: 1_000_000,
        error_feedback_decay_ppm: ppm(950_000),
    }
}

/// Trains `steps` steps of `micro_batch` sequences.
fn train(steps: u32, micro_batch: u32, options: TrainerOptions, observer: &mut dyn Observer) {
    let start = SMALL.checkpoint();
    let vocabulary = u32::try_from(start.config.vocab_size).expect("small");
    let tokens = (0..100_000_u32).map(|place| place.wrapping_mul(2_654_435_761) % vocabulary).collect();
    let data = TrainingData::new(Tokens::new(tokens, vocabulary).expect("in range"), SEQUENCE_TOKENS).expect("enough");
    let (config, layout) = (start.config.clone(), start.layout.clone());
    let mut trainer = Trainer::new(config, layout, params(steps, micro_batch), options).expect("a trainer");
    let assignment =
        Assignment { run: RunId::from_bytes([1; 32]), round: RoundNumber(0), peer: PeerId::from_bytes([2; 32]) };
    let cancel = AtomicBool::new(false);
    let inner_loop = InnerLoop { assignment, start: &start, data: &data, snapshot_every_steps: None, cancel: &cancel };
    let begin = Begin::Fresh(OptimiserState::new(start.layout.numel));
    trainer.train(&inner_loop, begin, observer).expect("trained");
}

/// The fastest step of each, taken in turns.
fn step(precision: Precision) -> Measured {
    let options = TrainerOptions { precision, threads: Some(THREADS), ..TrainerOptions::default() };
    let packages = std::env::args().find_map(|argument| argument.strip_prefix("--pytorch=").map(PathBuf::from));
    let pytorch = packages.map(|packages| PyTorch::start(&packages, precision));
    let mut turns = Turns { pytorch, watch: Stopwatch::start(), own_s: f64::INFINITY, pytorch_s: f64::INFINITY };
    train(STEPS + 1, MICRO_BATCH, options, &mut turns);
    let tokens = f64::from(MICRO_BATCH * SEQUENCE_TOKENS);
    Measured { value: tokens / turns.own_s, reference: turns.pytorch.is_some().then(|| tokens / turns.pytorch_s) }
}

/// Lets PyTorch take a step after each of ours.
struct Turns {
    pytorch: Option<PyTorch>,
    watch: Stopwatch,
    own_s: f64,
    pytorch_s: f64,
}

impl Observer for Turns {
    fn step(&mut self, report: &StepReport) {
        let own_s = self.watch.elapsed().as_secs_f64();
        // The first one warms up.
        if report.finished_steps > 1 {
            self.own_s = self.own_s.min(own_s);
        }
        if let Some(pytorch) = &mut self.pytorch {
            self.pytorch_s = self.pytorch_s.min(pytorch.step());
        }
        self.watch = Stopwatch::start();
    }
}

/// train.py at work.
struct PyTorch {
    child: Child,
    ask: ChildStdin,
    answers: BufReader<ChildStdout>,
}

impl PyTorch {
    fn start(packages: &Path, precision: Precision) -> Self {
        let settings = serde_json::json!({
            "threads": THREADS,
            "precision": match precision {
                Precision::F32 => "f32",
                Precision::Bf16 => "bf16",
            },
            "micro_batch": MICRO_BATCH,
            "sequence_tokens": SEQUENCE_TOKENS,
            "model": serde_json::from_str::<serde_json::Value>(&SMALL.config().to_json()).expect("JSON"),
        });
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/benches/figures/train.py");
        let mut command = Command::new("python3");
        command
            .env("PYTHONPATH", packages)
            .env("PYTHONDONTWRITEBYTECODE", "1")
            .arg(script)
            .arg(settings.to_string())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped());
        let mut child = command.spawn().expect("python3 starts");
        let ask = child.stdin.take().expect("piped");
        let mut answers = BufReader::new(child.stdout.take().expect("piped"));
        // It has warmed up once it says which version it is.
        answers.read_line(&mut String::new()).expect("train.py answers");
        Self { child, ask, answers }
    }

    /// Seconds of one step.
    fn step(&mut self) -> f64 {
        writeln!(self.ask, "step").expect("train.py listens");
        let mut line = String::new();
        self.answers.read_line(&mut line).expect("train.py answers");
        let answer: serde_json::Value = serde_json::from_str(&line).expect("train.py answers in JSON");
        answer["seconds"].as_f64().expect("seconds")
    }
}

impl Drop for PyTorch {
    fn drop(&mut self) {
        // It ends with its stdin, but nobody should wait for that.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The most that a step has resident, in bytes; weights, moments and gradients are in it.
pub(crate) fn peak(activations: Activations) -> Option<u64> {
    let options = TrainerOptions { activations, threads: Some(THREADS), ..TrainerOptions::default() };
    peak_bytes(|| train(1, MEMORY_MICRO_BATCH, options, &mut ()))
}
