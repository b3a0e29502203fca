//! An evaluator that knows how much of its time its boxes took.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use l402t::bounty::data::Exam;
use l402t::bounty::evaluate::{Boxes, EvaluateError, Evaluation, Evaluator};
use l402t::bounty::judge::Evaluate;
use l402t::bounty::lint::{self, Lint};
use l402t::bounty::load::Bounty;
use l402t::bounty::sandbox::{BoxError, BoxOutcome, BoxSpec, Limits, Sandbox, Tier};
use l402t::bounty::tree::Tree;
use l402t::bounty::wasm::{Measured, Task, measure};
use l402t::clock::Stopwatch;
use l402t::protocol::ids::UnixMs;

/// Evaluates in this machine's sandbox, as a coordinator does.
#[derive(Debug)]
pub(super) struct TimedEvaluator {
    boxes: TimedBoxes,
    scratch: PathBuf,
}

/// A sandbox, and the time that calls of it have taken: waiting for a slot, copying what a box may read, starting it, the
/// command, ending it.
#[derive(Debug)]
struct TimedBoxes {
    sandbox: Arc<Sandbox>,
    taken_us: AtomicU64,
}

impl TimedEvaluator {
    pub(super) fn new(sandbox: Arc<Sandbox>, scratch: &Path) -> Self {
        Self { boxes: TimedBoxes { sandbox, taken_us: AtomicU64::new(0) }, scratch: scratch.to_owned() }
    }

    /// Time in boxes so far.
    pub(super) fn in_boxes_ms(&self) -> f64 {
        self.boxes.taken_us.load(Ordering::SeqCst) as f64 / 1_000.0
    }

    fn evaluator<'a>(&'a self, bounty: &'a Bounty) -> Evaluator<'a> {
        Evaluator { boxes: &self.boxes, manifest: &bounty.manifest, scorer: &bounty.scorer, scratch: &self.scratch }
    }
}

impl Evaluate for TimedEvaluator {
    fn evaluate(&self, bounty: &Bounty, tree: &Tree, exam: &Exam) -> Result<Evaluation, EvaluateError> {
        self.evaluator(bounty).evaluate(tree, exam)
    }

    fn lint(&self, bounty: &Bounty, exam: &Exam, now: UnixMs) -> Result<Lint, EvaluateError> {
        lint::lint(bounty, exam, &self.evaluator(bounty), now)
    }

    fn tier(&self) -> Tier {
        self.boxes.sandbox.tier()
    }
}

impl TimedBoxes {
    fn time<T>(&self, work: impl FnOnce() -> T) -> T {
        let since = Stopwatch::start();
        let done = work();
        self.taken_us.fetch_add(since.elapsed().as_micros() as u64, Ordering::SeqCst);
        done
    }
}

impl Boxes for TimedBoxes {
    fn run(&self, spec: &BoxSpec) -> Result<BoxOutcome, BoxError> {
        self.time(|| self.sandbox.run(spec))
    }

    fn measure(&self, task: &Task, limits: &Limits) -> Result<Measured, BoxError> {
        self.time(|| measure(&self.sandbox, task, limits))
    }
}
