use super::*;
use crate::judge::{HeldOutBatch, Pool, Scorer};
use crate::model::fixtures::variants;
use crate::model::tokens::Tokens;
use crate::protocol::ids::{PeerId, RoundNumber, RunId};
use crate::train::state::StateFile;

fn config() -> LlamaConfig {
    LlamaConfig {
        vocab_size: 40,
        hidden_size: 16,
        intermediate_size: 24,
        num_hidden_layers: 2,
        num_attention_heads: 4,
        num_key_value_heads: 2,
        head_dim: 6,
        max_position_embeddings: 16,
        rms_norm_eps: 1e-5,
        rope_theta: 10_000.0,
        tie_word_embeddings: true,
        variant: Default::default(),
    }
}

fn params() -> TrainingParams {
    TrainingParams {
        inner_steps: 12,
        micro_batch: 4,
        gradient_accumulation: 2,
        sequence_tokens: 12,
        learning_rate_nano: 10_000_000,
        warmup_steps: 3,
        beta1_ppm: Ppm::new(900_000).expect("in range"),
        beta2_ppm: Ppm::new(950_000).expect("in range"),
        weight_decay_ppm: Ppm::new(100_000).expect("in range"),
        clip_norm_micro: 1_000_000,
        error_feedback_decay_ppm: Ppm::new(950_000).expect("in range"),
    }
}

fn options() -> TrainerOptions {
    TrainerOptions { threads: NonZeroI32::new(1), ..TrainerOptions::default() }
}

/// A start whose weights are far enough from zero that every part of the model shows in the loss.
fn start(config: LlamaConfig) -> Checkpoint {
    let mut start = Checkpoint::init(config, [7; 32]);
    for (place, weight) in start.weights.iter_mut().enumerate() {
        *weight = *weight * 12.0 + (place % 5) as f32 * 0.01;
    }
    start
}

fn data() -> TrainingData {
    let tokens = (0..2_000_u32).map(|i| (i * i / 7 + i % 3) % 40).collect();
    TrainingData::new(Tokens::new(tokens, 40).expect("valid"), 12).expect("enough")
}

fn assignment(peer: u8) -> Assignment {
    Assignment { run: RunId::from_bytes([1; 32]), round: RoundNumber(2), peer: PeerId::from_bytes([peer; 32]) }
}

struct Setting {
    start: Checkpoint,
    data: TrainingData,
    params: TrainingParams,
    options: TrainerOptions,
    cancel: AtomicBool,
    peer: u8,
}

impl Setting {
    fn new() -> Self {
        let cancel = AtomicBool::new(false);
        Self { start: start(config()), data: data(), params: params(), options: options(), cancel, peer: 1 }
    }

    fn trainer(&self) -> Trainer {
        let Checkpoint { config, layout, .. } = &self.start;
        Trainer::new(config.clone(), layout.clone(), self.params, self.options).expect("a trainer")
    }

    fn inner_loop(&self) -> InnerLoop<'_> {
        InnerLoop {
            assignment: assignment(self.peer),
            start: &self.start,
            data: &self.data,
            snapshot_every_steps: NonZeroU32::new(5),
            cancel: &self.cancel,
        }
    }

    fn fresh(&self) -> Begin {
        Begin::Fresh(OptimiserState::new(self.start.layout.numel))
    }

    fn trained(&self) -> Trained {
        self.trainer().train(&self.inner_loop(), self.fresh(), &mut ()).expect("trained")
    }
}

fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|value| value.to_bits()).collect()
}

#[test]
fn the_loss_falls_and_the_pseudo_gradient_leads_there() {
    let mut setting = Setting::new();
    setting.params.inner_steps = 40;
    let trained = setting.trained();
    assert!(trained.loss_last_nats < 0.8 * trained.loss_first_nats, "{trained:?}");
    assert_eq!(trained.optimiser.steps, 40);
    let end: Vec<f32> =
        setting.start.weights.iter().zip(&trained.pseudo_gradient).map(|(start, delta)| start - delta).collect();
    let windows: Vec<Vec<u32>> = (0..8).map(|row| setting.data.sequence(&assignment(9), 0, row).to_vec()).collect();
    let mut trainer = setting.trainer();
    let before = trainer.mean_loss_nats(&setting.start.weights, &windows).expect("a loss");
    let after = trainer.mean_loss_nats(&end, &windows).expect("a loss");
    assert!(after < 0.8 * before, "{before} → {after}");
}

