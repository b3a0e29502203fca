//! `l402t validate`: one contribution file, scored.

use super::{Context, ExitCode, Failure};
use crate::cli::ValidateArgs;

/// Runs the command.
pub fn run(args: &ValidateArgs, context: &Context) -> Result<ExitCode, Failure> {
    context.log_to_stderr()?;
    Err(Failure::bug(format_args!("validate {} is not wired yet", args.update.display())))
}
