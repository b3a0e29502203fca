//! How a command ends: its exit code, and for an error what failed and what to do.

use std::fmt;

use crate::bounty::sandbox::SandboxUnavailable;

/// The exit codes, the same for every command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ExitCode {
    /// Done.
    Ok,
    /// Done, and the answer is no: rejected, or not identical.
    Negative,
    /// Wrong usage or configuration: nothing was changed.
    Usage,
    /// Another machine failed, refused or did not answer.
    Remote,
    /// A payment could not be made or received.
    Payment,
    /// The sandbox can't be set up here.
    Sandbox,
    /// A bug in this program.
    Bug,
    /// Stopped by SIGINT or SIGTERM.
    Interrupted,
}

impl ExitCode {
    /// The process's exit status.
    pub const fn status(self) -> u8 {
        match self {
            ExitCode::Ok => 0,
            ExitCode::Negative => 1,
            ExitCode::Usage => 2,
            ExitCode::Remote => 3,
            ExitCode::Payment => 4,
            ExitCode::Sandbox => 69,
            ExitCode::Bug => 70,
            ExitCode::Interrupted => 130,
        }
    }
}

impl From<ExitCode> for std::process::ExitCode {
    fn from(code: ExitCode) -> Self {
        std::process::ExitCode::from(code.status())
    }
}

/// Why a command failed. What is shown to people and, with `--json`, to programs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// How the process ends.
    pub exit: ExitCode,
    /// Stable, snake_case.
    pub code: String,
    /// What failed, with which value; never a secret.
    pub message: String,
    /// What to do.
    pub fix: String,
}

impl Failure {
    /// A failure with every part given.
    pub fn new(exit: ExitCode, code: &str, message: impl fmt::Display, fix: impl fmt::Display) -> Self {
        Self { exit, code: code.to_owned(), message: message.to_string(), fix: fix.to_string() }
    }

    /// A negative answer.
    pub fn negative(code: &str, message: impl fmt::Display, fix: impl fmt::Display) -> Self {
        Self::new(ExitCode::Negative, code, message, fix)
    }

    /// Wrong usage or configuration.
    pub fn usage(code: &str, message: impl fmt::Display, fix: impl fmt::Display) -> Self {
        Self::new(ExitCode::Usage, code, message, fix)
    }

    /// Another machine failed.
    pub fn remote(code: &str, message: impl fmt::Display, fix: impl fmt::Display) -> Self {
        Self::new(ExitCode::Remote, code, message, fix)
    }

    /// A payment failed.
    pub fn payment(code: &str, message: impl fmt::Display, fix: impl fmt::Display) -> Self {
        Self::new(ExitCode::Payment, code, message, fix)
    }

    /// Something that can only be a mistake in this program.
    pub fn bug(message: impl fmt::Display) -> Self {
        Self::new(ExitCode::Bug, "bug", message, "Please report this with the command and the lines above")
    }

    /// A file or folder of this machine that can't be read or written.
    pub fn io(doing: &str, path: &std::path::Path, error: &std::io::Error) -> Self {
        let fix = match error.kind() {
            std::io::ErrorKind::StorageFull => "Free some disk space, then start again: nothing is lost",
            std::io::ErrorKind::PermissionDenied => "Give this user access to it, or choose another folder with --data",
            _ => "Check the path and the disk, then start again",
        };
        Self::usage("io", format_args!("could not {doing} {}: {error}", path.display()), fix)
    }
}

impl From<SandboxUnavailable> for Failure {
    fn from(SandboxUnavailable { cause, fix }: SandboxUnavailable) -> Self {
        Self::new(ExitCode::Sandbox, SandboxUnavailable::CODE, cause, fix)
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Failure {}
