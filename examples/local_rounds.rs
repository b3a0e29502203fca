//! Rounds on one machine without money: trains some peers in turn, compresses, judges and steps, and prints what each
//! round did. For finding a run's settings.
//!
//! `cargo run --release --example local_rounds -- inner_steps=20 learning_rate=0.003 outer_lr=0.8`

use std::collections::BTreeMap;
use std::io::Write;
use std::num::{NonZeroI32, NonZeroUsize};
use std::path::Path;
use std::sync::atomic::AtomicBool;

use anyhow::{Context, bail};
use l402t::clock::Stopwatch;
use l402t::judge::{HeldOutBatch, Isa, Pool, RoundInput, Submission, judge_round};
use l402t::model::tokens::{Tokens, split_held_out};
use l402t::model::{Checkpoint, LlamaConfig};
use l402t::protocol::aggregate::Aggregate;
use l402t::protocol::amount::{Msat, Ppm};
use l402t::protocol::codec::{self, SparseUpdate, TensorShape, Update};
use l402t::protocol::ids::{Blake3Hash, ContributionId, PeerId, RoundNumber, RunId};
use l402t::protocol::manifest::{CodecParams, JudgeParams, RewardParams, TrainingParams};
use l402t::protocol::verdict::{Outcome, Score};
use l402t::train::compress::Compressor;
use l402t::train::data::{Assignment, TrainingData};
use l402t::train::inner::{Begin, InnerLoop, Precision, TrainDevice, Trainer, TrainerOptions};
use l402t::train::state::OptimiserState;

/// `name=value` arguments over defaults; an unknown name is an error.
struct Settings(BTreeMap<String, String>);

impl Settings {
    fn read() -> anyhow::Result<Self> {
        let defaults = [
            ("model", "examples/models/tiny.json"),
            ("text", "examples/corpus/king-james-bible.txt"),
            ("rounds", "8"),
            ("peers", "3"),
            ("threads", "1"),
            ("precision", "f32"),
            ("device", "cpu"),
            ("inner_steps", "20"),
            ("micro_batch", "16"),
            ("accumulation", "1"),
            ("sequence", "128"),
            ("learning_rate", "0.003"),
            ("warmup", "10"),
            ("weight_decay", "0.1"),
            ("clip", "1.0"),
            ("decay", "0.95"),
            ("outer_lr", "0.8"),
            ("tile", "64"),
            ("k", "64"),
            ("value_bits", "2"),
            ("windows", "32"),
            ("window_tokens", "129"),
            ("save", ""),
        ];
        let mut values: BTreeMap<String, String> = defaults.map(|(k, v)| (k.to_owned(), v.to_owned())).into();
        for argument in std::env::args().skip(1) {
            let (name, value) = argument.split_once('=').context("arguments are name=value")?;
            let Some(slot) = values.get_mut(name) else {
                bail!("{name} is none of {:?}", values.keys());
            };
            *slot = value.to_owned();
        }
        Ok(Self(values))
    }

    fn text(&self, name: &str) -> &str {
        &self.0[name]
    }

    fn number<T: std::str::FromStr>(&self, name: &str) -> anyhow::Result<T> {
        let value = self.text(name);
        value.parse().ok().with_context(|| format!("{name}={value} is not the number it should be"))
    }

    fn scaled(&self, name: &str, scale: f64) -> anyhow::Result<u32> {
        Ok((self.number::<f64>(name)? * scale).round() as u32)
    }

    fn ppm(&self, name: &str) -> anyhow::Result<Ppm> {
        Ppm::new(self.scaled(name, 1e6)?).with_context(|| format!("{name} is more than 1"))
    }

    /// An empty value is none.
    fn folder(&self, name: &str) -> Option<&Path> {
        Some(self.text(name)).filter(|value| !value.is_empty()).map(Path::new)
    }

    fn training(&self) -> anyhow::Result<TrainingParams> {
        Ok(TrainingParams {
            inner_steps: self.number("inner_steps")?,
            micro_batch: self.number("micro_batch")?,
            gradient_accumulation: self.number("accumulation")?,
            sequence_tokens: self.number("sequence")?,
            learning_rate_nano: self.scaled("learning_rate", 1e9)?,
            warmup_steps: self.number("warmup")?,
            beta1_ppm: Ppm::new(900_000).context("β₁")?,
            beta2_ppm: Ppm::new(950_000).context("β₂")?,
            weight_decay_ppm: self.ppm("weight_decay")?,
            clip_norm_micro: self.scaled("clip", 1e6)?,
            error_feedback_decay_ppm: self.ppm("decay")?,
        })
    }
}

struct Peer {
    id: PeerId,
    trainer: Trainer,
    optimiser: OptimiserState,
    compressor: Compressor,
}

