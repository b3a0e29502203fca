//! One file per subcommand: wiring only. A command fails with a [`Failure`]: exit code, stable code, message and fix.

mod answer;
mod bounty_board;
mod context;
mod corpus_view;
mod failure;
mod judge_pool;
mod logging;
mod node;
mod peer_guard;
mod peer_view;
mod replay_bounty;
mod run_source;
mod stop;

pub mod bounty;
pub mod coordinate;
pub mod demo;
pub mod doctor;
pub mod export;
pub mod fetch;
pub mod judge;
pub mod ledger;
mod liquidity;
#[cfg(feature = "mcp")]
pub mod mcp;
pub mod openapi;
pub mod peer;
#[cfg(feature = "lnd")]
pub mod regtest;
pub mod replay;
pub mod validate;
#[cfg(feature = "embedded")]
pub mod wallet;

use std::ffi::OsString;
use std::sync::OnceLock;
use std::time::Duration;

use clap::Parser;
use clap::error::ErrorKind;

pub use answer::Answer;
pub use context::Context;
pub use failure::{ExitCode, Failure};
pub use stop::Stop;

use crate::cli::{Cli, Command};
use crate::config::{Config, Environment};
use crate::ui::{Format, Ui, last_words};

/// How long a command may take to end in order once it is told to stop.
const STOP_GRACE: Duration = Duration::from_secs(20);

/// Where the last panic happened and what it said, for the error that ends the process.
static PANIC: OnceLock<String> = OnceLock::new();

/// The whole program: parse, run, report, exit code.
pub fn main(arguments: Vec<OsString>) -> ExitCode {
    std::panic::set_hook(Box::new(|info| {
        let text = info.to_string();
        tracing::error!("{text}");
        let _ = PANIC.set(text);
    }));
    // Before anything is parsed, so that a usage error is JSON too.
    let format = if arguments.iter().any(|argument| argument == "--json") { Format::Json } else { Format::Text };
    let ui = Ui::new(format);
    let ended = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| parse_and_run(&ui, arguments)));
    answer::end(&ui, ended.unwrap_or_else(|_| Err(bug())))
}

/// What a panic is reported as.
fn bug() -> Failure {
    let text = PANIC.get().map_or("unexpected end", String::as_str);
    Failure::bug(format_args!("a bug in l402t: {}", text.replace('\n', " ")))
}

fn parse_and_run(ui: &Ui, arguments: Vec<OsString>) -> Result<Answer, Failure> {
    let cli = match Cli::try_parse_from(arguments) {
        Ok(cli) => cli,
        Err(error) => return usage(ui, &error),
    };
    let environment = Environment::of_process();
    let file = cli.global.config.clone().or_else(|| environment.config_file());
    let mut config = Config::load(file.as_deref(), &environment)
        .map_err(|error| Failure::usage("config", error, "See config.example.toml for every key"))?;
    if let Some(filter) = cli.global.log.clone() {
        config.log.filter = filter;
    }
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::bug(format_args!("no runtime: {error}")))?;
    let stop = Stop::new();
    let context = Context::new(ui.clone(), config, environment, cli.global, stop.clone());
    let result = runtime.block_on(async {
        stop::listen(&stop);
        let command = run(cli.command, context);
        tokio::select! {
            result = command => result,
            () = stop.overdue(STOP_GRACE) => {
                last_words("warning: not everything ended in time; what is under way continues at the next start");
                Err(interrupted())
            }
        }
    });
    runtime.shutdown_background();
    result
}

/// What a command returns once it has stopped because it was told to.
pub fn interrupted() -> Failure {
    Failure::new(ExitCode::Interrupted, "interrupted", "stopped on request", "Start it again to go on")
}

async fn run(command: Command, context: Context) -> Result<Answer, Failure> {
    match command {
        Command::Validate(args) => context.clone().blocking(move || validate::run(&args, &context)).await,
        Command::Judge(args) => context.clone().blocking(move || judge::run(&args, &context)).await,
        Command::Replay(args) => replay::run(args, context).await,
        Command::Export(args) => export::run(args, context).await,
        Command::Coordinate(args) => coordinate::run(args, context).await,
        Command::Peer(args) => peer::run(args, context).await,
        Command::Ledger(args) => context.clone().blocking(move || ledger::run(&args, &context)).await,
        #[cfg(feature = "embedded")]
        Command::Wallet(args) => wallet::run(args, context).await,
        #[cfg(not(feature = "embedded"))]
        Command::Wallet(_) => Err(node::missing()),
        Command::Fetch(args) => fetch::run(args, context).await,
        Command::Bounty(args) => bounty::run(args, context).await,
        #[cfg(feature = "mcp")]
        Command::Mcp => mcp::run(context).await,
        Command::Demo(args) => demo::run(args, context).await,
        #[cfg(feature = "lnd")]
        Command::Regtest(args) => regtest::run(args, context).await,
        Command::Doctor(args) => doctor::run(args, context).await,
        Command::Openapi => Ok(openapi::run(&context)),
    }
}

/// Help and version are results; everything else is a usage error in our own form.
fn usage(ui: &Ui, error: &clap::Error) -> Result<Answer, Failure> {
    match error.kind() {
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => {
            let text = error.render().to_string();
            ui.document(&text);
            Ok(Answer::yes(serde_json::json!({ "text": text })))
        }
        ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => {
            ui.say(error.render().to_string().trim_end());
            Err(Failure::usage("usage", "no command was given", "Start with: l402t demo"))
        }
        _ => {
            let text = error.render().to_string();
            let (message, advice) = split_advice(&text);
            Err(Failure::usage("usage", message, advice))
        }
    }
}

/// clap's text as (what failed, what to do): its tip if it has one, else where the help is.
fn split_advice(text: &str) -> (String, String) {
    let mut message = Vec::new();
    let mut tip = None;
    for line in text.lines().map(str::trim).filter(|line| !line.is_empty()) {
        if let Some(found) = line.strip_prefix("tip: ") {
            tip.get_or_insert_with(|| found.to_owned());
        } else if line.starts_with("Usage:") {
            break;
        } else if !line.starts_with("For more information") {
            message.push(line.trim_start_matches("error: ").to_owned());
        }
    }
    let usage = text.lines().find_map(|line| line.trim().strip_prefix("Usage: "));
    let command = usage.map_or("l402t", |usage| usage.split(['[', '<', '-']).next().unwrap_or("l402t").trim());
    let advice = tip.unwrap_or_else(|| format!("See {command} --help"));
    (message.join(" "), advice)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        use clap::CommandFactory;
        Cli::command().debug_assert();
    }

    #[test]
    fn every_command_shows_an_example() {
        use clap::CommandFactory;
        for command in Cli::command().get_subcommands() {
            let after = command.get_after_help().map(ToString::to_string).unwrap_or_default();
            assert!(after.starts_with("Example: l402t "), "{} has no example", command.get_name());
        }
    }
}
