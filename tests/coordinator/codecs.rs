//! A round of every codec: trained for, contributed, judged, paid, and replayed to the same bits.

use std::sync::Arc;

use l402t::coordinator::judging::Df32Judge;
use l402t::judge::Pool;
use l402t::judge::replay::Replay;
use l402t::peer::cheats::Garbage;
use l402t::peer::honest::Honest;
use l402t::peer::trainer::{LocalTrainer, Onlooker, RoundWork, StepReport};
use l402t::protocol::amount::Ppm;
use l402t::protocol::ids::{PeerId, RoundNumber};
use l402t::protocol::manifest::CodecParams;
use l402t::protocol::verdict::{Outcome, Rejection};
use l402t::train::inner::TrainerOptions;

use crate::peer::{Manner, Peer};
use crate::replay::replay_round;
use crate::world::{World, read_manifest};

struct Nobody;

impl Onlooker for Nobody {
    fn step(&mut self, _: StepReport) {}

    fn should_stop(&self) -> bool {
        false
    }
}

/// What a trainer contributes to the first round of this world.
fn payload(world: &World, trainer: &mut dyn LocalTrainer, peer: PeerId) -> Vec<u8> {
    let data = world.data();
    let manifest = read_manifest(&data);
    let blob = |hash: &dyn std::fmt::Display| data.join("blobs").join(hash.to_string());
    let shards = manifest.training_data.shards.clone().into_iter().enumerate();
    let work = RoundWork {
        model_config: blob(&manifest.model_config),
        checkpoint: blob(&manifest.initial_checkpoint),
        training_data: shards.map(|(place, shard)| (place, blob(&shard.hash))).collect(),
        manifest,
        round: RoundNumber(0),
        peer,
        state_folder: world.folder.path().join(peer.to_string()),
        state: None,
        staged_state: "staged".into(),
        partial_state: "partial".into(),
    };
    std::fs::create_dir(&work.state_folder).expect("a folder");
    trainer.contribute(&work, &mut Nobody).expect("a contribution").expect("nobody stopped it").payload
}

/// Codec, inner steps, and what is kept of the error feedback in 10⁻⁶.
const SETTINGS: [(CodecParams, u32, u32); 8] = [
    (CodecParams { version: 2, tile: 64, k: 64, value_bits: 2 }, 8, 950_000),
    (CodecParams { version: 2, tile: 64, k: 64, value_bits: 1 }, 8, 950_000),
    (CodecParams { version: 2, tile: 64, k: 64, value_bits: 4 }, 8, 950_000),
    (CodecParams { version: 2, tile: 64, k: 512, value_bits: 2 }, 3, 0),
    (CodecParams { version: 2, tile: 16, k: 1, value_bits: 4 }, 12, 1_000_000),
    (CodecParams { version: 2, tile: 5, k: 5, value_bits: 1 }, 1, 500_000),
    (CodecParams { version: 2, tile: 16, k: 256, value_bits: 8 }, 8, 950_000),
    (CodecParams { version: 2, tile: 3, k: 9, value_bits: 8 }, 2, 0),
];

#[tokio::test]
async fn a_round_of_every_codec_is_trained_for_paid_and_replayed() {
    for (codec, inner_steps, decay) in SETTINGS {
        let mut world = World::new();
        world.judge = Arc::new(Df32Judge::new(Pool::all_cores()));
        world.settings.codec = codec;
        world.settings.training.inner_steps = inner_steps;
        world.settings.training.micro_batch = 2;
        world.settings.training.warmup_steps = 0;
        world.settings.training.error_feedback_decay_ppm = Ppm::new(decay).expect("at most one");
        world.settings.judge.min_gain_per_token = 1;
        let (mut coordinator, handle) = world.start().await;

        let mut alice = Peer::new(&world, "alice", b"", Manner::Honest);
        let mut mallory = Peer::new(&world, "mallory", b"", Manner::Honest);
        alice.payload = payload(&world, &mut Honest::new(TrainerOptions::default()), alice.key.id());
        mallory.payload = payload(&world, &mut Garbage, mallory.key.id());
        let copycat = Peer::new(&world, "copycat", &alice.payload, Manner::Honest);
        world.play(&mut coordinator, &mut [alice, copycat, mallory]).await;
        drop((coordinator, handle));

        let body = world.transcript(0).body;
        let outcomes: Vec<&Outcome> = body.contributions.iter().map(|record| &record.verdict.outcome).collect();
        assert!(matches!(outcomes[0], Outcome::Accepted { .. }), "{codec:?}: {outcomes:?}");
        let copy = Rejection::Copy { of: body.contributions[0].verdict.contribution, overlap_ppm: Ppm::ONE };
        assert_eq!(outcomes[1], &Outcome::Rejected { rejection: copy }, "{codec:?}");
        // Noise may happen to help; it is never malformed.
        assert!(body.contributions[2].verdict.loss_after.is_some(), "{codec:?}: {outcomes:?}");
        let found = replay_round(&world.data(), 0);
        assert!(matches!(found, Replay::Identical(_)), "{codec:?}: {found:?}");
    }
}
