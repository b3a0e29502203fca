//! `l402t openapi`: the API's description.

use super::{Answer, Context};

/// What the server serves under /v1/openapi.json.
const OPENAPI: &str = include_str!("../../docs/openapi.json");

/// Runs the command.
pub fn run(context: &Context) -> Answer {
    context.ui.document(OPENAPI);
    Answer::yes(serde_json::from_str::<serde_json::Value>(OPENAPI).unwrap_or_default())
}
