//! `l402t doctor`: is this machine ready, and if not, what is in the way and what mends it. Changes nothing.

#[cfg(feature = "embedded")]
mod embedded;
mod lightning;
mod machine;
mod sandbox;

use serde::Serialize;

use super::{Answer, Context, Failure};
use crate::cli::{DoctorArgs, DoctorRole};
use crate::http::client::{ClientError, CoordinatorClient};
use crate::protocol::api::RunView;

/// What came of a check.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
enum Level {
    /// As it should be.
    Ok,
    /// It works, but not in every way.
    Warn,
    /// It doesn't.
    Fail,
}

/// One line.
#[derive(Debug, Serialize)]
struct Check {
    name: &'static str,
    level: Level,
    /// What is in the way: stable, snake_case, and the same that a command ends with.
    #[serde(skip_serializing_if = "Option::is_none")]
    code: Option<String>,
    /// What was found.
    message: String,
    /// What to do about it.
    #[serde(skip_serializing_if = "Option::is_none")]
    fix: Option<String>,
}

impl Check {
    fn ok(name: &'static str, message: impl Into<String>) -> Self {
        Self { name, level: Level::Ok, code: None, message: message.into(), fix: None }
    }

    fn warn(name: &'static str, message: impl Into<String>, fix: impl Into<String>) -> Self {
        Self { name, level: Level::Warn, code: None, message: message.into(), fix: Some(fix.into()) }
    }

    fn fail(name: &'static str, message: impl Into<String>, fix: impl Into<String>) -> Self {
        Self { name, level: Level::Fail, code: None, message: message.into(), fix: Some(fix.into()) }
    }

    fn failure(name: &'static str, failure: Failure) -> Self {
        Self::fail(name, failure.message, failure.fix).coded(failure.code)
    }

    fn coded(self, code: impl Into<String>) -> Self {
        Self { code: Some(code.into()), ..self }
    }
}

/// What `--json` prints.
#[derive(Debug, Serialize)]
struct Report {
    ready: bool,
    checks: Vec<Check>,
}

/// Runs the command.
pub async fn run(args: DoctorArgs, context: Context) -> Result<Answer, Failure> {
    context.log_to_stderr()?;
    let mut checks = machine::check(args.role, &context).await?;
    checks.push(sandbox::check(&context).await?);
    let run = match args.role {
        DoctorRole::Peer => coordinator(&context, &mut checks).await,
        DoctorRole::Coordinate => None,
    };
    lightning::check(args.role, run.as_ref(), &context, &mut checks).await;
    Ok(report(&context, checks))
}

fn report(context: &Context, checks: Vec<Check>) -> Answer {
    let width = checks.iter().map(|check| check.name.len()).max().unwrap_or_default();
    for Check { name, level, message, fix, .. } in &checks {
        let level = match level {
            Level::Ok => "ok  ",
            Level::Warn => "warn",
            Level::Fail => "FAIL",
        };
        let fix = fix.as_ref().map(|fix| format!(". {fix}")).unwrap_or_default();
        context.ui.line(format!("{level}  {name:width$}  {message}{fix}"));
    }
    let failed: Vec<&Check> = checks.iter().filter(|check| check.level == Level::Fail).collect();
    let joined = |of: fn(&Check) -> String| failed.iter().map(|check| of(check)).collect::<Vec<_>>().join("; ");
    match failed.is_empty() {
        true => Answer::yes(Report { ready: true, checks }),
        false => {
            let message = joined(|check| format!("{}: {}", check.name, check.message));
            let fix = joined(|check| check.fix.clone().unwrap_or_default());
            Answer::no(Report { ready: false, checks }, Failure::negative("not_ready", message, fix))
        }
    }
}

/// The run that a peer would join.
async fn coordinator(context: &Context, checks: &mut Vec<Check>) -> Option<RunView> {
    const NAME: &str = "coordinator";
    let Some(url) = context.config.peer.coordinator.as_deref() else {
        let fix = "Name it as coordinator under [peer], or start the peer with --coordinator URL";
        checks.push(Check::warn(NAME, "none is configured", fix));
        return None;
    };
    let answer = match CoordinatorClient::new(url) {
        Ok(client) => client.run().await,
        Err(error) => Err(error),
    };
    match answer {
        Ok(run) => {
            let name = &run.manifest.body.name;
            checks.push(Check::ok(NAME, format!("{url} runs {name:?} on {}", run.lightning.network)));
            Some(run)
        }
        Err(error @ ClientError::BadUrl { .. }) => {
            checks.push(Check::fail(NAME, error.to_string(), "Write it as http://host:port"));
            None
        }
        Err(error) => {
            let fix = "Check the address, and that the coordinator runs and can be reached from here";
            checks.push(Check::fail(NAME, error.to_string(), fix));
            None
        }
    }
}
