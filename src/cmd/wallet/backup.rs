//! `l402t wallet backup` and `l402t wallet words`.

use std::io::IsTerminal;

use secrecy::ExposeSecret;
use serde::Serialize;

use super::Place;
use crate::cli::{BackupArgs, WordsArgs};
use crate::clock::{Clock, SystemClock};
use crate::cmd::{Answer, Context, Failure, node};
use crate::ln::embedded::{self, BackupInfo, BackupKind, back_up};

/// With `--json`.
#[derive(Debug, Serialize)]
struct Written {
    file: String,
    #[serde(flatten)]
    info: BackupInfo,
}

pub(super) fn run(args: &BackupArgs, place: &Place, context: &Context) -> Result<Answer, Failure> {
    let kind = if args.moved { BackupKind::Move } else { BackupKind::Copy };
    let network = node::network(&context.config.lightning);
    let info = back_up(place.wallet(), &args.file, kind, network, SystemClock.now())?;
    let file = args.file.display();
    context
        .ui
        .line(format!("{file}: wallet {} on {}, channel state {}", info.node_id, info.network, info.channel_state));
    match kind {
        BackupKind::Copy => {
            context.ui.say("It holds the seed and is not encrypted: keep it as safe as money.");
            context.ui.say(
                "Its channel state is old with the next payment. Then it still gets the coins on chain back, and this \
                 side's part of the channels once the other nodes have closed them, but no payment under way.",
            );
        }
        BackupKind::Move => context.ui.say(
            "The wallet is in the file now and never starts here again. Restore it once: two copies of it that run lose \
             their channels' money.",
        ),
    }
    Ok(Answer::yes(Written { file: file.to_string(), info }))
}

/// With `--json`.
#[derive(Debug, Serialize)]
struct Words<'a> {
    words: &'a str,
}

pub(super) fn words(args: &WordsArgs, place: &Place, context: &Context) -> Result<Answer, Failure> {
    if !args.reveal && !std::io::stdout().is_terminal() {
        let message = "whoever reads the words has the money, and stdout is not a terminal";
        return Err(Failure::usage("not_a_terminal", message, "Write --reveal if you mean it"));
    }
    let Some(words) = embedded::words(place.wallet())? else {
        let message = "this wallet was made before there were words; its seed is only in its folder and its backups";
        return Err(Failure::usage("no_words", message, "Keep a file made with l402t wallet backup"));
    };
    context.ui.say("Whoever has these words has the money. Write them down on paper, in this order:");
    context.ui.line(words.expose_secret());
    context.ui.say("They bring back the coins on chain. For channels, keep a file made with l402t wallet backup, too.");
    Ok(Answer::yes(Words { words: words.expose_secret() }))
}
