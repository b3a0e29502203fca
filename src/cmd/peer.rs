//! `l402t peer`: identity, wallet, and round after round.

use super::{Context, ExitCode, Failure};
use crate::cli::PeerArgs;

/// Runs the command.
pub async fn run(args: PeerArgs, context: Context) -> Result<ExitCode, Failure> {
    context.log_to_stderr()?;
    Err(Failure::bug(format_args!("not wired yet: {args:?}")))
}
