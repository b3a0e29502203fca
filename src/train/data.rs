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
    tokens: Tokens,
    sequence_tokens: usize,
}

impl TrainingData {
    /// A sequence is `sequence_tokens` tokens that the model reads and the one after them, which is the last target.
    pub fn new(tokens: Tokens, sequence_tokens: u32) -> Result<Self, TrainError> {
        let sequence_tokens = sequence_tokens as usize;
        if tokens.len() <= sequence_tokens {
            return Err(TrainError::TooLittleData { tokens: tokens.len(), needed: sequence_tokens + 1 });
        }
        Ok(Self { tokens, sequence_tokens })
    }

    /// Tokens that the model reads of a sequence.
    pub fn sequence_tokens(&self) -> usize {
        self.sequence_tokens
    }

    /// The vocabulary of the tokens.
    pub fn vocab_size(&self) -> u32 {
        self.tokens.vocab_size()
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
        let places = self.tokens.len() - self.sequence_tokens;
        let start = uniform_below(&mut hasher.finalize_xof(), places as u64) as usize;
        &self.tokens.as_slice()[start..=start + self.sequence_tokens]
    }
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
