//! The peer's data folder: what is where, and that one process at a time uses it.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{ErrorKind, Write};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::error::PeerError;
use crate::protocol::ids::{Blake3Hash, RoundNumber, RunId};

/// The peer's data folder. Locked for as long as this or a clone of it lives.
#[derive(Clone, Debug)]
pub struct DataFolder {
    root: PathBuf,
    _lock: Arc<File>,
}

impl DataFolder {
    /// Opens a folder, made if need be, for this user only.
    pub fn open(root: &Path) -> Result<Self, PeerError> {
        for folder in [root.to_path_buf(), root.join("blobs"), root.join("outbox"), root.join("state")] {
            let made = std::fs::DirBuilder::new().recursive(true).mode(0o700).create(&folder);
            made.map_err(|error| PeerError::io("make", &folder, error))?;
        }
        let path = root.join("lock");
        let lock = OpenOptions::new().create(true).append(true).open(&path);
        let lock = lock.map_err(|error| PeerError::io("open", &path, error))?;
        match crate::lock::lock(&lock) {
            Ok(()) => Ok(Self { root: root.to_path_buf(), _lock: Arc::new(lock) }),
            Err(TryLockError::WouldBlock) => Err(PeerError::InUse(root.to_path_buf())),
            Err(TryLockError::Error(error)) => Err(PeerError::io("lock", &path, error)),
        }
    }

    /// The folder itself.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The journal's database.
    pub fn journal(&self) -> PathBuf {
        journal_in(&self.root)
    }

    /// The Lightning node's folder.
    pub fn lightning(&self) -> PathBuf {
        lightning_in(&self.root)
    }

    /// Where bounties' packages are downloaded to, with the tokens that were bought for them.
    pub fn packages(&self) -> PathBuf {
        packages_in(&self.root)
    }

    /// A downloaded blob.
    pub fn blob(&self, hash: &Blake3Hash) -> PathBuf {
        self.root.join("blobs").join(hash.to_string())
    }

    /// A payload, from before its commitment until its contribution has ended.
    pub fn payload(&self, hash: &Blake3Hash) -> PathBuf {
        self.root.join("outbox").join(format!("{hash}.payload"))
    }

    /// The payload of a round once the peer is committed to it, for others on this machine to look at.
    pub fn outbox(&self, round: RoundNumber) -> PathBuf {
        outbox_in(&self.root, round)
    }

    /// Where trainers keep their state.
    pub fn states(&self) -> PathBuf {
        self.root.join("state")
    }

    /// Keeps of a run's states only those that `keep` wants; other runs' stay. Each state may be several files.
    pub fn keep_states(&self, run: &RunId, keep: impl Fn(StateName) -> bool) -> Result<(), PeerError> {
        for (name, path) in list(&self.states())? {
            let parsed = name.strip_prefix(&run.to_string()).and_then(StateName::parse);
            if parsed.is_some_and(|state| !keep(state)) {
                remove_if_there(&path)?;
            }
        }
        Ok(())
    }

    /// Keeps only these payloads, and what is published of this round.
    pub fn keep_payloads(&self, payloads: &[Blake3Hash], published: RoundNumber) -> Result<(), PeerError> {
        let mut keep: Vec<PathBuf> = payloads.iter().map(|payload| self.payload(payload)).collect();
        keep.push(self.outbox(published));
        for (_, path) in list(&self.root.join("outbox"))? {
            if !keep.contains(&path) {
                remove_if_there(&path)?;
            }
        }
        Ok(())
    }

    /// A downloaded aggregate, by the checkpoint that it makes. Not kept for longer than it takes to make that.
    pub fn aggregate(&self, next_checkpoint: &Blake3Hash) -> PathBuf {
        self.root.join("blobs").join(format!("aggregate-{next_checkpoint}"))
    }

    /// Is any blob here but these? Downloads under way aren't.
    pub fn has_other_blobs(&self, known: &[Blake3Hash]) -> Result<bool, PeerError> {
        let is_other = |name: &str| name.parse().is_ok_and(|hash: Blake3Hash| !known.contains(&hash));
        Ok(list(&self.root.join("blobs"))?.iter().any(|(name, _)| is_other(name)))
    }

