//! The held-out batch: a salted Merkle tree over the pool, and the draw that nobody could predict.

use super::ids::{Blake3Hash, ContributionId, RoundNumber, RunId};
use super::manifest::HeldOutParams;
use super::transcript::RevealedWindow;

const LEAF: &str = "l402t held-out leaf v1";
const NODE: &str = "l402t held-out node v1";
const SECRET: &str = "l402t held-out secret commitment v1";
const SEED: &str = "l402t held-out seed v1";

/// Why a revealed held-out batch was refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HeldOutError {
    /// The tokens are not `window_tokens` u32 values in hex.
    #[error("held-out window {0}: its tokens are not {1} little-endian u32 values in lower-case hex")]
    BadTokens(u32, u32),
    /// The Merkle path does not lead to the run's root.
    #[error("held-out window {0}: its Merkle proof does not lead to the root in the run's manifest")]
    BadProof(u32),
}

/// What the opening publishes of the round's secret.
pub fn secret_commitment(secret: &Blake3Hash) -> Blake3Hash {
    Blake3Hash::derive(SECRET, secret.as_bytes())
}

/// A leaf: the window's place, salt and tokens.
pub fn leaf(index: u32, salt: &Blake3Hash, tokens: &[u32]) -> Blake3Hash {
    let mut bytes = Vec::with_capacity(36 + 4 * tokens.len());
    bytes.extend_from_slice(&index.to_le_bytes());
    bytes.extend_from_slice(salt.as_bytes());
    for token in tokens {
        bytes.extend_from_slice(&token.to_le_bytes());
    }
    Blake3Hash::derive(LEAF, &bytes)
}

fn parent(left: &Blake3Hash, right: &Blake3Hash) -> Blake3Hash {
    Blake3Hash::derive(NODE, &[*left.as_bytes(), *right.as_bytes()].concat())
}

/// A Merkle tree whose last node of an odd level is paired with itself.
#[derive(Clone, Debug)]
pub struct MerkleTree {
    levels: Vec<Vec<Blake3Hash>>,
}

impl MerkleTree {
    /// A tree over at least one leaf; `None` over none.
    pub fn new(leaves: Vec<Blake3Hash>) -> Option<Self> {
        let mut levels = vec![leaves];
        while levels.last()?.len() > 1 {
            let level = levels.last()?;
            let next = level.chunks(2).map(|pair| parent(&pair[0], pair.last().unwrap_or(&pair[0]))).collect();
            levels.push(next);
        }
        (!levels[0].is_empty()).then_some(Self { levels })
    }

    /// The root.
    pub fn root(&self) -> Blake3Hash {
        self.levels[self.levels.len() - 1][0]
    }

    /// The path from leaf `index` to the root; `None` if there is no such leaf.
    pub fn proof(&self, index: u32) -> Option<Vec<Blake3Hash>> {
        let mut position = index as usize;
        self.levels[0].get(position)?;
        let mut path = Vec::new();
        for level in &self.levels[..self.levels.len() - 1] {
            path.push(*level.get(position ^ 1).unwrap_or(&level[position]));
            position /= 2;
        }
        Some(path)
    }
}

fn root_of(leaf: Blake3Hash, index: u32, leaves: u32, proof: &[Blake3Hash]) -> Option<Blake3Hash> {
    let (mut node, mut position, mut width) = (leaf, index, leaves);
    for sibling in proof {
        if width <= 1 {
            return None;
        }
        node = if position % 2 == 1 {
            parent(sibling, &node)
        } else if position + 1 == width && *sibling != node {
            return None;
        } else {
            parent(&node, sibling)
        };
        position /= 2;
        width = width.div_ceil(2);
    }
    (width == 1).then_some(node)
}

/// Writes a window's tokens as the transcript carries them.
pub fn tokens_to_hex(tokens: &[u32]) -> String {
    let bytes: Vec<u8> = tokens.iter().flat_map(|t| t.to_le_bytes()).collect();
    hex::encode(bytes)
}

