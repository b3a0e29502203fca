//! `l402t wallet restore`.

use std::io::Read;

use secrecy::SecretString;
use serde::Serialize;

use super::show::sat;
use super::{LOOK_AGAIN, Place, wait_for_blocks};
use crate::cli::RestoreArgs;
use crate::cmd::{Answer, Context, Failure, interrupted, node};
use crate::ln::embedded::{self, BackupKind, ClosedBy, Recovery, RecoveryStep, Settings};

/// 24 words have at most 215 letters and spaces.
const MAX_WORDS_BYTES: u64 = 1_024;

/// With `--json`.
#[derive(Debug, Serialize)]
struct Restored {
    node_id: String,
    wallet: String,
    /// Whether the money is out of the old channels.
    recovered: bool,
}

pub(super) async fn run(args: &RestoreArgs, place: &Place, context: &Context) -> Result<Answer, Failure> {
    let network = node::network(&context.config.lightning);
    let node_id = match (&args.file, args.words, args.seed_only) {
        (Some(file), _, seed_only) => {
            let info = embedded::restore(file, place.wallet(), network)?;
            if !seed_only && info.kind == BackupKind::Copy {
                context.ui.say(
                    "Restored. It only starts if this machine knows that no payment was made since the backup; \
                     otherwise go on with l402t wallet restore --seed-only.",
                );
            }
            Some(info.node_id)
        }
        (None, true, _) => Some(embedded::restore_from_words(&read_words()?, place.wallet(), network)?),
        (None, false, true) => None,
        (None, false, false) => {
            let fix = "Name a backup FILE, or use --words or --seed-only";
            return Err(Failure::usage("nothing_to_restore", "there is nothing to restore from", fix));
        }
    };
    let node_id = match args.seed_only {
        true => recover(args, place, context).await?,
        false => node_id.unwrap_or_default(),
    };
    context.ui.line(format!("wallet {node_id} is in {}", place.wallet().display()));
    let wallet = place.wallet().display().to_string();
    Ok(Answer::yes(Restored { node_id, wallet, recovered: args.seed_only }).then("l402t wallet show"))
}

fn read_words() -> Result<SecretString, Failure> {
    let mut text = String::new();
    let read = std::io::stdin().lock().take(MAX_WORDS_BYTES).read_to_string(&mut text);
    read.map_err(|error| Failure::usage("stdin", format_args!("stdin can't be read: {error}"), "Pipe the words in"))?;
    Ok(SecretString::from(text.split_whitespace().collect::<Vec<_>>().join(" ")))
}

async fn recover(args: &RestoreArgs, place: &Place, context: &Context) -> Result<String, Failure> {
    let (settings, mut chain) = place.settings(context)?;
    let ended = go_through(args, place, context, &settings).await;
    if let Some(chain) = &mut chain {
        chain.stop();
    }
    ended
}

async fn go_through(
    args: &RestoreArgs,
    place: &Place,
    context: &Context,
    settings: &Settings,
) -> Result<String, Failure> {
    let closed_by = if args.channels_are_closed { ClosedBy::Owner } else { ClosedBy::ChainSource };
    let mut recovery = Recovery::start(settings, place.wallet(), closed_by).await?;
    let node_id = recovery.node().node_id();
    let mut told = None;
    let ended = loop {
        let step = recovery.step().await;
        match &step {
            Ok(RecoveryStep::Done) => break Ok(()),
            Ok(step) if told.as_ref() != Some(step) => context.ui.say(describe(step)),
            Ok(_) => {}
            // The chain source may be away for a while.
            Err(error) => context.ui.say(format!("{error}; trying again")),
        }
        if let Ok(step) = step {
            if matches!(step, RecoveryStep::Claiming { .. }) {
                wait_for_blocks(&recovery).await;
            }
            told = Some(step);
        }
        tokio::select! {
            () = tokio::time::sleep(LOOK_AGAIN) => {}
            () = context.stop.requested() => break Err(interrupted()),
        }
    };
    recovery.stop().await;
    ended.map(|()| node_id)
}

fn describe(step: &RecoveryStep) -> String {
    match step {
        RecoveryStep::Closing(open) if open.is_empty() => "every channel is closed".to_owned(),
        RecoveryStep::Closing(open) => format!(
            "waiting until the other nodes have closed {} channels and that is in a block (with Esplora or Electrum, \
             look yourself, then add --channels-are-closed); funded by {}",
            open.len(),
            open.join(", ")
        ),
        RecoveryStep::Claiming { amount_sat } => format!("{} on the way to the wallet", sat(*amount_sat)),
        RecoveryStep::Done => "done".to_owned(),
    }
}