fn main() -> anyhow::Result<()> {
    let settings = Settings::read()?;
    let training = settings.training()?;
    let codec_params = CodecParams {
        version: u32::from(codec::VERSION),
        tile: settings.number("tile")?,
        k: settings.number("k")?,
        value_bits: settings.number("value_bits")?,
    };
    let judge = JudgeParams {
        df32_version: 1,
        min_gain_per_token: 0,
        min_gain_of_median_ppm: Ppm::new(100_000).context("share")?,
        copy_overlap_ppm: Ppm::new(400_000).context("overlap")?,
        outer_lr_ppm: settings.ppm("outer_lr")?,
    };
    let reward = RewardParams {
        pool_msat: Msat::new(1_000_000),
        max_share_ppm: Ppm::ONE,
        tranches: 7,
        fee_msat: Msat::ZERO,
        hold_blocks: 40,
    };
    let config = LlamaConfig::from_json(&std::fs::read(settings.text("model"))?)?;
    let rounds: u32 = settings.number("rounds")?;
    let windows: u32 = settings.number("windows")?;
    let tokens = Tokens::read(&std::fs::read(settings.text("text"))?, config.vocab_size as u32)?;
    let split =
        split_held_out(&tokens, settings.number("window_tokens")?, windows * rounds, &Blake3Hash::of(b"split"))?;
    let data = TrainingData::new(split.training, training.sequence_tokens)?;
    let mut checkpoint = Checkpoint::init(config, [42; 32]);
    let options = TrainerOptions {
        threads: NonZeroI32::new(settings.number("threads")?),
        precision: if settings.text("precision") == "bf16" { Precision::Bf16 } else { Precision::F32 },
        device: if settings.text("device") == "cuda" { TrainDevice::Cuda(0) } else { TrainDevice::Cpu },
        ..TrainerOptions::default()
    };
    let shapes = checkpoint.layout.shapes();
    let mut peers = (0..settings.number("peers")?)
        .map(|peer: u8| {
            Ok(Peer {
                id: PeerId::from_bytes([peer; 32]),
                trainer: Trainer::new(checkpoint.config.clone(), checkpoint.layout.clone(), training, options)?,
                optimiser: OptimiserState::new(checkpoint.layout.numel),
                compressor: Compressor::new(codec_params, training.error_feedback_decay_ppm, shapes.clone())?,
            })
        })
        .collect::<anyhow::Result<Vec<Peer>>>()?;
    let pool = Pool::new(Isa::best(), NonZeroUsize::MIN);
    let mut out = std::io::stdout().lock();
    writeln!(out, "{} values", checkpoint.layout.numel)?;
    writeln!(
        out,
        "round  loss before → after  inner first → last   peer gains (nats a token)      ratio  s a peer  judge s  bits: places/limit  codes/limit  1-D bytes  aggregate: bytes, of the payloads, checkpoint ÷ it"
    )?;

    for (round, windows) in (0..rounds).zip(split.held_out.chunks(windows as usize)) {
        let held_out = HeldOutBatch::new(&checkpoint.config, windows.to_vec())?;
        let (mut payloads, mut parts) = (Vec::new(), Parts::default());
        let (mut seconds, mut first, mut last) = (0.0, 0.0, 0.0);
        for peer in &mut peers {
            let inner_loop = InnerLoop {
                assignment: Assignment { run: RunId::from_bytes([0; 32]), round: RoundNumber(round), peer: peer.id },
                start: &checkpoint,
                data: &data,
                snapshot_every_steps: None,
                cancel: &AtomicBool::new(false),
            };
            let optimiser = std::mem::take(&mut peer.optimiser);
            let trained = peer.trainer.train(&inner_loop, Begin::Fresh(optimiser), &mut ())?;
            seconds += trained.elapsed.as_secs_f64() / peers_f64(&settings)?;
            first += trained.loss_first_nats / peers_f64(&settings)?;
            last += trained.loss_last_nats / peers_f64(&settings)?;
            peer.optimiser = trained.optimiser;
            let compressed = peer.compressor.compress(trained.pseudo_gradient)?;
            if let Update::Sparse(update) = &compressed.update {
                parts.add(&codec_params, &shapes, update)?;
            }
            payloads.push(codec::encode(&codec_params, &shapes, &compressed.update)?);
            if let Some(folder) = settings.folder("save") {
                let name = format!("round-{round}-peer-{}.l4su", payloads.len() - 1);
                std::fs::write(folder.join(name), payloads.last().context("just pushed")?)?;
            }
            peer.compressor.accept(compressed.next)?;
        }
        let submissions: Vec<Submission<'_>> = payloads
            .iter()
            .zip(0_u8..)
            .map(|(payload, place)| Submission {
                contribution: ContributionId::from_bytes([place; 32]),
                payload: Some(payload),
            })
            .collect();
        let stopwatch = Stopwatch::start();
        let judged = judge_round(
            &RoundInput {
                start: &checkpoint,
                codec: &codec_params,
                judge: &judge,
                reward: &reward,
                held_out: &held_out,
                submissions: &submissions,
            },
            pool,
            &mut |_| {},
        )?;
        let judge_seconds = stopwatch.elapsed().as_secs_f64();
        let per_token = |Score(score): Score| score as f64 / 2_f64.powi(32) / held_out.predicted_tokens() as f64;
        let gains: Vec<String> = judged
            .verdicts
            .iter()
            .map(|verdict| {
                let mark = if matches!(verdict.outcome, Outcome::Rejected { .. }) { "✗" } else { "" };
                format!("{:+.4}{mark}", verdict.gain.map_or(f64::NAN, per_token))
            })
            .collect();
        let bytes: usize = payloads.iter().map(Vec::len).sum();
        let ratio = (4 * checkpoint.layout.numel * payloads.len()) as f64 / bytes as f64;
        let aggregate = Aggregate { from: checkpoint.hash(), to: judged.next.hash(), updates: judged.updates };
        let aggregate_bytes = aggregate.to_bytes(&codec_params, &shapes)?.len();
        let of_payloads = 100.0 * aggregate_bytes as f64 / bytes as f64;
        let of_dense = (4 * checkpoint.layout.numel) as f64 / aggregate_bytes as f64;
        writeln!(
            out,
            "{round:>5}  {:.4} → {:.4}      {first:.4} → {last:.4}    {:<30} {ratio:>5.1}× {seconds:>8.2} {judge_seconds:>7.2}  {parts}  \
             {aggregate_bytes:>9} {of_payloads:>5.1} % {of_dense:>6.1}×",
            per_token(judged.loss_before),
            per_token(judged.loss_after),
            gains.join(" "),
        )?;
        checkpoint = judged.next;
    }
    Ok(())
}

