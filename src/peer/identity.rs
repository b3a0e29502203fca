//! The peer's identity key: made once, never replaced. Whoever loses it loses the rewards that are not claimed yet.

use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Read, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::Path;

use super::error::PeerError;
use crate::protocol::sign::IdentityKey;

/// In the data folder: 32 secret bytes.
const KEY_FILE: &str = "identity.key";

/// The key of a data folder, made on first use.
///
/// # Errors
/// A file that is there and is no key is [`PeerError::CorruptIdentity`], never a reason to make a new one.
pub fn load_or_create(data: &Path) -> Result<IdentityKey, PeerError> {
    let path = data.join(KEY_FILE);
    match OpenOptions::new().read(true).open(&path) {
        Ok(file) => read(&path, file),
        Err(error) if error.kind() == ErrorKind::NotFound => {
            create(data, &path)?;
            // Read back, so that what is used is what is on disk.
            let file = File::open(&path).map_err(|error| PeerError::io("read", &path, error))?;
            read(&path, file)
        }
        Err(error) => Err(PeerError::io("read", &path, error)),
    }
}

fn read(path: &Path, file: File) -> Result<IdentityKey, PeerError> {
    let corrupt = |detail: String| PeerError::CorruptIdentity { path: path.to_path_buf(), detail };
    let mode = file.metadata().map_err(|error| PeerError::io("read", path, error))?.permissions().mode();
    if mode & 0o077 != 0 {
        tracing::warn!("{} can be read by other users: chmod 600 it", path.display());
    }
    let mut bytes = Vec::with_capacity(33);
    file.take(33).read_to_end(&mut bytes).map_err(|error| PeerError::io("read", path, error))?;
    let length = if bytes.len() > 32 { "more than 32".to_owned() } else { bytes.len().to_string() };
    let secret: [u8; 32] =
        bytes.try_into().map_err(|_| corrupt(format!("it has {length} bytes where a key has 32")))?;
    IdentityKey::from_secret_bytes(&secret).ok_or_else(|| corrupt("its bytes are not a key".to_owned()))
}

/// Written and synced under another name, then linked: the key's name never shows a half-written file, and linking fails
/// rather than replace a key that appeared meanwhile.
fn create(data: &Path, path: &Path) -> Result<(), PeerError> {
    let unfinished = data.join(format!("{KEY_FILE}.new"));
    let failed = |error| PeerError::io("write", path, error);
    match std::fs::remove_file(&unfinished) {
        Err(error) if error.kind() != ErrorKind::NotFound => return Err(failed(error)),
        Ok(()) | Err(_) => {}
    }
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&unfinished).map_err(failed)?;
    file.write_all(&new_secret()?).and_then(|()| file.sync_all()).map_err(failed)?;
    std::fs::hard_link(&unfinished, path).map_err(failed)?;
    std::fs::remove_file(&unfinished).map_err(failed)?;
    File::open(data).and_then(|folder| folder.sync_all()).map_err(failed)
}

fn new_secret() -> Result<[u8; 32], PeerError> {
    let mut secret = [0; 32];
    loop {
        getrandom::fill(&mut secret)
            .map_err(|error| PeerError::io("read", Path::new("the random source"), std::io::Error::other(error)))?;
        // All but about one in 2¹²⁸ values are keys.
        if IdentityKey::from_secret_bytes(&secret).is_some() {
            return Ok(secret);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_key_is_made_once_and_kept() {
        let data = tempfile::tempdir().expect("a folder");
        let first = load_or_create(data.path()).expect("made");
        let again = load_or_create(data.path()).expect("read");
        assert_eq!(first.id(), again.id());
        let mode = std::fs::metadata(data.path().join(KEY_FILE)).expect("there").permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        assert!(!data.path().join("identity.key.new").exists());
    }

    #[test]
    fn a_damaged_key_is_an_error_and_stays_as_it_is() {
        let data = tempfile::tempdir().expect("a folder");
        let path = data.path().join(KEY_FILE);
        for damaged in [&b""[..], &[7; 31], &[7; 33], &[0; 32]] {
            std::fs::write(&path, damaged).expect("written");
            assert!(matches!(load_or_create(data.path()), Err(PeerError::CorruptIdentity { .. })));
            assert_eq!(std::fs::read(&path).expect("there"), damaged);
        }
    }

    #[test]
    fn an_interrupted_first_start_leaves_no_half_key() {
        let data = tempfile::tempdir().expect("a folder");
        std::fs::write(data.path().join("identity.key.new"), [1; 5]).expect("written");
        load_or_create(data.path()).expect("made anew");
    }
}
