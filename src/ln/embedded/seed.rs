//! The wallet's seed: made once, kept in a file that only its owner can read, and the node key that follows from it.
//!
//! The file holds 32 random bytes, which are 24 words of BIP 39; wallets made before there were words hold 64. It must
//! never be logged, shown unasked or made anew beside an existing wallet.

use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use bitcoin::Network;
use bitcoin::bip32::{ChildNumber, Xpriv};
use ldk_node::bip39::Mnemonic;
use secp256k1::{PublicKey, SECP256K1, SecretKey};
use secrecy::{ExposeSecret, SecretBox, SecretSlice, SecretString};

use super::EmbeddedError;

const SEED_BYTES: usize = 64;
/// What 24 words hold.
const ENTROPY_BYTES: usize = 32;
const SEED_FILE: &str = "seed";

/// 64 bytes, as the file holds them or as BIP 39 derives them from the words.
pub(super) type Seed = SecretBox<[u8; SEED_BYTES]>;

/// What the seed file holds: 32 or 64 bytes.
pub(super) type SeedFile = SecretSlice<u8>;

/// Where the seed lies.
pub(super) fn path(dir: &Path) -> PathBuf {
    dir.join(SEED_FILE)
}

/// Reads the seed in `dir`, or makes one on the first start. `wallet` is the file that must not exist without its seed.
pub(super) fn load_or_create(dir: &Path, wallet: &Path) -> Result<Seed, EmbeddedError> {
    let held = match read(dir)? {
        Some(held) => held,
        None if wallet.exists() => return Err(EmbeddedError::SeedMissing(path(dir))),
        None => {
            let mut entropy = vec![0; ENTROPY_BYTES];
            getrandom::fill(&mut entropy)
                .map_err(|error| EmbeddedError::Node { action: "make its seed", reason: error.to_string() })?;
            let made = SeedFile::from(entropy);
            write(dir, &made)?;
            made
        }
    };
    seed(&held, &path(dir))
}

/// What the seed file in `dir` holds; `None` if there is none.
pub(super) fn read(dir: &Path) -> Result<Option<SeedFile>, EmbeddedError> {
    let path = path(dir);
    let disk = |source| EmbeddedError::Disk { action: "read", path: path.clone(), source };
    let file = match File::open(&path) {
        Ok(file) => file,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(disk(error)),
    };
    // One byte more than there should be, to see a file that is too long.
    let mut held = Vec::with_capacity(SEED_BYTES + 1);
    file.take(SEED_BYTES as u64 + 1).read_to_end(&mut held).map_err(disk)?;
    Ok(Some(SeedFile::from(held)))
}

/// Keeps a seed in `dir`, where none may be yet.
pub(super) fn write(dir: &Path, held: &SeedFile) -> Result<(), EmbeddedError> {
    let path = path(dir);
    write_new(dir, &path, held.expose_secret()).map_err(|source| EmbeddedError::Disk { action: "create", path, source })
}

/// The seed that a file's bytes stand for.
pub(super) fn seed(held: &SeedFile, path: &Path) -> Result<Seed, EmbeddedError> {
    let mut seed = zeroed();
    let length = held.expose_secret().len();
    match length {
        SEED_BYTES => seed.copy_from_slice(held.expose_secret()),
        ENTROPY_BYTES => *seed = mnemonic(held.expose_secret())?.to_seed_normalized(""),
        _ => return Err(EmbeddedError::SeedDamaged { path: path.to_path_buf(), length }),
    }
    Ok(SecretBox::new(seed))
}

/// The words of a seed file; `None` for one from before there were words.
pub(super) fn words(held: &SeedFile) -> Result<Option<SecretString>, EmbeddedError> {
    match held.expose_secret().len() {
        ENTROPY_BYTES => Ok(Some(SecretString::from(mnemonic(held.expose_secret())?.to_string()))),
        _ => Ok(None),
    }
}

/// The seed file that words stand for.
pub(super) fn from_words(words: &SecretString) -> Result<SeedFile, EmbeddedError> {
    // The library's errors say how many words or which place, never a word.
    let mnemonic =
        Mnemonic::parse(words.expose_secret()).map_err(|error| EmbeddedError::BadWords(error.to_string()))?;
    let entropy = mnemonic.to_entropy();
    match entropy.len() {
        ENTROPY_BYTES => Ok(SeedFile::from(entropy)),
        _ => Err(EmbeddedError::BadWords(format!("there are {} of them", mnemonic.word_count()))),
    }
}

fn mnemonic(entropy: &[u8]) -> Result<Mnemonic, EmbeddedError> {
    Mnemonic::from_entropy(entropy).map_err(|error| EmbeddedError::BadWords(error.to_string()))
}

fn zeroed() -> Box<[u8; SEED_BYTES]> {
    Box::new([0; SEED_BYTES])
}

