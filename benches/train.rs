//! The inner loop on the demo's model and corpus: time a step, and predicted tokens a second, on one thread.

use std::num::NonZeroI32;
use std::sync::atomic::AtomicBool;

use divan::counter::ItemsCount;
use l402t::model::tokens::{BYTE_VOCAB, Tokens};
use l402t::model::{Checkpoint, LlamaConfig};
use l402t::protocol::amount::Ppm;
use l402t::protocol::ids::{PeerId, RoundNumber, RunId};
use l402t::protocol::manifest::TrainingParams;
use l402t::train::data::{Assignment, TrainingData};
use l402t::train::inner::{Begin, InnerLoop, Precision, Trainer, TrainerOptions};
use l402t::train::state::OptimiserState;

const MODEL: &[u8] = include_bytes!("../examples/models/tiny.json");
const TEXT: &[u8] = include_bytes!("../examples/corpus/king-james-bible.txt");

fn main() {
    divan::main();
}

/// One optimiser step of 16 sequences of 128 tokens.
fn one_step() -> TrainingParams {
    TrainingParams {
        inner_steps: 1,
        micro_batch: 16,
        gradient_accumulation: 1,
        sequence_tokens: 128,
        learning_rate_nano: 3_000_000,
        warmup_steps: 0,
        beta1_ppm: Ppm::new(900_000).expect("in range"),
        beta2_ppm: Ppm::new(950_000).expect("in range"),
        weight_decay_ppm: Ppm::new(100_000).expect("in range"),
        clip_norm_micro: 1_000_000,
        error_feedback_decay_ppm: Ppm::new(950_000).expect("in range"),
    }
}

#[divan::bench(args = [Precision::F32, Precision::Bf16], sample_count = 20)]
fn inner_step(bencher: divan::Bencher<'_, '_>, precision: Precision) {
    let params = one_step();
    let tokens = Tokens::from_text(TEXT, BYTE_VOCAB).expect("the corpus is text");
    let data = TrainingData::new(tokens, params.sequence_tokens).expect("the corpus is long enough");
    let start = Checkpoint::init(LlamaConfig::from_json(MODEL).expect("the demo's model"), [1; 32]);
    let options = TrainerOptions { precision, threads: NonZeroI32::new(1), ..TrainerOptions::default() };
    let mut trainer =
        Trainer::new(start.config.clone(), start.layout.clone(), params, options).expect("settings that train");
    let cancel = AtomicBool::new(false);
    let job = InnerLoop {
        assignment: Assignment {
            run: RunId::from_bytes([0; 32]),
            round: RoundNumber(0),
            peer: PeerId::from_bytes([0; 32]),
        },
        start: &start,
        data: &data,
        snapshot_every_steps: None,
        cancel: &cancel,
    };
    bencher
        .counter(ItemsCount::new(params.micro_batch * params.sequence_tokens))
        .with_inputs(|| Begin::Fresh(OptimiserState::new(start.layout.numel)))
        .bench_local_values(|begin| trainer.train(&job, begin, &mut ()).expect("trains"));
}
