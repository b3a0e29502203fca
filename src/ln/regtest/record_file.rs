//! A file of blocks or transactions: append only, fsynced before a record counts, and read back after a crash in the
//! middle of a write.
//!
//! Each record is `u32 length ‖ 8 bytes of the record's BLAKE3 ‖ record`, little-endian. It must never drop a record
//! that others follow: a damaged middle is an error, only a torn tail is cut.

use std::fs::{File, TryLockError};
use std::io::{Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use bitcoin::consensus::encode::{Decodable, Encodable, deserialize, serialize};

use super::RegtestError;

const HEADER_BYTES: usize = 12;
const CHECKSUM_BYTES: usize = 8;
/// Larger than any block.
const MAX_RECORD_BYTES: usize = 4_000_000;

/// The open file, locked for this process.
#[derive(Debug)]
pub(super) struct RecordFile {
    file: File,
    path: PathBuf,
    length: u64,
}

impl RecordFile {
    /// Opens or creates the file in `dir` and reads its records. A torn tail is cut off.
    pub(super) fn open<T: Decodable>(dir: &Path, name: &str) -> Result<(Self, Vec<T>), RegtestError> {
        let path = dir.join(name);
        let disk = |action, path: &Path| {
            let path = path.to_path_buf();
            move |source| RegtestError::Disk { action, path, source }
        };
        std::fs::create_dir_all(dir).map_err(disk("create", dir))?;
        let mut options = File::options();
        options.create(true).read(true).write(true).truncate(false);
        let file = options.open(&path).map_err(disk("open", &path))?;
        match crate::lock::lock(&file) {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(RegtestError::InUse(path)),
            Err(TryLockError::Error(source)) => return Err(RegtestError::Disk { action: "lock", path, source }),
        }
        let bytes = std::fs::read(&path).map_err(disk("read", &path))?;
        let (records, end) = read_records(&bytes, &path)?;
        let mut opened = Self { file, path, length: end as u64 };
        if end < bytes.len() {
            tracing::warn!(path = %opened.path.display(), lost = bytes.len() - end, "cut off a torn tail");
            opened.cut_back()?;
        }
        opened.file.seek(SeekFrom::Start(opened.length)).map_err(disk("read", &opened.path))?;
        Ok((opened, records))
    }

    /// Appends a record. After an error the file holds what it held before.
    pub(super) fn append(&mut self, content: &impl Encodable) -> Result<(), RegtestError> {
        let record = record(content);
        let written = self.file.write_all(&record).and_then(|()| self.file.sync_data());
        if let Err(source) = written {
            // If this fails too, the next start cuts the torn tail.
            self.cut_back().ok();
            return Err(RegtestError::Disk { action: "write", path: self.path.clone(), source });
        }
        self.length += record.len() as u64;
        Ok(())
    }

    /// Removes the last records, which must be these.
    pub(super) fn drop_last(&mut self, contents: &[impl Encodable]) -> Result<(), RegtestError> {
        let bytes: usize = contents.iter().map(|content| record(content).len()).sum();
        self.length -= bytes as u64;
        self.cut_back()
    }

    /// Removes every record.
    pub(super) fn clear(&mut self) -> Result<(), RegtestError> {
        self.length = 0;
        self.cut_back()
    }

    fn cut_back(&mut self) -> Result<(), RegtestError> {
        let cut = self.file.set_len(self.length).and_then(|()| self.file.seek(SeekFrom::Start(self.length)));
        cut.and_then(|_| self.file.sync_data()).map_err(|source| RegtestError::Disk {
            action: "shorten",
            path: self.path.clone(),
            source,
        })
    }
}

fn record(content: &impl Encodable) -> Vec<u8> {
    let bytes = serialize(content);
    let mut record = Vec::with_capacity(HEADER_BYTES + bytes.len());
    // A block has at most 4 MB.
    record.extend((bytes.len() as u32).to_le_bytes());
    record.extend(&blake3::hash(&bytes).as_bytes()[..CHECKSUM_BYTES]);
    record.extend(bytes);
    record
}

/// The records, and where the last whole one ends.
fn read_records<T: Decodable>(bytes: &[u8], path: &Path) -> Result<(Vec<T>, usize), RegtestError> {
    let (mut records, mut at) = (Vec::new(), 0);
    while at < bytes.len() {
        match read_record(&bytes[at..]) {
            Record::Whole { content, length } => {
                records.push(content);
                at += length;
            }
            Record::Torn => break,
            Record::Damaged => return Err(RegtestError::Damaged { path: path.to_path_buf(), at }),
        }
    }
    Ok((records, at))
}

enum Record<T> {
    Whole {
        content: T,
        length: usize,
    },
    /// The rest of the file is one unfinished write.
    Torn,
    Damaged,
}

fn read_record<T: Decodable>(bytes: &[u8]) -> Record<T> {
    let Some((header, rest)) = bytes.split_at_checked(HEADER_BYTES) else { return Record::Torn };
    let length = u32::from_le_bytes([header[0], header[1], header[2], header[3]]) as usize;
    if bytes.iter().all(|byte| *byte == 0) || length > rest.len() && length <= MAX_RECORD_BYTES {
        return Record::Torn;
    }
    let Some(body) = rest.get(..length) else { return Record::Damaged };
    let sound = blake3::hash(body).as_bytes()[..CHECKSUM_BYTES] == header[HEADER_BYTES - CHECKSUM_BYTES..];
    match deserialize(body) {
        Ok(content) if sound => Record::Whole { content, length: HEADER_BYTES + length },
        _ if length == rest.len() => Record::Torn,
        _ => Record::Damaged,
    }
}

#[cfg(test)]
mod tests {
    use bitcoin::blockdata::constants::genesis_block;
    use bitcoin::{Block, Network};

    use super::*;

    fn open(dir: &Path) -> Result<(RecordFile, Vec<Block>), RegtestError> {
        RecordFile::open(dir, "blocks.dat")
    }

    fn with_blocks(count: usize) -> (tempfile::TempDir, PathBuf, usize) {
        let dir = tempfile::tempdir().expect("a folder");
        let block = genesis_block(Network::Regtest);
        let (mut file, none) = open(dir.path()).expect("opens");
        assert!(none.is_empty());
        for _ in 0..count {
            file.append(&block).expect("written");
        }
        let path = dir.path().join("blocks.dat");
        (dir, path, record(&block).len())
    }

    #[test]
    fn a_tail_torn_at_any_byte_is_cut_and_the_file_goes_on() {
        let (dir, path, record_length) = with_blocks(2);
        let whole = std::fs::read(&path).expect("there");
        for torn in [1, 3, 4, 11, 12, 13, record_length - 1] {
            std::fs::write(&path, &whole[..record_length + torn]).expect("written");
            let (mut file, blocks) = open(dir.path()).expect("opens");
            assert_eq!(blocks.len(), 1, "torn after {torn} bytes");
            file.append(&blocks[0]).expect("written");
            drop(file);
            assert_eq!(std::fs::read(&path).expect("there"), whole, "torn after {torn} bytes");
        }
    }

    #[test]
    fn a_tail_of_zeros_or_of_garbage_in_place_is_cut() {
        let (dir, path, record_length) = with_blocks(2);
        let whole = std::fs::read(&path).expect("there");
        let mut zeros = whole[..record_length].to_vec();
        zeros.resize(whole.len() + 4_096, 0);
        let mut garbage = whole.clone();
        garbage[record_length + 40..].fill(0);
        for bytes in [zeros, garbage] {
            std::fs::write(&path, bytes).expect("written");
            assert_eq!(open(dir.path()).expect("opens").1.len(), 1);
        }
    }

    #[test]
    fn damage_in_the_middle_is_an_error_and_changes_nothing() {
        let (dir, path, record_length) = with_blocks(3);
        let mut bytes = std::fs::read(&path).expect("there");
        bytes[record_length + 60] ^= 1;
        std::fs::write(&path, &bytes).expect("written");
        let error = open(dir.path()).expect_err("damaged");
        assert!(matches!(error, RegtestError::Damaged { at, .. } if at == record_length), "{error}");
        assert_eq!(std::fs::read(&path).expect("there"), bytes);
    }

    #[test]
    fn a_second_opener_is_refused() {
        let dir = tempfile::tempdir().expect("a folder");
        let held = open(dir.path()).expect("opens");
        assert!(matches!(open(dir.path()), Err(RegtestError::InUse(_))));
        drop(held);
        open(dir.path()).expect("opens again");
    }
}
