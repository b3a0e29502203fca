//! `l402t openapi`: the API's description.

use super::{Context, ExitCode, Failure};

/// Runs the command.
pub fn run(context: &Context) -> Result<ExitCode, Failure> {
    context.log_to_stderr()?;
    Err(Failure::bug("not wired yet"))
}
