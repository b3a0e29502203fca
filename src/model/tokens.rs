//! Tokens: a user's text or token file, checked against the vocabulary, and the split that keeps held-out windows out
//! of the training data.
//!
//! Works on bytes in memory and never on files; accepts nothing that it would have to repair.

use crate::protocol::held_out::uniform_below;
use crate::protocol::ids::Blake3Hash;

/// First bytes of a token file. 0xff can't begin UTF-8 text, so a token file is never taken for a text.
const MAGIC: [u8; 8] = *b"\xffL402TOK";
const VERSION: u8 = 1;
/// Magic, version (1 byte), token width in bytes (1), count (8).
pub const HEADER_BYTES: usize = 18;
const SPLIT: &str = "l402t held-out split v1";

/// Tokens of a byte vocabulary: each byte of the text is one token.
pub const BYTE_VOCAB: u32 = 256;

/// Why tokens were refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TokensError {
    /// Not text.
    #[error("the text is not UTF-8: byte {offset} starts no valid character; convert the file to UTF-8")]
    NotUtf8 {
        /// Of the first bad byte.
        offset: usize,
    },
    /// A token file cut inside its header.
    #[error("the token file ends after {bytes} bytes, inside its {HEADER_BYTES}-byte header; copy it again")]
    TruncatedHeader {
        /// The file's length.
        bytes: usize,
    },
    /// A format this build does not know.
    #[error(
        "the token file has version {0}, this program reads version {VERSION}; write the file again or update the program"
    )]
    Version(u8),
    /// Tokens are 1, 2 or 4 bytes wide.
    #[error("the token file declares tokens of {0} bytes; 1, 2 and 4 are allowed")]
    Width(u8),
    /// The body is not what the header says.
    #[error(
        "the token file declares {count} tokens of {width} bytes, but {body_bytes} bytes follow its header; copy it again"
    )]
    Length {
        /// Declared tokens.
        count: u64,
        /// Bytes a token.
        width: u8,
        /// Bytes after the header.
        body_bytes: usize,
    },
    /// A token outside the vocabulary.
    #[error(
        "token {position} is {token}, but the model's vocabulary has {vocab_size} tokens; use the model's own tokenizer"
    )]
    OutOfVocabulary {
        /// Its place, from 0.
        position: usize,
        /// The token.
        token: u32,
        /// The model's `vocab_size`.
        vocab_size: u32,
    },
    /// Too little to keep windows apart and still have something to train on.
    #[error(
        "{tokens} tokens are too few for {windows} held-out windows of {window_tokens} tokens: {needed} are needed, so \
         that no more than half is held out; use more text or fewer windows"
    )]
    TooFew {
        /// What there is.
        tokens: usize,
        /// Windows asked for.
        windows: u32,
        /// Tokens a window.
        window_tokens: u32,
        /// What it would take.
        needed: u64,
    },
}

/// Tokens, each below `vocab_size`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tokens {
    vocab_size: u32,
    data: Vec<u32>,
}

impl Tokens {
    /// Takes tokens that are all below `vocab_size`.
    pub fn new(data: Vec<u32>, vocab_size: u32) -> Result<Self, TokensError> {
        match data.iter().position(|&token| token >= vocab_size) {
            Some(position) => Err(TokensError::OutOfVocabulary { position, token: data[position], vocab_size }),
            None => Ok(Self { vocab_size, data }),
        }
    }

    /// Reads what a user gives: a token file if it begins like one, else UTF-8 text, each byte a token.
    pub fn read(bytes: &[u8], vocab_size: u32) -> Result<Self, TokensError> {
        if bytes.starts_with(&MAGIC) {
            Self::from_token_file(bytes, vocab_size)
        } else {
            Self::from_text(bytes, vocab_size)
        }
    }

    /// UTF-8 text as byte tokens.
    pub fn from_text(bytes: &[u8], vocab_size: u32) -> Result<Self, TokensError> {
        if let Err(error) = std::str::from_utf8(bytes) {
            return Err(TokensError::NotUtf8 { offset: error.valid_up_to() });
        }
        Self::new(bytes.iter().map(|&b| u32::from(b)).collect(), vocab_size)
    }

