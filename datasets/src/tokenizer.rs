//! From text to tokens: a model's own tokenizer.json, or its bytes as they are.

use std::panic::{AssertUnwindSafe, catch_unwind};

use crate::DatasetError;

/// Largest tokenizer.json; the largest in use are below 40 MB.
pub const MAX_TOKENIZER_BYTES: u64 = 128 << 20;

/// What text is turned into tokens by.
#[derive(Debug)]
pub struct Tokenizer {
    kind: Kind,
    digest: [u8; 32],
}

#[derive(Debug)]
enum Kind {
    /// Each byte is a token.
    Bytes,
    /// Hugging Face's.
    Trained(Box<tokenizers::Tokenizer>),
}

impl Tokenizer {
    /// Each byte of the text is a token.
    pub fn bytes() -> Self {
        Self { kind: Kind::Bytes, digest: [0; 32] }
    }

    /// Hugging Face's tokenizer.json. Its padding and truncation are left out: a corpus has no sentences to fit.
    ///
    /// # Errors
    /// It is too large, no tokenizer, or makes the library give up.
    pub fn from_json(bytes: &[u8]) -> Result<Self, DatasetError> {
        let refused = |problem: String| DatasetError::Tokenizer(problem);
        if bytes.len() as u64 > MAX_TOKENIZER_BYTES {
            let problem = format!("tokenizer.json has {} bytes, more than {MAX_TOKENIZER_BYTES}", bytes.len());
            return Err(refused(problem));
        }
        let mut tokenizer = contained(|| tokenizers::Tokenizer::from_bytes(bytes))?
            .map_err(|error| refused(format!("tokenizer.json is none: {error}")))?;
        tokenizer.with_padding(None);
        tokenizer.with_truncation(None).map_err(|error| refused(error.to_string()))?;
        Ok(Self { kind: Kind::Trained(Box::new(tokenizer)), digest: *blake3::hash(bytes).as_bytes() })
    }

    /// BLAKE3 of tokenizer.json; zeros for bytes.
    pub fn digest(&self) -> [u8; 32] {
        self.digest
    }

    /// One more than its largest token.
    pub fn vocabulary(&self) -> u32 {
        match &self.kind {
            Kind::Bytes => 256,
            Kind::Trained(tokenizer) => {
                tokenizer.get_vocab(true).values().max().map_or(0, |largest| largest.saturating_add(1))
            }
        }
    }

    /// The tokens of each text, without any that mark its start or end. Uses all cores.
    pub(crate) fn encode(&self, texts: &[&str]) -> Result<Vec<Vec<u32>>, DatasetError> {
        match &self.kind {
            Kind::Bytes => Ok(texts.iter().map(|text| text.bytes().map(u32::from).collect()).collect()),
            Kind::Trained(tokenizer) => {
                let encoded = contained(|| tokenizer.encode_batch_fast(texts.to_vec(), false))?;
                let encoded =
                    encoded.map_err(|error| DatasetError::Tokenizer(format!("a text was refused: {error}")))?;
                Ok(encoded.iter().map(|encoding| encoding.get_ids().to_vec()).collect())
            }
        }
    }
}

/// The library panics at some files that are none of its own.
fn contained<T>(work: impl FnOnce() -> T) -> Result<T, DatasetError> {
    catch_unwind(AssertUnwindSafe(work)).map_err(|_| {
        DatasetError::Tokenizer("the tokenizers library broke down over tokenizer.json; is it damaged?".into())
    })
}
