//! Blobs: files named by the BLAKE3 of their bytes.
//!
//! A blob is either whole and synced under its name, or not there. It never changes.

use std::fs::File;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use super::StoreError;
use crate::protocol::ids::Blake3Hash;

/// A folder of blobs. Several threads may use it at once.
#[derive(Debug)]
pub struct Blobs {
    folder: PathBuf,
    writes: AtomicU64,
}

impl Blobs {
    /// Opens the folder, making it if need be. What an interrupted write left is swept away: call once a process.
    pub fn open(folder: &Path) -> Result<Self, StoreError> {
        std::fs::create_dir_all(folder).map_err(|e| StoreError::io("make the folder", folder, e))?;
        let entries = std::fs::read_dir(folder).map_err(|e| StoreError::io("list", folder, e))?;
        for entry in entries.flatten() {
            if entry.path().extension().is_some_and(|extension| extension == "part") {
                let path = entry.path();
                std::fs::remove_file(&path).map_err(|e| StoreError::io("remove", &path, e))?;
            }
        }
        Ok(Self { folder: folder.to_owned(), writes: AtomicU64::new(0) })
    }

    /// Where a blob is, or would be.
    pub fn path(&self, hash: &Blake3Hash) -> PathBuf {
        self.folder.join(hash.to_string())
    }

    /// Is it there?
    pub fn contains(&self, hash: &Blake3Hash) -> bool {
        self.path(hash).is_file()
    }

    /// Writes a blob, synced when this returns. Writing it again costs a look.
    pub fn put(&self, bytes: &[u8]) -> Result<Blake3Hash, StoreError> {
        let hash = Blake3Hash::of(bytes);
        if !self.contains(&hash) {
            let number = self.writes.fetch_add(1, Ordering::Relaxed);
            write_synced(&self.path(&hash), &self.folder.join(format!("{hash}.{number}.part")), bytes)?;
        }
        Ok(hash)
    }

    /// Reads a blob of at most `limit` bytes and checks that its bytes are still those that were written.
    pub fn get(&self, hash: &Blake3Hash, limit: u64) -> Result<Vec<u8>, StoreError> {
        let path = self.path(hash);
        let file = match File::open(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(StoreError::NoBlob(*hash)),
            Err(error) => return Err(StoreError::io("open", &path, error)),
        };
        let length = file.metadata().map_err(|e| StoreError::io("read", &path, e))?.len();
        if length > limit {
            return Err(StoreError::LargeBlob { hash: *hash, bytes: length, limit });
        }
        let mut bytes = Vec::new();
        file.take(limit).read_to_end(&mut bytes).map_err(|e| StoreError::io("read", &path, e))?;
        if Blake3Hash::of(&bytes) != *hash {
            return Err(StoreError::DamagedBlob(*hash));
        }
        Ok(bytes)
    }
}

/// Writes a whole file so that it is there with all of its bytes or not at all: `part`, sync, rename, sync the folder.
pub fn write_synced(path: &Path, part: &Path, bytes: &[u8]) -> Result<(), StoreError> {
    let written = File::create(part).and_then(|mut file| {
        file.write_all(bytes)?;
        file.sync_all()?;
        std::fs::rename(part, path)?;
        path.parent().map_or(Ok(()), |folder| File::open(folder)?.sync_all())
    });
    written.map_err(|error| {
        // Best effort: what remains is swept away at the next start.
        let _ = std::fs::remove_file(part);
        StoreError::io("write", path, error)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn open() -> (tempfile::TempDir, Blobs) {
        let folder = tempfile::tempdir().expect("a folder");
        let blobs = Blobs::open(folder.path()).expect("opened");
        (folder, blobs)
    }

    #[test]
    fn a_blob_comes_back_by_its_hash() {
        let (_folder, blobs) = open();
        let hash = blobs.put(b"weights").expect("written");
        assert_eq!(blobs.put(b"weights").expect("known"), hash);
        assert_eq!(blobs.get(&hash, 7).expect("read"), b"weights");
        assert!(matches!(blobs.get(&hash, 6), Err(StoreError::LargeBlob { bytes: 7, limit: 6, .. })));
        assert!(matches!(blobs.get(&Blake3Hash::of(b"other"), 7), Err(StoreError::NoBlob(_))));
    }

    #[test]
    fn a_damaged_blob_is_noticed() {
        let (_folder, blobs) = open();
        let hash = blobs.put(b"weights").expect("written");
        std::fs::write(blobs.path(&hash), b"weighty").expect("damaged");
        assert!(matches!(blobs.get(&hash, 100), Err(StoreError::DamagedBlob(_))));
    }

    #[test]
    fn what_an_interrupted_write_left_is_swept_away() {
        let (folder, blobs) = open();
        let hash = blobs.put(b"weights").expect("written");
        std::fs::write(folder.path().join("abc.0.part"), b"half").expect("left over");
        let again = Blobs::open(folder.path()).expect("opened");
        assert_eq!(std::fs::read_dir(folder.path()).expect("listed").count(), 1);
        assert!(again.contains(&hash));
    }

    #[test]
    fn a_write_that_fails_leaves_nothing() {
        let folder = tempfile::tempdir().expect("a folder");
        // A folder where the file should go: the rename fails after the bytes are on disk.
        let target = folder.path().join("taken");
        std::fs::create_dir(&target).expect("made");
        let part = folder.path().join("x.part");
        assert!(write_synced(&target, &part, b"bytes").is_err());
        assert!(!part.exists());
    }
}
