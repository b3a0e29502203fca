//! Tokens in files of bounded size, in a folder named for everything that decides them. A note beside them says how far the
//! work has got: after a kill at any moment it goes on from the last whole shard, and ends with the same bytes.

use std::fs::{self, File, TryLockError};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::DatasetError;
use crate::files::Dataset;
use crate::pieces::{End, Piece, Pieces};
use crate::tokenizer::Tokenizer;

const KEY: &str = "l402t token shards v1";
const NOTE: &str = "progress.json";
/// Text that is tokenised at a time, by all cores.
const BATCH_BYTES: usize = 4 << 20;
const BATCH_PIECES: usize = 4_096;

/// What to make.
pub struct Plan<'a> {
    /// Of what.
    pub dataset: &'a Dataset,
    /// The name of the text in JSON objects and tables.
    pub field: &'a str,
    /// By what.
    pub tokenizer: &'a Tokenizer,
    /// What is put between two documents.
    pub separator: Option<u32>,
    /// A shard ends with the first piece of text that gives it so many tokens.
    pub shard_tokens: usize,
    /// A shard's bytes. Whatever changes them must change the version that is in them.
    pub encode: &'a dyn Fn(Vec<u32>) -> Result<Vec<u8>, DatasetError>,
    /// The folder that the shards' folder is made in.
    pub cache: &'a Path,
}

impl std::fmt::Debug for Plan<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Plan").field("dataset", self.dataset).field("field", &self.field).finish_non_exhaustive()
    }
}

/// A file of tokens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shard {
    /// Where it is.
    pub path: PathBuf,
    /// Tokens in it.
    pub tokens: u64,
    /// BLAKE3 of the file.
    pub hash: [u8; 32],
}

/// Is told how the work goes; says false to stop it.
pub trait Progress {
    /// So many of so many bytes of the dataset's files were read for their hash.
    fn hashed(&mut self, _bytes: u64, _of_bytes: u64) -> bool {
        true
    }

    /// So many files of so many are tokens, and so many tokens were made.
    fn tokenised(&mut self, _files: usize, _of_files: usize, _tokens: u64) -> bool {
        true
    }
}

impl Progress for () {}

/// How far the work has got.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Note {
    shards: Vec<Written>,
    /// The file to go on with, and how many of its pieces are in shards.
    file: usize,
    pieces: u64,
    /// Has a document ended, so that the next one is set apart?
    between: bool,
    complete: bool,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    tokens: u64,
    hash: String,
}

/// Makes the shards of a plan, or finds them made.
///
/// # Errors
/// The dataset's faults by file and place; a folder that can't be written; another process at the same work.
pub fn tokenise(plan: &Plan<'_>, progress: &mut dyn Progress) -> Result<Vec<Shard>, DatasetError> {
    let folder = plan.cache.join(&key(plan, progress)?[..32]);
    fs::create_dir_all(&folder).map_err(DatasetError::io("write", &folder))?;
    let _lock = lock(&folder)?;
    let note = read_note(&folder);
    let note = if note.complete { note } else { Work::resume(plan, &folder, note)?.run(progress)? };
    let shard = |(number, written): (usize, &Written)| {
        let mut hash = [0; 32];
        hex::decode_to_slice(&written.hash, &mut hash).ok()?;
        Some(Shard { path: shard_path(&folder, number), tokens: written.tokens, hash })
    };
    let shards: Option<Vec<Shard>> = note.shards.iter().enumerate().map(shard).collect();
    shards.ok_or_else(|| DatasetError::Io {
        doing: "read",
        path: folder.join(NOTE),
        source: io::Error::new(io::ErrorKind::InvalidData, "it is damaged; remove its folder"),
    })
}

/// Everything that decides the tokens, as hexadecimal digits.
fn key(plan: &Plan<'_>, progress: &mut dyn Progress) -> Result<String, DatasetError> {
    let mut hasher = blake3::Hasher::new_derive_key(KEY);
    hasher.update(&plan.tokenizer.digest());
    hasher.update(&plan.separator.map_or(u64::MAX, u64::from).to_le_bytes());
    hasher.update(&(plan.shard_tokens as u64).to_le_bytes());
    hasher.update(&(plan.field.len() as u64).to_le_bytes()).update(plan.field.as_bytes());
    let (mut bytes, of_bytes) = (0, plan.dataset.bytes());
    plan.dataset.hash_into(&mut hasher, &mut |more| {
        bytes += more;
        progress.hashed(bytes, of_bytes)
    })?;
    Ok(hasher.finalize().to_string())
}

fn lock(folder: &Path) -> Result<File, DatasetError> {
    let path = folder.join("lock");
    let file = File::create(&path).map_err(DatasetError::io("write", &path))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(DatasetError::Busy { folder: folder.to_owned() }),
        Err(TryLockError::Error(error)) => Err(DatasetError::io("write", &path)(error)),
    }
}

