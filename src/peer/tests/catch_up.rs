//! A peer that missed rounds, against a coordinator that has every checkpoint and aggregate, or says so.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use async_trait::async_trait;

use super::fuse::{Fuse, Fused};
use crate::clock::{Clock, SystemClock};
use crate::judge::{ClippedUpdate, Pool, outer_step};
use crate::ln::Lightning;
use crate::ln::simulated::{Faults, Network};
use crate::model::{Checkpoint, LlamaConfig};
use crate::peer::api::{ApiFailure, CoordinatorApi, DownloadProgress, TicketOffer, WantedAggregate};
use crate::peer::error::PeerError;
use crate::peer::events::{EventSink, PeerEvent};
use crate::peer::folder::DataFolder;
use crate::peer::identity;
use crate::peer::session::{PeerParts, Session};
use crate::peer::settings::PeerSettings;
use crate::protocol::aggregate::{Aggregate, AggregatedUpdate, NOT_CLIPPED};
use crate::protocol::api::{ContributionView, Phase, RegistrationView, RoundView, RunView};
use crate::protocol::codec::{SparseTensor, SparseUpdate, Update, kept, levels, tiles};
use crate::protocol::held_out::secret_commitment;
use crate::protocol::ids::{Blake3Hash, ContributionId, RoundNumber, UnixMs};
use crate::protocol::l402::Credentials;
use crate::protocol::manifest::RunManifest;
use crate::protocol::sign::{IdentityKey, Signed};
use crate::protocol::statements::{Commitment, InvoiceSubmission, PeerRegistration, RoundOpening};

const CONFIG: &str = r#"{"model_type": "llama", "vocab_size": 29, "hidden_size": 24, "intermediate_size": 40,
    "num_hidden_layers": 1, "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 12,
    "max_position_embeddings": 32, "rms_norm_eps": 1e-5, "rope_theta": 10000.0, "tie_word_embeddings": true}"#;
/// Rounds whose checkpoint goes on unchanged.
const UNCHANGED: u32 = 2;

/// A coordinator with a past.
#[derive(Debug)]
struct Library {
    run: RunView,
    openings: Vec<Signed<RoundOpening>>,
    /// The checkpoint of each round.
    checkpoints: Vec<Vec<u8>>,
    blobs: BTreeMap<Blake3Hash, Vec<u8>>,
    /// By round; changed by tests.
    aggregates: Mutex<BTreeMap<u32, Vec<u8>>>,
    /// What was asked for and sent.
    sent: Mutex<Vec<String>>,
    /// Whether aggregates can be reached.
    gone: AtomicBool,
}

fn update(manifest: &RunManifest, start: &Checkpoint, seed: u32) -> SparseUpdate {
    let tensor = |shape| {
        let mut tensor = SparseTensor {
            levels: levels(&[0xbc80_0000, 0xbb80_0000, 0x3b80_0000, 0x3c80_0000]),
            ..SparseTensor::default()
        };
        for tile in tiles(shape, &manifest.codec) {
            let kept = kept(&manifest.codec, tile.numel());
            let first = seed % (tile.numel() - kept + 1);
            tensor.indices.extend((0..kept).map(|at| tile.flat(first + at)));
        }
        tensor.codes = (0..tensor.indices.len() as u32).map(|at| ((at * seed) % 4) as u8).collect();
        for code in 0..4 {
            if !tensor.codes.contains(&code) {
                tensor.levels[usize::from(code)] = 0;
            }
        }
        tensor
    };
    SparseUpdate { tensors: start.layout.shapes().into_iter().map(tensor).collect() }
}