#[test]
fn the_loss_is_that_of_the_model_written_out_in_f64() {
    for tied in [true, false] {
        let start = start(LlamaConfig { tie_word_embeddings: tied, ..config() });
        let windows: Vec<Vec<u32>> = (0..6).map(|row| data().sequence(&assignment(3), 0, row).to_vec()).collect();
        let expected = windows.iter().map(|window| reference::loss(&start, window)).sum::<f64>() / windows.len() as f64;
        let mut trainer =
            Trainer::new(start.config.clone(), start.layout.clone(), params(), options()).expect("a trainer");
        let got = trainer.mean_loss_nats(&start.weights, &windows).expect("a loss");
        assert!((got - expected).abs() < 1e-5, "tied {tied}: libtorch {got}, f64 {expected}");
    }
}

#[test]
fn libtorch_and_the_judge_agree_on_what_the_model_is() {
    let tied = |tied| LlamaConfig { tie_word_embeddings: tied, ..config() };
    let variants = variants().into_iter().map(|variant| LlamaConfig { variant, ..config() });
    for config in [tied(true), tied(false)].into_iter().chain(variants) {
        let start = start(config);
        let windows: Vec<Vec<u32>> = (0..6).map(|row| data().sequence(&assignment(3), 0, row).to_vec()).collect();
        let batch = HeldOutBatch::new(&start.config, windows.clone()).expect("a batch");
        let mut scorer = Scorer::new(&start.config, batch.predicted_per_window(), Pool::all_cores());
        let score = scorer.loss(&start.weights, &batch).expect("finite");
        let judged = score.0 as f64 / 2_f64.powi(32) / batch.predicted_tokens() as f64;
        let mut trainer =
            Trainer::new(start.config.clone(), start.layout.clone(), params(), options()).expect("a trainer");
        let trained = trainer.mean_loss_nats(&start.weights, &windows).expect("a loss");
        assert!((judged - trained).abs() < 1e-5 * judged, "{:?}: judge {judged}, libtorch {trained}", start.config);
    }
}

#[test]
fn the_first_step_is_the_one_of_the_paper() {
    // With moments of zero AdamW's first step is lr · sign(g), after the decay of matrices, when |g| ≫ ε.
    let mut setting = Setting::new();
    setting.params.inner_steps = 1;
    setting.params.warmup_steps = 4;
    let trained = setting.trained();
    let rate = 0.01 / 4.0;
    let mut checked = 0;
    for spec in &setting.start.layout.tensors {
        let matrix = matches!(spec.shape, crate::protocol::codec::TensorShape::Matrix { .. });
        for place in spec.range() {
            if trained.optimiser.first_moment[place].abs() < 1e-5 {
                continue;
            }
            checked += 1;
            let sign = f64::from(trained.optimiser.first_moment[place].signum());
            let decay = if matrix { rate * 0.1 * f64::from(setting.start.weights[place]) } else { 0.0 };
            let expected = rate * sign + decay;
            let got = f64::from(trained.pseudo_gradient[place]);
            assert!((got - expected).abs() < 1e-5, "{} {place}: {got}, expected {expected}", spec.name);
        }
    }
    assert!(checked > setting.start.layout.numel / 2);
}

#[test]
fn gradients_are_clipped_to_the_norm() {
    let mut setting = Setting::new();
    setting.params.inner_steps = 1;
    setting.params.clip_norm_micro = 1_000;
    let norm = |values: &[f32]| values.iter().map(|v| f64::from(*v).powi(2)).sum::<f64>().sqrt();
    // m = (1 − β₁) · g after one step.
    let clipped = norm(&setting.trained().optimiser.first_moment) / 0.1;
    assert!((clipped - 0.001).abs() < 1e-6, "{clipped}");
    setting.params.clip_norm_micro = 0;
    assert!(norm(&setting.trained().optimiser.first_moment) / 0.1 > 0.1);
}

