//! The judge: the loss of a held-out batch on every path that this machine has, and the outer step.
//!
//! `cargo bench --bench judge`. The items counted are predicted tokens; for the outer step, weights.

mod model;

use std::num::NonZeroUsize;

use divan::counter::ItemsCount;
use divan::{Bencher, black_box};
use l402t::judge::{ClippedUpdate, HeldOutBatch, Isa, Pool, Scorer, outer_step};
use l402t::protocol::amount::Ppm;
use l402t::train::compress::Compressor;

const WINDOWS: u32 = 8;
/// Predicted tokens of a window.
const WINDOW_TOKENS: u32 = 128;
const PEERS: u8 = 3;

fn main() {
    divan::main();
}

fn score(bencher: Bencher, pool: Pool) {
    let checkpoint = model::checkpoint(1);
    let window = |w: u32| (0..=WINDOW_TOKENS).map(|t| (w * 31 + t * 7) % 256).collect();
    let batch = HeldOutBatch::new(&checkpoint.config, (0..WINDOWS).map(window).collect()).expect("fits the model");
    let mut scorer = Scorer::new(&checkpoint.config, batch.predicted_per_window(), pool);
    let tokens = ItemsCount::new(batch.predicted_tokens());
    bencher.counter(tokens).bench_local(|| scorer.loss(black_box(&checkpoint.weights), &batch));
}

#[divan::bench(args = Isa::available())]
fn loss_on_one_thread(bencher: Bencher, isa: Isa) {
    score(bencher, Pool::new(isa, NonZeroUsize::MIN));
}

#[divan::bench]
fn loss_on_all_cores(bencher: Bencher) {
    score(bencher, Pool::all_cores());
}

#[divan::bench]
fn outer_step_of_three_peers(bencher: Bencher) {
    let start = model::checkpoint(1);
    let compressor = Compressor::new(model::CODEC, Ppm::ONE, start.layout.shapes()).expect("a codec for this model");
    let compress = |seed| compressor.compress(model::pseudo_gradient(seed)).expect("finite").update;
    let updates: Vec<_> = (0..PEERS).map(compress).collect();
    let clip = vec![1.0; start.layout.tensors.len()];
    let clipped: Vec<_> = updates.iter().map(|update| ClippedUpdate { update, clip: &clip }).collect();
    let pool = Pool::all_cores();
    bencher.counter(ItemsCount::new(start.layout.numel)).bench(|| outer_step(&pool, &start, Ppm::ONE, &clipped));
}
