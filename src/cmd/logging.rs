//! Where log lines go.

use std::path::Path;

use tracing_subscriber::EnvFilter;
use tracing_subscriber::util::SubscriberInitExt;

use super::Failure;
use crate::config::{LogConfig, LogTarget};
use crate::ui::Ui;

/// The log in a data folder.
const LOG_FILE: &str = "log.txt";

/// Starts logging, once for the process: a second call changes nothing.
pub(super) fn start(config: &LogConfig, ui: &Ui, data: Option<&Path>) -> Result<(), Failure> {
    let filter = EnvFilter::try_new(&config.filter).map_err(|error| {
        let fix = "Write it as in RUST_LOG, for example warn, info or l402t=debug";
        Failure::usage("log_filter", format_args!("{:?} is not a log filter: {error}", config.filter), fix)
    })?;
    let builder = tracing_subscriber::fmt().with_env_filter(filter);
    let started = match (config.to, data) {
        (LogTarget::File, Some(folder)) => {
            let path = folder.join(LOG_FILE);
            let file = std::fs::OpenOptions::new().create(true).append(true).open(&path);
            let file = file.map_err(|error| Failure::io("open the log", &path, &error))?;
            builder.with_ansi(false).with_writer(std::sync::Mutex::new(file)).finish().try_init()
        }
        (LogTarget::Stderr, _) | (LogTarget::File, None) => {
            builder.with_ansi(ui.stderr_is_terminal()).with_writer(ui.clone()).finish().try_init()
        }
    };
    if started.is_err() {
        tracing::debug!("logging was set up already");
    }
    Ok(())
}
