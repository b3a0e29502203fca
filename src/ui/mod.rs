//! What people see: stdout is the result, stderr is progress and logs.
//!
//! The only place that writes to either. Must never decide what a command does.

mod progress;
mod table;

use std::io::{IsTerminal, Write};
use std::sync::Arc;

use indicatif::{MultiProgress, ProgressDrawTarget};
use serde::Serialize;
use tracing_subscriber::fmt::MakeWriter;

pub use progress::{Progress, Unit};
pub use table::{Align, Table};

/// What stdout is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// For people.
    Text,
    /// `--json`: one object, or one object a line.
    Json,
    /// Nothing: stdout is a protocol's.
    Nothing,
}

/// What stderr is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stderr {
    /// A terminal: progress bars.
    Terminal,
    /// A file or a pipe: plain lines.
    Plain,
}

/// Where a command writes. Cheap to clone; clones share one screen.
#[derive(Clone, Debug)]
pub struct Ui {
    format: Format,
    stderr: Stderr,
    bars: Arc<MultiProgress>,
}

/// What is shown when a command fails.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct ErrorReport<'a> {
    /// Stable, snake_case.
    pub code: &'a str,
    /// What failed.
    pub message: &'a str,
    /// What to do.
    pub fix: &'a str,
}

impl Ui {
    /// Writes to this process's stdout and stderr.
    pub fn new(format: Format) -> Self {
        let stderr = if std::io::stderr().is_terminal() { Stderr::Terminal } else { Stderr::Plain };
        let target = match stderr {
            Stderr::Terminal => ProgressDrawTarget::stderr(),
            Stderr::Plain => ProgressDrawTarget::hidden(),
        };
        Self { format, stderr, bars: Arc::new(MultiProgress::with_draw_target(target)) }
    }

    /// What stdout is for.
    pub fn format(&self) -> Format {
        self.format
    }

    /// A line of the result, for people: nothing is written with `--json`.
    pub fn line(&self, text: impl AsRef<str>) {
        match self.format {
            Format::Text => self.stdout_line(text.as_ref()),
            Format::Json | Format::Nothing => {}
        }
    }

    /// An object of the result, for programs: nothing is written without `--json`.
    pub fn json<T: Serialize>(&self, value: &T) {
        match self.format {
            Format::Text | Format::Nothing => {}
            Format::Json => match serde_json::to_string(value) {
                Ok(text) => self.stdout_line(&text),
                Err(error) => tracing::error!(%error, "a result could not be written as JSON"),
            },
        }
    }

    /// A whole document on stdout, as it is, for people and pipes: nothing is written with `--json`.
    pub fn document(&self, text: &str) {
        self.line(text.trim_end());
    }

    /// Is a person watching stderr?
    pub fn stderr_is_terminal(&self) -> bool {
        match self.stderr {
            Stderr::Terminal => true,
            Stderr::Plain => false,
        }
    }

    /// A line of progress on stderr.
    pub fn say(&self, text: impl AsRef<str>) {
        self.stderr_line(text.as_ref());
    }

    /// Progress towards `total`. On a terminal a bar, otherwise a line now and then.
    pub fn progress(&self, label: &str, total: u64, unit: Unit) -> Progress {
        match self.stderr {
            Stderr::Terminal => Progress::bar(&self.bars, label, total, unit),
            Stderr::Plain => Progress::plain(self.clone(), label, total, unit),
        }
    }

    /// The end of a command that failed, for people.
    pub fn error(&self, report: ErrorReport<'_>) {
        self.stderr_line(&format!("error: {}", report.message));
        if !report.fix.is_empty() {
            self.stderr_line(&format!("fix: {}", report.fix));
        }
    }

    // A reader that has gone away (`l402t … | head`) is no reason to stop a command that moves money.
    fn stdout_line(&self, text: &str) {
        self.bars.suspend(|| {
            let mut out = std::io::stdout().lock();
            let _ = writeln!(out, "{text}").and_then(|()| out.flush());
        });
    }

    fn stderr_line(&self, text: &str) {
        self.bars.suspend(|| {
            let _ = writeln!(std::io::stderr().lock(), "{text}");
        });
    }
}

/// Log lines go between the progress bars.
impl<'a> MakeWriter<'a> for Ui {
    type Writer = LogLine;

    fn make_writer(&'a self) -> LogLine {
        LogLine { ui: self.clone(), bytes: Vec::new() }
    }
}

/// One log line being written.
#[derive(Debug)]
pub struct LogLine {
    ui: Ui,
    bytes: Vec<u8>,
}

impl Write for LogLine {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.bytes.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl Drop for LogLine {
    fn drop(&mut self) {
        let text = String::from_utf8_lossy(&self.bytes);
        self.ui.stderr_line(text.trim_end());
    }
}

/// Writes one line to stderr with nothing else set up: for the panic hook.
pub fn last_words(text: &str) {
    let _ = writeln!(std::io::stderr().lock(), "{text}");
}