    /// A token file: see [`Tokens::to_token_file`].
    pub fn from_token_file(bytes: &[u8], vocab_size: u32) -> Result<Self, TokensError> {
        let truncated = TokensError::TruncatedHeader { bytes: bytes.len() };
        let Some((header, body)) = bytes.split_first_chunk::<HEADER_BYTES>() else { return Err(truncated) };
        let [.., version, width, c0, c1, c2, c3, c4, c5, c6, c7] = *header;
        if version != VERSION {
            return Err(TokensError::Version(version));
        }
        if !matches!(width, 1 | 2 | 4) {
            return Err(TokensError::Width(width));
        }
        let count = u64::from_le_bytes([c0, c1, c2, c3, c4, c5, c6, c7]);
        if count.checked_mul(u64::from(width)) != Some(body.len() as u64) {
            return Err(TokensError::Length { count, width, body_bytes: body.len() });
        }
        let little_endian = |token: &[u8]| token.iter().rev().fold(0, |value, &byte| value << 8 | u32::from(byte));
        Self::new(body.chunks_exact(usize::from(width)).map(little_endian).collect(), vocab_size)
    }

    /// How many tokens a token file says that it has; `start` is at least its first [`HEADER_BYTES`] bytes.
    pub fn count_in_token_file(start: &[u8]) -> Result<u64, TokensError> {
        match start.get(HEADER_BYTES - 8..).and_then(|rest| rest.first_chunk()) {
            Some(count) if start.starts_with(&MAGIC) => Ok(u64::from_le_bytes(*count)),
            Some(_) | None => Err(TokensError::TruncatedHeader { bytes: start.len() }),
        }
    }

    /// Writes the token file: magic `ff 4c343032544f4b`, version 1 (1 byte), token width (1 byte: 1, 2 or 4, the
    /// narrowest that holds the vocabulary), count (8 bytes), tokens; all little-endian, nothing after.
    pub fn to_token_file(&self) -> Vec<u8> {
        let width: u8 = match self.vocab_size {
            0..=0x100 => 1,
            0x101..=0x1_0000 => 2,
            0x1_0001.. => 4,
        };
        let mut bytes = Vec::with_capacity(HEADER_BYTES + usize::from(width) * self.data.len());
        bytes.extend_from_slice(&MAGIC);
        bytes.extend_from_slice(&[VERSION, width]);
        bytes.extend_from_slice(&(self.data.len() as u64).to_le_bytes());
        for token in &self.data {
            bytes.extend_from_slice(&token.to_le_bytes()[..usize::from(width)]);
        }
        bytes
    }

    /// The vocabulary that every token is below.
    pub fn vocab_size(&self) -> u32 {
        self.vocab_size
    }

    /// The tokens.
    pub fn as_slice(&self) -> &[u32] {
        &self.data
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.data.len()
    }

    /// Are there none?
    pub fn is_empty(&self) -> bool {
        self.data.is_empty()
    }
}

/// A corpus cut in two: no held-out token is left in the training data.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Split {
    /// What peers train on: the corpus without the windows.
    pub training: Tokens,
    /// The held-out windows of `window_tokens` tokens, in an order that says nothing about their place in the corpus.
    pub held_out: Vec<Vec<u32>>,
}

/// Takes `windows` held-out windows of `window_tokens` tokens out of a corpus: one from each of `windows` equal
/// stretches, at a place drawn from `seed`, so that they cover the whole corpus and can't overlap; then shuffles them.
/// The seed is the coordinator's secret: whoever knows it and the corpus knows the windows.
pub fn split_held_out(
    tokens: &Tokens,
    window_tokens: u32,
    windows: u32,
    seed: &Blake3Hash,
) -> Result<Split, TokensError> {
    let mut cut = HeldOutCut::new(tokens.len() as u64, window_tokens, windows, seed)?;
    let training = cut.take(tokens);
    Ok(Split { training, held_out: cut.finish() })
}

/// [`split_held_out`] of a corpus that comes in shards.
#[derive(Debug)]
pub struct HeldOutCut {
    /// Where in the corpus each window begins, ascending.
    starts: Vec<u64>,
    window_tokens: usize,
    /// What has been found of each window.
    windows: Vec<Vec<u32>>,
    /// Tokens of the shards so far.
    seen: u64,
    stream: blake3::OutputReader,
}