/// Checks a revealed window against the run's root and returns its tokens.
pub fn open_window(params: &HeldOutParams, window: &RevealedWindow) -> Result<Vec<u32>, HeldOutError> {
    let bad_tokens = || HeldOutError::BadTokens(window.index, params.window_tokens);
    let bytes = hex::decode(&window.tokens_hex).map_err(|_| bad_tokens())?;
    if bytes.len() != 4 * params.window_tokens as usize || hex::encode(&bytes) != window.tokens_hex {
        return Err(bad_tokens());
    }
    let tokens: Vec<u32> = bytes.chunks_exact(4).map(|b| u32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect();
    let bad_proof = HeldOutError::BadProof(window.index);
    if window.index >= params.windows {
        return Err(bad_proof);
    }
    let leaf = leaf(window.index, &window.salt, &tokens);
    match root_of(leaf, window.index, params.windows, &window.proof) {
        Some(root) if root == params.root => Ok(tokens),
        Some(_) | None => Err(bad_proof),
    }
}

/// The windows of a round: `windows_per_round` distinct places of the round's block, drawn with a seed that mixes the
/// coordinator's secret with every commitment of the round, in the order of commitments. Empty past the pool's end.
pub fn draw(
    params: &HeldOutParams,
    run: &RunId,
    round: RoundNumber,
    secret: &Blake3Hash,
    contributions: &[ContributionId],
) -> Vec<u32> {
    if round.0 >= params.rounds() {
        return Vec::new();
    }
    let mut hasher = blake3::Hasher::new_derive_key(SEED);
    hasher.update(run.as_bytes());
    hasher.update(&round.0.to_le_bytes());
    hasher.update(secret.as_bytes());
    for id in contributions {
        hasher.update(id.as_bytes());
    }
    let mut stream = hasher.finalize_xof();
    let first = round.0 * params.block_windows;
    let mut block: Vec<u32> = (first..first + params.block_windows).collect();
    let count = params.windows_per_round.min(params.block_windows) as usize;
    for drawn in 0..count {
        let other = drawn + uniform_below(&mut stream, (block.len() - drawn) as u64) as usize;
        block.swap(drawn, other);
    }
    block.truncate(count);
    block
}

/// A uniform integer below `bound` (at least 1) by rejection, so that no window is likelier than another.
pub fn uniform_below(stream: &mut blake3::OutputReader, bound: u64) -> u64 {
    let limit = u64::MAX - u64::MAX % bound;
    loop {
        let mut bytes = [0; 8];
        stream.fill(&mut bytes);
        let value = u64::from_le_bytes(bytes);
        if value < limit {
            return value % bound;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pool(windows: u32) -> (HeldOutParams, Vec<Vec<u32>>, MerkleTree) {
        let tokens: Vec<Vec<u32>> = (0..windows).map(|w| vec![w, w + 1, w + 2]).collect();
        let leaves = (0..windows).map(|w| leaf(w, &salt(w), &tokens[w as usize])).collect();
        let tree = MerkleTree::new(leaves).expect("not empty");
        let params = HeldOutParams {
            root: tree.root(),
            windows,
            block_windows: windows,
            windows_per_round: 2.min(windows),
            window_tokens: 3,
        };
        (params, tokens, tree)
    }

    fn salt(window: u32) -> Blake3Hash {
        Blake3Hash::of(&window.to_le_bytes())
    }

    #[test]
    fn every_window_opens_and_no_changed_one_does() {
        for windows in 1..20 {
            let (params, tokens, tree) = pool(windows);
            for index in 0..windows {
                let window = RevealedWindow {
                    index,
                    salt: salt(index),
                    tokens_hex: tokens_to_hex(&tokens[index as usize]),
                    proof: tree.proof(index).expect("a leaf"),
                };
                assert_eq!(open_window(&params, &window), Ok(tokens[index as usize].clone()));
                let mut other = window.clone();
                other.salt = salt(index + 1);
                assert!(open_window(&params, &other).is_err());
                let mut other = window.clone();
                other.index = index + 1;
                assert!(open_window(&params, &other).is_err());
                let mut other = window.clone();
                other.proof.push(params.root);
                assert!(open_window(&params, &other).is_err());
                for step in 0..window.proof.len() {
                    let mut other = window.clone();
                    other.proof[step] = salt(99);
                    assert!(open_window(&params, &other).is_err());
                }
            }
        }
    }

    #[test]
    fn a_draw_depends_on_everything_and_repeats_no_window() {
        let (mut params, _, _) = pool(64);
        params.block_windows = 32;
        params.windows_per_round = 8;
        let run = RunId::from_bytes([1; 32]);
        let secret = Blake3Hash::of(b"secret");
        let id = ContributionId::from_bytes([2; 32]);
        let drawn = draw(&params, &run, RoundNumber(1), &secret, &[id]);
        let mut sorted = drawn.clone();
        sorted.sort_unstable();
        sorted.dedup();
        assert_eq!(sorted.len(), 8);
        assert!(sorted.iter().all(|w| (32..64).contains(w)));
        assert_ne!(drawn, draw(&params, &run, RoundNumber(1), &secret, &[]));
        assert_ne!(drawn, draw(&params, &run, RoundNumber(1), &Blake3Hash::of(b"other"), &[id]));
        assert!(draw(&params, &run, RoundNumber(2), &secret, &[id]).is_empty());
    }
}