#[test]
fn accumulation_is_one_larger_batch() {
    let mut setting = Setting::new();
    setting.params.inner_steps = 3;
    let accumulated = setting.trained();
    (setting.params.micro_batch, setting.params.gradient_accumulation) = (8, 1);
    let whole = setting.trained();
    assert!((accumulated.loss_last_nats - whole.loss_last_nats).abs() < 1e-4);
    assert!((accumulated.loss_first_nats - whole.loss_first_nats).abs() < 1e-5);
}

#[test]
fn another_micro_batch_is_the_same_step_up_to_rounding() {
    let mut setting = Setting::new();
    setting.params.inner_steps = 1;
    setting.params.warmup_steps = 0;
    let of_the_run = setting.trained();
    // 8 sequences in passes of 3, 3 and 2: the last one must weigh less.
    for size in [1, 3, 8, 100] {
        setting.options.micro_batch = NonZeroU32::new(size);
        let own = setting.trained();
        assert!((own.loss_first_nats - of_the_run.loss_first_nats).abs() < 1e-5, "{size}");
        let moments = own.optimiser.first_moment.iter().zip(&of_the_run.optimiser.first_moment);
        for (own, expected) in moments {
            assert!((own - expected).abs() < 1e-6, "{size}: {own}, expected {expected}");
        }
    }
}

#[test]
fn recomputed_activations_give_the_same_training() {
    for (tied, precision) in [(true, Precision::F32), (false, Precision::F32), (true, Precision::Bf16)] {
        let mut setting = Setting::new();
        setting.start = start(LlamaConfig { tie_word_embeddings: tied, ..config() });
        setting.options.precision = precision;
        let kept = setting.trained();
        setting.options.activations = Activations::Recompute;
        let recomputed = setting.trained();
        assert_eq!(bits(&kept.pseudo_gradient), bits(&recomputed.pseudo_gradient), "tied {tied}, {precision:?}");
    }
}

#[test]
fn the_same_inputs_give_the_same_bits_and_another_peer_others() {
    let mut setting = Setting::new();
    let first = setting.trained();
    let again = setting.trained();
    assert_eq!(bits(&first.pseudo_gradient), bits(&again.pseudo_gradient));
    assert_eq!(first.optimiser, again.optimiser);
    setting.peer = 2;
    assert_ne!(bits(&first.pseudo_gradient), bits(&setting.trained().pseudo_gradient));
}

#[test]
fn a_trainer_remembers_nothing_of_the_round_before() {
    let setting = Setting::new();
    let mut trainer = setting.trainer();
    trainer.train(&setting.inner_loop(), setting.fresh(), &mut ()).expect("trained");
    let second = trainer.train(&setting.inner_loop(), setting.fresh(), &mut ()).expect("trained");
    assert_eq!(bits(&second.pseudo_gradient), bits(&setting.trained().pseudo_gradient));
}

#[test]
fn the_optimiser_carries_on_from_round_to_round() {
    let setting = Setting::new();
    let first = setting.trained();
    let next = setting.trainer().train(&setting.inner_loop(), Begin::Fresh(first.optimiser), &mut ()).expect("trained");
    assert_eq!(next.optimiser.steps, 24);
    assert_ne!(bits(&first.pseudo_gradient), bits(&next.pseudo_gradient));
}

/// Cancels after some steps and writes snapshots to disk, as a peer does.
struct Interrupt<'a> {
    after_steps: u32,
    cancel: &'a AtomicBool,
    file: StateFile<Snapshot>,
}

impl Observer for Interrupt<'_> {
    fn step(&mut self, report: &StepReport) {
        if report.finished_steps == self.after_steps {
            self.cancel.store(true, Ordering::Relaxed);
        }
    }

    fn snapshot(&mut self, snapshot: Snapshot) -> Result<(), TrainError> {
        self.file.save(&snapshot)
    }
}

