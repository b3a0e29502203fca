//! What the coordinator asks of a judge, and the answer checked before anything is paid for it.

use std::fmt;
use std::sync::Arc;

use super::bounty::BountyRequest;
use crate::bounty::judge::{Evaluate, Judged};
use crate::judge::{Engine, HeldOutBatch, RoundInput, Submission, judge_round};
use crate::model::{Checkpoint, LlamaConfig};
use crate::protocol::aggregate::Aggregate;
use crate::protocol::codec::{EncodeError, TensorShape};
use crate::protocol::ids::{Blake3Hash, ContributionId};
use crate::protocol::manifest::{CodecParams, RunManifest};
use crate::protocol::reward;
use crate::protocol::verdict::{Outcome, Rejection, Score, VerdictRecord};

/// Everything that decides a round.
#[derive(Clone, Debug)]
pub struct JudgeRequest {
    /// The rules.
    pub manifest: Arc<RunManifest>,
    /// The model's config.json.
    pub model_config: Arc<[u8]>,
    /// The round's checkpoint, safetensors.
    pub start: Vec<u8>,
    /// The held-out batch, in the order in which it was drawn.
    pub held_out: Vec<Vec<u32>>,
    /// In the order of commitments; `None` where nothing was uploaded in time.
    pub submissions: Vec<(ContributionId, Option<Vec<u8>>)>,
}

/// The answer.
#[derive(Clone, Debug, PartialEq)]
pub struct Judgement {
    /// Of the round's checkpoint.
    pub loss_before: Score,
    /// Of the next one.
    pub loss_after: Score,
    /// In the order of commitments.
    pub verdicts: Vec<VerdictRecord>,
    /// Safetensors.
    pub next_checkpoint: Vec<u8>,
    /// The round's aggregate, encoded; `None` if that failed. Verdicts don't wait for it: peers download the checkpoint.
    pub aggregate: Option<Vec<u8>>,
}

/// What decides a round, and what was decided, of either kind of run.
#[derive(Debug)]
pub(super) enum Decided {
    /// Of training.
    Training(Box<JudgeRequest>, Box<Judgement>),
    /// Of a bounty.
    Bounty(Box<BountyRequest>, Box<Judged>),
}

/// What decides a round of either kind of run.
#[derive(Debug)]
pub(super) enum Due {
    /// Of training.
    Training(Box<JudgeRequest>),
    /// Of a bounty.
    Bounty(Box<BountyRequest>),
}

/// Who judges.
#[derive(Clone, Debug)]
pub(super) enum Bench {
    /// Updates.
    Training(Arc<dyn Judge>),
    /// Submissions.
    Bounty(Arc<dyn Evaluate>),
}

impl Bench {
    /// Judges a round. Takes as long as it takes.
    pub(super) fn judge(&self, due: Due) -> Result<Decided, String> {
        match (self, due) {
            (Bench::Training(judge), Due::Training(request)) => {
                let judgement = judge.judge(&request)?;
                Ok(Decided::Training(request, Box::new(judgement)))
            }
            (Bench::Bounty(evaluator), Due::Bounty(request)) => {
                let judged = request.judge(&**evaluator)?;
                Ok(Decided::Bounty(request, Box::new(judged)))
            }
            (Bench::Training(_), Due::Bounty(_)) | (Bench::Bounty(_), Due::Training(_)) => {
                Err("the judge is for the other kind of run".into())
            }
        }
    }
}

/// Judges rounds. Must be deterministic: after a crash a round is judged again.
pub trait Judge: Send + Sync + fmt::Debug {
    /// Judges a round. Takes as long as it takes: called off the async threads.
    ///
    /// # Errors
    /// Says for people why the round can't be judged; none of it is a contribution's doing.
    fn judge(&self, request: &JudgeRequest) -> Result<Judgement, String>;
}

