//! `l402t replay`: a closed round, recomputed and compared.

use super::{Context, ExitCode, Failure};
use crate::cli::ReplayArgs;

/// Runs the command.
pub async fn run(args: ReplayArgs, context: Context) -> Result<ExitCode, Failure> {
    context.log_to_stderr()?;
    Err(Failure::bug(format_args!("replay {} is not wired yet", args.round)))
}
