//! `l402t openapi`: the API's description.

use super::{Context, ExitCode, Failure};

/// What the server serves under /v1/openapi.json.
const OPENAPI: &str = include_str!("../../docs/openapi.json");

/// Runs the command.
pub fn run(context: &Context) -> Result<ExitCode, Failure> {
    context.ui.document(OPENAPI);
    Ok(ExitCode::Ok)
}
