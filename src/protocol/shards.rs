//! Which training shards a peer reads from in a round: drawn from (run, round, peer), so that peers read different data,
//! download only what they read, and anyone can tell which it was.

use super::held_out::uniform_below;
use super::ids::{PeerId, RoundNumber, RunId};
use super::manifest::TrainingDataParams;

/// Most shards of a run: a manifest with so many is still small, and they hold more tokens than home computers train on.
pub const MAX_SHARDS: usize = 4_096;

const SHARDS: &str = "l402t training shards v1";

/// The places of `shards_per_round` different shards, ascending; all of them if there are no more.
pub fn assigned(params: &TrainingDataParams, run: &RunId, round: RoundNumber, peer: &PeerId) -> Vec<usize> {
    let mut places: Vec<usize> = (0..params.shards.len()).collect();
    let count = places.len().min(params.shards_per_round as usize);
    if count < places.len() {
        let mut hasher = blake3::Hasher::new_derive_key(SHARDS);
        hasher.update(run.as_bytes());
        hasher.update(&round.0.to_le_bytes());
        hasher.update(peer.as_bytes());
        let mut stream = hasher.finalize_xof();
        for drawn in 0..count {
            let other = drawn + uniform_below(&mut stream, (places.len() - drawn) as u64) as usize;
            places.swap(drawn, other);
        }
        places.truncate(count);
        places.sort_unstable();
    }
    places
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::ids::Blake3Hash;
    use crate::protocol::manifest::ShardParams;

    fn params(shards: u32, shards_per_round: u32) -> TrainingDataParams {
        let shard = |number: u32| ShardParams { hash: Blake3Hash::of(&number.to_le_bytes()), tokens: 10 };
        TrainingDataParams { shards: (0..shards).map(shard).collect(), shards_per_round, tokenizer: None }
    }

    fn drawn(params: &TrainingDataParams, run: u8, round: u32, peer: u8) -> Vec<usize> {
        assigned(params, &RunId::from_bytes([run; 32]), RoundNumber(round), &PeerId::from_bytes([peer; 32]))
    }

    #[test]
    fn run_round_and_peer_decide_and_nothing_is_drawn_twice() {
        let params = params(100, 8);
        let first = drawn(&params, 1, 1, 1);
        assert_eq!(first.len(), 8);
        assert!(first.windows(2).all(|pair| pair[0] < pair[1]) && first[7] < 100);
        assert_eq!(first, drawn(&params, 1, 1, 1));
        for other in [drawn(&params, 2, 1, 1), drawn(&params, 1, 2, 1), drawn(&params, 1, 1, 2)] {
            assert_ne!(first, other);
        }
    }

    #[test]
    fn every_shard_is_read_by_somebody() {
        let params = params(20, 2);
        let mut all: Vec<usize> = (0..100).flat_map(|round| drawn(&params, 1, round, 1)).collect();
        all.sort_unstable();
        all.dedup();
        assert_eq!(all, (0..20).collect::<Vec<_>>());
    }

    #[test]
    fn where_there_are_no_more_all_are_read() {
        for shards_per_round in [3, 4, u32::MAX] {
            assert_eq!(drawn(&params(3, shards_per_round), 1, 1, 1), [0, 1, 2]);
        }
    }

    #[test]
    fn the_draw_stays_what_it_was() {
        assert_eq!(drawn(&params(1_000, 3), 1, 2, 3), [34, 361, 414]);
    }
}
