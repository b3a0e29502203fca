//! A round's verdicts and its next checkpoint.
//!
//! The rules, in this order: a contribution without a payload is `not_uploaded`; one that doesn't decode (into finite levels:
//! that is part of the format) is `malformed`; one of which an earlier decodable one has too many indices is a `copy`; what is
//! left is clipped to the median norm and scored, each alone on the round's checkpoint: `not_finite`, `gain_too_small` or
//! accepted. Accepted ones share the pool by gain, and their mean makes the next checkpoint.

use l402t_kernels::Pool;

use super::clip::{clip_digest, clip_factors};
use super::engine::{Engine, LossMeter};
use super::outer::ClippedUpdate;
use super::overlap::IndexSet;
use super::{DF32_VERSION, HeldOutBatch, JudgeError};
use crate::model::Checkpoint;
use crate::protocol::aggregate::AggregatedUpdate;
use crate::protocol::codec::{self, TensorShape, Update};
use crate::protocol::ids::{Blake3Hash, ContributionId};
use crate::protocol::manifest::{CodecParams, JudgeParams, RewardParams};
use crate::protocol::reward;
use crate::protocol::verdict::{Outcome, Rejection, Score, VerdictRecord};

/// One contribution, as far as the judge is concerned.
#[derive(Clone, Copy, Debug)]
pub struct Submission<'a> {
    /// Which.
    pub contribution: ContributionId,
    /// What was uploaded in time; `None` if nothing was.
    pub payload: Option<&'a [u8]>,
}

/// Everything that decides a round.
#[derive(Clone, Copy, Debug)]
pub struct RoundInput<'a> {
    /// The checkpoint that everyone started from.
    pub start: &'a Checkpoint,
    /// From the manifest.
    pub codec: &'a CodecParams,
    /// From the manifest.
    pub judge: &'a JudgeParams,
    /// From the manifest.
    pub reward: &'a RewardParams,
    /// The round's held-out batch.
    pub held_out: &'a HeldOutBatch,
    /// In the order of commitments.
    pub submissions: &'a [Submission<'a>],
}

/// How far the judge is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// The loss of the round's checkpoint is known.
    Baseline,
    /// That many of the contributions have their score.
    Scored {
        /// Judged so far.
        done: usize,
        /// All that get a score.
        of: usize,
    },
    /// The next checkpoint and its loss are known.
    Stepped,
}

/// What the judge found.
#[derive(Clone, Debug)]
pub struct RoundJudgement {
    /// The loss of the round's checkpoint.
    pub loss_before: Score,
    /// The loss of the next one.
    pub loss_after: Score,
    /// In the order of commitments.
    pub verdicts: Vec<VerdictRecord>,
    /// The next round's checkpoint: the round's own if nothing was accepted.
    pub next: Checkpoint,
    /// What made it, in the order of the outer step's sums: for the round's aggregate.
    pub updates: Vec<AggregatedUpdate>,
}

/// Where a contribution stands while the rules are applied.
enum Standing {
    Rejected(Rejection),
    /// Its place among the scored ones.
    Candidate(usize),
}

/// A contribution that is clipped and scored.
struct Candidate {
    contribution: ContributionId,
    update: Update,
    clip: Vec<f32>,
    clip_digest: Blake3Hash,
    loss_after: Option<Score>,
}