#[test]
fn a_round_resumed_from_disk_ends_with_the_bits_of_one_that_was_never_interrupted() {
    let setting = Setting::new();
    let uninterrupted = setting.trained();
    for after_steps in [1, 5, 7, 11] {
        let folder = tempfile::tempdir().expect("folder");
        let (file, _) = StateFile::open(folder.path(), "round").expect("opened");
        let mut interrupt = Interrupt { after_steps, cancel: &setting.cancel, file };
        let stopped = setting.trainer().train(&setting.inner_loop(), setting.fresh(), &mut interrupt);
        assert!(matches!(stopped, Err(TrainError::Cancelled { next_step }) if next_step == after_steps));
        setting.cancel.store(false, Ordering::Relaxed);

        let (_, snapshot) = StateFile::<Snapshot>::open(folder.path(), "round").expect("opened");
        let snapshot = Box::new(snapshot.expect("a snapshot"));
        assert_eq!(snapshot.next_step, after_steps);
        let resumed =
            setting.trainer().train(&setting.inner_loop(), Begin::Resume(snapshot), &mut ()).expect("trained");
        assert_eq!(bits(&resumed.pseudo_gradient), bits(&uninterrupted.pseudo_gradient));
        assert_eq!(resumed.optimiser, uninterrupted.optimiser);
        assert_eq!(resumed.loss_first_nats.to_bits(), uninterrupted.loss_first_nats.to_bits());
        assert_eq!(resumed.loss_last_nats.to_bits(), uninterrupted.loss_last_nats.to_bits());
    }
}

#[test]
fn a_killed_peer_goes_on_from_the_last_regular_snapshot() {
    struct Keep(Option<Snapshot>);
    impl Observer for Keep {
        fn snapshot(&mut self, snapshot: Snapshot) -> Result<(), TrainError> {
            self.0 = Some(snapshot);
            Ok(())
        }
    }
    let setting = Setting::new();
    let mut keep = Keep(None);
    let uninterrupted = setting.trainer().train(&setting.inner_loop(), setting.fresh(), &mut keep).expect("trained");
    let snapshot = Box::new(keep.0.expect("a snapshot every 5 of 12 steps"));
    assert_eq!(snapshot.next_step, 10);
    let resumed = setting.trainer().train(&setting.inner_loop(), Begin::Resume(snapshot), &mut ()).expect("trained");
    assert_eq!(bits(&resumed.pseudo_gradient), bits(&uninterrupted.pseudo_gradient));
}

#[test]
fn a_snapshot_of_another_round_checkpoint_or_model_is_refused() {
    let setting = Setting::new();
    let snapshot = Snapshot {
        run: RunId::from_bytes([1; 32]),
        peer: PeerId::from_bytes([1; 32]),
        round: RoundNumber(2),
        start: setting.start.hash(),
        next_step: 3,
        loss_first_nats: 1.0,
        loss_last_nats: 1.0,
        weights: setting.start.weights.clone(),
        optimiser: OptimiserState::new(setting.start.layout.numel),
    };
    let mut trainer = setting.trainer();
    let mut resume = |snapshot: Snapshot| {
        let outcome = trainer.train(&setting.inner_loop(), Begin::Resume(Box::new(snapshot)), &mut ());
        outcome.map(|trained| trained.optimiser.steps)
    };
    assert!(resume(snapshot.clone()).is_ok());
    let mut others = vec![snapshot.clone(); 7];
    others[0].run = RunId::from_bytes([9; 32]);
    others[1].peer = PeerId::from_bytes([9; 32]);
    others[2].round = RoundNumber(3);
    others[3].start = Blake3Hash::of(b"another");
    others[4].next_step = 13;
    others[5].weights.pop();
    others[6].optimiser.second_moment.pop();
    for other in others {
        assert!(matches!(resume(other), Err(TrainError::StateMismatch(_))));
    }
}

#[test]
fn bf16_trains_and_stays_close_to_fp32() {
    let mut setting = Setting::new();
    setting.start = Checkpoint::init(config(), [7; 32]);
    let fp32 = setting.trained();
    setting.options.precision = Precision::Bf16;
    let bf16 = setting.trained();
    assert_ne!(bits(&fp32.pseudo_gradient), bits(&bf16.pseudo_gradient));
    assert!((fp32.loss_first_nats - bf16.loss_first_nats).abs() < 0.05);
    assert!((fp32.loss_last_nats - bf16.loss_last_nats).abs() < 0.2);
}

