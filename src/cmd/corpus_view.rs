//! How far the work on a corpus has got, for people.

use crate::coordinator::corpus::CorpusProgress;
use crate::ui::{Progress, Ui, Unit};

/// Shows it. Nothing is shown of work that is done before anybody could read of it.
#[derive(Debug)]
pub(super) struct CorpusView {
    ui: Ui,
    hashing: Option<Progress>,
    tokenising: Option<Progress>,
}

/// A corpus below this is hashed in a moment.
const WORTH_SHOWING_BYTES: u64 = 1 << 30;

impl CorpusView {
    pub(super) fn new(ui: Ui) -> Self {
        Self { ui, hashing: None, tokenising: None }
    }
}

impl CorpusProgress for CorpusView {
    fn hashed(&mut self, bytes: u64, of_bytes: u64) -> bool {
        if of_bytes >= WORTH_SHOWING_BYTES {
            let ui = &self.ui;
            let bar = self.hashing.get_or_insert_with(|| ui.progress("reading the corpus", of_bytes, Unit::Bytes));
            bar.set(bytes, "");
        }
        true
    }

    fn tokenised(&mut self, files: usize, of_files: usize, tokens: u64) -> bool {
        self.hashing = None;
        let ui = &self.ui;
        let bar = self.tokenising.get_or_insert_with(|| ui.progress("tokenising", of_files as u64, Unit::Count));
        bar.set(files as u64, &format!("{:.1} million tokens", tokens as f64 / 1e6));
        true
    }
}
