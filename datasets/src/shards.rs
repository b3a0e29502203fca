//! Tokens in files of bounded size, in a folder named for everything that decides them. A note beside them says how far the
//! work has got: after a kill at any moment it goes on from the last whole shard, and ends with the same bytes.

use std::collections::VecDeque;
use std::fs::{self, File, TryLockError};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::DatasetError;
use crate::files::{Dataset, DatasetFile};
use crate::pieces::{End, PIECE_BYTES, Piece, Pieces};
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
    /// Are these all?
    complete: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    tokens: u64,
    #[serde(serialize_with = "to_digits", deserialize_with = "from_digits")]
    hash: [u8; 32],
    /// Where the next shard begins.
    end: Place,
}

fn to_digits<S: Serializer>(hash: &[u8; 32], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&hex::encode(hash))
}

fn from_digits<'de, D: Deserializer<'de>>(deserializer: D) -> Result<[u8; 32], D::Error> {
    let mut hash = [0; 32];
    hex::decode_to_slice(String::deserialize(deserializer)?, &mut hash).map_err(D::Error::custom)?;
    Ok(hash)
}

/// A place between two pieces of the dataset.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Place {
    file: usize,
    /// Of the file, before this place.
    pieces: u64,
    /// Has a document ended, so that the next one is set apart?
    between: bool,
}

/// Makes the shards of a plan, or finds them made.
///
/// # Errors
/// The dataset's faults by file and place; a folder that can't be written; another process at the same work.
pub fn tokenise(plan: &Plan<'_>, progress: &mut dyn Progress) -> Result<Vec<Shard>, DatasetError> {
    let folder = plan.cache.join(&key(plan, progress)?[..32]);
    fs::create_dir_all(&folder).map_err(DatasetError::io("write", &folder))?;
    let _lock = lock(&folder)?;
    let mut work = Work { plan, folder: &folder, note: read_note(&folder) };
    work.make_missing(progress)?;
    work.make_rest(progress)?;
    let shard = |(number, written): (usize, &Written)| {
        let Written { tokens, hash, .. } = *written;
        Shard { path: shard_path(&folder, number), tokens, hash }
    };
    Ok(work.note.shards.iter().enumerate().map(shard).collect())
}

/// Everything that decides the tokens, as hexadecimal digits.
fn key(plan: &Plan<'_>, progress: &mut dyn Progress) -> Result<String, DatasetError> {
    let mut hasher = blake3::Hasher::new_derive_key(KEY);
    hasher.update(&plan.tokenizer.digest());
    hasher.update(&plan.separator.map_or(u64::MAX, u64::from).to_le_bytes());
    // Text is cut before it is tokenised, so where it is cut decides tokens too.
    hasher.update(&(plan.shard_tokens as u64).to_le_bytes()).update(&(PIECE_BYTES as u64).to_le_bytes());
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
}

impl<'a> Work<'a> {
    /// Makes the shards again that were made and are gone. If what comes out isn't what it was (by another version of the
    /// tokenizers library), no shard counts: those of one run must be of one making.
    fn make_missing(&mut self, progress: &mut dyn Progress) -> Result<(), DatasetError> {
        let gone = |number: &usize| !shard_path(self.folder, *number).is_file();
        let gone: Vec<usize> = (0..self.note.shards.len()).filter(gone).collect();
        let mut last: Option<Reader<'_>> = None;
        for number in gone {
            let follows = last.take().filter(|reader| reader.place == self.start_of(number));
            let mut reader = follows.unwrap_or_else(|| self.reader(number));
            let tokens = reader.shard(progress)?;
            if self.write(number, tokens, reader.place)? != self.note.shards[number] {
                self.note = Note::default();
                return self.write_note();
            }
            last = Some(reader);
        }
        Ok(())
    }

    /// Makes the shards after those that were made. The note is written after each: whatever a kill prevents, the work goes on
    /// from a whole shard.
    fn make_rest(&mut self, progress: &mut dyn Progress) -> Result<(), DatasetError> {
        let mut reader = self.reader(self.note.shards.len());
        while !self.note.complete {
            let tokens = reader.shard(progress)?;
            self.note.complete = tokens.len() < self.plan.shard_tokens;
            if !tokens.is_empty() {
                let written = self.write(self.note.shards.len(), tokens, reader.place)?;
                self.note.shards.push(written);
            }
            self.write_note()?;
        }
        Ok(())
    }