#[test]
fn weights_that_overflow_are_a_clear_error() {
    let mut setting = Setting::new();
    setting.start.weights.fill(1e30);
    let error = setting.trainer().train(&setting.inner_loop(), setting.fresh(), &mut ()).expect_err("not finite");
    assert!(matches!(error, TrainError::NonFinite { step: 0, .. }), "{error}");
}

#[test]
fn settings_that_cannot_be_trained_are_refused_by_name() {
    let good = Setting::new();
    let refusal = |change: fn(&mut TrainingParams)| {
        let mut params = params();
        change(&mut params);
        let Checkpoint { config, layout, .. } = &good.start;
        Trainer::new(config.clone(), layout.clone(), params, options()).expect_err("refused").to_string()
    };
    assert!(refusal(|p| p.inner_steps = 0).contains("inner_steps"));
    assert!(refusal(|p| p.micro_batch = 0).contains("micro_batch"));
    assert!(refusal(|p| p.gradient_accumulation = u32::MAX).contains("gradient_accumulation"));
    assert!(refusal(|p| p.micro_batch = 1 << 24).contains("forward pass"));
    assert!(refusal(|p| p.sequence_tokens = 17).contains("max_position_embeddings"));
    assert!(refusal(|p| p.beta1_ppm = Ppm::ONE).contains("β"));
    let foreign = TrainingData::new(Tokens::new(vec![0; 100], 41).expect("valid"), 12).expect("enough");
    let inner_loop = InnerLoop { data: &foreign, ..good.inner_loop() };
    assert!(matches!(good.trainer().train(&inner_loop, good.fresh(), &mut ()), Err(TrainError::Settings(_))));
}

#[test]
fn a_gpu_that_is_not_there_is_an_error_that_says_what_to_do() {
    if crate::sys::load_cuda().is_ok() {
        return;
    }
    let good = Setting::new();
    let options = TrainerOptions { device: TrainDevice::Cuda(0), ..options() };
    let Checkpoint { config, layout, .. } = &good.start;
    let error = Trainer::new(config.clone(), layout.clone(), params(), options).expect_err("no GPU");
    assert!(matches!(&error, TrainError::CudaUnavailable(_)));
    assert!(error.to_string().contains("--gpu"));
}

#[test]
fn an_observer_that_cannot_save_ends_the_loop_with_its_error() {
    struct FullDisk;
    impl Observer for FullDisk {
        fn snapshot(&mut self, _snapshot: Snapshot) -> Result<(), TrainError> {
            Err(TrainError::State { path: "full".into(), source: std::io::ErrorKind::StorageFull.into() })
        }
    }
    let setting = Setting::new();
    let outcome = setting.trainer().train(&setting.inner_loop(), setting.fresh(), &mut FullDisk);
    assert!(matches!(outcome, Err(TrainError::State { .. })));
}

/// The model as the papers write it, in f64 and without a library.
mod reference {
    use super::*;

    type Rows = Vec<Vec<f64>>;

