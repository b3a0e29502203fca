//! `l402t ledger`: every msat of a data folder.

use super::{Context, ExitCode, Failure};
use crate::cli::LedgerArgs;

/// Runs the command.
pub fn run(args: &LedgerArgs, context: &Context) -> Result<ExitCode, Failure> {
    context.log_to_stderr()?;
    Err(Failure::bug(format_args!("not wired yet: {args:?}")))
}
