//! Replay: recomputes all of a closed round from its signed transcript and the blobs it names.
//!
//! Nothing the coordinator says is taken on trust that can be computed: signatures, deadlines, the draw of the held-out
//! batch, verdicts, rewards, preimages and the next checkpoint. What only the coordinator and the peers can know (did a
//! payload arrive in time? in which order did commitments come?) is taken from what they signed. Blobs come through
//! [`Blobs`]; nothing else is read.

mod difference;
mod held_out;
mod statements;
#[cfg(test)]
mod tests;

pub use difference::Difference;

use super::{Engine, JudgeError, Progress, RoundInput, Submission, judge_round};
use crate::model::{Checkpoint, LlamaConfig, ModelError};
use crate::protocol::amount::Msat;
use crate::protocol::ids::{Blake3Hash, RoundNumber, RunId};
use crate::protocol::manifest::RunManifest;
use crate::protocol::sign::{Signed, Statement};
use crate::protocol::transcript::{ContributionRecord, Transcript};
use crate::protocol::verdict::{Outcome, Rejection, Score, VerdictRecord};
use difference::{Check, compare, expect};

/// Where blobs come from.
pub trait Blobs {
    /// The blob whose BLAKE3 is `hash`; an error says why it can't be had. What is returned is checked against the hash.
    fn blob(&self, hash: &Blake3Hash) -> Result<Vec<u8>, String>;
}

/// What is replayed.
#[derive(Clone, Copy, Debug)]
pub struct ReplayInput<'a> {
    /// The round that was asked for.
    pub round: RoundNumber,
    /// The signed manifest's bytes.
    pub manifest: &'a [u8],
    /// The signed transcript's bytes.
    pub transcript: &'a [u8],
    /// The signed transcript of the round before, where there is one: the chain is checked against it.
    pub previous: Option<&'a [u8]>,
}

/// A round that was recomputed to the same bits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReplayedRound {
    /// The run.
    pub run: RunId,
    /// Which round.
    pub round: RoundNumber,
    /// Digest of the transcript's body.
    pub transcript: Blake3Hash,
    /// The round's checkpoint on the held-out batch.
    pub loss_before: Score,
    /// The next checkpoint on it.
    pub loss_after: Score,
    /// Tokens that the losses are summed over.
    pub predicted_tokens: u64,
    /// Contributions that were accepted.
    pub accepted: u32,
    /// Contributions that were rejected.
    pub rejected: u32,
    /// What the accepted ones were paid.
    pub reward_msat: Msat,
    /// The next checkpoint.
    pub next_checkpoint: Blake3Hash,
}

/// What a replay found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Replay {
    /// Every bit agrees.
    Identical(Box<ReplayedRound>),
    /// The first thing that doesn't.
    Different(Difference),
}