impl Library {
    async fn with_rounds(rounds: u32) -> Self {
        let network = Network::new(1, Faults::NONE);
        let fake = super::FakeCoordinator::new(network.node("coordinator"), &[]).await;
        let mut run = fake.run().await.expect("there");
        let key = IdentityKey::from_secret_bytes(&[3; 32]).expect("a key");
        let config = LlamaConfig::from_json(CONFIG.as_bytes()).expect("valid");
        let mut checkpoint = Checkpoint::init(config, [3; 32]);
        let mut manifest = run.manifest.body.clone();
        manifest.model_config = Blake3Hash::of(CONFIG.as_bytes());
        manifest.initial_checkpoint = checkpoint.hash();
        let mut blobs = BTreeMap::from([(manifest.model_config, CONFIG.as_bytes().to_vec())]);
        blobs.insert(manifest.training_data.shards[0].hash, b"blob".to_vec());
        let (mut openings, mut checkpoints, mut aggregates) = (Vec::new(), Vec::new(), BTreeMap::new());
        for round in 0..=rounds {
            let bytes = checkpoint.to_safetensors();
            let hash = Blake3Hash::of(&bytes);
            blobs.insert(hash, bytes.clone());
            checkpoints.push(bytes);
            openings.push(key.sign(RoundOpening {
                run: manifest.run_id(),
                round: RoundNumber(round),
                previous_transcript: (round > 0).then_some(hash),
                checkpoint: hash,
                secret_commitment: secret_commitment(&hash),
                opened_ms: SystemClock.now(),
                commit_deadline_ms: SystemClock.now().plus_ms(60_000),
                upload_deadline_ms: SystemClock.now().plus_ms(90_000),
            }));
            let seeds = if round == UNCHANGED { vec![] } else { vec![2 * round + 1, 2 * round + 2] };
            let updates: Vec<Update> =
                seeds.into_iter().map(|seed| update(&manifest, &checkpoint, seed).into()).collect();
            let mut clip = vec![1.0; checkpoint.layout.tensors.len()];
            clip[1] = 0.75;
            let clipped: Vec<_> = updates.iter().map(|update| ClippedUpdate { update, clip: &clip }).collect();
            if !clipped.is_empty() {
                checkpoint = outer_step(&Pool::all_cores(), &checkpoint, manifest.judge.outer_lr_ppm, &clipped);
            }
            let bits: Vec<u32> = clip.iter().map(|factor| factor.to_bits()).collect();
            assert_eq!(bits[0], NOT_CLIPPED);
            let updates = updates.into_iter().map(|update| AggregatedUpdate { clip: bits.clone(), update }).collect();
            let aggregate = Aggregate { from: hash, to: checkpoint.hash(), updates };
            let bytes = aggregate.to_bytes(&manifest.codec, &checkpoint.layout.shapes()).expect("of this model");
            aggregates.insert(round, bytes);
        }
        run.run = manifest.run_id();
        run.manifest = key.sign(manifest);
        Self {
            run,
            openings,
            checkpoints,
            blobs,
            aggregates: Mutex::new(aggregates),
            sent: Mutex::default(),
            gone: AtomicBool::new(false),
        }
    }

    fn checkpoint(&self, round: u32) -> Blake3Hash {
        self.openings[round as usize].body.checkpoint
    }

    fn aggregate_bytes(&self, rounds: std::ops::Range<u32>) -> u64 {
        let aggregates = self.aggregates.lock().expect("not poisoned");
        rounds.filter(|round| *round != UNCHANGED).map(|round| aggregates[&round].len() as u64).sum()
    }

    fn note(&self, what: String) {
        self.sent.lock().expect("not poisoned").push(what);
    }

    /// What was sent so far, and no more.
    fn sent(&self) -> Vec<String> {
        std::mem::take(&mut self.sent.lock().expect("not poisoned"))
    }
}

fn refused(code: &str) -> ApiFailure {
    ApiFailure::Refused { status: 404, code: code.into(), message: code.into(), fix: String::new() }
}

fn write(path: &Path, bytes: &[u8]) -> Result<(), ApiFailure> {
    std::fs::write(path, bytes).map_err(|source| ApiFailure::Disk { path: path.to_path_buf(), source })
}

#[async_trait]
impl CoordinatorApi for Library {
    async fn run(&self) -> Result<RunView, ApiFailure> {
        Ok(self.run.clone())
    }

