//! `l402t bounty`: what sponsors and agents do about a bounty.

pub(super) mod approve;
mod attempt;
mod buy;
mod check;
pub(super) mod claim;
mod claimed;
pub(super) mod desk;
mod instructions;
pub(super) mod joined;
pub(super) mod list;
mod post;
mod shell;
mod status;
mod submit;

use std::path::Path;

use super::{Answer, Context, ExitCode, Failure};
use crate::bounty::evaluate::EvaluateError;
use crate::bounty::load::{Bounty, Extent, LoadError};
use crate::bounty::manifest::{Manifest, Problems};
use crate::bounty::sandbox::{Sandbox, SandboxSettings, TierChoice};
use crate::bounty::scratch::Scratch;
use crate::cli::{BountyArgs, BountyCommand};
use approve::{Approve, Typed};

/// Runs the command.
pub async fn run(args: BountyArgs, context: Context) -> Result<Answer, Failure> {
    answer_to(args.command, &context, &Typed).await
}

/// Does it, and tells people. `approve` is asked before anything is paid for.
pub(super) async fn answer_to(
    command: BountyCommand,
    context: &Context,
    approve: &dyn Approve,
) -> Result<Answer, Failure> {
    let own = context.clone();
    let place = context.temporary_folder();
    // Kept out here, so that it goes on Ctrl-C, too, which doesn't wait for the box that runs.
    let scratch = Scratch::new(place).map_err(|error| Failure::io("make a folder in", place, &error))?;
    let folder = scratch.path().to_owned();
    match command {
        BountyCommand::List(args) => list::list(&args, context).await,
        BountyCommand::Show(args) => list::show(&args, context).await,
        BountyCommand::Watch(args) => list::watch(&args, context).await,
        BountyCommand::Claim(args) => claim::run(&args, context, &folder, approve).await,
        BountyCommand::Try(args) => context.blocking(move || attempt::run(&args, &own, &folder)).await,
        BountyCommand::Submit(args) => submit::run(&args, context, &folder, approve).await,
        BountyCommand::Status(args) => status::status(&args, context).await,
        BountyCommand::Withdraw(args) => status::withdraw(&args, context).await,
        BountyCommand::Check(args) => context.blocking(move || check::run(&args, &own, &folder)).await,
        BountyCommand::Post(args) => post::post(&args, context, &folder).await,
        BountyCommand::Close(args) => post::close(&args, context).await,
    }
}

/// Splits data and draws canaries the same way everywhere, for trying things out: a posted bounty has a random salt.
const TRIAL_SALT: [u8; 32] = *b"l402t: known to all, for trials.";

fn load(folder: &Path, extent: Extent) -> Result<Bounty, Failure> {
    Bounty::load(folder, TRIAL_SALT, extent).map_err(load_error)
}

/// A folder that is no bounty.
fn load_error(error: LoadError) -> Failure {
    let fix = match &error {
        LoadError::Manifest { problems, .. } => advice(problems),
        LoadError::Unreadable(_) => "Name the folder that has the bounty.toml".to_owned(),
        LoadError::NotText(_)
        | LoadError::Tree { .. }
        | LoadError::Data { .. }
        | LoadError::NoTarget(_)
        | LoadError::TooFewItems(_) => "Mend the file, or the key of bounty.toml that names it".to_owned(),
    };
    let code = match &error {
        LoadError::Manifest { .. } | LoadError::NotText(_) => "bounty_toml",
        LoadError::Unreadable(_) => "no_bounty",
        LoadError::Tree { .. } | LoadError::NoTarget(_) => "bounty_files",
        LoadError::Data { .. } | LoadError::TooFewItems(_) => "bounty_data",
    };
    Failure::usage(code, error, fix)
}

/// What to do about each problem.
fn advice(Problems(problems): &Problems) -> String {
    match problems.as_slice() {
        [only] => only.fix.clone(),
        several => {
            let lines = several.iter().map(|problem| format!("line {}: {}", problem.line, problem.fix));
            lines.collect::<Vec<_>>().join("; ")
        }
    }
}

/// Boxes as strong as a bounty asks for, or none.
fn sandbox(manifest: &Manifest) -> Result<Sandbox, Failure> {
    let settings = SandboxSettings { tier: TierChoice::AtLeast(manifest.tier), ..SandboxSettings::default() };
    Ok(Sandbox::detect(settings)?)
}

/// An evaluation that this machine failed, with its files in `scratch`.
fn not_evaluated(scratch: &Path) -> impl Fn(EvaluateError) -> Failure {
    move |error| match error {
        EvaluateError::Box(error) => {
            Failure::new(ExitCode::Sandbox, "box_failed", error, "Start it again; if it stays so, mend this machine")
        }
        EvaluateError::Io(error) => Failure::io("write to", scratch, &error),
    }
}