/// Judges a round. Blocks for as long as it takes: one forward pass of the batch a contribution, and two more.
pub fn judge_round(
    input: &RoundInput<'_>,
    engine: impl Into<Engine>,
    progress: &mut dyn FnMut(Progress),
) -> Result<RoundJudgement, JudgeError> {
    if input.judge.df32_version != DF32_VERSION {
        return Err(JudgeError::UnknownRules(input.judge.df32_version));
    }
    let start = input.start;
    codec::check_params(input.codec, &start.layout.shapes())?;
    let engine = engine.into();
    let mut meter = engine.meter(start, input.held_out)?;
    let loss_before = meter.loss_before()?.ok_or(JudgeError::CheckpointNotFinite)?;
    progress(Progress::Baseline);

    let (standings, mut candidates) = admit(input);
    clip(&engine.pool(), &start.layout.shapes(), &mut candidates);
    score(input, meter.as_mut(), &mut candidates, progress)?;
    let outcomes = outcomes(input, loss_before, &candidates);
    let (next, loss_after, stepped) = step(input, meter.as_mut(), loss_before, &candidates, &outcomes)?;
    progress(Progress::Stepped);

    let submitted = input.submissions.iter().zip(standings);
    let verdicts = submitted
        .map(|(submission, standing)| match standing {
            Standing::Rejected(rejection) => VerdictRecord {
                contribution: submission.contribution,
                loss_after: None,
                gain: None,
                clip: None,
                outcome: Outcome::Rejected { rejection },
            },
            Standing::Candidate(place) => VerdictRecord {
                contribution: submission.contribution,
                loss_after: candidates[place].loss_after,
                gain: candidates[place].loss_after.map(|after| gain(loss_before, after)),
                clip: Some(candidates[place].clip_digest),
                outcome: outcomes[place].clone(),
            },
        })
        .collect();
    // Each place once.
    let mut candidates: Vec<Option<Candidate>> = candidates.into_iter().map(Some).collect();
    let updates = stepped.into_iter().filter_map(|place| candidates[place].take()).map(aggregated).collect();
    Ok(RoundJudgement { loss_before, loss_after, verdicts, next, updates })
}

/// Neither loss is negative, so the difference fits.
fn gain(before: Score, after: Score) -> Score {
    Score(before.0 - after.0)
}

/// Decodes every payload and sorts out copies.
fn admit(input: &RoundInput<'_>) -> (Vec<Standing>, Vec<Candidate>) {
    let shapes = input.start.layout.shapes();
    let mut standings = Vec::with_capacity(input.submissions.len());
    let mut candidates = Vec::new();
    let mut earlier: Vec<(ContributionId, IndexSet)> = Vec::new();
    for submission in input.submissions {
        let standing = match decode(input.codec, &shapes, submission.payload) {
            Err(rejection) => Standing::Rejected(rejection),
            Ok(update) => {
                let indices = IndexSet::new(&shapes, &update);
                let copied = find_copy(input.judge, &earlier, &indices);
                earlier.push((submission.contribution, indices));
                match copied {
                    Some(rejection) => Standing::Rejected(rejection),
                    None => {
                        candidates.push(Candidate {
                            contribution: submission.contribution,
                            update,
                            clip: Vec::new(),
                            clip_digest: clip_digest(&[]),
                            loss_after: None,
                        });
                        Standing::Candidate(candidates.len() - 1)
                    }
                }
            }
        };
        standings.push(standing);
    }
    (standings, candidates)
}

fn decode(codec: &CodecParams, shapes: &[TensorShape], payload: Option<&[u8]>) -> Result<Update, Rejection> {
    let payload = payload.ok_or(Rejection::NotUploaded)?;
    codec::decode(codec, shapes, payload).map_err(|error| Rejection::Malformed { code: error.code().into() })
}

fn find_copy(judge: &JudgeParams, earlier: &[(ContributionId, IndexSet)], indices: &IndexSet) -> Option<Rejection> {
    earlier.iter().find_map(|(of, other)| {
        let overlap_ppm = indices.overlap(other);
        (overlap_ppm >= judge.copy_overlap_ppm).then_some(Rejection::Copy { of: *of, overlap_ppm })
    })
}

fn clip(pool: &Pool, shapes: &[TensorShape], candidates: &mut [Candidate]) {
    let updates: Vec<&Update> = candidates.iter().map(|candidate| &candidate.update).collect();
    let factors = clip_factors(pool, shapes, &updates);
    for (candidate, factors) in candidates.iter_mut().zip(factors) {
        candidate.clip_digest = clip_digest(&factors);
        candidate.clip = factors;
    }
}

