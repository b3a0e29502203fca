//! A coordinator's data folder, a network with one node a peer, and a clock that moves when told to.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use l402t::clock::{Clock, ManualClock};
use l402t::coordinator::handle::CoordinatorHandle;
use l402t::coordinator::judging::Judge;
use l402t::coordinator::settings::{Gate, HeldOutSettings, RunSettings};
use l402t::coordinator::{ChannelGate, Coordinator, CoordinatorError, Options, Surroundings, SystemEntropy};
use l402t::ln::simulated::{Faults, Network};
use l402t::protocol::amount::{Msat, Ppm};
use l402t::protocol::ids::{RoundNumber, UnixMs};
use l402t::protocol::manifest::{RewardParams, RunManifest, TimingParams};
use l402t::protocol::round::RoundRules;
use l402t::protocol::sign::Signed;
use l402t::protocol::transcript::Transcript;
use l402t::store::database::Unwatched;
use l402t::store::ledger::{self, Totals};

use crate::fuse::{Fuse, FusedLightning};
use crate::judge::FakeJudge;
use crate::peer::Peer;

pub(crate) const COORDINATOR: &str = "coordinator";
/// The coordinator's coins, for channels.
const FUNDS: Msat = Msat::new(10_000_000_000);
/// A round never takes as many turns as this, so that a test ends when something is stuck.
const MAX_TURNS: u32 = 2_000;
/// Where nothing moves, time does: enough to pass a deadline in a few turns.
const IDLE_MS: u64 = 4_000;

const MODEL: &str = r#"{"model_type":"llama","architectures":["LlamaForCausalLM"],"vocab_size":256,"hidden_size":8,
"intermediate_size":16,"num_hidden_layers":1,"num_attention_heads":2,"num_key_value_heads":1,"head_dim":4,
"max_position_embeddings":32,"rms_norm_eps":1e-5,"rope_theta":10000.0,"tie_word_embeddings":true,
"hidden_act":"silu"}"#;

pub(crate) struct World {
    pub(crate) folder: tempfile::TempDir,
    pub(crate) network: Network,
    pub(crate) clock: Arc<ManualClock>,
    pub(crate) settings: RunSettings,
    pub(crate) max_rounds: u32,
    pub(crate) judge: Arc<dyn Judge>,
    pub(crate) gate: Gate,
}

impl World {
    pub(crate) fn new() -> Self {
        Self::with_faults(Faults::NONE)
    }

    pub(crate) fn with_faults(faults: Faults) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let write = |name: &str, text: &str| {
            let path = folder.path().join(name);
            std::fs::write(&path, text).expect("written");
            Some(path)
        };
        let clock = Arc::new(ManualClock::new(UnixMs(1_800_000_000_000)));
        let network = Network::with_clock(7, faults, Arc::clone(&clock) as Arc<dyn Clock>);
        network.fund(COORDINATOR, FUNDS);
        let settings = RunSettings {
            model: write("model.json", MODEL),
            corpus: write("corpus.txt", &"All happy rounds are alike. ".repeat(200)),
            held_out: HeldOutSettings { rounds: 3, block_windows: 4, windows_per_round: 2, window_tokens: 17 },
            training: l402t::protocol::manifest::TrainingParams { sequence_tokens: 16, ..Default::default() },
            reward: RewardParams {
                pool_msat: Msat::new(1_000_000),
                max_share_ppm: Ppm::new(600_000).expect("valid"),
                tranches: 2,
                fee_msat: Msat::new(5_000),
                hold_blocks: 144,
            },
            timing: TimingParams {
                commit_ms: 30_000,
                upload_ms: 60_000,
                close_at_contributions: 0,
                max_contributions: 4,
            },
            ..RunSettings::default()
        };
        Self { folder, network, clock, settings, max_rounds: 1, judge: Arc::new(FakeJudge), gate: Gate::Own }
    }

    pub(crate) fn data(&self) -> std::path::PathBuf {
        self.folder.path().join("data")
    }

    /// A coordinator that lives until the fuse blows.
    pub(crate) async fn open(&self, fuse: &Arc<Fuse>) -> Result<Coordinator, CoordinatorError> {
        let ln = Arc::new(FusedLightning { node: self.network.node(COORDINATOR), fuse: Arc::clone(fuse) });
        let options = Options { max_rounds: Some(self.max_rounds), gate: self.gate, ..Options::default() };
        let clock = Arc::clone(&self.clock) as Arc<dyn Clock>;
        let (judge, observer, entropy) = (Arc::clone(&self.judge), Arc::clone(fuse) as _, Arc::new(SystemEntropy));
        let surroundings = Surroundings { ln, channel_gate: ChannelGate::default(), judge, clock, observer, entropy };
        let mut coordinator = Coordinator::open(&self.data(), &self.settings, None, options, surroundings).await?;
        coordinator.reconcile().await?;
        Ok(coordinator)
    }

    /// One that lives, with its first round open.
    pub(crate) async fn start(&self) -> (Coordinator, Arc<dyn CoordinatorHandle>) {
        let mut coordinator = self.open(&Fuse::never()).await.expect("opened");
        coordinator.step().await.expect("a step");
        let handle = coordinator.handle();
        (coordinator, handle)
    }

    /// Turns of coordinator and peers until the run is finished. Time passes where nobody moves.
    pub(crate) async fn play(&self, coordinator: &mut Coordinator, peers: &mut [Peer]) {
        let handle = coordinator.handle();
        for _ in 0..MAX_TURNS {
            coordinator.step().await.expect("a step");
            if coordinator.is_finished() {
                return;
            }
            let mut moved = false;
            for peer in &mut *peers {
                moved |= peer.act(&*handle).await.expect("an honest request");
            }
            self.pass_time(moved).await;
        }
        panic!("the run does not end: {:#}", handle.status().await.expect("status"));
    }

    pub(crate) async fn pass_time(&self, moved: bool) {
        self.clock.advance_ms(if moved { 1 } else { IDLE_MS });
        // The judge works in a thread of its own.
        tokio::time::sleep(Duration::from_millis(1)).await;
    }

    /// The books of a coordinator that has been dropped.
    pub(crate) fn books(&self) -> Totals {
        let db = l402t::store::coordinator::open(&self.data(), Arc::new(Unwatched)).expect("opened");
        let manifest = std::fs::read(self.data().join("manifest.json")).expect("a manifest");
        let manifest: Signed<RunManifest> = Signed::from_bytes(&manifest).expect("canonical");
        let folded = crate::fold::fold(&db, &RoundRules::new(&manifest.body.timing, manifest.body.reward.hold_blocks));
        let stored = l402t::store::coordinator::rounds(db.read()).expect("rounds");
        assert_eq!(folded, stored.into_iter().map(|row| row.state).collect::<Vec<_>>(), "log and projection differ");
        ledger::totals(db.read(), None).expect("summed")
    }

    pub(crate) fn transcript(&self, round: u32) -> Signed<Transcript> {
        read_transcript(&self.data(), RoundNumber(round))
    }
}

pub(crate) fn read_transcript(data: &Path, round: RoundNumber) -> Signed<Transcript> {
    let bytes = std::fs::read(data.join(format!("transcripts/{round}.json"))).expect("a transcript");
    Signed::from_bytes(&bytes).expect("canonical")
}

pub(crate) fn read_manifest(data: &Path) -> RunManifest {
    let bytes = std::fs::read(data.join("manifest.json")).expect("a manifest");
    let signed = Signed::<RunManifest>::from_bytes(&bytes).expect("canonical");
    signed.verify(&signed.body.coordinator).expect("signed by itself").clone()
}
