//! How every command ends: with `--json` the last line is one object, the same shape whatever happened.

use serde::Serialize;

use super::{ExitCode, Failure};
use crate::ui::{ErrorReport, Format, Ui};

/// How a command ended.
#[derive(Debug)]
pub struct Answer {
    /// How the process ends.
    pub(super) exit: ExitCode,
    /// What the command found or did.
    result: serde_json::Value,
    /// Why the answer is no.
    pub(super) error: Option<Failure>,
    /// Commands that may be what comes next.
    pub(super) next_actions: Vec<String>,
    shape: Shape,
}

/// What the last line looks like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Shape {
    /// ok, result, error, next_actions.
    Plain,
    /// The result's own keys beside these, too.
    Flat,
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
    pub fn yes(result: impl Serialize) -> Self {
        let (result, error) = (to_value(result), None);
        Self { exit: ExitCode::Ok, result, error, next_actions: Vec::new(), shape: Shape::Plain }
    }

    /// Done, and what came of it is `failure`. People have been told.
    pub fn no(result: impl Serialize, failure: Failure) -> Self {
        Self { exit: failure.exit, error: Some(failure), ..Self::yes(result) }
    }

    /// A command that may be what comes next.
    pub fn then(mut self, action: impl Into<String>) -> Self {
        self.next_actions.push(action.into());
        self
    }

    /// The result's own keys are beside the envelope's, too.
    pub fn flat(self) -> Self {
        Self { shape: Shape::Flat, ..self }
    }

    /// Writes the last line, for programs.
    fn show(&self, ui: &Ui) {
        match self.shape {
            Shape::Plain => ui.json(&self.body()),
            Shape::Flat => ui.json(&self.flattened()),
        }
    }

    /// Did it come to what was asked for?
    #[cfg(feature = "mcp")]
    pub(super) fn is_yes(&self) -> bool {
        self.error.is_none()
    }

    /// As programs read it.
    #[cfg(feature = "mcp")]
    pub(super) fn to_value(&self) -> serde_json::Value {
        to_value(self.body())
    }

    fn body(&self) -> Body<'_> {
        let error = self.error.as_ref().map(report);
        Body { ok: error.is_none(), result: &self.result, error, next_actions: &self.next_actions }
    }

    fn flattened(&self) -> serde_json::Value {
        let mut line = to_value(self.body());
        if let (Some(line), Some(result)) = (line.as_object_mut(), self.result.as_object()) {
            for (key, value) in result {
                line.entry(key).or_insert_with(|| value.clone());
            }
        }
        line
    }
}

fn report(Failure { code, message, fix, .. }: &Failure) -> ErrorReport<'_> {
    ErrorReport { code, message, fix }
}

/// Ends a command: for people a failure is shown on stderr.
pub(super) fn end(ui: &Ui, ended: Result<Answer, Failure>) -> ExitCode {
    let answer = ended.unwrap_or_else(|failure| {
        match ui.format() {
            Format::Text => ui.error(report(&failure)),
            Format::Json | Format::Nothing => {}
        }
        Answer::no(serde_json::Value::Null, failure)
    });
    answer.show(ui);
    answer.exit
}

fn to_value(result: impl Serialize) -> serde_json::Value {
    serde_json::to_value(result).unwrap_or_else(|error| {
        tracing::error!(%error, "a result could not be written as JSON");
        serde_json::Value::Null
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn every_answer_has_the_same_keys_and_an_error_exactly_if_it_is_no() {
        let yes = Answer::yes(json!({ "sum": 1 })).then("l402t next");
        let expected = json!({ "ok": true, "result": { "sum": 1 }, "error": null, "next_actions": ["l402t next"] });
        assert_eq!((to_value(yes.body()), yes.exit), (expected, ExitCode::Ok));
        let no = Answer::no(json!({}), Failure::negative("why", "what", "how"));
        let error = json!({ "code": "why", "message": "what", "fix": "how" });
        let expected = json!({ "ok": false, "result": {}, "error": error, "next_actions": [] });
        assert_eq!((to_value(no.body()), no.exit), (expected, ExitCode::Negative));
    }

    #[test]
    fn a_flat_answer_has_its_results_keys_beside_its_own_and_none_replaced() {
        let line = Answer::yes(json!({ "ok": "other", "sum": 1 })).flat().flattened();
        assert_eq!((&line["ok"], &line["sum"], &line["result"]["ok"]), (&json!(true), &json!(1), &json!("other")));
    }
}
