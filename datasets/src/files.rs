//! Which files make up a dataset, in which order, and what the whole is called: a hash of every byte that matters.

use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};

use crate::DatasetError;

/// Most files of a dataset.
const MAX_FILES: usize = 100_000;
/// Most folders in one another.
const MAX_DEPTH: usize = 8;
/// What a token file begins with, and a parquet file.
const TOKENS_MAGIC: &[u8] = b"\xffL402TOK";
const PARQUET_MAGIC: &[u8] = b"PAR1";

/// What a file holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Format {
    /// UTF-8 text: one document.
    Text,
    /// A JSON object a line, each a document.
    JsonLines,
    /// A table with a column of documents.
    Parquet,
    /// Tokens already.
    Tokens,
}

/// How a file's bytes are packed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Packing {
    Plain,
    Gzip,
    Zstd,
}

/// A file of a dataset.
#[derive(Clone, Debug)]
pub(crate) struct DatasetFile {
    pub(crate) path: PathBuf,
    pub(crate) format: Format,
    pub(crate) packing: Packing,
}

/// The files of a dataset, all of them token files or none.
#[derive(Clone, Debug)]
pub struct Dataset {
    root: PathBuf,
    pub(crate) files: Vec<DatasetFile>,
    left_out: usize,
}

impl Dataset {
    /// A file of any name, or every file with a known name in a folder and the folders in it, in the order of their paths.
    /// Names that begin with a dot are passed over. Beside files that are the split to train on (`train-00000-of-00002.parquet`,
    /// `train/0000.parquet`), those of the splits for validation and test are left out.
    ///
    /// # Errors
    /// Nothing readable there, nothing known in it, or token files among texts.
    pub fn find(path: &Path) -> Result<Self, DatasetError> {
        let mut files = Vec::new();
        let mut left_out = 0;
        if path.is_dir() {
            walk(path, path, 0, &mut files)?;
            if files.is_empty() {
                return Err(DatasetError::NothingKnown { folder: path.to_owned() });
            }
            let all = files.len();
            keep_training_split(path, &mut files);
            left_out = all - files.len();
            files.sort_by(|a, b| a.path.cmp(&b.path));
        } else {
            let named = by_name(path);
            let (format, packing) = match named {
                Some(known) => known,
                None => (by_content(path)?, Packing::Plain),
            };
            files.push(DatasetFile { path: path.to_owned(), format, packing });
        }
        let dataset = Self { root: path.to_owned(), files, left_out };
        let of_tokens = |file: &&DatasetFile| file.format == Format::Tokens;
        match (dataset.files.iter().find(of_tokens), dataset.files.iter().find(|file| !of_tokens(file))) {
            (Some(tokens), Some(text)) => Err(DatasetError::Mixed {
                folder: path.to_owned(),
                tokens: tokens.path.clone(),
                text: text.path.clone(),
            }),
            _ => Ok(dataset),
        }
    }

    /// The token files, if that is what it is made of.
    pub fn token_files(&self) -> Option<Vec<&Path>> {
        // All of them are, if one is.
        let of_tokens = self.files.iter().any(|file| file.format == Format::Tokens);
        of_tokens.then(|| self.files.iter().map(|file| file.path.as_path()).collect())
    }

    /// The one plain text file that it is, if it is no more than that.
    pub fn one_text(&self) -> Option<&Path> {
        match self.files.as_slice() {
            [DatasetFile { path, format: Format::Text, packing: Packing::Plain }] => Some(path),
            _ => None,
        }
    }

    /// How many files were left out because they are splits for validation and test.
    pub fn left_out(&self) -> usize {
        self.left_out
    }

    /// Where tokens that were made of it are kept: beside the file, or in the folder.
    pub fn cache_folder(&self) -> PathBuf {
        const NAME: &str = ".l402t-tokens";
        if self.root.is_dir() { self.root.join(NAME) } else { self.root.with_file_name(NAME) }
    }

