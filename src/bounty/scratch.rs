//! Folders that are gone when they are no longer needed.

use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};

/// A new folder that only this user can enter; removed with everything in it.
#[derive(Debug)]
pub struct Scratch(PathBuf);

impl Scratch {
    /// Makes one in `parent`.
    pub fn new(parent: &Path) -> io::Result<Self> {
        let mut random = [0; 8];
        getrandom::fill(&mut random).map_err(io::Error::other)?;
        let path = parent.join(format!("l402t-{}", hex::encode(random)));
        DirBuilder::new().mode(0o700).create(&path)?;
        Ok(Self(path))
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // Somebody who was not waited for may still be writing: under another name nothing more comes in.
        let gone = self.0.with_extension("gone");
        let removed = fs::rename(&self.0, &gone).and_then(|()| fs::remove_dir_all(&gone));
        if let Err(error) = removed
            && error.kind() != io::ErrorKind::NotFound
        {
            tracing::warn!(path = %gone.display(), %error, "a scratch folder stays behind");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_goes_with_all_that_is_in_it() {
        let place = tempfile::tempdir().expect("a folder");
        let scratch = Scratch::new(place.path()).expect("made");
        fs::create_dir(scratch.path().join("deep")).expect("made");
        drop(scratch);
        assert_eq!(fs::read_dir(place.path()).expect("there").count(), 0);
    }
}