    struct Weights<'a>(&'a Checkpoint);

    impl Weights<'_> {
        fn vector(&self, name: &str) -> Vec<f64> {
            self.0.tensor_named(name).expect("a tensor").iter().map(|w| f64::from(*w)).collect()
        }

        /// x·Wᵀ for each row.
        fn linear(&self, name: &str, x: &Rows) -> Rows {
            let weight = self.vector(name);
            let dot = |row: &[f64], out: &[f64]| row.iter().zip(out).map(|(a, b)| a * b).sum();
            x.iter().map(|row| weight.chunks(row.len()).map(|out| dot(row, out)).collect()).collect()
        }

        fn norm(&self, name: &str, x: &Rows) -> Rows {
            let gain = self.vector(name);
            let epsilon = f64::from(self.0.config.rms_norm_eps);
            x.iter()
                .map(|row| {
                    let mean_square = row.iter().map(|v| v * v).sum::<f64>() / row.len() as f64;
                    row.iter().zip(&gain).map(|(v, g)| v / (mean_square + epsilon).sqrt() * g).collect()
                })
                .collect()
        }
    }

    fn add(x: &mut Rows, y: &Rows) {
        x.iter_mut().flatten().zip(y.iter().flatten()).for_each(|(x, y)| *x += y);
    }

    /// Rotates the pairs (i, i + half) of each head of the row at `position`.
    fn rotate(row: &mut [f64], position: usize, config: &LlamaConfig) {
        let half = config.head_dim / 2;
        for head in row.chunks_mut(config.head_dim) {
            for pair in 0..half {
                let angle = position as f64 / config.rope_theta.powf(2.0 * pair as f64 / config.head_dim as f64);
                let (low, high) = (head[pair], head[pair + half]);
                head[pair] = low * angle.cos() - high * angle.sin();
                head[pair + half] = high * angle.cos() + low * angle.sin();
            }
        }
    }

    fn attention(query: &Rows, key: &Rows, value: &Rows, config: &LlamaConfig) -> Rows {
        let width = config.head_dim;
        let group = config.num_attention_heads / config.num_key_value_heads;
        let head_of = |row: &[f64], head: usize| row[head * width..(head + 1) * width].to_vec();
        (0..query.len())
            .map(|at| {
                (0..config.num_attention_heads)
                    .flat_map(|head| {
                        let asked = head_of(&query[at], head);
                        let scores: Vec<f64> = (0..=at)
                            .map(|seen| {
                                let found = head_of(&key[seen], head / group);
                                let dot: f64 = asked.iter().zip(&found).map(|(a, b)| a * b).sum();
                                (dot / (width as f64).sqrt()).exp()
                            })
                            .collect();
                        let total: f64 = scores.iter().sum();
                        (0..width)
                            .map(move |column| (column, total, scores.clone()))
                            .map(|(column, total, scores)| {
                                let weighed = |(seen, score): (usize, &f64)| {
                                    score / total * head_of(&value[seen], head / group)[column]
                                };
                                scores.iter().enumerate().map(weighed).sum()
                            })
                            .collect::<Vec<f64>>()
                    })
                    .collect()
            })
            .collect()
    }

    /// Mean cross-entropy of all but the window's first token.
    pub(super) fn loss(checkpoint: &Checkpoint, window: &[u32]) -> f64 {
        let config = &checkpoint.config;
        let weights = Weights(checkpoint);
        let embedding = weights.vector("model.embed_tokens.weight");
        let embed = |token: &u32| embedding[*token as usize * config.hidden_size..][..config.hidden_size].to_vec();
        let mut stream: Rows = window[..window.len() - 1].iter().map(embed).collect();
        for layer in 0..config.num_hidden_layers {
            let name = |part: &str| format!("model.layers.{layer}.{part}.weight");
            let x = weights.norm(&name("input_layernorm"), &stream);
            let mut query = weights.linear(&name("self_attn.q_proj"), &x);
            let mut key = weights.linear(&name("self_attn.k_proj"), &x);
            let value = weights.linear(&name("self_attn.v_proj"), &x);
            for rows in [&mut query, &mut key] {
                rows.iter_mut().enumerate().for_each(|(position, row)| rotate(row, position, config));
            }
            let attended = attention(&query, &key, &value, config);
            add(&mut stream, &weights.linear(&name("self_attn.o_proj"), &attended));
            let x = weights.norm(&name("post_attention_layernorm"), &stream);
            let mut gate = weights.linear(&name("mlp.gate_proj"), &x);
            let up = weights.linear(&name("mlp.up_proj"), &x);
            gate.iter_mut().flatten().zip(up.iter().flatten()).for_each(|(g, u)| *g = *g / (1.0 + (-*g).exp()) * u);
            add(&mut stream, &weights.linear(&name("mlp.down_proj"), &gate));
        }
        let x = weights.norm("model.norm.weight", &stream);
        let head = if config.tie_word_embeddings { "model.embed_tokens.weight" } else { "lm_head.weight" };
        let logits = weights.linear(head, &x);
        let surprise = |(row, target): (&Vec<f64>, &u32)| {
            row.iter().map(|logit| logit.exp()).sum::<f64>().ln() - row[*target as usize]
        };
        logits.iter().zip(&window[1..]).map(surprise).sum::<f64>() / logits.len() as f64
    }
}