impl HeldOutCut {
    /// Of a corpus of so many tokens.
    pub fn new(tokens: u64, window_tokens: u32, windows: u32, seed: &Blake3Hash) -> Result<Self, TokensError> {
        let needed = 2 * u64::from(window_tokens) * u64::from(windows);
        if tokens < needed {
            let tokens = usize::try_from(tokens).unwrap_or(usize::MAX);
            return Err(TokensError::TooFew { tokens, windows, window_tokens, needed });
        }
        let mut stream = blake3::Hasher::new_derive_key(SPLIT).update(seed.as_bytes()).finalize_xof();
        let stretch_end = |window: u128| (window * u128::from(tokens) / u128::from(windows)) as u64;
        let starts = (0..u128::from(windows)).map(|window| {
            let places = stretch_end(window + 1) - stretch_end(window) - u64::from(window_tokens) + 1;
            stretch_end(window) + uniform_below(&mut stream, places)
        });
        let starts = starts.collect();
        let windows = vec![Vec::new(); windows as usize];
        Ok(Self { starts, window_tokens: window_tokens as usize, windows, seen: 0, stream })
    }

    /// The next shard without the windows in it. A window may begin in one shard and end in the next.
    pub fn take(&mut self, shard: &Tokens) -> Tokens {
        let (from, to) = (self.seen, self.seen + shard.len() as u64);
        let mut training = Vec::with_capacity(shard.len());
        let mut kept_to = 0;
        let width = self.window_tokens as u64;
        let first = self.starts.partition_point(|start| start + width <= from);
        for (start, window) in self.starts[first..].iter().zip(&mut self.windows[first..]) {
            if *start >= to {
                break;
            }
            let begin = start.saturating_sub(from) as usize;
            let end = (start + width).min(to).saturating_sub(from) as usize;
            training.extend_from_slice(&shard.data[kept_to..begin]);
            window.extend_from_slice(&shard.data[begin..end]);
            kept_to = end;
        }
        training.extend_from_slice(&shard.data[kept_to..]);
        self.seen = to;
        Tokens { vocab_size: shard.vocab_size, data: training }
    }

