//! `l402t coordinate`: the regtest chain where there is no other, the node, the rounds and the API.

use super::{Context, ExitCode, Failure};
use crate::cli::CoordinateArgs;

/// Runs the command.
pub async fn run(args: CoordinateArgs, context: Context) -> Result<ExitCode, Failure> {
    context.log_to_stderr()?;
    Err(Failure::bug(format_args!("not wired yet: {args:?}")))
}
