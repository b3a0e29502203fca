//! The tokens that a round is scored on, checked once.

use super::JudgeError;
use crate::model::LlamaConfig;

/// Windows of equal length that the model can read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HeldOutBatch {
    windows: Vec<Vec<u32>>,
    tokens: usize,
}

impl HeldOutBatch {
    /// At least one window; all of the same length, 2 ..= max_position_embeddings + 1; every token in the vocabulary.
    pub fn new(config: &LlamaConfig, windows: Vec<Vec<u32>>) -> Result<Self, JudgeError> {
        let tokens = windows.first().map(Vec::len).ok_or(JudgeError::EmptyBatch)?;
        let longest = config.max_position_embeddings + 1;
        for (window, held) in windows.iter().enumerate() {
            let bad = |problem: String| JudgeError::Window { window, problem };
            if held.len() != tokens || !(2..=longest).contains(&tokens) {
                let problem = format!("{} tokens, where all windows have {tokens} and 2 ..= {longest} fit", held.len());
                return Err(bad(problem));
            }
            if let Some(token) = held.iter().find(|token| **token as usize >= config.vocab_size) {
                return Err(bad(format!("token {token} is not in the vocabulary of {}", config.vocab_size)));
            }
        }
        Ok(Self { windows, tokens })
    }

    /// The windows.
    pub fn windows(&self) -> &[Vec<u32>] {
        &self.windows
    }

    /// Tokens of a window that are predicted: all but the first.
    pub fn predicted_per_window(&self) -> usize {
        self.tokens - 1
    }

    /// Predicted tokens in all.
    pub fn predicted_tokens(&self) -> u64 {
        self.windows.len() as u64 * self.predicted_per_window() as u64
    }
}
