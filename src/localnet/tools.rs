//! Where the programs are.

use std::path::{Path, PathBuf};

use super::LocalnetError;

/// A folder with the programs `btcd` and `lnd`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tools {
    folder: PathBuf,
}

impl Tools {
    /// Looks that both programs are in `folder`.
    ///
    /// # Errors
    /// When one is missing.
    pub fn in_folder(folder: &Path) -> Result<Self, LocalnetError> {
        for program in ["btcd", "lnd"] {
            if !folder.join(program).is_file() {
                return Err(LocalnetError::NoTool { program, folder: folder.to_owned() });
            }
        }
        Ok(Self { folder: folder.to_owned() })
    }

    /// The folder.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    pub(super) fn btcd(&self) -> PathBuf {
        self.folder.join("btcd")
    }

    pub(super) fn lnd(&self) -> PathBuf {
        self.folder.join("lnd")
    }
}
