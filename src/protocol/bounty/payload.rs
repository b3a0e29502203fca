//! What a submission's commitment commits to: 32 random bytes, then the diff.
//!
//! The random bytes hide the diff: without them whoever guesses it could tell so from the commitment.

/// Random bytes before the diff.
pub const NONCE_BYTES: usize = 32;

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
    fn the_diff_comes_back_and_a_short_payload_has_none() {
        let made = encode(&[7; 32], b"--- a");
        assert_eq!((made.len() as u64, diff(&made)), (length(5), Some(b"--- a".as_slice())));
        assert_eq!(diff(&[7; 32]), Some(b"".as_slice()));
        assert_eq!(diff(&[7; 31]), None);
    }
}
