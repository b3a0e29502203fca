//! The folder of aggregates: those of the last closed rounds. Whatever is missing here is only slower for somebody, who downloads
//! a whole checkpoint instead; so nothing else may depend on it.

use std::path::{Path, PathBuf};

use super::StoreError;
use super::blobs::write_synced;
use crate::protocol::ids::RoundNumber;

/// The most aggregates that are kept. Fewer, if they are together longer than a checkpoint: nobody would catch up by them.
const MOST_KEPT: usize = 64;
const EXTENSION: &str = "l4ag";

/// The folder.
#[derive(Debug)]
pub struct Aggregates(PathBuf);

impl Aggregates {
    /// Opens the folder, making it if need be.
    pub fn open(folder: PathBuf) -> Result<Self, StoreError> {
        std::fs::create_dir_all(&folder).map_err(|e| StoreError::io("make the folder", &folder, e))?;
        Ok(Self(folder))
    }

    /// A round's aggregate, if it is here.
    pub fn find(&self, round: RoundNumber) -> Option<PathBuf> {
        Some(self.path(round)).filter(|path| path.is_file())
    }

    /// Writes a round's aggregate: there with all of its bytes or not at all. Written again after a crash, it is the same.
    pub fn put(&self, round: RoundNumber, aggregate: &[u8]) -> Result<(), StoreError> {
        write_synced(&self.path(round), &self.0.join("new.part"), aggregate)
    }

    /// Removes what is too old: the newest stay as long as they are together at most `most_bytes`.
    pub fn tidy(&self, most_bytes: u64) -> Result<(), StoreError> {
        let mut kept = self.list()?;
        kept.sort_unstable_by_key(|(round, ..)| std::cmp::Reverse(*round));
        let mut sum = 0_u64;
        for (place, (_, path, bytes)) in kept.iter().enumerate() {
            sum = sum.saturating_add(*bytes);
            if place >= MOST_KEPT || sum > most_bytes {
                std::fs::remove_file(path).map_err(|e| StoreError::io("remove", path, e))?;
            }
        }
        Ok(())
    }

    fn path(&self, round: RoundNumber) -> PathBuf {
        self.0.join(format!("{round}.{EXTENSION}"))
    }

    /// Round, file and length of each.
    fn list(&self) -> Result<Vec<(RoundNumber, PathBuf, u64)>, StoreError> {
        let failed = |error| StoreError::io("list", &self.0, error);
        let mut files = Vec::new();
        for entry in std::fs::read_dir(&self.0).map_err(failed)? {
            let entry = entry.map_err(failed)?;
            let path = entry.path();
            if let Some(round) = round_of(&path) {
                files.push((round, path, entry.metadata().map_err(failed)?.len()));
            }
        }
        Ok(files)
    }
}

/// The round that a file of ours belongs to.
fn round_of(path: &Path) -> Option<RoundNumber> {
    path.extension().filter(|extension| *extension == EXTENSION)?;
    path.file_stem()?.to_str()?.parse().ok().map(RoundNumber)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rounds(aggregates: &Aggregates) -> Vec<u32> {
        let mut rounds: Vec<u32> = aggregates.list().expect("listed").iter().map(|(round, ..)| round.0).collect();
        rounds.sort_unstable();
        rounds
    }

    #[test]
    fn the_newest_are_kept_while_they_are_shorter_than_a_checkpoint() {
        let folder = tempfile::tempdir().expect("a folder");
        let aggregates = Aggregates::open(folder.path().join("aggregates")).expect("opened");
        std::fs::write(folder.path().join("aggregates/notes.txt"), b"somebody's").expect("written");
        for round in 0..100 {
            aggregates.put(RoundNumber(round), &[7; 10]).expect("written");
            aggregates.tidy(1_000).expect("tidied");
        }
        assert_eq!(rounds(&aggregates), (36..100).collect::<Vec<_>>());
        aggregates.tidy(49).expect("tidied");
        assert_eq!(rounds(&aggregates), [96, 97, 98, 99]);
        aggregates.put(RoundNumber(100), &[7; 50]).expect("written");
        aggregates.tidy(49).expect("tidied");
        assert!(rounds(&aggregates).is_empty());
        assert_eq!(std::fs::read_dir(folder.path().join("aggregates")).expect("listed").count(), 1);
    }

    #[test]
    fn what_a_crash_left_is_no_aggregate_and_is_written_over() {
        let folder = tempfile::tempdir().expect("a folder");
        let aggregates = Aggregates::open(folder.path().to_path_buf()).expect("opened");
        std::fs::write(folder.path().join("new.part"), b"half of").expect("written");
        assert_eq!(aggregates.find(RoundNumber(3)), None);
        aggregates.put(RoundNumber(3), b"whole").expect("written");
        let path = aggregates.find(RoundNumber(3)).expect("there");
        assert_eq!(std::fs::read(path).expect("read"), b"whole");
        assert!(!folder.path().join("new.part").exists());
    }
}