/// The masks of the tranches to pay, once every rule about money has been seen to hold.
pub(super) fn check(request: &JudgeRequest, judgement: &Judgement) -> Result<Vec<u32>, String> {
    if judgement.verdicts.len() != request.submissions.len() {
        let (verdicts, contributions) = (judgement.verdicts.len(), request.submissions.len());
        return Err(format!("{verdicts} verdicts on {contributions} contributions"));
    }
    let params = &request.manifest.reward;
    let amounts = reward::tranche_amounts(params);
    let mut paid = Vec::with_capacity(judgement.verdicts.len());
    let mut total_msat = 0u64;
    for (verdict, (contribution, payload)) in judgement.verdicts.iter().zip(&request.submissions) {
        if verdict.contribution != *contribution {
            return Err(format!("the verdict on {contribution} is about {}", verdict.contribution));
        }
        let missing = Outcome::Rejected { rejection: Rejection::NotUploaded };
        if payload.is_none() && verdict.outcome != missing {
            return Err(format!("a verdict on {contribution}, which was not uploaded"));
        }
        let mask = match &verdict.outcome {
            Outcome::Rejected { .. } => 0,
            Outcome::Accepted { share_ppm, reward_msat, tranches_paid } => {
                if reward::tranches_for(params, *share_ppm) != (*tranches_paid, *reward_msat) {
                    return Err(format!("the tranches of {contribution} don't follow from its share"));
                }
                *tranches_paid
            }
        };
        let tranches = amounts.iter().enumerate().filter(|(bit, _)| mask >> bit & 1 == 1);
        total_msat = tranches.fold(total_msat, |sum, (_, amount)| sum.saturating_add(amount.msat()));
        paid.push(mask);
    }
    if total_msat > params.pool_msat.msat() {
        return Err(format!("{total_msat} msat are more than the round's pool"));
    }
    Ok(paid)
}

/// The judge in DF32: the same bits on every machine.
#[derive(Clone, Debug)]
pub struct Df32Judge {
    engine: Engine,
}

impl Df32Judge {
    /// Judges on `engine`. Run the judge's self-test first.
    pub fn new(engine: impl Into<Engine>) -> Self {
        Self { engine: engine.into() }
    }
}

impl Judge for Df32Judge {
    fn judge(&self, request: &JudgeRequest) -> Result<Judgement, String> {
        let text = |error: &dyn fmt::Display| error.to_string();
        let config = LlamaConfig::from_json(&request.model_config).map_err(|e| text(&e))?;
        let start = Checkpoint::from_safetensors(config.clone(), &request.start).map_err(|e| text(&e))?;
        let held_out = HeldOutBatch::new(&config, request.held_out.clone()).map_err(|e| text(&e))?;
        let submissions = request.submissions.iter();
        let submissions =
            submissions.map(|(id, payload)| Submission { contribution: *id, payload: payload.as_deref() });
        let submissions: Vec<Submission<'_>> = submissions.collect();
        let manifest = &request.manifest;
        let input = RoundInput {
            start: &start,
            codec: &manifest.codec,
            judge: &manifest.judge,
            reward: &manifest.reward,
            held_out: &held_out,
            submissions: &submissions,
        };
        let judged = judge_round(&input, self.engine.clone(), &mut |progress| tracing::info!(?progress, "judging"));
        let judged = judged.map_err(|e| text(&e))?;
        let next_checkpoint = judged.next.to_safetensors();
        let [from, to] = [&request.start, &next_checkpoint].map(|bytes| Blake3Hash::of(bytes));
        let aggregate = Aggregate { from, to, updates: judged.updates };
        Ok(Judgement {
            loss_before: judged.loss_before,
            loss_after: judged.loss_after,
            verdicts: judged.verdicts,
            aggregate: encoded(&aggregate, &manifest.codec, &start.layout.shapes()),
            next_checkpoint,
        })
    }
}

fn encoded(aggregate: &Aggregate, codec: &CodecParams, shapes: &[TensorShape]) -> Option<Vec<u8>> {
    let failed = |error: &EncodeError| tracing::error!(%error, "could not encode the aggregate: peers will download the checkpoint");
    aggregate.to_bytes(codec, shapes).inspect_err(failed).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::aggregate::{AggregatedUpdate, NOT_CLIPPED};
    use crate::protocol::codec::SparseUpdate;

    #[test]
    fn an_aggregate_that_can_t_be_encoded_is_none_and_no_failure_of_the_round() {
        let (codec, shapes) = (CodecParams::default(), [TensorShape::Vector { len: 8 }]);
        let [from, to] = [b"from", b"to  "].map(|bytes| Blake3Hash::of(bytes));
        let without_tensors = AggregatedUpdate { clip: vec![NOT_CLIPPED], update: SparseUpdate::default().into() };
        let aggregate = Aggregate { from, to, updates: vec![without_tensors] };
        assert_eq!(encoded(&aggregate, &codec, &shapes), None);
        assert!(encoded(&Aggregate { updates: vec![], ..aggregate }, &codec, &shapes).is_some());
    }
}