/// Why a round could not be replayed at all: no judgement on the coordinator.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReplayError {
    /// A blob can't be had.
    #[error("blob {hash} ({what}) can't be had: {problem}")]
    Blob {
        /// Its name.
        hash: Blake3Hash,
        /// What it holds.
        what: &'static str,
        /// Why not.
        problem: String,
    },
    /// The blob store gave other bytes than asked for.
    #[error("blob {hash} ({what}) was delivered with other content: its BLAKE3 is {found}")]
    WrongBlob {
        /// What was asked for.
        hash: Blake3Hash,
        /// What it should hold.
        what: &'static str,
        /// The hash of what was delivered.
        found: Blake3Hash,
    },
    /// The run's model can't be used.
    #[error(transparent)]
    Model(#[from] ModelError),
    /// The run's settings, or this machine, can't be used for judging.
    #[error(transparent)]
    Judge(#[from] JudgeError),
}

/// Either way a replay stops early.
#[derive(Debug)]
enum Stop {
    Different(Difference),
    Error(ReplayError),
}

impl From<Difference> for Stop {
    fn from(difference: Difference) -> Self {
        Stop::Different(difference)
    }
}

impl<E: Into<ReplayError>> From<E> for Stop {
    fn from(error: E) -> Self {
        Stop::Error(error.into())
    }
}

/// Replays a round. Takes as long as judging it.
pub fn replay(
    input: &ReplayInput<'_>,
    blobs: &dyn Blobs,
    engine: impl Into<Engine>,
    progress: &mut dyn FnMut(Progress),
) -> Result<Replay, ReplayError> {
    match replay_round(input, blobs, engine.into(), progress) {
        Ok(round) => Ok(Replay::Identical(Box::new(round))),
        Err(Stop::Different(difference)) => Ok(Replay::Different(difference)),
        Err(Stop::Error(error)) => Err(error),
    }
}

fn replay_round(
    input: &ReplayInput<'_>,
    blobs: &dyn Blobs,
    engine: Engine,
    progress: &mut dyn FnMut(Progress),
) -> Result<ReplayedRound, Stop> {
    let manifest: Signed<RunManifest> = read("manifest", input.manifest)?;
    let manifest = verified("manifest", &manifest, &manifest.body.coordinator)?;
    statements::check_manifest(manifest)?;
    let transcript: Signed<Transcript> = read("transcript", input.transcript)?;
    let transcript = verified("transcript", &transcript, &manifest.coordinator)?;
    expect("round", transcript.round, input.round)?;
    statements::check_header(manifest, transcript)?;
    check_chain(manifest, transcript, input.previous)?;
    statements::check_contributions(manifest, transcript)?;

    let config = LlamaConfig::from_json(&fetch(blobs, &manifest.model_config, "the model's config.json")?)?;
    let held_out = held_out::check(manifest, transcript, &config)?;
    let start = fetch(blobs, &transcript.opening.body.checkpoint, "the round's checkpoint")?;
    let start = Checkpoint::from_safetensors(config, &start)?;
    expect("opening.body.checkpoint", transcript.opening.body.checkpoint, start.hash())?;

    let payloads = payloads(transcript, blobs)?;
    let submissions: Vec<Submission<'_>> = transcript
        .contributions
        .iter()
        .zip(&payloads)
        .map(|(record, payload)| Submission {
            contribution: record.commitment.body.contribution_id(),
            payload: payload.as_deref(),
        })
        .collect();
    let judged = judge_round(
        &RoundInput {
            start: &start,
            codec: &manifest.codec,
            judge: &manifest.judge,
            reward: &manifest.reward,
            held_out: &held_out,
            submissions: &submissions,
        },
        engine,
        progress,
    )?;
    expect("loss_before", transcript.loss_before, judged.loss_before)?;
    for (place, (record, verdict)) in transcript.contributions.iter().zip(&judged.verdicts).enumerate() {
        let verdict = with_lost_lock(record, verdict);
        compare(&format!("contributions[{place}].verdict"), &record.verdict, &verdict)?;
        statements::check_receipt(place, record, &verdict)?;
    }
    expect("loss_after", transcript.loss_after, judged.loss_after)?;
    expect("next_checkpoint", transcript.next_checkpoint, judged.next.hash())?;
    Ok(summary(transcript, held_out.predicted_tokens(), &judged.verdicts))
}

/// Whether a payload that doesn't count never came or came with a lock that was lost is the coordinator's word alone.
fn with_lost_lock(record: &ContributionRecord, verdict: &VerdictRecord) -> VerdictRecord {
    let lost = Outcome::Rejected { rejection: Rejection::LockLost };
    let outcome = if !record.uploaded && record.verdict.outcome == lost { lost } else { verdict.outcome.clone() };
    VerdictRecord { outcome, ..verdict.clone() }
}

fn summary(transcript: &Transcript, predicted_tokens: u64, verdicts: &[VerdictRecord]) -> ReplayedRound {
    let rewards = verdicts.iter().filter_map(|verdict| match verdict.outcome {
        Outcome::Accepted { reward_msat, .. } => Some(reward_msat),
        Outcome::Rejected { .. } => None,
    });
    let accepted = rewards.clone().count();
    ReplayedRound {
        run: transcript.run,
        round: transcript.round,
        transcript: transcript.digest(),
        loss_before: transcript.loss_before,
        loss_after: transcript.loss_after,
        predicted_tokens,
        accepted: accepted as u32,
        rejected: (verdicts.len() - accepted) as u32,
        // Rewards of a round never exceed its pool.
        reward_msat: Msat::checked_sum(rewards).unwrap_or(Msat::MAX_MONEY),
        next_checkpoint: transcript.next_checkpoint,
    }
}

fn read<T: Statement>(what: &str, bytes: &[u8]) -> Check<Signed<T>> {
    Signed::from_bytes(bytes).map_err(|error| Difference::invalid(what, error))
}

fn verified<'a, T: Statement>(
    field: &str,
    signed: &'a Signed<T>,
    signer: &crate::protocol::ids::PeerId,
) -> Check<&'a T> {
    signed.verify(signer).map_err(|error| Difference::invalid(format!("{field}.signature"), error))
}

/// The opening continues where the round before ended, or the run began.
fn check_chain(manifest: &RunManifest, transcript: &Transcript, previous: Option<&[u8]>) -> Check<()> {
    let opening = &transcript.opening.body;
    const PREVIOUS: &str = "opening.body.previous_transcript";
    if transcript.round == RoundNumber(0) {
        compare(PREVIOUS, &opening.previous_transcript, &None)?;
        return expect("opening.body.checkpoint", opening.checkpoint, manifest.initial_checkpoint);
    }
    let Some(digest) = opening.previous_transcript else {
        return Err(Difference::invalid(PREVIOUS, "a round after the first must name the transcript before it"));
    };
    let Some(previous) = previous else { return Ok(()) };
    let previous: Signed<Transcript> = read("previous transcript", previous)?;
    let previous = verified("previous transcript", &previous, &manifest.coordinator)?;
    expect(PREVIOUS, digest, previous.digest())?;
    expect("previous transcript.run", previous.run, transcript.run)?;
    expect("previous transcript.round", previous.round.next(), transcript.round)?;
    expect("opening.body.checkpoint", opening.checkpoint, previous.next_checkpoint)
}

fn fetch(blobs: &dyn Blobs, hash: &Blake3Hash, what: &'static str) -> Result<Vec<u8>, ReplayError> {
    let bytes = blobs.blob(hash).map_err(|problem| ReplayError::Blob { hash: *hash, what, problem })?;
    let found = Blake3Hash::of(&bytes);
    if found == *hash { Ok(bytes) } else { Err(ReplayError::WrongBlob { hash: *hash, what, found }) }
}

fn payloads(transcript: &Transcript, blobs: &dyn Blobs) -> Result<Vec<Option<Vec<u8>>>, Stop> {
    let payload = |(place, record): (usize, &ContributionRecord)| {
        if !record.uploaded {
            return Ok(None);
        }
        let commitment = &record.commitment.body;
        let payload = fetch(blobs, &commitment.payload, "a contribution's payload")?;
        let field = format!("contributions[{place}].commitment.body.payload_bytes");
        expect(&field, commitment.payload_bytes, payload.len() as u64)?;
        Ok(Some(payload))
    };
    transcript.contributions.iter().enumerate().map(payload).collect()
}
