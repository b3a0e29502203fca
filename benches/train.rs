//! The inner loop in libtorch.
//!
//! `cargo bench --bench train`. The items counted are predicted tokens.

mod model;

use std::sync::atomic::AtomicBool;

use divan::Bencher;
use divan::counter::ItemsCount;
use l402t::model::tokens::Tokens;
use l402t::protocol::amount::Ppm;
use l402t::protocol::ids::{PeerId, RoundNumber, RunId};
use l402t::protocol::manifest::TrainingParams;
use l402t::train::data::{Assignment, TrainingData};
use l402t::train::inner::{Begin, InnerLoop, Precision, Trainer, TrainerOptions};
use l402t::train::state::OptimiserState;

const STEPS: u32 = 2;
const BATCH: u32 = 8;
/// Predicted tokens of a sequence.
const SEQUENCE_TOKENS: u32 = 128;
const CORPUS: &[u8] = include_bytes!("../examples/corpus/king-james-bible.txt");

fn main() {
    divan::main();
}

fn params() -> TrainingParams {
    let ppm = |value| Ppm::new(value).expect("at most one");
    TrainingParams {
        inner_steps: STEPS,
        micro_batch: BATCH,
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

fn steps(bencher: Bencher, precision: Precision) {
    let start = model::checkpoint(1);
    let data = TrainingData::new(Tokens::from_text(CORPUS, 256).expect("text"), SEQUENCE_TOKENS).expect("enough");
    let options = TrainerOptions { precision, ..TrainerOptions::default() };
    let mut trainer = Trainer::new(start.config.clone(), start.layout.clone(), params(), options).expect("a trainer");
    let assignment =
        Assignment { run: RunId::from_bytes([1; 32]), round: RoundNumber(0), peer: PeerId::from_bytes([2; 32]) };
    let cancel = AtomicBool::new(false);
    let job = InnerLoop { assignment, start: &start, data: &data, snapshot_every_steps: None, cancel: &cancel };
    let tokens = ItemsCount::new(u64::from(STEPS * BATCH * SEQUENCE_TOKENS));
    bencher
        .counter(tokens)
        .with_inputs(|| Begin::Fresh(OptimiserState::new(start.layout.numel)))
        .bench_local_values(|begin| trainer.train(&job, begin, &mut ()).expect("trained"));
}

#[divan::bench(sample_count = 10)]
fn two_inner_steps_in_fp32(bencher: Bencher) {
    steps(bencher, Precision::F32);
}

#[divan::bench(sample_count = 10)]
fn two_inner_steps_in_bf16(bencher: Bencher) {
    steps(bencher, Precision::Bf16);
}
