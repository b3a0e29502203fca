//! What a submission's commitment commits to: 32 bytes that nobody else can tell, then the diff.
//!
//! Those bytes hide the diff: without them whoever guesses it could tell so from the commitment. An agent makes them from its own
//! key, so that the same submission is the same payload each time, and is found again in its journal.

use serde::Serialize;

use super::score::Score;
use crate::protocol::ids::{Blake3Hash, RunId};
use crate::protocol::sign::{IdentityKey, canonical_json};

/// Bytes before the diff.
pub const NONCE_BYTES: usize = 32;

/// What an agent's nonce is for.
const NONCE_CONTEXT: &str = "l402t submission nonce v1";

/// The bytes that hide an agent's diff: others for each run, claim and `attempt` with the same diff.
pub fn nonce(key: &IdentityKey, run: RunId, diff: &[u8], claim: Score, attempt: u32) -> [u8; NONCE_BYTES] {
    #[derive(Serialize)]
    struct Hidden {
        run: RunId,
        diff: Blake3Hash,
        claim: Score,
        attempt: u32,
    }
    let hidden = Hidden { run, diff: Blake3Hash::of(diff), claim, attempt };
    key.secret_for(NONCE_CONTEXT, &canonical_json(&hidden))
}

/// A payload.
pub fn encode(nonce: &[u8; NONCE_BYTES], diff: &[u8]) -> Vec<u8> {
    [nonce.as_slice(), diff].concat()
}

/// Its diff; `None` where it is too short to have one.
pub fn diff(payload: &[u8]) -> Option<&[u8]> {
    payload.get(NONCE_BYTES..)
}

/// Bytes of a payload with a diff of so many.
pub const fn length(diff_bytes: u64) -> u64 {
    NONCE_BYTES as u64 + diff_bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_nonce_is_the_same_for_the_same_submission_alone() {
        let key = |byte| IdentityKey::from_secret_bytes(&[byte; 32]).expect("a key");
        let run = |byte| RunId::from_bytes([byte; 32]);
        let score = |units| Score::from_units(units).expect("in range");
        let first = nonce(&key(1), run(1), b"diff", score(5), 0);
        assert_eq!(first, nonce(&key(1), run(1), b"diff", score(5), 0));
        let others = [
            nonce(&key(2), run(1), b"diff", score(5), 0),
            nonce(&key(1), run(2), b"diff", score(5), 0),
            nonce(&key(1), run(1), b"dif", score(5), 0),
            nonce(&key(1), run(1), b"diff", score(6), 0),
            nonce(&key(1), run(1), b"diff", score(5), 1),
        ];
        assert!(others.iter().all(|other| *other != first));
    }

    #[test]
    fn the_diff_comes_back_and_a_short_payload_has_none() {
        let made = encode(&[7; 32], b"--- a");
        assert_eq!((made.len() as u64, diff(&made)), (length(5), Some(b"--- a".as_slice())));
        assert_eq!(diff(&[7; 32]), Some(b"".as_slice()));
        assert_eq!(diff(&[7; 31]), None);
    }
}
