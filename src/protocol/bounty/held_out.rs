//! The commitment to a held-out part: published with the bounty, opened when it closes.
//!
//! SHA-256 over a random salt and the sorted list of files, each with its length and its own SHA-256: with the files and the
//! salt in hand anybody checks it with `sha256sum` and a few lines of script.

use sha2::{Digest, Sha256};

const TAG: &[u8] = b"l402t bounty held-out v1\n";

/// A file of the held-out part.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HeldOutFile<'a> {
    /// Its name within the part.
    pub name: &'a str,
    /// All of it.
    pub content: &'a [u8],
}

/// Two files of one name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the held-out part has two files named {0:?}")]
pub struct DuplicateName(String);

/// `SHA-256("l402t bounty held-out v1\n" ‖ salt ‖ for each file by name: u32 length of the name ‖ name ‖ u64 length ‖
/// SHA-256 of the file)`, lengths little-endian. The order in which the files are given doesn't matter.
pub fn commitment(salt: &[u8; 32], files: &[HeldOutFile<'_>]) -> Result<[u8; 32], DuplicateName> {
    let mut sorted = files.to_vec();
    sorted.sort_unstable_by_key(|file| file.name);
    if let Some(pair) = sorted.windows(2).find(|pair| pair[0].name == pair[1].name) {
        return Err(DuplicateName(pair[0].name.to_owned()));
    }
    let mut hasher = Sha256::new();
    hasher.update(TAG);
    hasher.update(salt);
    for file in sorted {
        // A name of 4 GiB isn't one: the cast can't confuse two that a file system allows.
        hasher.update((file.name.len() as u32).to_le_bytes());
        hasher.update(file.name);
        hasher.update((file.content.len() as u64).to_le_bytes());
        hasher.update(Sha256::digest(file.content));
    }
    Ok(hasher.finalize().into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file<'a>(name: &'a str, content: &'a [u8]) -> HeldOutFile<'a> {
        HeldOutFile { name, content }
    }

    #[test]
    fn everything_counts_but_the_order() {
        let files = [file("inputs", b"1\n2\n"), file("labels", b"a\nb\n")];
        let first = commitment(&[1; 32], &files).expect("two names");
        assert_eq!(commitment(&[1; 32], &[files[1], files[0]]), Ok(first));
        let others = [
            commitment(&[2; 32], &files),
            commitment(&[1; 32], &files[..1]),
            commitment(&[1; 32], &[file("inputs", b"1\n2\n"), file("labels", b"a\nc\n")]),
            commitment(&[1; 32], &[file("inputs", b"1\n2\n"), file("label", b"sa\nb\n")]),
            commitment(&[1; 32], &[file("labels", b"1\n2\n"), file("inputs", b"a\nb\n")]),
        ];
        for other in others {
            assert_ne!(other, Ok(first));
        }
    }

    #[test]
    fn the_bytes_are_what_the_document_says() {
        let mut bytes = TAG.to_vec();
        bytes.extend([7; 32]);
        bytes.extend([6, 0, 0, 0]);
        bytes.extend(b"labels");
        bytes.extend([3, 0, 0, 0, 0, 0, 0, 0]);
        bytes.extend(Sha256::digest(b"abc"));
        let expected: [u8; 32] = Sha256::digest(bytes).into();
        assert_eq!(commitment(&[7; 32], &[file("labels", b"abc")]), Ok(expected));
    }

    #[test]
    fn one_name_twice_is_refused() {
        let twice = [file("a", b"1"), file("b", b"2"), file("a", b"3")];
        assert_eq!(commitment(&[1; 32], &twice), Err(DuplicateName("a".into())));
    }
}