/// A note that can't be read is none: the work begins again.
fn read_note(folder: &Path) -> Note {
    fs::read(folder.join(NOTE)).ok().and_then(|bytes| serde_json::from_slice(&bytes).ok()).unwrap_or_default()
}

fn shard_path(folder: &Path, number: usize) -> PathBuf {
    folder.join(format!("shard-{number:05}.tokens"))
}

/// Tokenising under way.
struct Work<'a> {
    plan: &'a Plan<'a>,
    folder: &'a Path,
    note: Note,
    /// Of the shard that isn't written yet.
    tokens: Vec<u32>,
    total: u64,
}

impl<'a> Work<'a> {
    fn resume(plan: &'a Plan<'a>, folder: &'a Path, note: Note) -> Result<Self, DatasetError> {
        let there = |number: usize| shard_path(folder, number).is_file();
        let note = if (0..note.shards.len()).all(there) { note } else { Note::default() };
        let total = note.shards.iter().map(|shard| shard.tokens).sum();
        Ok(Self { plan, folder, note, tokens: Vec::new(), total })
    }

    fn run(mut self, progress: &mut dyn Progress) -> Result<Note, DatasetError> {
        let files = &self.plan.dataset.files;
        let start = self.note.file;
        for (number, file) in files.iter().enumerate().skip(start) {
            if number > start {
                (self.note.file, self.note.pieces) = (number, 0);
            }
            let mut pieces = Pieces::open(file, self.plan.field)?;
            for _ in 0..self.note.pieces {
                pieces.next().transpose()?;
            }
            while let Some(batch) = batch(&mut pieces)? {
                let texts: Vec<&str> = batch.iter().map(|piece| piece.text.as_str()).collect();
                let encoded = self.plan.tokenizer.encode(&texts)?;
                for (piece, tokens) in batch.iter().zip(encoded) {
                    self.take(piece, &tokens)?;
                }
                if !progress.tokenised(number, files.len(), self.total) {
                    return Err(DatasetError::Stopped);
                }
            }
        }
        (self.note.file, self.note.pieces, self.note.complete) = (files.len(), 0, true);
        self.write()?;
        progress.tokenised(files.len(), files.len(), self.total);
        Ok(self.note)
    }

    fn take(&mut self, piece: &Piece, tokens: &[u32]) -> Result<(), DatasetError> {
        let before = self.tokens.len();
        if self.note.between && !piece.text.is_empty() {
            self.tokens.extend(self.plan.separator);
            self.note.between = false;
        }
        self.tokens.extend_from_slice(tokens);
        self.total += (self.tokens.len() - before) as u64;
        self.note.pieces += 1;
        self.note.between |= piece.end == End::OfDocument;
        if self.tokens.len() >= self.plan.shard_tokens { self.write() } else { Ok(()) }
    }

    /// Writes the shard, then the note: whichever of them a kill prevents, the work goes on from a whole shard.
    fn write(&mut self) -> Result<(), DatasetError> {
        if !self.tokens.is_empty() {
            let tokens = std::mem::take(&mut self.tokens);
            let count = tokens.len() as u64;
            let bytes = (self.plan.encode)(tokens)?;
            replace(&shard_path(self.folder, self.note.shards.len()), &bytes)?;
            self.note.shards.push(Written { tokens: count, hash: blake3::hash(&bytes).to_string() });
        }
        let note = serde_json::to_vec(&self.note).map_err(|error| DatasetError::Io {
            doing: "write",
            path: self.folder.join(NOTE),
            source: error.into(),
        })?;
        replace(&self.folder.join(NOTE), &note)
    }
}

/// Pieces for all cores; `None` at the end.
fn batch(pieces: &mut Pieces) -> Result<Option<Vec<Piece>>, DatasetError> {
    let (mut batch, mut bytes) = (Vec::new(), 0);
    while bytes < BATCH_BYTES && batch.len() < BATCH_PIECES {
        let Some(piece) = pieces.next().transpose()? else { break };
        bytes += piece.text.len();
        batch.push(piece);
    }
    Ok((!batch.is_empty()).then_some(batch))
}

/// Replaces a file so that a crash leaves the old or the new one.
fn replace(path: &Path, bytes: &[u8]) -> Result<(), DatasetError> {
    let failed = || DatasetError::io("write", path);
    let part = path.with_added_extension("part");
    let mut file = File::create(&part).map_err(failed())?;
    file.write_all(bytes).and_then(|()| file.sync_all()).map_err(failed())?;
    fs::rename(&part, path).map_err(failed())?;
    match path.parent() {
        Some(folder) => File::open(folder).and_then(|folder| folder.sync_all()).map_err(failed()),
        None => Ok(()),
    }
}