    /// Adds names and contents of all files to a hash. `told` hears of bytes read, and says false to stop.
    pub(crate) fn hash_into(
        &self,
        hasher: &mut blake3::Hasher,
        told: &mut dyn FnMut(u64) -> bool,
    ) -> Result<(), DatasetError> {
        let mut buffer = vec![0; 1 << 20];
        for file in &self.files {
            let failed = || DatasetError::io("read", &file.path);
            let name = file.path.strip_prefix(&self.root).unwrap_or(&file.path).as_os_str().as_encoded_bytes();
            let mut open = File::open(&file.path).map_err(failed())?;
            let mut of_file = blake3::Hasher::new();
            loop {
                let count = open.read(&mut buffer).map_err(failed())?;
                if count == 0 {
                    break;
                }
                of_file.update(&buffer[..count]);
                if !told(count as u64) {
                    return Err(DatasetError::Stopped);
                }
            }
            // The name decides the order and the format, so it counts; of a single file only the format does.
            let name = if self.files.len() > 1 { name } else { b"" };
            hasher.update(&(name.len() as u64).to_le_bytes()).update(name).update(&[file.format as u8]);
            hasher.update(of_file.finalize().as_bytes());
        }
        Ok(())
    }

    /// Bytes of all files.
    pub(crate) fn bytes(&self) -> u64 {
        self.files.iter().filter_map(|file| fs::metadata(&file.path).ok()).map(|data| data.len()).sum()
    }
}

fn walk(root: &Path, folder: &Path, depth: usize, files: &mut Vec<DatasetFile>) -> Result<(), DatasetError> {
    let failed = || DatasetError::io("read", folder);
    for entry in fs::read_dir(folder).map_err(failed())? {
        let path = entry.map_err(failed())?.path();
        if files.len() >= MAX_FILES || depth > MAX_DEPTH {
            return Err(DatasetError::TooMany { folder: root.to_owned(), most: MAX_FILES, depth: MAX_DEPTH });
        }
        let hidden = path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b"."));
        if hidden {
            continue;
        }
        if path.is_dir() {
            walk(root, &path, depth + 1, files)?;
        } else if let Some((format, packing)) = by_name(&path) {
            files.push(DatasetFile { path, format, packing });
        }
    }
    Ok(())
}

/// What a file is for, by the names that datasets on the Hugging Face Hub have.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Split {
    Training,
    Other,
}

fn keep_training_split(root: &Path, files: &mut Vec<DatasetFile>) {
    let is = |file: &DatasetFile, split| split_of(file.path.strip_prefix(root).unwrap_or(&file.path)) == Some(split);
    if files.iter().any(|file| is(file, Split::Training)) {
        files.retain(|file| !is(file, Split::Other));
    }
}

/// Told by the first word of a folder's or the file's name.
fn split_of(path: &Path) -> Option<Split> {
    path.iter().find_map(|name| {
        let name = name.to_str()?;
        match name.split(['-', '_', '.']).next()? {
            "train" => Some(Split::Training),
            "test" | "validation" => Some(Split::Other),
            _ => None,
        }
    })
}

fn by_name(path: &Path) -> Option<(Format, Packing)> {
    let name = path.file_name()?.to_str()?.to_ascii_lowercase();
    let (stem, packing) = match name.rsplit_once('.')? {
        (stem, "gz") => (stem, Packing::Gzip),
        (stem, "zst") => (stem, Packing::Zstd),
        _ => (name.as_str(), Packing::Plain),
    };
    let format = match stem.rsplit_once('.')?.1 {
        "txt" | "text" => Format::Text,
        "jsonl" | "ndjson" => Format::JsonLines,
        "parquet" if packing == Packing::Plain => Format::Parquet,
        "tokens" if packing == Packing::Plain => Format::Tokens,
        _ => return None,
    };
    // A file called .txt may be tokens all the same.
    let plain_text = (format, packing) == (Format::Text, Packing::Plain);
    if plain_text && by_content(path).is_ok_and(|found| found == Format::Tokens) {
        return Some((Format::Tokens, packing));
    }
    Some((format, packing))
}

fn by_content(path: &Path) -> Result<Format, DatasetError> {
    let mut start = Vec::new();
    let file = File::open(path).map_err(DatasetError::io("read", path))?;
    file.take(8).read_to_end(&mut start).map_err(DatasetError::io("read", path))?;
    Ok(match start.as_slice() {
        start if start.starts_with(TOKENS_MAGIC) => Format::Tokens,
        start if start.starts_with(PARQUET_MAGIC) => Format::Parquet,
        _ => Format::Text,
    })
}
