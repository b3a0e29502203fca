//! What a run trains on: from the corpus that its settings name to token shards, and the held-out windows out of them.
//!
//! Short texts of bytes go through memory. Everything longer is read shard by shard, and what had to be tokenised is kept
//! beside the corpus, so that a kill in the middle and the next run on the same corpus cost nothing.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use super::error::CoordinatorError;
use super::settings::RunSettings;
use crate::model::LlamaConfig;
use crate::model::tokens::{BYTE_VOCAB, HEADER_BYTES, HeldOutCut, Tokens};
use crate::protocol::ids::Blake3Hash;
use crate::protocol::manifest::ShardParams;
use crate::protocol::shards::MAX_SHARDS;

/// Tokens of a shard: what a peer reads at a time, and has in memory as u32.
#[cfg(feature = "datasets")]
const SHARD_TOKENS: usize = 1 << 24;
/// A text of bytes up to this size isn't kept as tokens.
const SHORT_TEXT_BYTES: u64 = 16 << 20;
/// Largest token file of a folder that somebody made elsewhere.
const MAX_SHARD_BYTES: u64 = 4 << 30;
const TOKENIZER_FILE: &str = "tokenizer.json";

/// Is told how long work on a corpus goes; says false to stop it.
pub trait CorpusProgress {
    /// So many of so many bytes were read to see whether the tokens are there already.
    fn hashed(&mut self, bytes: u64, of_bytes: u64) -> bool;
    /// So many of so many files are tokens, so many tokens in all.
    fn tokenised(&mut self, files: usize, of_files: usize, tokens: u64) -> bool;
}

/// Watches nothing.
impl CorpusProgress for () {
    fn hashed(&mut self, _: u64, _: u64) -> bool {
        true
    }

    fn tokenised(&mut self, _: usize, _: usize, _: u64) -> bool {
        true
    }
}

/// A corpus whose tokens can be read.
#[derive(Debug)]
pub struct Corpus {
    shards: Vec<Shard>,
    vocabulary: u32,
    /// tokenizer.json, if the tokens were made by one.
    pub(super) tokenizer: Option<Vec<u8>>,
}

/// Where a shard's tokens are.
#[derive(Debug)]
enum Shard {
    Memory(Tokens),
    File {
        path: PathBuf,
        tokens: u64,
        /// Of tokens that were made here.
        hash: Option<[u8; 32]>,
    },
}

impl Corpus {
    /// Makes the tokens that the settings ask for, or finds them made.
    ///
    /// # Errors
    /// The settings name no corpus; it can't be read or used; its tokens are not the model's.
    pub fn open(settings: &RunSettings, progress: &mut dyn CorpusProgress) -> Result<Self, CoordinatorError> {
        let model = settings.model.as_deref().ok_or(CoordinatorError::MissingSetting { key: "model" })?;
        let path = settings.corpus.as_deref().ok_or(CoordinatorError::MissingSetting { key: "corpus" })?;
        let (config_path, tokenizer_path) = beside_the_model(model, settings.tokenizer.as_deref());
        let config = read_file(&config_path)?;
        let vocabulary = u32::try_from(LlamaConfig::from_json(&config)?.vocab_size).unwrap_or(u32::MAX);
        let tokenizer = tokenizer_path.as_deref().map(read_file).transpose()?;
        let corpus = find(path, settings, tokenizer.as_deref(), end_of_text(&config), vocabulary, progress)?;
        let shards = corpus.shards.len();
        if shards > MAX_SHARDS {
            let problem = format!("it has {shards} shards, more than {MAX_SHARDS}: join them to fewer files");
            return Err(CoordinatorError::bad_corpus(path, problem));
        }
        Ok(corpus)
    }

    /// Tokens in all.
    pub(super) fn tokens(&self) -> u64 {
        let count = |shard: &Shard| match shard {
            Shard::Memory(tokens) => tokens.len() as u64,
            Shard::File { tokens, .. } => *tokens,
        };
        self.shards.iter().map(count).sum()
    }

