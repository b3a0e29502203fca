//! Why a chore failed, and the exit code that says so.

/// A failure a person can act on.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Failure {
    /// The process's exit code.
    pub(crate) code: u8,
    /// What failed, with which value, and what to do.
    pub(crate) message: String,
}

impl Failure {
    /// A negative answer: a test failed, a lint found something.
    pub(crate) fn negative(message: impl Into<String>) -> Self {
        Self { code: 1, message: message.into() }
    }

    /// Usage, or something about this machine that the user has to change.
    pub(crate) fn usage(message: impl Into<String>) -> Self {
        Self { code: 2, message: message.into() }
    }

    /// Something elsewhere could not be had.
    pub(crate) fn remote(message: impl Into<String>) -> Self {
        Self { code: 3, message: message.into() }
    }
}
