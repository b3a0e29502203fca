//! The regtest's folder: one network in it at most, and only ever a folder of our own.

use std::fs::{File, TryLockError};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::cmd::Failure;
use crate::localnet::{BtcdAccess, NodeAccess};

/// Marks the folder as ours, holds the keeper's process id, and is locked for as long as the keeper runs.
const MARKER: &str = "made-by-l402t-regtest";
const STATE: &str = "state.json";
const LOG: &str = "keeper.log";
/// There while the keeper is asked to start again what has ended.
const REVIVE: &str = "revive";
/// Why it could not.
const NOT_REVIVED: &str = "not-revived";

/// A btcd that was told to end may still write while its folder is removed.
const REMOVE_TRIES: u32 = 50;
const REMOVE_PAUSE: Duration = Duration::from_millis(100);

/// What runs, for the commands that come later.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct State {
    /// The chain.
    pub btcd: BtcdAccess,
    /// Where embedded nodes find the chain, `host:port`.
    pub bridge: Option<String>,
    /// The LNDs, the coordinator's first.
    pub nodes: Vec<NodeAccess>,
}

/// The folder.
#[derive(Clone, Debug)]
pub(super) struct Folder {
    path: PathBuf,
}

/// The folder, for the process that runs the network: the lock ends with this.
#[derive(Debug)]
pub(super) struct Kept {
    folder: Folder,
    _lock: File,
}

impl Folder {
    /// Names the folder; a folder with anything else in it is refused.
    pub(super) fn at(path: &Path) -> Result<Self, Failure> {
        let used = match std::fs::read_dir(path) {
            Ok(mut entries) => entries.next().is_some(),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => false,
            Err(error) => return Err(Failure::io("read", path, &error)),
        };
        if used && !path.join(MARKER).exists() {
            return Err(Failure::usage(
                "not_a_regtest_folder",
                format_args!("{} has other files in it", path.display()),
                "Choose an empty folder with --data DIR",
            ));
        }
        Ok(Self { path: path.to_owned() })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Where the keeper writes its log.
    pub(super) fn log(&self) -> PathBuf {
        self.path.join(LOG)
    }

    /// Where btcd writes what it has to say before it has logs of its own.
    pub(super) fn btcd_log(&self) -> PathBuf {
        self.path.join("btcd/btcd.log")
    }

    /// Asks the keeper to start again what has ended.
    pub(super) fn ask_to_revive(&self) -> Result<(), Failure> {
        let path = self.path.join(REVIVE);
        File::create(&path).map(drop).map_err(|error| Failure::io("write", &path, &error))
    }

    /// Is the keeper still asked to?
    pub(super) fn is_asked_to_revive(&self) -> bool {
        self.path.join(REVIVE).exists()
    }

    /// Why the keeper could not, when it was asked last.
    pub(super) fn not_revived(&self) -> Option<String> {
        std::fs::read_to_string(self.path.join(NOT_REVIVED)).ok()
    }

    /// The process that keeps a network running here, if one does.
    pub(super) fn keeper(&self) -> Result<Option<u32>, Failure> {
        let path = self.path.join(MARKER);
        let file = match File::open(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(Failure::io("open", &path, &error)),
        };
        match file.try_lock_shared() {
            Ok(()) => Ok(None),
            Err(TryLockError::WouldBlock) => {
                let text = std::fs::read_to_string(&path).map_err(|error| Failure::io("read", &path, &error))?;
                // Empty for the moment between its lock and its id.
                Ok(Some(text.trim().parse().unwrap_or(0)))
            }
            Err(TryLockError::Error(error)) => Err(Failure::io("lock", &path, &error)),
        }
    }

    /// What runs, once all of it does.
    pub(super) fn state(&self) -> Option<State> {
        serde_json::from_slice(&std::fs::read(self.path.join(STATE)).ok()?).ok()
    }

    /// Makes the folder, for this user only, and this process its keeper. What an earlier network left there goes.
    pub(super) fn keep(self) -> Result<Kept, Failure> {
        let path = self.path.join(MARKER);
        let io = |doing: &str, error: &std::io::Error| Failure::io(doing, &path, error);
        let mut file = File::options().create(true).truncate(false).write(true).open(&path);
        let file = file.as_mut().map_err(|error| io("write", error))?;
        match crate::lock::lock(file) {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                return Err(Failure::usage(
                    "regtest_running",
                    format_args!("a regtest runs in {}", self.path.display()),
                    "Stop it with: l402t regtest down",
                ));
            }
            Err(TryLockError::Error(error)) => return Err(io("lock", &error)),
        }
        file.set_len(0).map_err(|error| io("write", &error))?;
        file.write_all(std::process::id().to_string().as_bytes()).map_err(|error| io("write", &error))?;
        let lock = file.try_clone().map_err(|error| io("lock", &error))?;
        Ok(Kept { folder: self, _lock: lock })
    }