    /// Takes the held-out windows out of the shards, one shard at a time, and hands on what is left for training.
    pub(super) fn split(
        &self,
        mut cut: HeldOutCut,
        mut keep: impl FnMut(&Tokens) -> Result<Blake3Hash, CoordinatorError>,
    ) -> Result<(Vec<ShardParams>, Vec<Vec<u32>>), CoordinatorError> {
        let mut params = Vec::with_capacity(self.shards.len());
        for shard in &self.shards {
            let training = match shard {
                Shard::Memory(tokens) => cut.take(tokens),
                Shard::File { path, hash, .. } => cut.take(&self.read(path, hash.as_ref())?),
            };
            params.push(ShardParams { hash: keep(&training)?, tokens: training.len() as u64 });
        }
        Ok((params, cut.finish()))
    }

    fn read(&self, path: &Path, hash: Option<&[u8; 32]>) -> Result<Tokens, CoordinatorError> {
        let refused = |problem: &str| CoordinatorError::bad_corpus(path, problem);
        let bytes = read_file(path)?;
        if hash.is_some_and(|hash| blake3::hash(&bytes) != *hash) {
            return Err(refused("this shard isn't what was written: remove it, and it is made again"));
        }
        Tokens::from_token_file(&bytes, self.vocabulary).map_err(|error| refused(&error.to_string()))
    }
}

/// The model's config.json, and the tokenizer.json that goes with it.
fn beside_the_model(model: &Path, named: Option<&Path>) -> (PathBuf, Option<PathBuf>) {
    let (config, folder) = if model.is_dir() {
        (model.join("config.json"), Some(model))
    } else {
        // Any other file may lie in a folder with the tokenizers of others.
        (model.to_owned(), model.parent().filter(|_| model.file_name().is_some_and(|name| name == "config.json")))
    };
    let found = folder.map(|folder| folder.join(TOKENIZER_FILE)).filter(|path| path.is_file());
    (config, named.map(Path::to_owned).or(found))
}

/// What config.json says that ends a text: the first of them if there are several.
fn end_of_text(config: &[u8]) -> Option<u32> {
    let config: serde_json::Value = serde_json::from_slice(config).ok()?;
    let token = match config.get("eos_token_id")? {
        serde_json::Value::Array(several) => several.first()?,
        one => one,
    };
    token.as_u64().and_then(|token| u32::try_from(token).ok())
}

fn read_file(path: &Path) -> Result<Vec<u8>, CoordinatorError> {
    std::fs::read(path).map_err(CoordinatorError::unreadable(path))
}

/// Byte tokens are what a model of bytes reads, and no other.
fn needs_tokenizer(path: &Path, vocabulary: u32) -> CoordinatorError {
    let problem = format!(
        "it is text, and the model has a vocabulary of {vocabulary} tokens: put the model's tokenizer.json beside its \
         config.json, or name it as tokenizer under [run]"
    );
    CoordinatorError::bad_corpus(path, problem)
}

fn token_files(paths: &[&Path], vocabulary: u32) -> Result<Corpus, CoordinatorError> {
    let shard = |path: &&Path| {
        let unreadable = CoordinatorError::unreadable(path);
        let file = File::open(path).map_err(&unreadable)?;
        let bytes = file.metadata().map_err(&unreadable)?.len();
        let refused = |problem: String| CoordinatorError::bad_corpus(path, problem);
        if bytes > MAX_SHARD_BYTES {
            return Err(refused(format!("a token file of {bytes} bytes; {MAX_SHARD_BYTES} are the most")));
        }
        let mut header = Vec::new();
        file.take(HEADER_BYTES as u64).read_to_end(&mut header).map_err(&unreadable)?;
        let tokens = Tokens::count_in_token_file(&header).map_err(|error| refused(error.to_string()))?;
        // A count that isn't true is refused when the file is read; until then it must not overflow a sum.
        if tokens > bytes {
            return Err(refused(format!(
                "its header says {tokens} tokens, but it has {bytes} bytes in all; copy it again"
            )));
        }
        Ok(Shard::File { path: path.to_path_buf(), tokens, hash: None })
    };
    let shards = paths.iter().map(shard).collect::<Result<_, _>>()?;
    Ok(Corpus { shards, vocabulary, tokenizer: None })
}

/// The bytes of one text as tokens.
fn short_text(path: &Path, vocabulary: u32) -> Result<Corpus, CoordinatorError> {
    let tokens = Tokens::read(&read_file(path)?, vocabulary)?;
    Ok(Corpus { shards: vec![Shard::Memory(tokens)], vocabulary, tokenizer: None })
}

