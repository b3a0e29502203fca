//! Which training sequences a peer reads: drawn from (run, round, peer, step, row), so that peers read different data
//! and anyone can tell which.
//!
//! Keeps no state: a round that is resumed reads what it would have read.

use super::TrainError;
use crate::model::tokens::Tokens;
use crate::protocol::held_out::uniform_below;
use crate::protocol::ids::{PeerId, RoundNumber, RunId};

const SEQUENCES: &str = "l402t training sequences v1";

/// Whose data of which round.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Assignment {
    /// The run.
    pub run: RunId,
    /// The round.
    pub round: RoundNumber,
    /// The peer.
    pub peer: PeerId,
}

/// The training tokens, cut into sequences wherever a draw falls.
#[derive(Clone, Debug)]
pub struct TrainingData {
    /// At least one; a sequence lies in one of them.
    shards: Vec<Tokens>,
    sequence_tokens: usize,
    /// Where a sequence may begin, in all shards together; at least 1.
    places: u64,
}

impl TrainingData {
    /// A sequence is `sequence_tokens` tokens that the model reads and the one after them, which is the last target.
    pub fn new(tokens: Tokens, sequence_tokens: u32) -> Result<Self, TrainError> {
        Self::of_shards(vec![tokens], sequence_tokens)
    }

    /// The same of several shards: a sequence is as likely to begin at any place of any of them.
    pub fn of_shards(shards: Vec<Tokens>, sequence_tokens: u32) -> Result<Self, TrainError> {
        let sequence_tokens = sequence_tokens as usize;
        let places = shards.iter().map(|shard| places(shard, sequence_tokens)).sum();
        if places == 0 {
            let tokens = shards.iter().map(Tokens::len).max().unwrap_or(0);
            return Err(TrainError::TooLittleData { tokens, needed: sequence_tokens + 1 });
        }
        Ok(Self { shards, sequence_tokens, places })
    }

    /// Tokens that the model reads of a sequence.
    pub fn sequence_tokens(&self) -> usize {
        self.sequence_tokens
    }

    /// The vocabulary of the tokens.
    pub fn vocab_size(&self) -> u32 {
        self.shards.iter().map(Tokens::vocab_size).max().unwrap_or(0)
    }

    /// The `sequence_tokens + 1` tokens of one row of an inner step's batch. Rows count through all forward passes of
    /// the step.
    pub fn sequence(&self, assignment: &Assignment, step: u32, row: u32) -> &[u32] {
        let mut hasher = blake3::Hasher::new_derive_key(SEQUENCES);
        hasher.update(assignment.run.as_bytes());
        hasher.update(&assignment.round.0.to_le_bytes());
        hasher.update(assignment.peer.as_bytes());
        hasher.update(&step.to_le_bytes());
        hasher.update(&row.to_le_bytes());
        let mut start = uniform_below(&mut hasher.finalize_xof(), self.places);
        for shard in &self.shards {
            let of_shard = places(shard, self.sequence_tokens);
            if start < of_shard {
                let start = start as usize;
                return &shard.as_slice()[start..=start + self.sequence_tokens];
            }
            start -= of_shard;
        }
        // `places` is the sum of what the loop takes off a smaller number.
        unreachable!("a place beyond the last shard")
    }
}

/// Where a sequence and its last target may begin in a shard.
fn places(shard: &Tokens, sequence_tokens: usize) -> u64 {
    shard.len().saturating_sub(sequence_tokens) as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    fn assignment(run: u8, round: u32, peer: u8) -> Assignment {
        Assignment {
            run: RunId::from_bytes([run; 32]),
            round: RoundNumber(round),
            peer: PeerId::from_bytes([peer; 32]),
        }
    }

    fn counted(count: u32, sequence_tokens: u32) -> Result<TrainingData, TrainError> {
        TrainingData::new(Tokens::new((0..count).collect(), count).expect("valid"), sequence_tokens)
    }

    #[test]
    fn every_part_of_the_assignment_changes_the_data() {
        let data = counted(1 << 20, 8).expect("enough");
        let first = data.sequence(&assignment(1, 1, 1), 1, 1);
        assert_eq!(first, data.sequence(&assignment(1, 1, 1), 1, 1));
        assert_eq!(first.len(), 9);
        for other in [assignment(2, 1, 1), assignment(1, 2, 1), assignment(1, 1, 2)] {
            assert_ne!(first, data.sequence(&other, 1, 1));
        }
        assert_ne!(first, data.sequence(&assignment(1, 1, 1), 2, 1));
        assert_ne!(first, data.sequence(&assignment(1, 1, 1), 1, 2));
    }

    #[test]
    fn every_place_of_the_corpus_is_drawn_and_none_beyond() {
        let data = counted(7, 4).expect("enough");
        let mut starts: Vec<u32> = (0..200).map(|row| data.sequence(&assignment(0, 0, 0), 0, row)[0]).collect();
        starts.sort_unstable();
        starts.dedup();
        assert_eq!(starts, [0, 1, 2]);
    }

    #[test]
    fn shards_are_read_at_all_their_places_and_never_across_their_ends() {
        let shard = |tokens: std::ops::Range<u32>| Tokens::new(tokens.collect(), 100).expect("valid");
        // Places for 4 tokens and a target: 2, none, 3.
        let data = TrainingData::of_shards(vec![shard(0..6), shard(20..24), shard(40..47)], 4).expect("enough");
        let mut starts: Vec<u32> = (0..300)
            .map(|row| {
                let sequence = data.sequence(&assignment(0, 0, 0), 0, row);
                assert!(sequence.len() == 5 && sequence.windows(2).all(|pair| pair[1] == pair[0] + 1), "{sequence:?}");
                sequence[0]
            })
            .collect();
        starts.sort_unstable();
        starts.dedup();
        assert_eq!(starts, [0, 1, 40, 41, 42]);
    }

    #[test]
    fn a_corpus_without_room_for_one_sequence_is_refused() {
        assert!(matches!(counted(8, 8), Err(TrainError::TooLittleData { tokens: 8, needed: 9 })));
        assert!(counted(9, 8).is_ok());
    }

    #[test]
    fn the_draw_stays_what_it_was() {
        let data = counted(1 << 20, 1).expect("enough");
        let starts: Vec<u32> = (0..4).map(|row| data.sequence(&assignment(1, 2, 3), 4, row)[0]).collect();
        assert_eq!(starts, [807_043, 411_412, 950_987, 865_454]);
    }
}
