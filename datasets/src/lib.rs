//! Datasets as they are found (plain text, JSONL, parquet in the Hugging Face layout; gzip and zstd around the first two)
//! turned into token shards: once, in bounded memory, to be gone on with after a kill.
//!
//! Here are the heavy dependencies that only whoever starts a run needs. Knows nothing of runs, peers or models: what a
//! shard's bytes look like is handed in. A dataset is its owner's, but may be damaged: everything is bounded, every error
//! names file and place.

mod files;
mod parquet;
mod pieces;
mod shards;
mod tokenizer;

#[cfg(test)]
mod tests;

use std::io;
use std::path::{Path, PathBuf};

pub use files::Dataset;
pub use shards::{Plan, Progress, Shard, tokenise};
pub use tokenizer::{MAX_TOKENIZER_BYTES, Tokenizer};

/// Why a dataset was refused.
#[derive(Debug, thiserror::Error)]
pub enum DatasetError {
    /// A file or folder can't be read or written.
    #[error("could not {doing} {path}: {source}")]
    Io {
        /// "read", "write".
        doing: &'static str,
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A compressed file that ends too early.
    #[error("{path} ends in the middle of its compressed data: it was cut off; copy it again")]
    Truncated {
        /// Which.
        path: PathBuf,
    },
    /// A folder without datasets.
    #[error(
        "{folder} has no file that is a dataset: .txt, .jsonl (each also as .gz or .zst), .parquet, or .tokens were looked for"
    )]
    NothingKnown {
        /// Which.
        folder: PathBuf,
    },
    /// A folder of absurd size or depth.
    #[error("{folder} has more than {most} files or is more than {depth} folders deep; name a smaller folder")]
    TooMany {
        /// Which.
        folder: PathBuf,
        /// Files at most.
        most: usize,
        /// Folders in one another at most.
        depth: usize,
    },
    /// Token files and texts in one folder.
    #[error("{folder} has both token files ({tokens}) and text ({text}); keep them in folders of their own")]
    Mixed {
        /// Which.
        folder: PathBuf,
        /// One of the token files.
        tokens: PathBuf,
        /// One of the others.
        text: PathBuf,
    },
    /// No text in a file.
    #[error("{path} has no text in it; remove it, or check how it was made")]
    Empty {
        /// Which.
        path: PathBuf,
    },
    /// Not text.
    #[error("{path} is not UTF-8: byte {offset} of its text starts no valid character; convert the file to UTF-8")]
    NotUtf8 {
        /// Which.
        path: PathBuf,
        /// Of the first bad byte, in the text after decompression.
        offset: u64,
    },
    /// A line that isn't a document.
    #[error("{path}, line {line}: {problem}")]
    Line {
        /// Which file.
        path: PathBuf,
        /// From 1.
        line: u64,
        /// What is wrong with it.
        problem: String,
    },
    /// A parquet file that can't be used.
    #[error("{path}: {problem}")]
    Parquet {
        /// Which.
        path: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
    /// A tokenizer.json that can't be used.
    #[error("tokenizer: {0}")]
    Tokenizer(String),
    /// The shards of another process.
    #[error("{folder} is being written by another process; wait for it, or stop it")]
    Busy {
        /// Which.
        folder: PathBuf,
    },
    /// The caller asked to stop; what is done is kept.
    #[error("tokenising was stopped; the next start goes on from there")]
    Stopped,
}

impl DatasetError {
    fn io<'a>(doing: &'static str, path: &'a Path) -> impl FnOnce(io::Error) -> Self + 'a {
        move |source| match source.kind() {
            io::ErrorKind::UnexpectedEof => Self::Truncated { path: path.to_owned() },
            _ => Self::Io { doing, path: path.to_owned(), source },
        }
    }
}
