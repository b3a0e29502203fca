//! `l402t replay`: a closed round, recomputed and compared.

use serde::Serialize;

use super::judge_pool::{checked_engine, judging_device, nats_per_token, no_gpu};
use super::replay_bounty;
use super::run_source::Source;
use super::{Answer, Context, Failure};
use crate::cli::{ReplayArgs, Replayed};
use crate::config::Device;
use crate::judge::replay::{Blobs, Replay, ReplayError, ReplayInput, ReplayedRound, replay};
use crate::judge::{Engine, JudgeError, Progress};
use crate::protocol::amount::Msat;
use crate::protocol::ids::{Blake3Hash, RoundNumber, RunId};
use crate::protocol::verdict::Score;
use crate::ui::Unit;

/// The signed bytes that a replay starts from.
struct Documents {
    manifest: Vec<u8>,
    transcript: Vec<u8>,
    previous: Option<Vec<u8>>,
}

/// What `--json` prints.
#[derive(Debug, Serialize)]
#[serde(untagged)]
enum Report<'a> {
    Identical {
        identical: bool,
        run: RunId,
        round: RoundNumber,
        transcript: Blake3Hash,
        loss_before: Score,
        loss_after: Score,
        predicted_tokens: u64,
        accepted: u32,
        rejected: u32,
        reward_msat: Msat,
        next_checkpoint: Blake3Hash,
    },
    Different {
        identical: bool,
        round: RoundNumber,
        field: &'a str,
        problem: &'a str,
    },
}

/// Runs the command.
pub async fn run(args: ReplayArgs, context: Context) -> Result<Answer, Failure> {
    let round = match (args.what, args.bounty) {
        (Replayed::Round(round), None) => RoundNumber(round),
        (Replayed::Round(round), Some(bounty)) => {
            let message = format!("round {round} is of a training run, and {bounty} is a bounty");
            return Err(Failure::usage("usage", message, "l402t replay ROUND, or l402t replay bounty ID"));
        }
        (Replayed::Bounty, Some(_)) if args.gpu || args.threads.is_some() => {
            let message = "a bounty is evaluated in boxes: --gpu and --threads are for rounds of training";
            return Err(Failure::usage("usage", message, "Leave them out"));
        }
        (Replayed::Bounty, Some(bounty)) => return replay_bounty::run(bounty, args.from.as_deref(), context).await,
        (Replayed::Bounty, None) => {
            let fix = "l402t replay bounty ID; see l402t bounty list";
            return Err(Failure::usage("usage", "which bounty?", fix));
        }
    };
    let source = Source::new(args.from.as_deref(), &context, "replay")?;
    let device = judging_device(args.gpu, Device::Cpu);
    let engine = context.blocking(move || checked_engine(args.threads, device)).await?;
    let documents = documents(&source, round).await?;
    let ui = context.ui.clone();
    let runtime = tokio::runtime::Handle::current();
    let found = context
        .blocking(move || {
            let blobs = BlobSource { source, runtime };
            recompute(&ui, round, &documents, &blobs, engine).map_err(|error| failure(&error))
        })
        .await?;
    Ok(report(&context, round, &found))
}

fn recompute(
    ui: &crate::ui::Ui,
    round: RoundNumber,
    documents: &Documents,
    blobs: &BlobSource,
    engine: Engine,
) -> Result<Replay, ReplayError> {
    let input = ReplayInput {
        round,
        manifest: &documents.manifest,
        transcript: &documents.transcript,
        previous: documents.previous.as_deref(),
    };
    let mut bar = None;
    replay(&input, blobs, engine, &mut |progress| match progress {
        Progress::Baseline => ui.say(format!("round {round}: the round's own checkpoint is scored")),
        Progress::Scored { done, of } => {
            let bar = bar.get_or_insert_with(|| ui.progress("contributions", of as u64, Unit::Count));
            bar.set(done as u64, "");
        }
        Progress::Stepped => bar = None,
    })
}

fn report(context: &Context, round: RoundNumber, found: &Replay) -> Answer {
    match found {
        Replay::Identical(replayed) => {
            let ReplayedRound { loss_before, loss_after, predicted_tokens, .. } = **replayed;
            let nats = |score| nats_per_token(score, predicted_tokens);
            let report = Report::Identical {
                identical: true,
                run: replayed.run,
                round,
                transcript: replayed.transcript,
                loss_before,
                loss_after,
                predicted_tokens,
                accepted: replayed.accepted,
                rejected: replayed.rejected,
                reward_msat: replayed.reward_msat,
                next_checkpoint: replayed.next_checkpoint,
            };
            context.ui.line(format!("round {round}: identical to the last bit"));
            context.ui.line(format!(
                "  {} accepted, {} rejected, {} paid",
                replayed.accepted, replayed.rejected, replayed.reward_msat
            ));
            context.ui.line(format!("  held-out loss {:.6} → {:.6} nats/token", nats(loss_before), nats(loss_after)));
            context.ui.line(format!("  next checkpoint {}", replayed.next_checkpoint));
            Answer::yes(report)
        }
        Replay::Different(difference) => {
            let (field, problem) = (difference.field.as_str(), difference.problem.as_str());
            context.ui.line(format!("round {round}: NOT identical"));
            context.ui.line(format!("  {difference}"));
            Answer::no(Report::Different { identical: false, round, field, problem }, not_identical(difference))
        }
    }
}

/// What was published isn't what is found here.
pub(super) fn not_identical(difference: impl std::fmt::Display) -> Failure {
    let fix = "Ask the coordinator's operator why, or choose another coordinator";
    Failure::negative("not_identical", difference, fix)
}

async fn documents(source: &Source, round: RoundNumber) -> Result<Documents, Failure> {
    let previous = match round.0.checked_sub(1).map(RoundNumber) {
        Some(before) => source.transcript_if_there(before).await?,
        None => None,
    };
    Ok(Documents { manifest: source.manifest().await?, transcript: source.transcript(round).await?, previous })
}

/// Blobs for the blocking replay; what has to be fetched is fetched on the runtime.
struct BlobSource {
    source: Source,
    runtime: tokio::runtime::Handle,
}

impl Blobs for BlobSource {
    fn blob(&self, hash: &Blake3Hash) -> Result<Vec<u8>, String> {
        self.runtime.block_on(self.source.blob(hash))
    }
}

fn failure(error: &ReplayError) -> Failure {
    match error {
        ReplayError::Blob { .. } | ReplayError::WrongBlob { .. } => Failure::remote(
            "blob",
            error,
            "Ask the coordinator's operator for it: without its blobs a round can't be replayed",
        ),
        ReplayError::Model(_) => Failure::remote("model", error, "The run's model is damaged: tell its operator"),
        ReplayError::Judge(JudgeError::UnknownRules(_)) => {
            Failure::usage("version", error, "Replay with the version of l402t that the run was judged with")
        }
        ReplayError::Judge(error @ JudgeError::Gpu(_)) => no_gpu(error),
        ReplayError::Judge(_) => {
            Failure::remote("unjudgeable", error, "The run's settings don't fit together: tell its operator")
        }
    }
}
