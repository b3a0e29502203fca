//! `l402t bounty claim`: what a bounty gives its agents, in a folder of its own.

use std::path::{Path, PathBuf};

use serde::Serialize;

use super::super::fetch::Paid;
use super::super::{Answer, Context, Failure};
use super::approve::Approve;
use super::buy::Buyer;
use super::claimed::{Note, must_be_free, write};
use super::desk::{DATA, client, look, sat};
use super::list::Row;
use super::shell::word;
use crate::cli::BountyClaimArgs;
use crate::fetch::Unaccepted;
use crate::protocol::ids::BountyId;

#[derive(Debug, Serialize)]
struct Report<'a> {
    folder: &'a Path,
    /// Where to work.
    workspace: &'a Path,
    /// The files in it that may change.
    targets: &'a [String],
    /// How it was paid for.
    package: Paid,
    #[serde(flatten)]
    row: Row<'a>,
}

/// What a claimed bounty's folder is called where nobody says.
pub(in crate::cmd) fn folder_name(bounty: BountyId) -> PathBuf {
    PathBuf::from(format!("bounty-{}", bounty.short()))
}

/// Runs the command. `approve` is asked before anything is paid.
pub(super) async fn run(
    args: &BountyClaimArgs,
    context: &Context,
    scratch: &Path,
    approve: &dyn Approve,
) -> Result<Answer, Failure> {
    let data = context.open_data(DATA)?;
    let client = client(context, args.coordinator.as_deref())?;
    let folder = args.into.clone().unwrap_or_else(|| folder_name(args.bounty));
    must_be_free(&folder)?;
    let view = look(&client, args.bounty).await?;
    let note = Note { coordinator: client.url().to_owned(), bounty: args.bounty, manifest: view.manifest.clone() };
    let unaccepted = if args.pay_again { Unaccepted::PayAgain } else { Unaccepted::Refuse };
    let max_price = args.max_price.map(|most| sat("--max-price", most)).transpose()?;
    let buyer = Buyer { context, client: &client, data, view: &view, note: &note, max_price, unaccepted, approve };
    let (bytes, package) = buyer.get().await?;
    let (to, place, note) = (folder.clone(), scratch.to_owned(), note.clone());
    let claimed = context.blocking(move || write(&to, &note, &bytes, &place)).await?;
    context.ui.line(format!("{}: read AGENTS.md there", folder.display()));
    let shown = word(&folder);
    let report = Report {
        folder: &folder,
        workspace: &claimed.workspace,
        targets: &claimed.bounty.manifest.targets,
        package,
        row: Row::of(&view),
    };
    Ok(Answer::yes(report)
        .then(format!("l402t bounty try {shown}"))
        .then(format!("l402t bounty submit {shown} --claim SCORE")))
}
