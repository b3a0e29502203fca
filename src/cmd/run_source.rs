//! Where a run's documents and blobs come from: a coordinator, or its folder.

use std::path::{Path, PathBuf};

use super::{Context, Failure};
use crate::coordinator::bounty::CLOSING_FILE;
use crate::coordinator::run::MANIFEST_FILE;
use crate::http::client::{ClientError, CoordinatorClient};
use crate::protocol::ids::{Blake3Hash, BountyId, RoundNumber};

/// Where a run's documents and blobs are.
pub(super) enum Source {
    /// A coordinator's data folder, or a copy of its `manifest.json`, `transcripts/` and `blobs/`.
    Folder(PathBuf),
    /// A coordinator; blobs are kept in `cache`.
    Coordinator { client: Box<CoordinatorClient>, cache: PathBuf },
}

impl Source {
    /// From a URL or a folder, or else the configured coordinator. Blobs of a coordinator are kept in the data folder of
    /// `command`.
    pub(super) fn new(from: Option<&str>, context: &Context, command: &str) -> Result<Source, Failure> {
        let configured = context.config.peer.coordinator.as_deref();
        let Some(from) = from.or(configured) else {
            let fix = "Say where with --from URL or --from DIR";
            return Err(Failure::usage("no_source", "there is no coordinator to read from", fix));
        };
        if !from.starts_with("http://") && !from.starts_with("https://") {
            context.log_to_stderr()?;
            return Ok(Source::Folder(PathBuf::from(from)));
        }
        let client = CoordinatorClient::new(from).map_err(|error| remote(&error))?;
        Ok(Source::Coordinator { client: Box::new(client), cache: context.open_data(command)?.join("blobs") })
    }

    /// The signed manifest.
    pub(super) async fn manifest(&self) -> Result<Vec<u8>, Failure> {
        match self {
            Source::Folder(folder) => read(&folder.join(MANIFEST_FILE)),
            Source::Coordinator { client, .. } => {
                Ok(client.run().await.map_err(|error| remote(&error))?.manifest.to_bytes())
            }
        }
    }

    /// The same place; rounds and blobs are a bounty's.
    pub(super) fn of_bounty(self, bounty: BountyId) -> Self {
        match self {
            Source::Folder(folder) => Source::Folder(folder),
            Source::Coordinator { client, cache } => {
                Source::Coordinator { client: Box::new(client.of_bounty(bounty)), cache }
            }
        }
    }

    /// A bounty's signed manifest.
    pub(super) async fn bounty_manifest(&self, bounty: BountyId) -> Result<Vec<u8>, Failure> {
        match self {
            Source::Folder(folder) => read(&folder.join(MANIFEST_FILE)),
            Source::Coordinator { client, .. } => {
                Ok(client.bounty(bounty).await.map_err(|error| remote(&error))?.manifest.to_bytes())
            }
        }
    }

    /// A closed bounty's signed closing.
    pub(super) async fn closing(&self, bounty: BountyId) -> Result<Vec<u8>, Failure> {
        match self {
            Source::Folder(folder) => read(&folder.join(CLOSING_FILE)),
            Source::Coordinator { client, .. } => client.fetch_closing(bounty).await.map_err(|error| remote(&error)),
        }
    }

    /// A closed round's signed transcript.
    pub(super) async fn transcript(&self, round: RoundNumber) -> Result<Vec<u8>, Failure> {
        match self {
            Source::Folder(folder) => read(&transcript_path(folder, round)),
            Source::Coordinator { client, .. } => client.fetch_transcript(round).await.map_err(|error| remote(&error)),
        }
    }

    /// As [`Source::transcript`]; a copy of a folder need not have every round's.
    pub(super) async fn transcript_if_there(&self, round: RoundNumber) -> Result<Option<Vec<u8>>, Failure> {
        match self {
            Source::Folder(folder) if !transcript_path(folder, round).exists() => Ok(None),
            Source::Folder(_) | Source::Coordinator { .. } => self.transcript(round).await.map(Some),
        }
    }

    /// How many rounds are closed.
    pub(super) async fn closed_rounds(&self) -> Result<u32, Failure> {
        match self {
            Source::Folder(folder) => {
                let there = |round: &u32| transcript_path(folder, RoundNumber(*round)).exists();
                Ok((0..).take_while(there).count() as u32)
            }
            Source::Coordinator { client, .. } => Ok(client.run().await.map_err(|error| remote(&error))?.closed_rounds),
        }
    }

    /// A blob; whoever uses it checks its hash.
    ///
    /// # Errors
    /// Says for people why it can't be had.
    pub(super) async fn blob(&self, hash: &Blake3Hash) -> Result<Vec<u8>, String> {
        let path = match self {
            Source::Folder(folder) => folder.join("blobs").join(hash.to_string()),
            Source::Coordinator { client, cache } => {
                let path = cache.join(hash.to_string());
                client.fetch_blob(*hash, &path, |_| {}).await.map_err(|error| error.to_string())?;
                path
            }
        };
        std::fs::read(&path).map_err(|error| format!("{}: {error}", path.display()))
    }
}

fn remote(error: &ClientError) -> Failure {
    let fix = "Try again, or read from a copy of the coordinator's folder with --from DIR";
    Failure::remote("coordinator", error, fix)
}

fn transcript_path(folder: &Path, round: RoundNumber) -> PathBuf {
    folder.join("transcripts").join(format!("{round}.json"))
}

fn read(path: &Path) -> Result<Vec<u8>, Failure> {
    let fix =
        "Check the round's number (only closed rounds have a transcript), and that --from is a coordinator's folder";
    std::fs::read(path)
        .map_err(|error| Failure::usage("io", format_args!("could not read {}: {error}", path.display()), fix))
}
