//! How every bounty command ends: with `--json` one object, the same shape whatever happened.

use serde::Serialize;

use super::super::{Context, ExitCode, Failure};
use crate::ui::{ErrorReport, Format};

/// How a command ended.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) exit: ExitCode,
    pub(super) result: serde_json::Value,
    pub(super) error: Option<Failure>,
    pub(super) next_actions: Vec<String>,
}

#[derive(Serialize)]
struct Body<'a> {
    ok: bool,
    result: &'a serde_json::Value,
    error: Option<ErrorReport<'a>>,
    next_actions: &'a [String],
}

impl Answer {
    /// Done.
    pub(super) fn yes(result: impl Serialize) -> Self {
        let (result, error) = (to_value(result), None);
        Self { exit: ExitCode::Ok, result, error, next_actions: Vec::new() }
    }

    /// Done, and what came of it is `failure`. People have been told.
    pub(super) fn no(result: impl Serialize, failure: Failure) -> Self {
        Self { exit: failure.exit, error: Some(failure), ..Self::yes(result) }
    }

    /// A command that may be what comes next.
    pub(super) fn then(mut self, action: impl Into<String>) -> Self {
        self.next_actions.push(action.into());
        self
    }

    /// Writes it, for programs.
    fn show(&self, context: &Context) {
        let error = self.error.as_ref();
        let error = error.map(|Failure { code, message, fix, .. }| ErrorReport { code, message, fix });
        let ok = self.error.is_none();
        context.ui.json(&Body { ok, result: &self.result, error, next_actions: &self.next_actions });
    }
}

/// A negative answer.
pub(super) fn negative(code: &str, message: impl std::fmt::Display, fix: impl std::fmt::Display) -> Failure {
    Failure::new(ExitCode::Negative, code, message, fix)
}

/// Ends a command: for people a failure is shown where all failures are.
pub(super) fn end(context: &Context, ended: Result<Answer, Failure>) -> Result<ExitCode, Failure> {
    match (ended, context.ui.format()) {
        (Ok(answer), _) => {
            answer.show(context);
            Ok(answer.exit)
        }
        (Err(failure), Format::Json) => {
            let answer = Answer::no(serde_json::Value::Null, failure);
            answer.show(context);
            Ok(answer.exit)
        }
        (Err(failure), Format::Text) => Err(failure),
    }
}

fn to_value(result: impl Serialize) -> serde_json::Value {
    serde_json::to_value(result).unwrap_or_else(|error| {
        tracing::error!(%error, "a result could not be written as JSON");
        serde_json::Value::Null
    })
}
