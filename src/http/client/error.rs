//! Why a call of the coordinator failed, and what to do.

use std::io;
use std::path::PathBuf;

use crate::protocol::api::ApiError;
use crate::protocol::ids::Blake3Hash;

/// A failed call.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// Not a URL that a coordinator can have.
    #[error("{url:?} is not a coordinator's URL: {reason}. Expected http://host:port or https://host")]
    BadUrl {
        /// As given.
        url: String,
        /// What is wrong.
        reason: String,
    },
    /// The HTTP client could not be set up.
    #[error("the HTTP client can't be set up: {0}")]
    SetUp(String),
    /// Nobody answered.
    #[error(
        "the coordinator at {url} can't be reached: {reason}. Check that it runs, that the address is right, and that \
         no firewall is in between"
    )]
    Unreachable {
        /// The coordinator.
        url: String,
        /// The cause.
        reason: String,
    },
    /// The answer took too long, or the connection broke, on every try.
    #[error("the coordinator at {url} gave no whole answer: {reason}. Check the connection, then try again")]
    Interrupted {
        /// The coordinator.
        url: String,
        /// The cause.
        reason: String,
    },
    /// The coordinator understood and refused.
    #[error("the coordinator refused ({status} {code}): {message}; {fix}", code = .error.code, message = .error.message, fix = .error.fix)]
    Refused {
        /// The HTTP status.
        status: u16,
        /// What and why.
        error: ApiError,
    },
    /// Not an answer of this API.
    #[error("the server at {url} does not answer like a coordinator: {what}. Check the address and both versions")]
    BadAnswer {
        /// What was asked for.
        url: String,
        /// What is wrong.
        what: String,
    },
    /// More bytes than expected of the thing asked for.
    #[error("{url} has more than {limit_bytes} bytes, the most that is taken of it")]
    TooLarge {
        /// What was asked for.
        url: String,
        /// The bound.
        limit_bytes: u64,
    },
    /// The bytes are not those of the hash.
    #[error(
        "the coordinator at {url} sent bytes with hash {got} for blob {expected}, {times} times. Its disk or the \
         connection corrupts data, or it lies: tell its operator"
    )]
    WrongBytes {
        /// The coordinator.
        url: String,
        /// What was asked for.
        expected: Blake3Hash,
        /// What came.
        got: Blake3Hash,
        /// How often.
        times: u32,
    },
    /// The file can't be written.
    #[error("can't write {}: {source}{}", path.display(), disk_hint(source))]
    Disk {
        /// The file.
        path: PathBuf,
        /// What the operating system said.
        source: io::Error,
    },
}

impl ClientError {
    /// The coordinator's stable error code, where it refused.
    pub fn code(&self) -> Option<&str> {
        match self {
            ClientError::Refused { error, .. } => Some(&error.code),
            ClientError::BadUrl { .. }
            | ClientError::SetUp(_)
            | ClientError::Unreachable { .. }
            | ClientError::Interrupted { .. }
            | ClientError::BadAnswer { .. }
            | ClientError::TooLarge { .. }
            | ClientError::WrongBytes { .. }
            | ClientError::Disk { .. } => None,
        }
    }
}

fn disk_hint(source: &io::Error) -> &'static str {
    match source.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
            ". Free some space; the download goes on from where it stopped"
        }
        _ => "",
    }
}