/// Where the bytes of some payloads are, and how few there could be.
#[derive(Default)]
struct Parts {
    values: f64,
    /// Of rows and columns; of codes with the levels; of what the 1-D tensors would take alone.
    bytes: [f64; 3],
    /// In bits: any choice of so many places of a tile evenly likely; each tensor's codes by their frequency.
    limits: [f64; 2],
}

impl Parts {
    fn add(&mut self, params: &CodecParams, shapes: &[TensorShape], update: &SparseUpdate) -> anyhow::Result<()> {
        let [_, rows, columns, codes] = codec::sparse::part_bytes(&codec::sparse::encode(params, shapes, update)?)?;
        let vectors = |shape: &TensorShape| matches!(shape, TensorShape::Vector { .. });
        let all = shapes.iter().zip(&update.tensors).filter(|(shape, _)| vectors(shape));
        let (vector_shapes, tensors) =
            all.map(|(shape, tensor)| (*shape, tensor.clone())).unzip::<_, _, Vec<_>, Vec<_>>();
        let vectors = codec::sparse::encode(params, &vector_shapes, &SparseUpdate { tensors })?.len();
        for (sum, bytes) in self.bytes.iter_mut().zip([rows + columns, codes, vectors]) {
            *sum += bytes as f64;
        }
        for (shape, tensor) in shapes.iter().zip(&update.tensors) {
            let n = tensor.codes.len() as f64;
            self.values += n;
            for tile in codec::tiles(*shape, params) {
                let choices = |i: u32| f64::from(tile.numel() - i) / f64::from(i + 1);
                self.limits[0] += (0..codec::kept(params, tile.numel())).map(|i| choices(i).log2()).sum::<f64>();
            }
            let count = |code: u8| tensor.codes.iter().filter(|other| **other == code).count() as f64;
            let counts = (0..codec::MAX_LEVELS as u8).map(count).filter(|count| *count > 0.0);
            self.limits[1] += counts.map(|count| count * (n / count).log2()).sum::<f64>();
        }
        Ok(())
    }
}

impl std::fmt::Display for Parts {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let ([places, codes, vectors], [least_places, least_codes]) = (self.bytes, self.limits);
        let [places, codes, least_places, least_codes] =
            [8.0 * places, 8.0 * codes, least_places, least_codes].map(|bits| bits / self.values);
        let share = 100.0 * vectors / (self.bytes[0] + self.bytes[1]);
        write!(f, "{places:>7.3}/{least_places:.3}  {codes:>7.3}/{least_codes:.3}  {share:>6.1} %")
    }
}

fn peers_f64(settings: &Settings) -> anyhow::Result<f64> {
    settings.number("peers")
}