    async fn round(&self, round: RoundNumber) -> Result<RoundView, ApiFailure> {
        let opening = self.openings.get(round.0 as usize).ok_or_else(|| refused("no_round"))?.clone();
        Ok(RoundView {
            opening,
            phase: Phase::Closed,
            tickets: 0,
            uploads: 0,
            transcript: None,
            next_checkpoint: None,
            now_ms: UnixMs(0),
        })
    }

    async fn register(&self, _: &Signed<PeerRegistration>) -> Result<RegistrationView, ApiFailure> {
        Err(refused("only_a_library"))
    }

    async fn ticket(&self, _: &Signed<Commitment>, _: Option<&Credentials>) -> Result<TicketOffer, ApiFailure> {
        Err(refused("only_a_library"))
    }

    async fn submit_invoices(&self, _: &Signed<InvoiceSubmission>) -> Result<ContributionView, ApiFailure> {
        Err(refused("only_a_library"))
    }

    async fn upload(&self, _: ContributionId, _: &[u8]) -> Result<ContributionView, ApiFailure> {
        Err(refused("only_a_library"))
    }

    async fn contribution(&self, _: ContributionId) -> Result<ContributionView, ApiFailure> {
        Err(refused("only_a_library"))
    }

    async fn aggregate(
        &self,
        wanted: &WantedAggregate,
        path: &Path,
        _: DownloadProgress<'_>,
    ) -> Result<(), ApiFailure> {
        if self.gone.load(Ordering::Relaxed) {
            return Err(ApiFailure::Unreachable("no route to host".into()));
        }
        let found = self.aggregates.lock().expect("not poisoned").get(&wanted.round.0).cloned();
        let bytes = found.ok_or_else(|| refused("no_aggregate"))?;
        if bytes.len() as u64 > wanted.max_bytes {
            return Err(ApiFailure::Garbled("too large".into()));
        }
        self.note(format!("aggregate {}", wanted.round));
        write(path, &bytes)
    }

    async fn download(&self, blob: Blake3Hash, path: &Path, _: DownloadProgress<'_>) -> Result<(), ApiFailure> {
        if std::fs::read(path).is_ok_and(|bytes| Blake3Hash::of(&bytes) == blob) {
            return Ok(());
        }
        let bytes = self.blobs.get(&blob).ok_or_else(|| refused("unknown_blob"))?;
        if self.checkpoints.contains(bytes) {
            self.note("checkpoint".into());
        }
        write(path, bytes)
    }
}

/// A peer with a data folder, and what it tells.
struct Away {
    library: Arc<Library>,
    data: tempfile::TempDir,
    told: Arc<Mutex<Vec<PeerEvent>>>,
}

impl Away {
    /// Took part in round `last`, and in none after it.
    async fn since(library: &Arc<Library>, last: u32) -> Self {
        let data = tempfile::tempdir().expect("a folder");
        let away = Self { library: library.clone(), data, told: Arc::default() };
        away.prepare(last, &Fuse::endless()).await.expect("not killed").expect("everything is there");
        away.told();
        library.sent();
        away
    }

    /// Gets everything for a round; `None` if the fuse blows before.
    async fn prepare(&self, round: u32, fuse: &Arc<Fuse>) -> Option<Result<Vec<u8>, PeerError>> {
        let told = self.told.clone();
        let api: Arc<dyn CoordinatorApi> = self.library.clone();
        let ln: Arc<dyn Lightning> = Network::new(1, Faults::NONE).node("peer");
        let parts = PeerParts {
            folder: DataFolder::open(self.data.path()).expect("free"),
            key: identity::load_or_create(self.data.path()).expect("a key"),
            api: Arc::new(Fused::<dyn CoordinatorApi> { fuse: fuse.clone(), inner: api }),
            ln,
            clock: Arc::new(SystemClock),
            settings: PeerSettings { give_up_after_ms: 50, ..PeerSettings::default() },
            events: EventSink::new(move |event| told.lock().expect("not poisoned").push(event.clone())),
        };
        let session = Session::open(parts, &self.library.run).expect("an honest run");
        let opening = self.library.openings[round as usize].body.clone();
        tokio::select! {
            work = session.prepare(&opening) => {
                Some(work.map(|work| std::fs::read(work.checkpoint).expect("a checkpoint")))
            }
            () = fuse.blown() => None,
        }
    }