    /// The windows, shuffled. Complete once the shards had as many tokens as was said.
    pub fn finish(mut self) -> Vec<Vec<u32>> {
        for last in (1..self.windows.len()).rev() {
            self.windows.swap(last, uniform_below(&mut self.stream, last as u64 + 1) as usize);
        }
        self.windows
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn counted(count: u32) -> Tokens {
        Tokens::new((0..count).collect(), count.max(1)).expect("below the count")
    }

    #[test]
    fn each_byte_of_a_text_is_a_token() {
        let tokens = Tokens::read("né\0".as_bytes(), BYTE_VOCAB).expect("valid");
        assert_eq!(tokens.as_slice(), [0x6e, 0xc3, 0xa9, 0]);
    }

    #[test]
    fn text_that_is_not_utf8_is_refused_with_the_place() {
        assert_eq!(Tokens::read(b"abc\xc3(", BYTE_VOCAB), Err(TokensError::NotUtf8 { offset: 3 }));
        assert_eq!(Tokens::read(&MAGIC[..7], BYTE_VOCAB), Err(TokensError::NotUtf8 { offset: 0 }));
    }

    #[test]
    fn a_token_outside_the_vocabulary_is_refused_with_its_place() {
        let expected = TokensError::OutOfVocabulary { position: 1, token: 98, vocab_size: 98 };
        assert_eq!(Tokens::read(b"ab", 98), Err(expected.clone()));
        let file = Tokens::from_text(b"ab", BYTE_VOCAB).expect("valid").to_token_file();
        assert_eq!(Tokens::read(&file, 98), Err(expected));
    }

    #[test]
    fn the_token_file_stays_what_it_was() {
        let file = Tokens::new(vec![1, 0x203], 0x204).expect("valid").to_token_file();
        let (header, body) = ("ff4c343032544f4b01020200000000000000", "01000302");
        assert_eq!(hex::encode(file), [header, body].concat());
    }

    proptest! {
        #[test]
        fn a_token_file_reads_back(
            vocab_size in prop::sample::select(vec![2_u32, 256, 257, 65_536, 65_537, u32::MAX]),
            values in prop::collection::vec(any::<u32>(), 0..50),
        ) {
            let tokens = Tokens::new(values.iter().map(|v| v % vocab_size).collect(), vocab_size).expect("in range");
            prop_assert_eq!(Tokens::read(&tokens.to_token_file(), vocab_size), Ok(tokens));
        }

        #[test]
        fn hostile_bytes_never_panic(tail in prop::collection::vec(any::<u8>(), 0..64)) {
            let _ = Tokens::read(&[&MAGIC[..], &tail].concat(), BYTE_VOCAB);
        }

        #[test]
        fn windows_are_whole_apart_and_gone_from_the_training_data(
            window_tokens in 1_u32..9, windows in 1_u32..20, spare in 0_u32..100, seed in any::<u8>(),
        ) {
            let tokens = counted(2 * window_tokens * windows + spare);
            let split = split_held_out(&tokens, window_tokens, windows, &Blake3Hash::of(&[seed])).expect("enough");
            prop_assert_eq!(split.held_out.len(), windows as usize);
            for window in &split.held_out {
                prop_assert_eq!(window.len(), window_tokens as usize);
                prop_assert!(window.windows(2).all(|pair| pair[1] == pair[0] + 1));
            }
            prop_assert!(split.training.as_slice().is_sorted());
            let mut all = [split.held_out.concat(), split.training.as_slice().to_vec()].concat();
            all.sort_unstable();
            prop_assert_eq!(&all[..], tokens.as_slice());
        }
    }

    #[test]
    fn truncated_extended_and_foreign_token_files_are_refused() {
        let file = Tokens::new(vec![1, 2, 300], 301).expect("valid").to_token_file();
        assert_eq!(Tokens::read(&file[..17], 301), Err(TokensError::TruncatedHeader { bytes: 17 }));
        for cut in HEADER_BYTES..file.len() {
            assert!(matches!(Tokens::read(&file[..cut], 301), Err(TokensError::Length { count: 3, width: 2, .. })));
        }
        let longer = [&file[..], &[0]].concat();
        assert_eq!(Tokens::read(&longer, 301), Err(TokensError::Length { count: 3, width: 2, body_bytes: 7 }));
        let mut changed = file.clone();
        changed[8] = 2;
        assert_eq!(Tokens::read(&changed, 301), Err(TokensError::Version(2)));
        changed = file.clone();
        changed[9] = 3;
        assert_eq!(Tokens::read(&changed, 301), Err(TokensError::Width(3)));
        changed = file;
        changed[17] = 0xff; // a count that overflows when multiplied by the width
        assert!(matches!(Tokens::read(&changed, 301), Err(TokensError::Length { .. })));
    }

    #[test]
    fn shards_are_cut_as_the_whole_is_wherever_they_end() {
        let tokens = counted(4_000);
        let whole = split_held_out(&tokens, 10, 50, &Blake3Hash::of(b"a")).expect("enough");
        for size in [1, 7, 10, 333, 3_999, 4_000, 9_999] {
            let mut cut = HeldOutCut::new(4_000, 10, 50, &Blake3Hash::of(b"a")).expect("enough");
            let mut training = Vec::new();
            for shard in tokens.as_slice().chunks(size) {
                let shard = Tokens::new(shard.to_vec(), 4_000).expect("valid");
                training.extend_from_slice(cut.take(&shard).as_slice());
            }
            assert!(training == whole.training.as_slice(), "shards of {size}");
            assert_eq!(cut.finish(), whole.held_out, "shards of {size}");
        }
    }

    #[test]
    fn the_split_follows_the_seed_alone() {
        let tokens = counted(4_000);
        let split = |seed: &[u8]| split_held_out(&tokens, 10, 50, &Blake3Hash::of(seed)).expect("enough");
        assert_eq!(split(b"a"), split(b"a"));
        assert_ne!(split(b"a").training, split(b"b").training);
        assert!(!split(b"a").held_out.is_sorted(), "the order gives the places away");
    }

    #[test]
    fn a_corpus_of_which_more_than_half_would_be_held_out_is_refused() {
        let refused = split_held_out(&counted(79), 10, 4, &Blake3Hash::of(b""));
        assert_eq!(refused, Err(TokensError::TooFew { tokens: 79, windows: 4, window_tokens: 10, needed: 80 }));
        assert!(split_held_out(&counted(80), 10, 4, &Blake3Hash::of(b"")).is_ok());
    }
}
