//! How far the work on a corpus has got, for people.

use super::stop::Stop;
use crate::coordinator::corpus::CorpusProgress;
use crate::ui::{Progress, Ui, Unit};

/// Shows it. Nothing is shown of work that is done before anybody could read of it, or once a stop was asked for: then the work is
/// told to end, and what is shown goes away.
#[derive(Debug)]
pub(super) struct CorpusView {
    ui: Ui,
    stop: Stop,
    hashing: Option<Progress>,
    tokenising: Option<Progress>,
}

/// A corpus below this is hashed in a moment.
const WORTH_SHOWING_BYTES: u64 = 1 << 30;

impl CorpusView {
    pub(super) fn new(ui: Ui, stop: Stop) -> Self {
        Self { ui, stop, hashing: None, tokenising: None }
    }

    fn is_stopped(&mut self) -> bool {
        let stopped = self.stop.is_requested();
        if stopped {
            (self.hashing, self.tokenising) = (None, None);
        }
        stopped
    }
}

impl CorpusProgress for CorpusView {
    fn hashed(&mut self, bytes: u64, of_bytes: u64) -> bool {
        if self.is_stopped() {
            return false;
        }
        if of_bytes >= WORTH_SHOWING_BYTES {
            let ui = &self.ui;
            let bar = self.hashing.get_or_insert_with(|| ui.progress("reading the corpus", of_bytes, Unit::Bytes));
            bar.set(bytes, "");
        }
        true
    }

    fn tokenised(&mut self, files: usize, of_files: usize, tokens: u64) -> bool {
        if self.is_stopped() {
            return false;
        }
        self.hashing = None;
        let ui = &self.ui;
        let bar = self.tokenising.get_or_insert_with(|| ui.progress("tokenising", of_files as u64, Unit::Count));
        bar.set(files as u64, &format!("{:.1} million tokens", tokens as f64 / 1e6));
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ui::Format;

    #[test]
    fn a_stop_ends_the_work_and_takes_away_what_is_shown() {
        let stop = Stop::new();
        let mut view = CorpusView::new(Ui::new(Format::Text), stop.clone());
        assert!(view.hashed(1, WORTH_SHOWING_BYTES) && view.hashing.is_some());
        assert!(view.tokenised(0, 2, 5) && view.hashing.is_none() && view.tokenising.is_some());
        stop.request();
        assert!(!view.tokenised(1, 2, 6) && view.tokenising.is_none());
        assert!(!view.hashed(2, WORTH_SHOWING_BYTES) && view.hashing.is_none());
    }
}
