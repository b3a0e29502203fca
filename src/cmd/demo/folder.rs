//! The demo's own folder: made fresh each time, never anyone else's.

use std::fs::{File, TryLockError};
use std::path::{Path, PathBuf};

use crate::cmd::Failure;
use crate::model::LlamaConfig;

const MARKER: &str = "made-by-l402t-demo";

const MODEL: &[u8] = include_bytes!("../../../examples/models/tiny.json");
const CORPUS: &[u8] = include_bytes!("../../../examples/corpus/king-james-bible.txt");

/// A fresh folder, locked against a second demo for as long as this lives.
#[derive(Debug)]
pub(super) struct DemoFolder {
    path: PathBuf,
    _lock: File,
}

impl DemoFolder {
    /// Makes `path` a fresh demo folder. What an earlier demo left there goes; a folder with anything else in it is refused.
    pub(super) fn create(path: &Path) -> Result<Self, Failure> {
        let io = |doing: &str, error: &std::io::Error| Failure::io(doing, path, error);
        std::fs::create_dir_all(path).map_err(|error| io("make the demo's folder", &error))?;
        let marker = path.join(MARKER);
        let used = std::fs::read_dir(path).map_err(|error| io("read", &error))?.next().is_some();
        if used && !marker.exists() {
            return Err(Failure::usage(
                "not_a_demo_folder",
                format_args!("{} has other files in it", path.display()),
                "Choose an empty folder with --data DIR",
            ));
        }
        let lock = File::create(&marker).map_err(|error| io("write into", &error))?;
        match crate::lock::lock(&lock) {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                return Err(Failure::usage(
                    "demo_running",
                    format_args!("another demo is using {}", path.display()),
                    "Wait for it to end, or choose another folder with --data DIR",
                ));
            }
            Err(TryLockError::Error(error)) => return Err(io("lock", &error)),
        }
        let folder = Self { path: path.to_owned(), _lock: lock };
        folder.empty()?;
        folder.write("model.json", MODEL)?;
        folder.write("corpus.txt", CORPUS)?;
        Ok(folder)
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// The data folder of one of the demo's processes.
    pub(super) fn of(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    pub(super) fn write(&self, name: &str, content: &[u8]) -> Result<PathBuf, Failure> {
        let path = self.path.join(name);
        std::fs::write(&path, content).map_err(|error| Failure::io("write", &path, &error))?;
        Ok(path)
    }

    /// Weights of the demo's model.
    pub(super) fn parameters(&self) -> Result<u64, Failure> {
        let config = LlamaConfig::from_json(MODEL).map_err(Failure::bug)?;
        Ok(config.layout().numel as u64)
    }

    /// Removes everything but the marker.
    fn empty(&self) -> Result<(), Failure> {
        let io = |error: std::io::Error| Failure::io("empty", &self.path, &error);
        for entry in std::fs::read_dir(&self.path).map_err(io)? {
            let entry = entry.map_err(io)?;
            if entry.file_name() == MARKER {
                continue;
            }
            let path = entry.path();
            let directory = entry.file_type().map_err(io)?.is_dir();
            let removed = if directory { std::fs::remove_dir_all(&path) } else { std::fs::remove_file(&path) };
            removed.map_err(io)?;
        }
        Ok(())
    }

    /// Removes the folder.
    pub(super) fn remove(self) -> Result<(), Failure> {
        std::fs::remove_dir_all(&self.path).map_err(|error| Failure::io("remove", &self.path, &error))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_with_other_files_is_left_alone() {
        let folder = tempfile::tempdir().expect("a folder");
        std::fs::write(folder.path().join("mine"), b"precious").expect("written");
        let refused = DemoFolder::create(folder.path()).expect_err("refused");
        assert_eq!(refused.code, "not_a_demo_folder");
        assert_eq!(std::fs::read(folder.path().join("mine")).expect("still there"), b"precious");
    }

    #[test]
    fn a_second_demo_waits_its_turn_and_the_next_one_starts_fresh() {
        let root = tempfile::tempdir().expect("a folder");
        let path = root.path().join("demo");
        let first = DemoFolder::create(&path).expect("fresh");
        first.write("left-over", b"x").expect("written");
        assert_eq!(DemoFolder::create(&path).expect_err("refused").code, "demo_running");
        drop(first);
        let second = DemoFolder::create(&path).expect("fresh again");
        assert!(!second.of("left-over").exists());
        second.remove().expect("removed");
        assert!(!path.exists());
    }
}
