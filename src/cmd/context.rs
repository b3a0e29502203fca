//! What every command gets: where to write, what is configured, where its data is, when to stop.

use std::path::{Path, PathBuf};

use secrecy::SecretSlice;

use super::stop::Stop;
use super::{Failure, bug, interrupted, logging};
use crate::cli::GlobalArgs;
use crate::config::{Config, Environment};
#[cfg(feature = "mcp")]
use crate::ui::Format;
use crate::ui::Ui;

/// What every command gets.
#[derive(Clone, Debug)]
pub struct Context {
    /// Where to write.
    pub ui: Ui,
    /// Defaults, file and environment; a command lays its own flags over it.
    pub config: Config,
    /// The request to stop.
    pub stop: Stop,
    global: GlobalArgs,
    environment: Environment,
}

impl Context {
    pub(super) fn new(ui: Ui, config: Config, environment: Environment, global: GlobalArgs, stop: Stop) -> Self {
        Self { ui, config, stop, global, environment }
    }

    /// The same for a part of a command: with nothing on stdout, and stopped by itself.
    #[cfg(feature = "mcp")]
    pub(super) fn silent(self, stop: Stop) -> Self {
        Self { ui: Ui::new(Format::Nothing), stop, ..self }
    }

    /// The configuration file that was read, if any.
    pub fn config_file(&self) -> Option<PathBuf> {
        self.global.config.clone().or_else(|| self.environment.config_file())
    }

    /// The command's data folder, without making it.
    pub fn data_path(&self, command: &str) -> Result<PathBuf, Failure> {
        self.global.data.clone().or_else(|| self.environment.data_folder(command)).ok_or_else(|| {
            Failure::usage(
                "no_data_folder",
                "there is no home folder to keep data in",
                "Choose a folder with --data DIR",
            )
        })
    }

    /// The command's data folder, made if need be and for this user only, with logging set up to go there if so configured.
    pub fn open_data(&self, command: &str) -> Result<PathBuf, Failure> {
        use std::os::unix::fs::DirBuilderExt;
        let path = self.data_path(command)?;
        std::fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&path)
            .map_err(|error| Failure::io("make the data folder", &path, &error))?;
        logging::start(&self.config.log, &self.ui, Some(&path))?;
        Ok(path)
    }

    /// Where files that nobody keeps are put.
    pub fn temporary_folder(&self) -> &Path {
        self.environment.temporary_folder()
    }

    /// What a key of the configuration refers to: a file's content, or a variable's.
    pub fn read_reference(&self, key: &'static str, reference: &str) -> Result<SecretSlice<u8>, Failure> {
        let fix = "Give a path, file:PATH or env:NAME that this user can read";
        self.environment.read_reference(key, reference).map_err(|error| Failure::usage("config", error, fix))
    }

    /// Sets up logging for a command without a data folder: to stderr.
    pub fn log_to_stderr(&self) -> Result<(), Failure> {
        logging::start(&self.config.log, &self.ui, None)
    }

    /// Runs CPU work or blocking IO off the async threads. A stop does not wait for it, so it must leave nothing half done.
    pub async fn blocking<T, F>(&self, work: F) -> Result<T, Failure>
    where
        T: Send + 'static,
        F: FnOnce() -> Result<T, Failure> + Send + 'static,
    {
        tokio::select! {
            result = tokio::task::spawn_blocking(work) => result.unwrap_or_else(|_| Err(bug())),
            () = self.stop.requested() => Err(interrupted()),
        }
    }
}
