//! From one checkpoint to a later one by the aggregates of the rounds between them.

use l402t_kernels::Pool;

use super::outer::{ClippedUpdate, step_in_place};
use crate::model::Checkpoint;
use crate::protocol::aggregate::{Aggregate, BadAggregate};
use crate::protocol::ids::Blake3Hash;
use crate::protocol::manifest::RunManifest;

/// Why an aggregate doesn't lead to the checkpoint that was asked for.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CatchUpError {
    /// Its bytes.
    #[error(transparent)]
    Aggregate(#[from] BadAggregate),
    /// It says that it belongs to other checkpoints.
    #[error("the aggregate is of another round: it leads from checkpoint {from} to {to}")]
    OtherRound {
        /// Where it starts.
        from: Blake3Hash,
        /// Where it says that it ends.
        to: Blake3Hash,
    },
    /// It leads elsewhere.
    #[error("the aggregate makes checkpoint {made}, not {asked}")]
    OtherCheckpoint {
        /// What was asked for.
        asked: Blake3Hash,
        /// What came out.
        made: Blake3Hash,
    },
}

/// A checkpoint on its way to a later one. It is always one whose hash is known to be right.
#[derive(Clone, Debug)]
pub struct CatchUp {
    checkpoint: Checkpoint,
    reached: Blake3Hash,
}

impl CatchUp {
    /// Starts from a checkpoint that is here.
    pub fn from(start: Checkpoint) -> Self {
        Self { reached: start.hash(), checkpoint: start }
    }

    /// The checkpoint's hash.
    pub fn reached(&self) -> Blake3Hash {
        self.reached
    }

    /// Takes a round's outer step by its hostile aggregate, to the checkpoint `asked`, whose hash is from a signed statement.
    /// The same step as the judge's, so the same bits; after an error nothing is left that could be used.
    pub fn step(
        self,
        pool: &Pool,
        manifest: &RunManifest,
        asked: Blake3Hash,
        aggregate: &[u8],
    ) -> Result<Self, CatchUpError> {
        let Self { mut checkpoint, reached } = self;
        let shapes = checkpoint.layout.shapes();
        let most = manifest.timing.max_contributions;
        let Aggregate { from, to, updates } = Aggregate::from_bytes(&manifest.codec, &shapes, most, aggregate)?;
        if (from, to) != (reached, asked) {
            return Err(CatchUpError::OtherRound { from, to });
        }
        let clips: Vec<Vec<f32>> =
            updates.iter().map(|update| update.clip.iter().map(|bits| f32::from_bits(*bits)).collect()).collect();
        let clipped = updates.iter().zip(&clips).map(|(update, clip)| ClippedUpdate { update: &update.update, clip });
        let clipped: Vec<ClippedUpdate<'_>> = clipped.collect();
        if !clipped.is_empty() {
            let outer_lr = manifest.judge.outer_lr_ppm;
            step_in_place(pool, &checkpoint.layout, &mut checkpoint.weights, outer_lr, &clipped);
        }
        let made = checkpoint.hash();
        if made == asked {
            Ok(Self { checkpoint, reached: made })
        } else {
            Err(CatchUpError::OtherCheckpoint { asked, made })
        }
    }