    /// Makes the folder, for this user only, without what an earlier network left there; the keeper takes it over.
    pub(super) fn make_fresh(&self) -> Result<(), Failure> {
        use std::os::unix::fs::DirBuilderExt;
        self.remove()?;
        std::fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&self.path)
            .map_err(|error| Failure::io("make the regtest's folder", &self.path, &error))?;
        let marker = self.path.join(MARKER);
        File::create(&marker).map(drop).map_err(|error| Failure::io("write", &marker, &error))
    }

    /// Removes the folder, if it is there.
    pub(super) fn remove(&self) -> Result<(), Failure> {
        let mut tries = 0;
        loop {
            match std::fs::remove_dir_all(&self.path) {
                Ok(()) => return Ok(()),
                Err(error) if error.kind() == std::io::ErrorKind::NotFound && !self.path.exists() => return Ok(()),
                Err(error) if tries == REMOVE_TRIES => return Err(Failure::io("remove", &self.path, &error)),
                Err(_) => {
                    tries += 1;
                    std::thread::sleep(REMOVE_PAUSE);
                }
            }
        }
    }
}

impl Kept {
    pub(super) fn path(&self) -> &Path {
        &self.folder.path
    }

    /// Does anybody want what has ended started again?
    pub(super) fn is_asked_to_revive(&self) -> bool {
        self.folder.is_asked_to_revive()
    }

    /// Says that it has been tried, and why it failed if it did.
    pub(super) fn has_revived(&self, failed: Option<String>) -> Result<(), Failure> {
        let (asked, why) = (self.folder.path.join(REVIVE), self.folder.path.join(NOT_REVIVED));
        let noted = match failed {
            Some(text) => std::fs::write(&why, text),
            None => match std::fs::remove_file(&why) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error),
                Ok(()) | Err(_) => Ok(()),
            },
        };
        noted.map_err(|error| Failure::io("write", &why, &error))?;
        std::fs::remove_file(&asked).map_err(|error| Failure::io("remove", &asked, &error))
    }

    /// Says what runs, all at once.
    pub(super) fn write_state(&self, state: &State) -> Result<(), Failure> {
        let (path, part) = (self.folder.path.join(STATE), self.folder.path.join("state.json.part"));
        let text = serde_json::to_vec_pretty(state).map_err(Failure::bug)?;
        std::fs::write(&part, text).map_err(|error| Failure::io("write", &part, &error))?;
        std::fs::rename(&part, &path).map_err(|error| Failure::io("rename", &part, &error))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_with_other_files_is_left_alone() {
        let folder = tempfile::tempdir().expect("a folder");
        std::fs::write(folder.path().join("mine"), b"precious").expect("written");
        assert_eq!(Folder::at(folder.path()).expect_err("refused").code, "not_a_regtest_folder");
    }

    #[test]
    fn a_keeper_is_known_for_as_long_as_it_holds_the_folder() {
        let root = tempfile::tempdir().expect("a folder");
        let folder = Folder::at(&root.path().join("regtest")).expect("nothing is there");
        assert_eq!(folder.keeper().expect("an answer"), None);
        folder.make_fresh().expect("made");
        assert_eq!(folder.keeper().expect("an answer"), None);
        let kept = folder.clone().keep().expect("nobody else has it");
        assert_eq!(folder.keeper().expect("an answer"), Some(std::process::id()));
        drop(kept);
        assert_eq!(folder.keeper().expect("an answer"), None);
        folder.remove().expect("removed");
        assert!(!folder.path().exists());
        folder.remove().expect("once more");
    }
}
