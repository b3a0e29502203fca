//! The newest channel state that this machine has ever seen of a wallet, kept outside of the wallet's folder: so that an
//! old copy of the folder is noticed before it talks to anybody.
//!
//! It must never be ahead of the database, or a crash would make a good wallet look old: it is written after the database's
//! commit, and may be behind by what the system had not yet put on disk when the power went.

use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Read};
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use super::EmbeddedError;

const NUMBER_BYTES: usize = 8;
/// `u64 generation ‖ 8 bytes of its BLAKE3`, little-endian.
const RECORD_BYTES: usize = 2 * NUMBER_BYTES;

/// The open file.
#[derive(Debug)]
pub(super) struct Marker {
    file: File,
    path: PathBuf,
    unsynced: AtomicBool,
}

impl Marker {
    /// Opens the marker of a wallet in `folder`, made if need be, and says what it holds.
    pub(super) fn open(folder: &Path, node_id: &str) -> Result<(Self, Option<u64>), EmbeddedError> {
        let path = folder.join(node_id);
        let disk = |action| {
            let path = path.clone();
            move |source| EmbeddedError::Disk { action, path, source }
        };
        std::fs::DirBuilder::new().recursive(true).mode(0o700).create(folder).map_err(disk("make the folder of"))?;
        let mut options = OpenOptions::new();
        options.create(true).read(true).write(true).truncate(false).mode(0o600);
        let file = options.open(&path).map_err(disk("open"))?;
        let held = read(&file).map_err(disk("read"))?;
        let newest = held.map(|record| parse(&record).ok_or_else(|| EmbeddedError::MarkerDamaged(path.clone())));
        let newest = newest.transpose()?;
        File::open(folder).and_then(|folder| folder.sync_all()).map_err(disk("save"))?;
        Ok((Self { file, path, unsynced: AtomicBool::new(false) }, newest))
    }

    /// What a wallet's marker holds, if there is one.
    pub(super) fn look(folder: &Path, node_id: &str) -> Result<Option<u64>, EmbeddedError> {
        match folder.join(node_id).try_exists() {
            Ok(true) => Ok(Self::open(folder, node_id)?.1),
            Ok(false) => Ok(None),
            Err(source) => Err(EmbeddedError::Disk { action: "read", path: folder.join(node_id), source }),
        }
    }

    /// Notes a state that is in the database. Not on disk before [`Marker::sync`].
    pub(super) fn note(&self, generation: u64) {
        match self.file.write_all_at(&record(generation), 0) {
            Ok(()) => self.unsynced.store(true, Ordering::Release),
            Err(error) => self.warn(&error),
        }
    }

    /// Puts on disk what was noted.
    pub(super) fn sync(&self) {
        if self.unsynced.swap(false, Ordering::AcqRel)
            && let Err(error) = self.file.sync_data()
        {
            self.warn(&error);
        }
    }

    /// The wallet is sound all the same: only an old copy of it would be noticed later.
    fn warn(&self, error: &std::io::Error) {
        tracing::warn!(path = %self.path.display(), %error, "the newest channel state is not noted");
    }
}

/// `None` for a new file.
fn read(mut file: &File) -> std::io::Result<Option<[u8; RECORD_BYTES]>> {
    let mut record = [0; RECORD_BYTES];
    match file.read_exact(&mut record) {
        Ok(()) => Ok(Some(record)),
        Err(error) if error.kind() == ErrorKind::UnexpectedEof => match file.metadata()?.len() {
            0 => Ok(None),
            // Torn: it parses as damaged.
            _ => Ok(Some([0; RECORD_BYTES])),
        },
        Err(error) => Err(error),
    }
}

fn record(generation: u64) -> [u8; RECORD_BYTES] {
    let number = generation.to_le_bytes();
    let mut record = [0; RECORD_BYTES];
    record[..NUMBER_BYTES].copy_from_slice(&number);
    record[NUMBER_BYTES..].copy_from_slice(&blake3::hash(&number).as_bytes()[..NUMBER_BYTES]);
    record
}

fn parse(held: &[u8; RECORD_BYTES]) -> Option<u64> {
    let mut number = [0; NUMBER_BYTES];
    number.copy_from_slice(&held[..NUMBER_BYTES]);
    let generation = u64::from_le_bytes(number);
    (record(generation) == *held).then_some(generation)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_marker_holds_the_last_number_and_damage_is_no_number() {
        let folder = tempfile::tempdir().expect("a folder");
        let inside = folder.path().join("wallets");
        assert_eq!(Marker::look(&inside, "02aa").expect("readable"), None);
        let (marker, newest) = Marker::open(&inside, "02aa").expect("made");
        assert_eq!(newest, None);
        marker.note(7);
        marker.note(1 << 40);
        marker.sync();
        assert_eq!(Marker::look(&inside, "02aa").expect("readable"), Some(1 << 40));
        assert_eq!(Marker::look(&inside, "02bb").expect("readable"), None);
        for damaged in [vec![1; 16], vec![0; 16], vec![0; 3]] {
            std::fs::write(inside.join("02aa"), damaged).expect("written");
            assert!(matches!(Marker::look(&inside, "02aa"), Err(EmbeddedError::MarkerDamaged(_))));
        }
    }
}
