//! The process's environment: its variables, and where a user's files belong. Nothing else reads it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use secrecy::{ExposeSecret, SecretSlice};

use super::{ConfigError, PREFIX};

/// The environment, as far as this program looks at it.
#[derive(Clone, Debug, Default)]
pub struct Environment {
    pub(super) variables: BTreeMap<String, String>,
    pub(super) home: Option<PathBuf>,
    pub(super) config_home: Option<PathBuf>,
    pub(super) data_home: Option<PathBuf>,
    pub(super) state_home: Option<PathBuf>,
    pub(super) temporary: PathBuf,
}

impl Environment {
    /// The process's.
    #[allow(clippy::disallowed_methods, reason = "the one place that reads the environment")]
    pub fn of_process() -> Self {
        let path = |name| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
        let variables = std::env::vars_os()
            .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
            .filter(|(name, _)| name.starts_with(PREFIX))
            .collect();
        Self {
            variables,
            home: path("HOME"),
            config_home: path("XDG_CONFIG_HOME"),
            data_home: path("XDG_DATA_HOME"),
            state_home: path("XDG_STATE_HOME"),
            temporary: std::env::temp_dir(),
        }
    }

    /// What a key refers to: the content of a file (`PATH`, `file:PATH`) or of a variable (`env:NAME`).
    ///
    /// # Errors
    /// When there is no such file or variable, or nothing in it.
    #[allow(clippy::disallowed_methods, reason = "the one place that reads the environment")]
    pub fn read_reference(&self, key: &'static str, reference: &str) -> Result<SecretSlice<u8>, ConfigError> {
        let refused = |detail: String| ConfigError::Reference { key, reference: reference.to_owned(), detail };
        let content = match reference.strip_prefix("env:") {
            Some(name) => std::env::var_os(name)
                .ok_or_else(|| refused(format!("there is no environment variable {name}")))?
                .into_encoded_bytes(),
            None => {
                let path = self.under_home(reference.strip_prefix("file:").unwrap_or(reference));
                std::fs::read(&path).map_err(|error| refused(format!("can't read {}: {error}", path.display())))?
            }
        };
        let content = SecretSlice::from(content);
        if content.expose_secret().is_empty() {
            return Err(refused("it is empty".to_owned()));
        }
        Ok(content)
    }

    fn under_home(&self, path: &str) -> PathBuf {
        match (path.strip_prefix("~/"), &self.home) {
            (Some(rest), Some(home)) => home.join(rest),
            (Some(_) | None, _) => PathBuf::from(path),
        }
    }

    /// The names of this program's variables.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.variables.keys().map(String::as_str)
    }

    /// `L402T_CONFIG`, or the user's own file if there is one.
    pub fn config_file(&self) -> Option<PathBuf> {
        if let Some(path) = self.variables.get("L402T_CONFIG") {
            return Some(PathBuf::from(path));
        }
        let folder = self.config_home.clone().or_else(|| Some(self.home.as_ref()?.join(".config")))?;
        Some(folder.join("l402t/config.toml")).filter(|path| path.exists())
    }

    /// The user's own folder for what belongs to no data folder; `None` where there is no home.
    pub(super) fn state_folder(&self) -> Option<PathBuf> {
        let folder = self.state_home.clone().or_else(|| Some(self.home.as_ref()?.join(".local/state")))?;
        Some(folder.join("l402t"))
    }

    /// Where files that nobody keeps are put: `TMPDIR`, or the system's folder for them.
    pub fn temporary_folder(&self) -> &Path {
        &self.temporary
    }

    /// `L402T_DATA`, or the user's own folder for a command; `None` where there is no home.
    pub fn data_folder(&self, command: &str) -> Option<PathBuf> {
        if let Some(path) = self.variables.get("L402T_DATA") {
            return Some(PathBuf::from(path));
        }
        let folder = self.data_home.clone().or_else(|| Some(self.home.as_ref()?.join(".local/share")))?;
        Some(folder.join("l402t").join(command))
    }
}
