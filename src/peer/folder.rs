//! The peer's data folder: what is where, and that one process at a time uses it.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{ErrorKind, Write};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use super::error::PeerError;
use crate::protocol::ids::{Blake3Hash, RoundNumber, RunId};

/// The peer's data folder. Locked for as long as this lives.
#[derive(Debug)]
pub struct DataFolder {
    root: PathBuf,
    _lock: File,
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
        match lock.try_lock() {
            Ok(()) => Ok(Self { root: root.to_path_buf(), _lock: lock }),
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
        self.root.join("lightning")
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

    /// The trainer's state after the last decided contribution to a run.
    pub fn state(&self, run: &RunId) -> PathBuf {
        self.root.join("state").join(run.to_string())
    }

    /// The trainer's state as it will be if the contribution to this round is accepted.
    pub fn staged_state(&self, run: &RunId, round: RoundNumber) -> PathBuf {
        self.root.join("state").join(format!("{run}.after-{round}"))
    }

    /// Every staged state.
    pub fn staged_states(&self) -> Result<Vec<(RunId, RoundNumber, PathBuf)>, PeerError> {
        let files = list(&self.root.join("state"))?;
        Ok(files
            .into_iter()
            .filter_map(|(name, path)| {
                let (run, round) = name.split_once(".after-")?;
                Some((run.parse().ok()?, RoundNumber(round.parse().ok()?), path))
            })
            .collect())
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

    /// The trainer's unfinished work on a round.
    pub fn partial_state(&self, run: &RunId, round: RoundNumber) -> PathBuf {
        self.root.join("state").join(format!("{run}.within-{round}"))
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

/// The journal's database in a peer's data folder.
pub fn journal_in(root: &Path) -> PathBuf {
    root.join("peer.sqlite")
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
