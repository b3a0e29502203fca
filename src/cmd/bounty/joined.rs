//! Which bounties this data folder has submitted to: the journal knows runs, and not where they are.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use super::super::peer::client;
use super::super::{Context, Failure};
use super::claimed::Note;
use crate::http::client::CoordinatorClient;
use crate::peer::error::PeerError;
use crate::peer::folder::write_durably;
use crate::peer::journal::Journal;
use crate::protocol::ids::RunId;

const FOLDER: &str = "joined";

fn folder(data: &Path) -> PathBuf {
    data.join(FOLDER)
}

/// Writes down where a bounty is, before anything is submitted to it.
pub(super) fn save(data: &Path, note: &Note) -> Result<(), Failure> {
    let folder = folder(data);
    fs::create_dir_all(&folder).map_err(|error| Failure::io("make", &folder, &error))?;
    let bytes = serde_json::to_vec(note).map_err(|error| Failure::bug(error.to_string()))?;
    write_durably(&folder.join(format!("{}.json", note.manifest.body.run_id())), &bytes)?;
    Ok(())
}

/// Where a run's bounty is; `None` where the run isn't one of these.
pub(super) fn find(data: &Path, run: RunId) -> Result<Option<Note>, Failure> {
    let path = folder(data).join(format!("{run}.json"));
    match fs::read(&path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(Failure::io("read", &path, &error)),
        Ok(bytes) => {
            serde_json::from_slice(&bytes).map(Some).map_err(|error| Failure::io("read", &path, &error.into()))
        }
    }
}

/// Where the bounties are whose submissions are under way: what this wallet holds for them is theirs to decide.
pub(in super::super) fn under_way(
    context: &Context,
    data: &Path,
    journal: &Journal,
) -> Result<Vec<CoordinatorClient>, Failure> {
    let runs: BTreeSet<RunId> =
        journal.unfinished(None).map_err(PeerError::from)?.iter().map(|entry| entry.run()).collect();
    let mut clients = Vec::new();
    for run in runs {
        if let Some(note) = find(data, run)? {
            clients.push(client(&context.config.peer, Some(&note.coordinator))?.of_bounty(note.bounty));
        }
    }
    Ok(clients)
}