    /// The checkpoint that was reached.
    pub fn into_checkpoint(self) -> Checkpoint {
        self.checkpoint
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::judge::fixtures::{Fixture, negated};
    use crate::protocol::aggregate::NOT_CLIPPED;
    use crate::protocol::codec::{DecodeError, Update};

    /// A round as a peer sees it that missed it.
    #[derive(Clone)]
    struct Missed {
        aggregate: Aggregate,
        next: Checkpoint,
    }

    struct Run {
        fixture: Fixture,
        manifest: RunManifest,
        start: Checkpoint,
        rounds: Vec<Missed>,
    }

    impl Run {
        /// Rounds, each on the checkpoint of the one before: with inflated, rejected and missing contributions, and a third
        /// round without any good one.
        fn play(rounds: u64) -> Self {
            let mut fixture = Fixture::new();
            let (start, mut missed) = (fixture.start.clone(), Vec::new());
            for round in 0..rounds {
                let mut inflated = fixture.helpful_update(10 * round + 2);
                for level in inflated.tensors.iter_mut().flat_map(|tensor| &mut tensor.levels[..4]) {
                    *level += 1 << 23;
                }
                let updates = match round {
                    2 => vec![negated(&fixture.helpful_update(21))],
                    _ => vec![fixture.helpful_update(10 * round + 1), inflated, fixture.helpful_update(10 * round + 3)],
                };
                let mut payloads: Vec<_> = updates.iter().map(|update| Some(fixture.encode(update))).collect();
                payloads.extend([None, Some(b"noise".to_vec())]);
                let judged = fixture.judge(&payloads);
                let (from, to) = (fixture.start.hash(), judged.next.hash());
                fixture.start = judged.next.clone();
                missed.push(Missed { aggregate: Aggregate { from, to, updates: judged.updates }, next: judged.next });
            }
            Self { manifest: fixture.manifest(), fixture, start, rounds: missed }
        }

        fn bytes(&self, aggregate: &Aggregate) -> Vec<u8> {
            aggregate.to_bytes(&self.fixture.codec, &self.start.layout.shapes()).expect("of this model")
        }

        fn step(&self, from: CatchUp, round: usize, bytes: &[u8]) -> Result<CatchUp, CatchUpError> {
            from.step(&Pool::all_cores(), &self.manifest, self.rounds[round].next.hash(), bytes)
        }
    }

    #[test]
    fn one_missed_round_or_many_are_made_up_for_to_the_bit() {
        let run = Run::play(5);
        let clipped =
            |update: &crate::protocol::aggregate::AggregatedUpdate| update.clip.iter().any(|f| *f < NOT_CLIPPED);
        assert!(run.rounds[0].aggregate.updates.iter().any(clipped));
        assert!(run.rounds[2].aggregate.updates.is_empty());
        assert_eq!(run.rounds[2].next.hash(), run.rounds[1].next.hash());
        let mut reached = CatchUp::from(run.start.clone());
        for (at, missed) in run.rounds.iter().enumerate() {
            reached = run.step(reached, at, &run.bytes(&missed.aggregate)).expect("the judge's own");
            let made = reached.clone().into_checkpoint();
            assert_eq!(made.to_safetensors(), missed.next.to_safetensors(), "after round {at}");
        }
        let last = CatchUp::from(run.rounds[3].next.clone());
        let last = run.step(last, 4, &run.bytes(&run.rounds[4].aggregate)).expect("the last round alone");
        assert_eq!(last.reached(), run.rounds[4].next.hash());
    }

    #[test]
    fn what_belongs_to_another_round_is_refused() {
        let run = Run::play(2);
        let from = || CatchUp::from(run.start.clone());
        let second = run.bytes(&run.rounds[1].aggregate);
        assert!(matches!(run.step(from(), 0, &second), Err(CatchUpError::OtherRound { .. })));
        assert!(matches!(run.step(from(), 1, &second), Err(CatchUpError::OtherRound { .. })));
        let first = run.bytes(&run.rounds[0].aggregate);
        assert!(matches!(run.step(from(), 1, &first), Err(CatchUpError::OtherRound { .. })));
    }

    #[test]
    fn what_makes_another_checkpoint_is_refused() {
        let run = Run::play(2);
        let crafted = |change: &dyn Fn(&mut Aggregate)| {
            let mut aggregate = run.rounds[0].aggregate.clone();
            change(&mut aggregate);
            run.step(CatchUp::from(run.start.clone()), 0, &run.bytes(&aggregate)).expect_err("not the judge's")
        };
        let other = |error| matches!(error, CatchUpError::OtherCheckpoint { .. });
        assert!(other(crafted(&|aggregate| drop(aggregate.updates.pop()))));
        assert!(other(crafted(&|aggregate| aggregate.updates.clear())));
        assert!(other(crafted(&|aggregate| aggregate.updates.push(aggregate.updates[0].clone()))));
        assert!(other(crafted(&|aggregate| aggregate.updates[0].clip[0] = 0x3e80_0000)));
        assert!(other(crafted(&|aggregate| match &mut aggregate.updates[0].update {
            Update::Sparse(update) => update.tensors[0].levels[3] = 0x7f7f_0000,
            Update::Dense(_) => panic!("a sparse round"),
        })));
    }

    #[test]
    fn more_updates_than_a_round_takes_are_refused_before_they_are_read() {
        let run = Run::play(1);
        let most = run.manifest.timing.max_contributions;
        let mut bytes = run.bytes(&run.rounds[0].aggregate);
        bytes[69..73].copy_from_slice(&(most + 1).to_le_bytes());
        let refused = run.step(CatchUp::from(run.start.clone()), 0, &bytes).expect_err("too many");
        assert_eq!(refused, BadAggregate::Updates { found: most + 1, most }.into());
        bytes[69..73].copy_from_slice(&most.to_le_bytes());
        let refused = run.step(CatchUp::from(run.start.clone()), 0, &bytes).expect_err("they are not there");
        assert!(matches!(refused, CatchUpError::Aggregate(_)), "{refused}");
        let truncated = bytes[..bytes.len() - 1].to_vec();
        let refused = run.step(CatchUp::from(run.start.clone()), 0, &truncated).expect_err("truncated");
        assert!(matches!(refused, CatchUpError::Aggregate(_)), "{refused}");
        let mut longer = run.bytes(&run.rounds[0].aggregate);
        longer.push(0);
        let refused = run.step(CatchUp::from(run.start.clone()), 0, &longer).expect_err("a byte too many");
        assert_eq!(refused, BadAggregate::Update(DecodeError::Trailing).into());
    }
}