fn score(
    input: &RoundInput<'_>,
    meter: &mut dyn LossMeter,
    candidates: &mut [Candidate],
    progress: &mut dyn FnMut(Progress),
) -> Result<(), JudgeError> {
    let of = candidates.len();
    for (place, candidate) in candidates.iter_mut().enumerate() {
        let update = ClippedUpdate { update: &candidate.update, clip: &candidate.clip };
        candidate.loss_after = meter.loss_after(input.judge.outer_lr_ppm, update)?;
        progress(Progress::Scored { done: place + 1, of });
    }
    Ok(())
}

/// One outcome a candidate.
fn outcomes(input: &RoundInput<'_>, loss_before: Score, candidates: &[Candidate]) -> Vec<Outcome> {
    let gains: Vec<Option<Score>> =
        candidates.iter().map(|candidate| candidate.loss_after.map(|after| gain(loss_before, after))).collect();
    let finite: Vec<Score> = gains.iter().flatten().copied().collect();
    let min_gain = reward::min_gain(input.judge, input.held_out.predicted_tokens(), &finite);
    let enough = |gain: &Score| *gain >= min_gain;
    let accepted: Vec<Score> = finite.iter().filter(|gain| enough(gain)).copied().collect();
    let mut shares = reward::shares(input.reward, &accepted).into_iter();
    let rejected = |rejection| Outcome::Rejected { rejection };
    gains
        .iter()
        .map(|gain| match gain {
            None => rejected(Rejection::NotFinite),
            Some(gain) if !enough(gain) => rejected(Rejection::GainTooSmall),
            Some(_) => {
                let share_ppm = shares.next().unwrap_or_default();
                let (tranches_paid, reward_msat) = reward::tranches_for(input.reward, share_ppm);
                Outcome::Accepted { share_ppm, reward_msat, tranches_paid }
            }
        })
        .collect()
}

/// The next checkpoint, its loss, and the places of the candidates that made it. A step whose loss isn't finite is not taken.
fn step(
    input: &RoundInput<'_>,
    meter: &mut dyn LossMeter,
    loss_before: Score,
    candidates: &[Candidate],
    outcomes: &[Outcome],
) -> Result<(Checkpoint, Score, Vec<usize>), JudgeError> {
    let accepted = |place: &usize| matches!(outcomes[*place], Outcome::Accepted { .. });
    let mut accepted: Vec<usize> = (0..candidates.len()).filter(accepted).collect();
    if accepted.is_empty() {
        return Ok((meter.unchanged(), loss_before, accepted));
    }
    accepted.sort_by_key(|place| candidates[*place].contribution);
    let clipped = |place: &usize| ClippedUpdate { update: &candidates[*place].update, clip: &candidates[*place].clip };
    let updates: Vec<ClippedUpdate<'_>> = accepted.iter().map(clipped).collect();
    let (next, loss_after) = meter.step(input.judge.outer_lr_ppm, &updates)?;
    Ok(match loss_after {
        Some(loss_after) => (next, loss_after, accepted),
        None => (input.start.clone(), loss_before, Vec::new()),
    })
}

