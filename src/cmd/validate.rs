//! `l402t validate`: one contribution file, scored.
//!
//! The contribution's id in the verdict is the BLAKE3 of the file, because there is no commitment: the same files always give
//! the same digest.

use std::path::Path;

use serde::Serialize;

use super::judge_pool::{checked_engine, judging_device, nats_per_token, no_gpu};
use super::{Answer, Context, Failure};
use crate::cli::ValidateArgs;
use crate::config::Device;
use crate::coordinator::settings::RunSettings;
use crate::judge::{HeldOutBatch, JudgeError, RoundInput, RoundJudgement, Submission, judge_round};
use crate::model::tokens::Tokens;
use crate::model::{Checkpoint, LlamaConfig};
use crate::protocol::ids::{Blake3Hash, ContributionId};
use crate::protocol::manifest::{CodecParams, JudgeParams, RewardParams, RunManifest};
use crate::protocol::sign::{Signed, Statement};
use crate::protocol::verdict::{Outcome, Rejection, Score, VerdictRecord};

/// What `--json` prints.
#[derive(Debug, Serialize)]
struct Report<'a> {
    accepted: bool,
    /// In 2⁻³² nats, summed.
    loss_before: Score,
    predicted_tokens: u64,
    payload_bytes: usize,
    verdict: &'a VerdictRecord,
    /// The verdict's.
    digest: Blake3Hash,
}

/// The rules that the file is judged by.
struct Rules {
    codec: CodecParams,
    judge: JudgeParams,
    reward: RewardParams,
    window_tokens: usize,
}

/// Runs the command.
pub fn run(args: &ValidateArgs, context: &Context) -> Result<Answer, Failure> {
    context.log_to_stderr()?;
    let engine = checked_engine(args.threads, judging_device(args.gpu, Device::Cpu))?;
    let rules = rules(args.manifest.as_deref())?;
    let config = LlamaConfig::from_json(&read(&args.model)?).map_err(|e| refused("model", &args.model, e))?;
    let checkpoint = Checkpoint::from_safetensors(config.clone(), &read(&args.checkpoint)?)
        .map_err(|error| refused("checkpoint", &args.checkpoint, error))?;
    let held_out = held_out(&args.held_out, &config, rules.window_tokens)?;
    let payload = read(&args.update)?;
    let contribution = ContributionId::from_bytes(*Blake3Hash::of(&payload).as_bytes());
    let input = RoundInput {
        start: &checkpoint,
        codec: &rules.codec,
        judge: &rules.judge,
        reward: &rules.reward,
        held_out: &held_out,
        submissions: &[Submission { contribution, payload: Some(&payload) }],
    };
    let judged = judge_round(&input, engine, &mut |_| {}).map_err(|error| match error {
        JudgeError::Gpu(_) => no_gpu(&error),
        _ => {
            let fix = "Check that model, checkpoint, held-out text and manifest belong together";
            Failure::usage("unjudgeable", error, fix)
        }
    })?;
    report(context, &judged, held_out.predicted_tokens(), payload.len())
}

fn report(
    context: &Context,
    judged: &RoundJudgement,
    predicted_tokens: u64,
    payload_bytes: usize,
) -> Result<Answer, Failure> {
    let verdict = judged.verdicts.first().ok_or_else(|| Failure::bug("a contribution got no verdict"))?;
    let digest = verdict.digest();
    let accepted = matches!(verdict.outcome, Outcome::Accepted { .. });
    let loss_before = judged.loss_before;
    let nats = |score| nats_per_token(score, predicted_tokens);
    context.ui.line(format!("loss before  {:.6} nats/token on {predicted_tokens} tokens", nats(loss_before)));
    if let (Some(after), Some(gain)) = (verdict.loss_after, verdict.gain) {
        context.ui.line(format!("loss after   {:.6} nats/token, gain {:.6}", nats(after), nats(gain)));
    }
    let outcome = words(&verdict.outcome);
    context.ui.line(format!("verdict      {outcome}"));
    context.ui.line(format!("digest       {digest}"));
    let report = Report { accepted, loss_before, predicted_tokens, payload_bytes, verdict, digest };
    Ok(match accepted {
        true => Answer::yes(report),
        false => {
            let fix = "Train longer, or see what the verdict says is wrong with the file";
            Answer::no(report, Failure::negative("rejected", outcome, fix))
        }
    })
}

fn words(outcome: &Outcome) -> String {
    match outcome {
        Outcome::Accepted { .. } => "accepted".into(),
        Outcome::Rejected { rejection } => match rejection {
            Rejection::NotUploaded => "rejected: not uploaded".into(),
            Rejection::Malformed { code } => format!("rejected: not a sparse update for this model ({code})"),
            Rejection::NotFinite => "rejected: the loss with the update is not finite".into(),
            Rejection::Copy { of, overlap_ppm } => {
                format!("rejected: a copy of {of} ({} ppm of the indices)", overlap_ppm.get())
            }
            Rejection::LockLost => "rejected: its reward was no longer locked for long enough".into(),
            Rejection::GainTooSmall => "rejected: it does not lower the held-out loss enough".into(),
        },
    }
}

fn rules(manifest: Option<&Path>) -> Result<Rules, Failure> {
    let Some(path) = manifest else {
        let RunSettings { codec, judge, reward, held_out, .. } = RunSettings::default();
        return Ok(Rules { codec, judge, reward, window_tokens: held_out.window_tokens as usize });
    };
    let signed = Signed::<RunManifest>::from_bytes(&read(path)?).map_err(|e| refused("manifest", path, e))?;
    let manifest = signed.verify(&signed.body.coordinator).map_err(|e| refused("manifest", path, e))?;
    let RunManifest { codec, judge, reward, held_out, .. } = manifest.clone();
    Ok(Rules { codec, judge, reward, window_tokens: held_out.window_tokens as usize })
}

/// Cuts the text into windows; what is left over is not scored, and a text shorter than a window is one window.
fn held_out(path: &Path, config: &LlamaConfig, window_tokens: usize) -> Result<HeldOutBatch, Failure> {
    let vocabulary = u32::try_from(config.vocab_size).unwrap_or(u32::MAX);
    let tokens = Tokens::read(&read(path)?, vocabulary).map_err(|error| refused("held_out", path, error))?;
    let window = window_tokens.min(config.max_position_embeddings + 1).min(tokens.len()).max(1);
    let windows = tokens.as_slice().chunks_exact(window).map(<[u32]>::to_vec).collect();
    HeldOutBatch::new(config, windows).map_err(|error| refused("held_out", path, error))
}

fn read(path: &Path) -> Result<Vec<u8>, Failure> {
    std::fs::read(path).map_err(|error| Failure::io("read", path, &error))
}

fn refused(code: &str, path: &Path, error: impl std::fmt::Display) -> Failure {
    let message = format_args!("{}: {error}", path.display()).to_string();
    Failure::usage(code, message, "Give a file of the right kind: see l402t validate --help")
}
