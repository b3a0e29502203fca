//! `l402t demo`: the whole system on this machine.

use super::{Context, ExitCode, Failure};
use crate::cli::DemoArgs;

/// Runs the command.
pub async fn run(args: DemoArgs, context: Context) -> Result<ExitCode, Failure> {
    context.log_to_stderr()?;
    Err(Failure::bug(format_args!("not wired yet: {args:?}")))
}