    async fn arrives(&self, round: u32) {
        let checkpoint = self.prepare(round, &Fuse::endless()).await.expect("not killed").expect("it is there");
        assert!(checkpoint == self.library.checkpoints[round as usize], "another checkpoint for round {round}");
        let manifest = &self.library.run.manifest.body;
        let needed = [manifest.model_config, manifest.training_data.shards[0].hash];
        for name in super::files_in(&self.data.path().join("blobs")) {
            let known = needed.iter().chain([&self.library.checkpoint(round)]).any(|hash| name == hash.to_string());
            assert!(known, "{name} was left behind");
        }
    }

    /// What it told since this was asked last; downloads' progress aside.
    fn told(&self) -> Vec<PeerEvent> {
        let mut told = std::mem::take(&mut *self.told.lock().expect("not poisoned"));
        told.retain(|event| !matches!(event, PeerEvent::Download { .. }));
        told
    }

    /// Arrives by the whole checkpoint, and says why.
    async fn arrives_by_detour(&self, round: u32) -> String {
        self.arrives(round).await;
        assert_eq!(self.library.sent().last().map(String::as_str), Some("checkpoint"));
        match &self.told()[..] {
            [PeerEvent::NotCaughtUp { round: told, reason }] if told.0 == round => reason.clone(),
            other => panic!("{other:?}"),
        }
    }
}

#[tokio::test]
async fn however_many_rounds_were_missed_the_checkpoint_is_the_same_to_the_byte() {
    let library = Arc::new(Library::with_rounds(12).await);
    for (last, now) in [(0, 1), (4, 7), (0, 12), (1, 4)] {
        let away = Away::since(&library, last).await;
        away.arrives(now).await;
        let steps: Vec<String> =
            (last..now).filter(|round| *round != UNCHANGED).map(|round| format!("aggregate {round}")).collect();
        assert_eq!(library.sent(), steps, "{last} to {now}");
        let expected = PeerEvent::CaughtUp {
            round: RoundNumber(now),
            from_round: RoundNumber(last),
            aggregates: steps.len(),
            aggregate_bytes: library.aggregate_bytes(last..now),
            checkpoint_bytes: library.checkpoints[0].len() as u64,
        };
        assert_eq!(away.told(), [expected], "{last} to {now}");
    }
}

#[tokio::test]
async fn a_round_that_changed_nothing_and_a_newcomer_need_no_aggregate() {
    let library = Arc::new(Library::with_rounds(3).await);
    let away = Away::since(&library, UNCHANGED).await;
    away.arrives(UNCHANGED + 1).await;
    assert_eq!((library.sent(), away.told()), (vec![], vec![]));
    let newcomer =
        Away { library: library.clone(), data: tempfile::tempdir().expect("a folder"), told: Arc::default() };
    newcomer.arrives(3).await;
    assert_eq!((library.sent(), newcomer.told()), (vec!["checkpoint".to_owned()], vec![]));
}

#[tokio::test]
async fn a_wrong_aggregate_is_refused_and_the_whole_checkpoint_is_downloaded() {
    let library = Arc::new(Library::with_rounds(4).await);
    let good = library.aggregates.lock().expect("not poisoned").clone();
    let (second, third) = (&good[&1], &good[&3]);
    let changed = |at: usize, by: u8| {
        let mut bytes = second.clone();
        bytes[at] ^= by;
        bytes
    };
    let last = second.len() - 1;
    let long = vec![0; library.checkpoints[0].len()];
    for (wrong, reason) in [
        (Some(changed(0, 1)), "magic"),
        (Some(changed(5, 1)), "leads from checkpoint"),
        (Some(changed(40, 1)), "leads from checkpoint"),
        (Some(changed(77, 1)), "makes checkpoint"),
        (Some(changed(last, 1)), "the aggregate's updates"),
        (Some(second[..last].to_vec()), "truncated"),
        (Some([&second[..], &[0]].concat()), "followed by other bytes"),
        (Some(third.clone()), "leads from checkpoint"),
        (Some(vec![]), "truncated"),
        (Some(long), "too large"),
        (None, "no_aggregate"),
    ] {
        let away = Away::since(&library, 0).await;
        let mut aggregates = good.clone();
        match wrong {
            Some(wrong) => aggregates.insert(1, wrong),
            None => aggregates.remove(&1),
        };
        *library.aggregates.lock().expect("not poisoned") = aggregates;
        let told = away.arrives_by_detour(4).await;
        assert!(told.contains("the aggregate of round 1") && told.contains(reason), "{reason}: {told}");
        *library.aggregates.lock().expect("not poisoned") = good.clone();
    }
}

