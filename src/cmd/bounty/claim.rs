//! `l402t bounty claim`: what a bounty gives its agents, in a folder of its own.

use std::path::{Path, PathBuf};

use serde::Serialize;

use super::super::answer::word;
use super::super::{Answer, Context, Failure};
use super::claimed::{Note, write};
use super::desk::{client, look, refused};
use super::list::Row;
use crate::cli::BountyClaimArgs;
use crate::protocol::ids::BountyId;

#[derive(Debug, Serialize)]
struct Report<'a> {
    folder: &'a Path,
    /// Where to work.
    workspace: &'a Path,
    /// The files in it that may change.
    targets: &'a [String],
    #[serde(flatten)]
    row: Row<'a>,
}

/// What a claimed bounty's folder is called where nobody says.
pub(in crate::cmd) fn folder_name(bounty: BountyId) -> PathBuf {
    PathBuf::from(format!("bounty-{}", bounty.short()))
}

/// Runs the command.
pub(super) async fn run(args: &BountyClaimArgs, context: &Context, scratch: &Path) -> Result<Answer, Failure> {
    context.log_to_stderr()?;
    let client = client(context, args.coordinator.as_deref())?;
    let view = look(&client, args.bounty).await?;
    let folder = args.into.clone().unwrap_or_else(|| folder_name(args.bounty));
    let hash = view.manifest.body.posting.body.package;
    let path = scratch.join("fetched");
    let fetched = client.of_bounty(args.bounty).fetch_blob(hash, &path, |_| {}).await;
    fetched.map_err(refused("download the package"))?;
    let note = Note { coordinator: client.url().to_owned(), bounty: args.bounty, manifest: view.manifest.clone() };
    let (to, place) = (folder.clone(), scratch.to_owned());
    let work = move || {
        let bytes = std::fs::read(&path).map_err(|error| Failure::io("read", &path, &error))?;
        write(&to, &note, &bytes, &place)
    };
    let claimed = context.blocking(work).await?;
    context.ui.line(format!("{}: read AGENTS.md there", folder.display()));
    let shown = word(&folder);
    let report = Report {
        folder: &folder,
        workspace: &claimed.workspace,
        targets: &claimed.bounty.manifest.targets,
        row: Row::of(&view),
    };
    Ok(Answer::yes(report)
        .then(format!("l402t bounty try {shown}"))
        .then(format!("l402t bounty submit {shown} --claim SCORE")))
}
