//! What a coordinator publishes is what an auditor needs, and recomputes to the same bits.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use l402t::coordinator::judging::Df32Judge;
use l402t::judge::replay::{Blobs, Replay, ReplayInput, replay};
use l402t::judge::{CatchUp, ClippedUpdate, HeldOutBatch, Pool, Scorer, outer_step};
use l402t::model::Checkpoint;
use l402t::protocol::amount::Ppm;
use l402t::protocol::codec::{SparseTensor, SparseUpdate, Update, encode, kept, tiles};
use l402t::protocol::ids::{Blake3Hash, RoundNumber};
use l402t::protocol::manifest::CodecParams;
use l402t::protocol::verdict::{Outcome, Rejection};

use crate::peer::{Manner, Peer};
use crate::world::World;

const CODEC: CodecParams = CodecParams { version: 2, tile: 8, k: 12, value_bits: 2 };
/// bfloat16 bits of −2⁻⁶, −2⁻⁸, 2⁻⁸ and 2⁻⁶ as f32.
const LEVELS: [u32; 4] = [0xbc80_0000, 0xbb80_0000, 0x3b80_0000, 0x3c80_0000];

struct Folder(PathBuf);

impl Blobs for Folder {
    fn blob(&self, hash: &Blake3Hash) -> Result<Vec<u8>, String> {
        std::fs::read(self.0.join(hash.to_string())).map_err(|error| error.to_string())
    }
}

/// A well-formed update that depends on the seed; `flip` turns its direction around.
fn update(start: &Checkpoint, seed: u8, flip: u8) -> Update {
    let mut stream = blake3::Hasher::new().update(&[seed]).finalize_xof();
    let mut random = move || {
        let mut byte = [0; 2];
        stream.fill(&mut byte);
        u16::from_le_bytes(byte)
    };
    let tensor = |shape| {
        let mut tensor = SparseTensor::default();
        for tile in tiles(shape, &CODEC) {
            let mut positions: Vec<u32> = (0..tile.numel()).collect();
            positions.sort_by_cached_key(|_| random());
            positions.truncate(kept(&CODEC, tile.numel()) as usize);
            positions.sort_unstable();
            tensor.indices.extend(positions.iter().map(|position| tile.flat(*position)));
        }
        tensor.codes = tensor.indices.iter().map(|_| (random() % 4) as u8 ^ flip).collect();
        for code in &tensor.codes {
            tensor.levels[usize::from(*code)] = LEVELS[usize::from(*code)];
        }
        tensor
    };
    SparseUpdate { tensors: start.layout.shapes().into_iter().map(tensor).collect() }.into()
}

/// A payload that lowers the loss on the corpus.
fn helpful_payload(start: &Checkpoint, corpus: &[u8], first_seed: u8) -> Vec<u8> {
    let windows = corpus.chunks_exact(17).take(16).map(|window| window.iter().map(|b| u32::from(*b)).collect());
    let batch = HeldOutBatch::new(&start.config, windows.collect()).expect("valid");
    let mut scorer = Scorer::new(&start.config, batch.predicted_per_window(), Pool::all_cores());
    let clip = vec![1.0; start.layout.tensors.len()];
    let best = (first_seed..first_seed + 8).flat_map(|seed| [0, 3].map(|flip| update(start, seed, flip))).min_by_key(
        |update| {
            let next = outer_step(&Pool::all_cores(), start, Ppm::ONE, &[ClippedUpdate { update, clip: &clip }]);
            scorer.loss(&next.weights, &batch)
        },
    );
    encode(&CODEC, &start.layout.shapes(), &best.expect("some update")).expect("well-formed")
}

fn start_of(world: &World) -> Checkpoint {
    let data = world.data();
    let manifest = crate::world::read_manifest(&data);
    let blob = |hash: &Blake3Hash| std::fs::read(data.join("blobs").join(hash.to_string())).expect("a blob");
    let config = l402t::model::LlamaConfig::from_json(&blob(&manifest.model_config)).expect("a model");
    Checkpoint::from_safetensors(config, &blob(&manifest.initial_checkpoint)).expect("a checkpoint")
}

pub(crate) fn replay_round(data: &Path, round: u32) -> Replay {
    let read = |path: String| std::fs::read(data.join(path)).expect("written by the coordinator");
    let transcript = |round: u32| read(format!("transcripts/{round}.json"));
    let previous = round.checked_sub(1).map(transcript);
    let input = ReplayInput {
        round: RoundNumber(round),
        manifest: &read("manifest.json".into()),
        transcript: &transcript(round),
        previous: previous.as_deref(),
    };
    replay(&input, &Folder(data.join("blobs")), Pool::all_cores(), &mut |_| {}).expect("replayable")
}

#[tokio::test]
async fn every_closed_round_replays_to_the_same_bits_from_the_data_folder_and_its_model_can_be_exported() {
    let mut world = World::new();
    world.judge = Arc::new(Df32Judge::new(Pool::all_cores()));
    world.max_rounds = 2;
    world.settings.codec = CODEC;
    world.settings.judge.min_gain_per_token = 1;
    world.settings.timing.max_contributions = 6;
    let corpus = std::fs::read(world.settings.corpus.as_ref().expect("a corpus")).expect("written");
    let (mut coordinator, handle) = world.start().await;
    let start = start_of(&world);
    let good = helpful_payload(&start, &corpus, 0);
    let mut peers = [
        Peer::new(&world, "alice", &good, Manner::Honest),
        Peer::new(&world, "bob", &helpful_payload(&start, &corpus, 100), Manner::Honest),
        Peer::new(&world, "mallory", b"garbage", Manner::Honest),
        Peer::new(&world, "copycat", &good, Manner::Honest),
        Peer::new(&world, "carol", b"never sent", Manner::NoUpload),
        Peer::new(&world, "dave", b"never locked", Manner::NoInvoices),
    ];
    world.play(&mut coordinator, &mut peers).await;
    drop((coordinator, handle));

    let body = world.transcript(0).body;
    let outcomes: Vec<&Outcome> = body.contributions.iter().map(|record| &record.verdict.outcome).collect();
    let count = |wanted: fn(&Outcome) -> bool| outcomes.iter().filter(|outcome| wanted(outcome)).count();
    assert_eq!(count(|o| matches!(o, Outcome::Accepted { .. })), 2, "{outcomes:?}");
    assert_eq!(count(|o| matches!(o, Outcome::Rejected { rejection: Rejection::Copy { .. } })), 1);
    assert_eq!(count(|o| matches!(o, Outcome::Rejected { rejection: Rejection::Malformed { .. } })), 1);
    assert_eq!(count(|o| matches!(o, Outcome::Rejected { rejection: Rejection::NotUploaded })), 2);
    let manifest = crate::world::read_manifest(&world.data());
    let mut reached = CatchUp::from(start);
    for round in 0..2 {
        let found = replay_round(&world.data(), round);
        assert!(matches!(found, Replay::Identical(_)), "round {round}: {found:?}");
        let aggregate = std::fs::read(world.data().join(format!("aggregates/{round}.l4ag"))).expect("kept");
        let next = world.transcript(round).body.next_checkpoint;
        reached = reached.step(&Pool::all_cores(), &manifest, next, &aggregate).expect("the coordinator's own");
        let whole = std::fs::read(world.data().join("blobs").join(next.to_string())).expect("a checkpoint");
        assert!(reached.clone().into_checkpoint().to_safetensors() == whole, "round {round}");
    }
    crate::export::check(&world);
}