fn aggregated(candidate: Candidate) -> AggregatedUpdate {
    let clip = candidate.clip.iter().map(|factor| factor.to_bits()).collect();
    AggregatedUpdate { clip, update: candidate.update }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::judge::fixtures::{Fixture, id, negated};
    use crate::protocol::amount::Ppm;
    use crate::protocol::codec::{DenseUpdate, SparseUpdate, levels, sparse};

    fn rejection(verdict: &VerdictRecord) -> &Rejection {
        match &verdict.outcome {
            Outcome::Rejected { rejection } => rejection,
            Outcome::Accepted { .. } => panic!("accepted: {verdict:?}"),
        }
    }

    #[test]
    fn each_rule_gives_its_verdict_and_the_good_ones_share_the_pool() {
        let fixture = Fixture::new();
        let (good, other) = (fixture.helpful_update(1), fixture.helpful_update(2));
        let payloads = [
            Some(fixture.encode(&good)),
            Some(fixture.encode(&good)),
            Some(b"L4SU but not really".to_vec()),
            None,
            Some(fixture.encode(&negated(&other))),
            Some(fixture.encode(&fixture.helpful_update(3))),
        ];
        let judged = fixture.judge(&payloads);
        let verdicts = &judged.verdicts;
        assert!(matches!(verdicts[0].outcome, Outcome::Accepted { tranches_paid, .. } if tranches_paid > 0));
        assert_eq!(rejection(&verdicts[1]), &Rejection::Copy { of: id(0), overlap_ppm: Ppm::ONE });
        assert!(matches!(rejection(&verdicts[2]), Rejection::Malformed { code } if !code.is_empty()));
        assert_eq!(rejection(&verdicts[3]), &Rejection::NotUploaded);
        assert_eq!(rejection(&verdicts[4]), &Rejection::GainTooSmall);
        assert!(verdicts[4].gain.is_some_and(|gain| gain.0 < 0) && verdicts[4].loss_after.is_some());
        assert!(matches!(verdicts[5].outcome, Outcome::Accepted { .. }));
        for verdict in &verdicts[1..4] {
            assert_eq!((verdict.loss_after, verdict.gain, verdict.clip), (None, None, None));
        }
        assert!(judged.loss_after < judged.loss_before);
        assert!(judged.next.hash() != fixture.start.hash());
    }

    #[test]
    fn a_round_without_a_good_contribution_keeps_its_checkpoint() {
        let fixture = Fixture::new();
        let judged = fixture.judge(&[None, Some(vec![]), Some(fixture.encode(&negated(&fixture.helpful_update(1))))]);
        assert_eq!(judged.next.hash(), fixture.start.hash());
        assert_eq!(judged.loss_after, judged.loss_before);
        assert_eq!(fixture.judge(&[]).loss_after, judged.loss_before);
    }

    #[test]
    fn an_update_that_ruins_the_model_is_rejected_with_its_loss_or_without_one() {
        let fixture = Fixture::new();
        let mut without_loss = 0;
        let updates = (1_000..1_020).map(|seed| fixture.any_update(seed));
        for mut ruinous in updates.flat_map(|update| [negated(&update), update]) {
            for tensor in &mut ruinous.tensors {
                tensor.levels = levels(&[0xfe00_0000, 0xfd00_0000, 0x7d00_0000, 0x7e00_0000]);
            }
            let judged = fixture.judge(&[Some(fixture.encode(&ruinous))]);
            let verdict = &judged.verdicts[0];
            assert!(verdict.clip.is_some());
            match rejection(verdict) {
                Rejection::NotFinite => {
                    without_loss += 1;
                    assert_eq!(verdict.gain, None);
                }
                other => {
                    assert_eq!(other, &Rejection::GainTooSmall);
                    assert!(verdict.gain.is_some_and(|gain| gain.0 <= 0));
                }
            }
            assert_eq!(judged.next.weights, fixture.start.weights);
        }
        assert!(without_loss > 0);
    }

    #[test]
    fn inflating_the_norm_a_hundredfold_gains_nothing_over_the_median() {
        let fixture = Fixture::new();
        let inflated = |update: &SparseUpdate| {
            let mut update = update.clone();
            for level in update.tensors.iter_mut().flat_map(|tensor| &mut tensor.levels[..4]) {
                // 128 times, exactly.
                *level += 7 << 23;
            }
            update
        };
        let honest = [fixture.helpful_update(1), fixture.helpful_update(2), fixture.helpful_update(3)];
        let plain: Vec<_> = honest.iter().map(|update| Some(fixture.encode(update))).collect();
        let mut greedy = plain.clone();
        greedy[2] = Some(fixture.encode(&inflated(&honest[2])));
        let (plain, greedy) = (fixture.judge(&plain), fixture.judge(&greedy));
        let gain = |judged: &RoundJudgement| judged.verdicts[2].gain.expect("scored").0;
        assert!(gain(&greedy) < 2 * gain(&plain), "{} against {}", gain(&greedy), gain(&plain));
        assert!(gain(&greedy) > 0);
    }

    #[test]
    fn dense_updates_are_judged_by_the_same_rules() {
        let fixture = Fixture::dense();
        let (good, other) = (fixture.helpful_dense_update(1), fixture.helpful_dense_update(2));
        let change = |update: &DenseUpdate, change: fn(u8) -> u8| {
            let mut update = update.clone();
            for code in update.tensors.iter_mut().flat_map(|tensor| &mut tensor.codes) {
                *code = change(*code);
            }
            update
        };
        let noisy = change(&good, |code| if (2..254).contains(&code) { code + code % 2 } else { code });
        let opposite = change(&fixture.helpful_dense_update(3), u8::wrapping_neg);
        let mut ruinous = fixture.any_dense_update(9_007);
        ruinous.tensors.iter_mut().flat_map(|tensor| &mut tensor.scales).for_each(|scale| *scale = 0x7c01);
        let payload = |update: &DenseUpdate| Some(fixture.encode_any(&Update::Dense(update.clone())));
        let mut torn = payload(&good).expect("bytes");
        torn.pop();
        let sparse = Fixture::new().encode(&Fixture::new().any_update(1));
        let mut payloads: Vec<_> = [&good, &noisy, &other, &opposite, &ruinous].into_iter().map(payload).collect();
        payloads.extend([Some(torn), Some(sparse), None]);
        let judged = fixture.judge(&payloads);
        let verdicts = &judged.verdicts;
        assert!(matches!(verdicts[0].outcome, Outcome::Accepted { tranches_paid, .. } if tranches_paid > 0));
        assert!(matches!(rejection(&verdicts[1]), Rejection::Copy { of, .. } if *of == id(0)));
        assert!(matches!(verdicts[2].outcome, Outcome::Accepted { .. }));
        assert_eq!(rejection(&verdicts[3]), &Rejection::GainTooSmall);
        assert!(matches!(rejection(&verdicts[4]), Rejection::GainTooSmall | Rejection::NotFinite));
        let malformed = |code: &str| Rejection::Malformed { code: code.into() };
        assert_eq!(rejection(&verdicts[5]), &malformed("truncated"));
        assert_eq!(rejection(&verdicts[6]), &malformed("bad_magic"));
        assert_eq!(rejection(&verdicts[7]), &Rejection::NotUploaded);
        assert!(judged.loss_after < judged.loss_before);
        // A codec decides what may be in a payload, also the other way round.
        let judged = Fixture::new().judge(&[payload(&good)]);
        assert_eq!(rejection(&judged.verdicts[0]), &malformed("bad_magic"));
    }

    #[test]
    fn the_order_of_commitments_decides_who_is_the_copy_and_nothing_else() {
        let fixture = Fixture::new();
        let [a, b] = [1, 2].map(|seed| fixture.encode(&fixture.helpful_update(seed)));
        let submissions = |order: [(u8, &Vec<u8>); 2]| order.map(|(n, payload)| (id(n), Some(payload.clone())));
        let forwards = fixture.judge_with_ids(&submissions([(0, &a), (1, &b)]));
        let backwards = fixture.judge_with_ids(&submissions([(1, &b), (0, &a)]));
        assert_eq!(forwards.verdicts[0], backwards.verdicts[1]);
        assert_eq!(forwards.verdicts[1], backwards.verdicts[0]);
        assert_eq!(forwards.next.hash(), backwards.next.hash());
    }

    #[test]
    fn settings_of_another_version_are_refused() {
        let mut fixture = Fixture::new();
        fixture.judge.df32_version = 2;
        let input = fixture.input(&[]);
        let refused = judge_round(&input, Pool::all_cores(), &mut |_| {}).expect_err("another version");
        assert_eq!(refused, JudgeError::UnknownRules(2));
        let mut fixture = Fixture::new();
        fixture.codec.version = 9;
        let refused = judge_round(&fixture.input(&[]), Pool::all_cores(), &mut |_| {}).expect_err("another version");
        assert!(matches!(refused, JudgeError::Codec(_)));
        assert!(sparse::encode(&fixture.codec, &fixture.start.layout.shapes(), &fixture.any_update(1)).is_err());
    }
}