/// All of it or nothing, on disk when it returns; never over an existing file.
fn write_new(dir: &Path, path: &Path, seed: &[u8]) -> std::io::Result<()> {
    let unfinished = dir.join("seed.new");
    std::fs::remove_file(&unfinished).or_else(|error| match error.kind() {
        std::io::ErrorKind::NotFound => Ok(()),
        _ => Err(error),
    })?;
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&unfinished)?;
    file.write_all(seed)?;
    file.sync_all()?;
    // A link, unlike a rename, fails where there is a file already.
    std::fs::hard_link(&unfinished, path)?;
    std::fs::remove_file(&unfinished)?;
    File::open(dir)?.sync_all()
}

/// The node's secret key, as ldk-node 0.7 derives it: seed → BIP 32 master → its private key is LDK's own seed → BIP 32
/// master → m/0'.
pub(super) fn node_secret(seed: &Seed, network: Network) -> Result<SecretKey, EmbeddedError> {
    let failed = |error: bitcoin::bip32::Error| EmbeddedError::Node {
        action: "derive its key",
        // The error names a path or a length, never key material.
        reason: error.to_string(),
    };
    let master = Xpriv::new_master(network, seed.expose_secret()).map_err(failed)?;
    let ldk_master = Xpriv::new_master(Network::Testnet, &master.private_key.secret_bytes()).map_err(failed)?;
    let node = ldk_master.derive_priv(SECP256K1, &[ChildNumber::Hardened { index: 0 }]).map_err(failed)?;
    Ok(node.private_key)
}

/// The node's name, 66 hex digits.
pub(super) fn node_id(seed: &Seed, network: Network) -> Result<String, EmbeddedError> {
    Ok(PublicKey::from_secret_key(SECP256K1, &node_secret(seed, network)?).to_string())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_seed_is_made_once_and_only_its_owner_can_read_it() {
        let dir = tempfile::tempdir().expect("a folder");
        let wallet = dir.path().join("wallet");
        let first = load_or_create(dir.path(), &wallet).expect("made");
        let again = load_or_create(dir.path(), &wallet).expect("read");
        assert_eq!(first.expose_secret(), again.expose_secret());
        assert_ne!(first.expose_secret(), &[0; SEED_BYTES]);
        let mode = std::fs::metadata(dir.path().join(SEED_FILE)).expect("there").permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        assert!(!format!("{first:?}").contains(&first.expose_secret()[0].to_string()));
    }

    #[test]
    fn a_wallet_without_its_seed_gets_no_new_one() {
        let dir = tempfile::tempdir().expect("a folder");
        let wallet = dir.path().join("wallet");
        std::fs::write(&wallet, "").expect("written");
        assert!(matches!(load_or_create(dir.path(), &wallet), Err(EmbeddedError::SeedMissing(_))));
        std::fs::write(dir.path().join(SEED_FILE), [1; 63]).expect("written");
        let error = load_or_create(dir.path(), &wallet).expect_err("too short");
        assert!(matches!(error, EmbeddedError::SeedDamaged { length: 63, .. }), "{error}");
    }

    #[test]
    fn words_bring_the_same_seed_back_and_an_older_seed_of_64_bytes_goes_on_working() {
        let (dir, other) = (tempfile::tempdir().expect("a folder"), tempfile::tempdir().expect("a folder"));
        let wallet = dir.path().join("wallet");
        let first = load_or_create(dir.path(), &wallet).expect("made");
        let held = read(dir.path()).expect("readable").expect("there");
        let words = words(&held).expect("sound").expect("it has words");
        assert_eq!(words.expose_secret().split(' ').count(), 24);
        write(other.path(), &from_words(&words).expect("sound")).expect("written");
        let again = load_or_create(other.path(), &wallet).expect("read");
        assert_eq!(first.expose_secret(), again.expose_secret());
        for wrong in ["abandon ", &"abandon ".repeat(24), &format!("{}about", "abandon ".repeat(11))] {
            assert!(matches!(from_words(&SecretString::from(wrong)), Err(EmbeddedError::BadWords(_))), "{wrong}");
        }
        std::fs::write(path(dir.path()), [7; 64]).expect("written");
        assert_eq!(load_or_create(dir.path(), &wallet).expect("read").expose_secret(), &[7; 64]);
        assert!(super::words(&read(dir.path()).expect("readable").expect("there")).expect("sound").is_none());
    }

    #[test]
    fn the_words_of_bip_39_give_its_seed() {
        // The standard's own test vector of 24 words, with no passphrase here.
        let words = SecretString::from(format!("{}art", "abandon ".repeat(23)));
        let seed = seed(&from_words(&words).expect("sound"), Path::new("seed")).expect("a seed");
        let expected = "408b285c123836004f4b8842c89324c1f01382450c0d439af345ba7fc49acf70";
        assert_eq!(hex::encode(&seed.expose_secret()[..32]), expected);
    }

    #[test]
    fn an_unfinished_seed_file_is_made_again() {
        let dir = tempfile::tempdir().expect("a folder");
        std::fs::write(dir.path().join("seed.new"), [7; 10]).expect("written");
        let seed = load_or_create(dir.path(), &dir.path().join("wallet")).expect("made");
        assert_ne!(seed.expose_secret()[..10], [7; 10]);
    }
}