#[cfg(feature = "datasets")]
fn find(
    path: &Path,
    settings: &RunSettings,
    tokenizer_json: Option<&[u8]>,
    separator: Option<u32>,
    vocabulary: u32,
    progress: &mut dyn CorpusProgress,
) -> Result<Corpus, CoordinatorError> {
    use l402t_datasets::{Dataset, DatasetError, Plan, Progress, Tokenizer, tokenise};

    struct Watched<'a>(&'a mut dyn CorpusProgress);
    impl Progress for Watched<'_> {
        fn hashed(&mut self, bytes: u64, of_bytes: u64) -> bool {
            self.0.hashed(bytes, of_bytes)
        }
        fn tokenised(&mut self, files: usize, of_files: usize, tokens: u64) -> bool {
            self.0.tokenised(files, of_files, tokens)
        }
    }

    let dataset = Dataset::find(path)?;
    if dataset.left_out() > 0 {
        tracing::info!(files = dataset.left_out(), "the splits for validation and test are left out of the corpus");
    }
    if let Some(paths) = dataset.token_files() {
        return token_files(&paths, vocabulary);
    }
    let tokenizer = match tokenizer_json {
        Some(json) => Tokenizer::from_json(json)?,
        None if vocabulary > BYTE_VOCAB => return Err(needs_tokenizer(path, vocabulary)),
        None => Tokenizer::bytes(),
    };
    if tokenizer_json.is_some() && tokenizer.vocabulary() > vocabulary {
        return Err(CoordinatorError::BadSetting {
            key: "tokenizer",
            value: settings.tokenizer.as_deref().unwrap_or(Path::new(TOKENIZER_FILE)).display().to_string(),
            problem: format!(
                "its tokens go up to {}, the model's vocabulary has {vocabulary}: it is another model's",
                tokenizer.vocabulary() - 1
            ),
        });
    }
    if let (Some(text), None) = (dataset.one_text(), tokenizer_json) {
        let bytes = std::fs::metadata(text).map_or(0, |data| data.len());
        if bytes <= SHORT_TEXT_BYTES {
            return short_text(text, vocabulary);
        }
    }
    // A model of bytes has nothing that ends a text but a byte that no text has.
    let separator = if tokenizer_json.is_some() { separator } else { Some(0) };
    let encode = |tokens: Vec<u32>| match Tokens::new(tokens, vocabulary) {
        Ok(tokens) => Ok(tokens.to_token_file()),
        Err(error) => Err(DatasetError::Tokenizer(error.to_string())),
    };
    let plan = Plan {
        dataset: &dataset,
        field: &settings.text_field,
        tokenizer: &tokenizer,
        separator: separator.filter(|token| *token < vocabulary),
        shard_tokens: SHARD_TOKENS,
        encode: &encode,
        cache: &dataset.cache_folder(),
    };
    let made = tokenise(&plan, &mut Watched(progress))?;
    let shard =
        |shard: l402t_datasets::Shard| Shard::File { path: shard.path, tokens: shard.tokens, hash: Some(shard.hash) };
    let tokenizer = tokenizer_json.map(<[u8]>::to_vec);
    Ok(Corpus { shards: made.into_iter().map(shard).collect(), vocabulary, tokenizer })
}

/// Without the feature: one token file, or one text of bytes.
#[cfg(not(feature = "datasets"))]
fn find(
    path: &Path,
    _: &RunSettings,
    tokenizer_json: Option<&[u8]>,
    _: Option<u32>,
    vocabulary: u32,
    _: &mut dyn CorpusProgress,
) -> Result<Corpus, CoordinatorError> {
    let unreadable = CoordinatorError::unreadable(path);
    let mut start = Vec::new();
    let file = File::open(path).map_err(&unreadable)?;
    file.take(HEADER_BYTES as u64).read_to_end(&mut start).map_err(&unreadable)?;
    if Tokens::count_in_token_file(&start).is_ok() {
        return token_files(&[path], vocabulary);
    }
    let short = std::fs::metadata(path).map_err(&unreadable)?.len() <= SHORT_TEXT_BYTES;
    if tokenizer_json.is_some() || !short {
        let problem =
            "this l402t was built without the feature datasets: it takes a token file, or a short text of bytes";
        return Err(CoordinatorError::bad_corpus(path, problem));
    }
    if vocabulary > BYTE_VOCAB {
        return Err(needs_tokenizer(path, vocabulary));
    }
    short_text(path, vocabulary)
}

#[cfg(all(test, feature = "datasets"))]
mod tests;