#[tokio::test]
async fn a_damaged_start_or_an_opening_of_somebody_elses_leads_to_the_whole_checkpoint() {
    let library = Arc::new(Library::with_rounds(4).await);
    let away = Away::since(&library, 1).await;
    let path = away.data.path().join("blobs").join(library.checkpoint(1).to_string());
    let mut bytes = library.checkpoints[1].clone();
    let place = bytes.len() - 8;
    bytes[place] ^= 1;
    std::fs::write(&path, bytes).expect("damaged");
    let reason = away.arrives_by_detour(4).await;
    assert!(reason.contains("is damaged"), "{reason}");

    let mut forged = Library::with_rounds(4).await;
    forged.openings[2] = IdentityKey::from_secret_bytes(&[4; 32]).expect("a key").sign(forged.openings[2].body.clone());
    let away = Away::since(&Arc::new(forged), 0).await;
    let reason = away.arrives_by_detour(4).await;
    assert!(reason.contains("the opening of round 2"), "{reason}");
}

#[tokio::test]
async fn a_peer_that_was_away_for_too_long_downloads_the_whole_checkpoint() {
    let library = Arc::new(Library::with_rounds(65).await);
    let away = Away::since(&library, 0).await;
    away.arrives(65).await;
    assert_eq!((library.sent(), away.told()), (vec!["checkpoint".to_owned()], vec![]));
}

#[tokio::test]
async fn a_peer_killed_anywhere_on_its_way_goes_on_and_downloads_no_aggregate_twice() {
    let library = Arc::new(Library::with_rounds(5).await);
    let mut deaths = 0;
    for length in 1.. {
        let away = Away::since(&library, 0).await;
        if away.prepare(5, &Fuse::new(length)).await.is_some() {
            break;
        }
        deaths += 1;
        // What a write that was cut short leaves.
        let unfinished = away.data.path().join("blobs").join(format!("{}.new", library.checkpoint(5)));
        std::fs::write(&unfinished, b"half").expect("written");
        away.told();
        let checkpoint = away.prepare(5, &Fuse::endless()).await.expect("not killed").expect("it is there");
        assert!(checkpoint == library.checkpoints[5], "after a crash at call {length}");
        let steps = [0, 1, 3, 4].map(|round| format!("aggregate {round}"));
        assert_eq!(library.sent(), steps, "after a crash at call {length}");
    }
    assert!(deaths >= 14, "only {deaths} places to crash at");
}

#[tokio::test]
async fn a_coordinator_that_is_gone_is_waited_for_and_no_reason_for_a_detour() {
    let library = Arc::new(Library::with_rounds(2).await);
    let away = Away::since(&library, 0).await;
    library.gone.store(true, Ordering::Relaxed);
    let error = away.prepare(2, &Fuse::endless()).await.expect("not killed").expect_err("nobody is there");
    assert!(matches!(error, PeerError::Unreachable { doing: "download an aggregate", .. }), "{error}");
    assert!(away.told().iter().all(|event| matches!(event, PeerEvent::Waiting { .. })));
    library.gone.store(false, Ordering::Relaxed);
    away.arrives(2).await;
    assert_eq!(library.sent(), ["aggregate 0", "aggregate 1"]);
}
