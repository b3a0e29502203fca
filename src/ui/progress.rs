//! Progress on stderr: a bar on a terminal, a plain line at every tenth elsewhere.

use std::sync::atomic::{AtomicU64, Ordering};

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};

use super::Ui;

/// Plain output: at most this many lines for one piece of work.
const PLAIN_LINES: u64 = 10;

/// What is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unit {
    /// Bytes.
    Bytes,
    /// Steps, rounds, windows.
    Count,
}

/// A piece of work under way. The bar goes away when this is dropped.
#[derive(Debug)]
pub struct Progress(Kind);

#[derive(Debug)]
enum Kind {
    Bar(ProgressBar),
    Plain { ui: Ui, label: String, total: u64, shown_tenths: AtomicU64 },
}

impl Progress {
    pub(super) fn bar(bars: &MultiProgress, label: &str, total: u64, unit: Unit) -> Self {
        let counts = match unit {
            Unit::Bytes => "{bytes}/{total_bytes} {binary_bytes_per_sec}",
            Unit::Count => "{pos}/{len}",
        };
        let template = format!("{{prefix}} [{{bar:30}}] {counts} {{wide_msg}}");
        let style = ProgressStyle::with_template(&template).unwrap_or_else(|_| ProgressStyle::default_bar());
        let bar =
            bars.add(ProgressBar::new(total)).with_style(style.progress_chars("=> ")).with_prefix(label.to_owned());
        Self(Kind::Bar(bar))
    }

    pub(super) fn plain(ui: Ui, label: &str, total: u64, _unit: Unit) -> Self {
        Self(Kind::Plain { ui, label: label.to_owned(), total, shown_tenths: AtomicU64::new(0) })
    }

    /// `position` of the total is done; `note` is shown beside it.
    pub fn set(&self, position: u64, note: &str) {
        match &self.0 {
            Kind::Bar(bar) => {
                bar.set_position(position);
                bar.set_message(note.to_owned());
            }
            Kind::Plain { ui, label, total, shown_tenths } => {
                let tenths =
                    (u128::from(position) * u128::from(PLAIN_LINES)).checked_div(u128::from(*total)).unwrap_or(0);
                let tenths = u64::try_from(tenths).unwrap_or(PLAIN_LINES);
                if shown_tenths.fetch_max(tenths, Ordering::Relaxed) < tenths {
                    ui.say(format!("{label} {position}/{total} {note}").trim_end());
                }
            }
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        match &self.0 {
            Kind::Bar(bar) => bar.finish_and_clear(),
            Kind::Plain { .. } => {}
        }
    }
}
