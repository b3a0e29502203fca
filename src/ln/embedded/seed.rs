//! The wallet's seed: made once, kept in a file that only its owner can read, and the node key that follows from it.
//!
//! It must never be logged, shown or made anew beside an existing wallet.

use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use bitcoin::Network;
use bitcoin::bip32::{ChildNumber, Xpriv};
use secp256k1::{SECP256K1, SecretKey};
use secrecy::{ExposeSecret, SecretBox};

use super::EmbeddedError;

const SEED_BYTES: usize = 64;
const SEED_FILE: &str = "seed";

/// 64 random bytes.
pub(super) type Seed = SecretBox<[u8; SEED_BYTES]>;

/// Reads the seed in `dir`, or makes one on the first start. `wallet` is the file that must not exist without its seed.
pub(super) fn load_or_create(dir: &Path, wallet: &Path) -> Result<Seed, EmbeddedError> {
    let path = dir.join(SEED_FILE);
    let disk = |action| {
        let path = path.clone();
        move |source| EmbeddedError::Disk { action, path, source }
    };
    match File::open(&path) {
        Ok(file) => {
            let mut bytes = zeroed();
            // One byte more than there should be, to see a file that is too long.
            let mut held = Vec::with_capacity(SEED_BYTES + 1);
            file.take(SEED_BYTES as u64 + 1).read_to_end(&mut held).map_err(disk("read"))?;
            if held.len() != SEED_BYTES {
                return Err(EmbeddedError::SeedDamaged { path, length: held.len() });
            }
            bytes.copy_from_slice(&held);
            held.fill(0);
            Ok(SecretBox::new(bytes))
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            if wallet.exists() {
                return Err(EmbeddedError::SeedMissing(path));
            }
            let mut bytes = zeroed();
            getrandom::fill(&mut bytes[..])
                .map_err(|error| EmbeddedError::Node { action: "make its seed", reason: error.to_string() })?;
            let seed = SecretBox::new(bytes);
            write_new(dir, &path, seed.expose_secret()).map_err(disk("create"))?;
            Ok(seed)
        }
        Err(error) => Err(disk("read")(error)),
    }
}

fn zeroed() -> Box<[u8; SEED_BYTES]> {
    Box::new([0; SEED_BYTES])
}

/// All of it or nothing, on disk when it returns; never over an existing file.
fn write_new(dir: &Path, path: &Path, seed: &[u8; SEED_BYTES]) -> std::io::Result<()> {
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
    fn an_unfinished_seed_file_is_made_again() {
        let dir = tempfile::tempdir().expect("a folder");
        std::fs::write(dir.path().join("seed.new"), [7; 10]).expect("written");
        let seed = load_or_create(dir.path(), &dir.path().join("wallet")).expect("made");
        assert_ne!(seed.expose_secret()[..10], [7; 10]);
    }
}
