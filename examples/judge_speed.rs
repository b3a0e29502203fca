//! How fast a judge measures the held-out loss of a model, on the CPU or with `--gpu`. The loss is printed too: it must be the
//! same on every machine.
//!
//! `cargo run --release --example judge_speed -- 124m 64 --gpu`
//! (a model of 25m or 124m parameters or a config.json, then windows of 512 predicted tokens, then threads if you like)

#[path = "../benches/figures/sizes.rs"]
mod sizes;

use std::io::Write;
use std::num::NonZeroUsize;

use anyhow::{Context, bail};
use l402t::clock::Stopwatch;
use l402t::judge::{Engine, HeldOutBatch, Pool, RoundInput, judge_round, self_test};
use l402t::model::{Checkpoint, LlamaConfig};
use l402t::protocol::amount::{Msat, Ppm};
use l402t::protocol::manifest::{CodecParams, JudgeParams, RewardParams};
use sizes::{LARGE, SMALL};

const WINDOW_TOKENS: u32 = 513;
/// The fastest counts.
const REPEATS: usize = 4;

fn main() -> anyhow::Result<()> {
    let mut out = std::io::stdout();
    let mut arguments: Vec<String> = std::env::args().skip(1).collect();
    let gpu = arguments.iter().position(|argument| argument == "--gpu").map(|at| arguments.remove(at)).is_some();
    let [model, windows, threads @ ..] = arguments.as_slice() else {
        bail!("a model and a number of windows expected, then a number of threads if you like, and --gpu");
    };
    let start = match [SMALL, LARGE].iter().find(|size| size.name == model) {
        Some(size) => size.checkpoint(),
        None => {
            let config = std::fs::read(model).with_context(|| model.to_owned())?;
            Checkpoint::init(LlamaConfig::from_json(&config)?, [1; 32])
        }
    };
    let config = &start.config;
    let (windows, tokens): (u32, u32) = (windows.parse()?, WINDOW_TOKENS);
    let all = Pool::all_cores();
    let pool = match threads.first() {
        Some(threads) => Pool::new(all.isa(), threads.parse::<NonZeroUsize>()?),
        None => all,
    };
    let engine = if gpu { Engine::gpu(pool, 0)? } else { Engine::from(pool) };
    let watch = Stopwatch::start();
    self_test(engine.clone())?;
    writeln!(out, "{}: self-test passed in {:.3} s", engine.describe(), watch.elapsed().as_secs_f64())?;

    writeln!(out, "{} parameters", start.weights.len())?;
    // A round without contributions measures one loss. Two of different sizes tell what the rest of it takes.
    let mut seconds = [0.0; 2];
    for (windows, seconds) in [windows, 5 * windows].into_iter().zip(&mut seconds) {
        let token = |at: u32| at.wrapping_mul(2_654_435_761) % config.vocab_size as u32;
        let batch = (0..windows).map(|window| (0..tokens).map(|at| token(window * tokens + at)).collect()).collect();
        let held_out = HeldOutBatch::new(config, batch)?;
        let input = RoundInput {
            start: &start,
            codec: &CodecParams { version: 2, tile: 64, k: 64, value_bits: 2 },
            judge: &JudgeParams {
                df32_version: 1,
                min_gain_per_token: 1,
                min_gain_of_median_ppm: Ppm::ZERO,
                copy_overlap_ppm: Ppm::ONE,
                outer_lr_ppm: Ppm::ONE,
            },
            reward: &RewardParams {
                pool_msat: Msat::new(1_000_000),
                max_share_ppm: Ppm::ONE,
                tranches: 3,
                fee_msat: Msat::new(1_000),
                hold_blocks: 144,
            },
            held_out: &held_out,
            submissions: &[],
        };
        *seconds = f64::INFINITY;
        for _ in 0..REPEATS {
            let watch = Stopwatch::start();
            let judged = judge_round(&input, engine.clone(), &mut |_| {})?;
            let took = watch.elapsed().as_secs_f64();
            *seconds = seconds.min(took);
            let predicted = held_out.predicted_tokens();
            writeln!(out, "{predicted} tokens: loss {} / 2^32 nats, {took:.3} s", judged.loss_before.0)?;
        }
    }
    let predicted = 4.0 * f64::from(windows) * f64::from(tokens - 1);
    writeln!(out, "{:.0} tokens/s, weights and batch in place", predicted / (seconds[1] - seconds[0]))?;
    Ok(())
}
