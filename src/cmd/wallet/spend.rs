//! `l402t wallet send` and `l402t wallet close`.

use serde::Serialize;

use super::{LOOK_AGAIN, Place, Started, refused};
use crate::cli::{CloseArgs, SendArgs};
use crate::cmd::{Answer, Context, Failure};
use crate::ln::LnError;
use crate::ln::embedded::{Closing, EmbeddedNode, OnChainAmount, OpenState};

/// Looks until the other node is there, and then until the channel is closed.
const LOOKS: u32 = 40;

/// With `--json`.
#[derive(Debug, Serialize)]
struct Sent {
    txid: String,
}

pub(super) async fn send(args: &SendArgs, place: &Place, context: &Context) -> Result<Answer, Failure> {
    let amount = match args.amount.as_str() {
        "all" => OnChainAmount::All,
        sat => OnChainAmount::Sat(sat.parse().map_err(|_| {
            Failure::usage("amount", format_args!("{sat:?} is not an amount"), "Write it in sat, or all")
        })?),
    };
    let started = Started::start(place, context).await?;
    let sent = started.node.send_on_chain(&args.address, amount).await;
    started.stop().await;
    let txid = sent.map_err(refused)?;
    context.ui.line(format!("sent to {} by transaction {txid}", args.address));
    Ok(Answer::yes(Sent { txid }).then("l402t wallet show"))
}

/// With `--json`.
#[derive(Debug, Serialize)]
struct Closed<'a> {
    channel: &'a str,
    closed: bool,
}

pub(super) async fn close(args: &CloseArgs, place: &Place, context: &Context) -> Result<Answer, Failure> {
    let started = Started::start(place, context).await?;
    let how = if args.force { Closing::Force } else { Closing::Together };
    let closed = close_and_wait(&started.node, &args.channel, how).await;
    started.stop().await;
    let closed = closed.map_err(refused)?;
    context.ui.line(match closed {
        true => "closed: its money is in the wallet once that is confirmed (l402t wallet show)",
        false => "closing has begun, and goes on whenever both nodes run (l402t wallet show)",
    });
    Ok(Answer::yes(Closed { channel: &args.channel, closed }).then("l402t wallet show"))
}

async fn close_and_wait(node: &EmbeddedNode, channel: &str, how: Closing) -> Result<bool, LnError> {
    if how == Closing::Together {
        for _ in 0..LOOKS {
            match state(node, channel).await? {
                Some(OpenState::Usable) | None => break,
                Some(OpenState::Opening | OpenState::Away) => tokio::time::sleep(LOOK_AGAIN).await,
            }
        }
    }
    node.close_channel(channel, how).await?;
    for _ in 0..LOOKS {
        if state(node, channel).await?.is_none() {
            return Ok(true);
        }
        tokio::time::sleep(LOOK_AGAIN).await;
    }
    Ok(false)
}

/// `None` once it is not open any more.
async fn state(node: &EmbeddedNode, channel: &str) -> Result<Option<OpenState>, LnError> {
    let channels = node.summary().await?.channels;
    Ok(channels.into_iter().find(|open| open.id == channel).map(|open| open.state))
}