    fn write_note(&self) -> Result<(), DatasetError> {
        let path = self.folder.join(NOTE);
        let note = serde_json::to_vec(&self.note).map_err(io::Error::from);
        replace(&path, &note.map_err(DatasetError::io("write", &path))?)
    }

    fn start_of(&self, number: usize) -> Place {
        number.checked_sub(1).map_or(Place::default(), |before| self.note.shards[before].end)
    }

    fn reader(&self, number: usize) -> Reader<'a> {
        let total = self.note.shards[..number].iter().map(|shard| shard.tokens).sum();
        Reader { plan: self.plan, place: self.start_of(number), pieces: None, encoded: VecDeque::new(), total }
    }

    fn write(&self, number: usize, tokens: Vec<u32>, end: Place) -> Result<Written, DatasetError> {
        let count = tokens.len() as u64;
        let bytes = (self.plan.encode)(tokens)?;
        replace(&shard_path(self.folder, number), &bytes)?;
        Ok(Written { tokens: count, hash: blake3::hash(&bytes).into(), end })
    }
}

/// The dataset as tokens, from a place on.
struct Reader<'a> {
    plan: &'a Plan<'a>,
    place: Place,
    /// Of the file that the place is in, once it is open.
    pieces: Option<Pieces>,
    /// Pieces after the place, and their tokens.
    encoded: VecDeque<(Piece, Vec<u32>)>,
    /// Tokens before the place.
    total: u64,
}

impl Reader<'_> {
    /// The tokens of the next shard: fewer than the plan says at the end of the dataset.
    fn shard(&mut self, progress: &mut dyn Progress) -> Result<Vec<u32>, DatasetError> {
        let mut shard = Vec::new();
        while shard.len() < self.plan.shard_tokens {
            let Some((piece, tokens)) = self.next(progress)? else { break };
            let before = shard.len();
            if self.place.between && !piece.text.is_empty() {
                shard.extend(self.plan.separator);
                self.place.between = false;
            }
            shard.extend_from_slice(&tokens);
            self.total += (shard.len() - before) as u64;
            self.place.pieces += 1;
            self.place.between |= piece.end == End::OfDocument;
        }
        Ok(shard)
    }

    /// The next piece; `None` at the end of the dataset.
    fn next(&mut self, progress: &mut dyn Progress) -> Result<Option<(Piece, Vec<u32>)>, DatasetError> {
        let files = &self.plan.dataset.files;
        while self.encoded.is_empty() {
            if !progress.tokenised(self.place.file, files.len(), self.total) {
                return Err(DatasetError::Stopped);
            }
            let Some(file) = files.get(self.place.file) else { return Ok(None) };
            let pieces = match &mut self.pieces {
                Some(pieces) => pieces,
                None => self.pieces.insert(pieces_from(file, self.plan.field, self.place.pieces)?),
            };
            match batch(pieces)? {
                Some(batch) => {
                    let texts: Vec<&str> = batch.iter().map(|piece| piece.text.as_str()).collect();
                    let tokens = self.plan.tokenizer.encode(&texts)?;
                    self.encoded.extend(batch.into_iter().zip(tokens));
                }
                None => {
                    self.pieces = None;
                    (self.place.file, self.place.pieces) = (self.place.file + 1, 0);
                }
            }
        }
        Ok(self.encoded.pop_front())
    }
}

/// A file's pieces without the first `done`.
fn pieces_from(file: &DatasetFile, field: &str, done: u64) -> Result<Pieces, DatasetError> {
    let mut pieces = Pieces::open(file, field)?;
    for _ in 0..done {
        if pieces.next().transpose()?.is_none() {
            break;
        }
    }
    Ok(pieces)
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

/// Replaces a file so that a crash leaves the old or the new one: the bytes reach the disk before the name does, and the name
/// before anything is written that counts on it. What is left of a `.part` is written over next time.
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
