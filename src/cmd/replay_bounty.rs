//! `l402t replay bounty`: a closed bounty, evaluated again and compared.

use serde::Serialize;

use super::replay::not_identical;
use super::run_source::Source;
use super::{Answer, Context, ExitCode, Failure};
use crate::bounty::judge::BoxedEvaluator;
use crate::bounty::replay::{Difference, Published, ReplayError, Replayed, replay};
use crate::bounty::sandbox::{Sandbox, SandboxSettings};
use crate::bounty::scratch::Scratch;
use crate::protocol::amount::Msat;
use crate::protocol::ids::{Blake3Hash, BountyId, RoundNumber};
use crate::ui::Unit;

/// What `--json` prints.
#[derive(Debug, Serialize)]
#[serde(untagged)]
enum Report<'a> {
    Identical { identical: bool, bounty: BountyId, submissions: u32, reached: u32, unstable: u32, paid_msat: Msat },
    Different { identical: bool, field: &'a str, problem: &'a str },
}

/// Runs the command. `from` is a coordinator's URL, or the bounty's folder.
pub(super) async fn run(id: BountyId, from: Option<&str>, context: Context) -> Result<Answer, Failure> {
    let source = Source::new(from, &context, "replay")?.of_bounty(id);
    let (manifest, closing) = (source.bounty_manifest(id).await?, source.closing(id).await?);
    let place = context.temporary_folder().to_owned();
    // Kept out here, so that it goes on Ctrl-C, too, which doesn't wait for the box that runs.
    let scratch = Scratch::new(&place).map_err(|error| Failure::io("make a folder in", &place, &error))?;
    let folder = scratch.path().to_owned();
    let (ui, runtime) = (context.ui.clone(), tokio::runtime::Handle::current());
    let recompute = move || {
        let sandbox = Sandbox::detect(SandboxSettings::default())?;
        let evaluator = BoxedEvaluator::new(sandbox, &folder);
        ui.say("measuring the baseline, then every submission");
        let mut bar = None;
        let mut progress = |done, of| {
            bar.get_or_insert_with(|| ui.progress("submissions", u64::from(of), Unit::Count)).set(u64::from(done), "");
        };
        let published = PublishedAt { source, runtime };
        let documents = (manifest.as_slice(), closing.as_slice());
        let unpacked = folder.join("unpacked");
        std::fs::create_dir(&unpacked).map_err(|error| Failure::io("make the folder", &unpacked, &error))?;
        replay(documents, &published, &evaluator, &unpacked, &mut progress).map_err(|error| failure(&error))
    };
    let found = context.blocking(recompute).await?;
    Ok(report(&context, id, &found))
}

fn report(context: &Context, id: BountyId, found: &Result<Replayed, Difference>) -> Answer {
    match found {
        Ok(Replayed { bounty, submissions, reached, unstable, paid_msat }) if *bounty == id => {
            let (bounty, submissions, reached, paid_msat) = (*bounty, *submissions, *reached, *paid_msat);
            let unstable = *unstable;
            context.ui.line(format!("bounty {bounty}: every verdict is what is found here"));
            context.ui.line(format!("  {submissions} submissions, {reached} claims reached, {paid_msat} paid"));
            if unstable > 0 {
                context.ui.line(format!(
                    "  {unstable} of these scored otherwise when the bounty closed, says the coordinator"
                ));
            }
            Answer::yes(Report::Identical { identical: true, bounty, submissions, reached, unstable, paid_msat })
        }
        Ok(Replayed { bounty, .. }) => {
            let problem = format!("it is that of bounty {bounty}");
            different(context, "manifest", &problem)
        }
        Err(Difference { field, problem }) => different(context, field, problem),
    }
}

fn different(context: &Context, field: &str, problem: &str) -> Answer {
    context.ui.line("NOT what is found here");
    context.ui.line(format!("  {field}: {problem}"));
    let report = Report::Different { identical: false, field, problem };
    Answer::no(report, not_identical(format_args!("{field}: {problem}")))
}

/// What was published, for the blocking replay; what has to be fetched is fetched on the runtime.
struct PublishedAt {
    source: Source,
    runtime: tokio::runtime::Handle,
}

impl Published for PublishedAt {
    fn transcript(&self, round: RoundNumber) -> Result<Vec<u8>, String> {
        self.runtime.block_on(self.source.transcript(round)).map_err(|failure| failure.message)
    }

    fn blob(&self, hash: &Blake3Hash) -> Result<Vec<u8>, String> {
        self.runtime.block_on(self.source.blob(hash))
    }
}

fn failure(error: &ReplayError) -> Failure {
    match error {
        ReplayError::Missing { .. } => Failure::remote(
            "missing",
            error,
            "Ask the coordinator's operator for it: without what a closing names a bounty can't be replayed",
        ),
        ReplayError::Evaluate(_) => Failure::new(
            ExitCode::Sandbox,
            "box_failed",
            error,
            "Start it again; if it stays so, mend this machine: l402t doctor",
        ),
    }
}
