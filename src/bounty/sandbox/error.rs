//! What this machine is to blame for. Nothing here is ever held against whoever wrote what runs in a box.

use std::path::{Path, PathBuf};

/// There is no sandbox here, so nothing that strangers wrote is run.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{cause}. {fix}")]
pub struct SandboxUnavailable {
    /// What is in the way.
    pub cause: String,
    /// What to do about it.
    pub fix: String,
}

impl SandboxUnavailable {
    /// What a command that needs a sandbox ends with, with exit code 69.
    pub const CODE: &'static str = "sandbox_unavailable";

    pub(super) fn new(cause: impl Into<String>, fix: impl Into<String>) -> Self {
        Self { cause: cause.into(), fix: fix.into() }
    }
}

/// A command could not be run, for no fault of its own: try again, or mend the machine.
#[derive(Debug, thiserror::Error)]
pub enum BoxError {
    /// Whoever asked is wrong.
    #[error("a box can't be made with {what}")]
    Spec {
        /// What is wrong.
        what: String,
    },
    /// Something to be mounted is missing, or is not only regular files and folders.
    #[error("{} can't be given to a box: {why}", path.display())]
    Mount {
        /// Which one.
        path: PathBuf,
        /// What is wrong.
        why: String,
    },
    /// bubblewrap ended or hung before it could start the command.
    #[error("bubblewrap could not make a box: {message}. `l402t doctor coordinate` says what is in the way")]
    NotStarted {
        /// What it said.
        message: String,
    },
    /// The box was ended from outside, or the kernel refused something.
    #[error("a box failed: {doing}: {source}")]
    Os {
        /// What was tried.
        doing: String,
        /// What the system says.
        source: std::io::Error,
    },
    /// bubblewrap's end came without the command's.
    #[error("a box was lost: bubblewrap ended ({status}) without saying how the command did: {message}")]
    Lost {
        /// Its own exit status.
        status: String,
        /// What is on stderr.
        message: String,
    },
}

impl BoxError {
    pub(super) fn os(doing: impl Into<String>) -> impl FnOnce(std::io::Error) -> Self {
        let doing = doing.into();
        move |source| BoxError::Os { doing, source }
    }

    pub(super) fn mount(path: &Path, why: impl Into<String>) -> Self {
        BoxError::Mount { path: path.to_owned(), why: why.into() }
    }
}