    /// Removes the blobs that are not needed any more; downloads under way are kept with what they become.
    pub fn keep_blobs(&self, needed: &[Blake3Hash]) -> Result<(), PeerError> {
        let needed: Vec<String> = needed.iter().map(Blake3Hash::to_string).collect();
        for (name, path) in list(&self.root.join("blobs"))? {
            if !needed.iter().any(|needed| name.starts_with(needed.as_str())) {
                remove_if_there(&path)?;
            }
        }
        Ok(())
    }
}

/// A trainer's state, by what it belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StateName {
    /// As it will be if the contribution to this round is accepted, and as it is from then on.
    After(RoundNumber),
    /// Of unfinished work on this round.
    Within(RoundNumber),
}

impl StateName {
    /// The name in the folder of states.
    pub fn of(self, run: &RunId) -> String {
        match self {
            StateName::After(round) => format!("{run}.after-{round}"),
            StateName::Within(round) => format!("{run}.within-{round}"),
        }
    }

    /// From what follows the run in a file's name.
    fn parse(rest: &str) -> Option<Self> {
        let mut parts = rest.strip_prefix('.')?.split('.');
        let (kind, round) = parts.next()?.split_once('-')?;
        let round = RoundNumber(round.parse().ok()?);
        match kind {
            "after" => Some(StateName::After(round)),
            "within" => Some(StateName::Within(round)),
            _ => None,
        }
    }
}

/// A folder's files; names that aren't text are none of ours.
fn list(folder: &Path) -> Result<Vec<(String, PathBuf)>, PeerError> {
    let failed = |error| PeerError::io("read", folder, error);
    let mut files = Vec::new();
    for file in std::fs::read_dir(folder).map_err(failed)? {
        let file = file.map_err(failed)?;
        if let Ok(name) = file.file_name().into_string() {
            files.push((name, file.path()));
        }
    }
    Ok(files)
}

/// The Lightning node's folder in a data folder.
pub fn lightning_in(root: &Path) -> PathBuf {
    root.join("lightning")
}

/// The journal's database in a peer's data folder.
pub fn journal_in(root: &Path) -> PathBuf {
    root.join("peer.sqlite")
}

/// Where bounties' packages are downloaded to in a peer's data folder, with the tokens that were bought for them.
pub fn packages_in(root: &Path) -> PathBuf {
    root.join("packages")
}

/// A round's published payload in a peer's data folder.
pub fn outbox_in(root: &Path, round: RoundNumber) -> PathBuf {
    root.join("outbox").join(format!("round-{round}.update"))
}

/// Writes a file so that its name shows all of it or nothing, even if the power fails.
pub fn write_durably(path: &Path, bytes: &[u8]) -> Result<(), PeerError> {
    let failed = |error| PeerError::io("write", path, error);
    let mut unfinished = path.as_os_str().to_owned();
    unfinished.push(".new");
    let unfinished = PathBuf::from(unfinished);
    let mut file = File::create(&unfinished).map_err(failed)?;
    file.write_all(bytes).and_then(|()| file.sync_all()).map_err(failed)?;
    rename_durably(&unfinished, path)
}

/// Renames a synced file and syncs its folder.
pub fn rename_durably(from: &Path, to: &Path) -> Result<(), PeerError> {
    let failed = |error| PeerError::io("write", to, error);
    std::fs::rename(from, to).map_err(failed)?;
    let folder = to.parent().unwrap_or(Path::new("."));
    File::open(folder).and_then(|folder| folder.sync_all()).map_err(failed)
}

/// Removes a file that may be gone already.
pub fn remove_if_there(path: &Path) -> Result<(), PeerError> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(PeerError::io("remove", path, error)),
        Ok(()) | Err(_) => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_in_use_is_refused_until_it_is_free() {
        let root = tempfile::tempdir().expect("a folder");
        let first = DataFolder::open(root.path()).expect("free");
        assert!(matches!(DataFolder::open(root.path()), Err(PeerError::InUse(_))));
        drop(first);
        DataFolder::open(root.path()).expect("free again");
    }
}
