//! Boxes that know how much time they took.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use l402t::bounty::evaluate::Boxes;
use l402t::bounty::sandbox::{BoxError, BoxOutcome, BoxSpec, Limits, Sandbox, Tier};
use l402t::bounty::wasm::{Measured, Task, measure};
use l402t::clock::Stopwatch;

/// A sandbox, and the time that calls of it have taken: waiting for a slot, copying what a box may read, starting it, the
/// command, ending it.
#[derive(Debug)]
pub(super) struct TimedBoxes {
    sandbox: Arc<Sandbox>,
    taken_us: AtomicU64,
}

impl TimedBoxes {
    pub(super) fn new(sandbox: Arc<Sandbox>) -> Self {
        Self { sandbox, taken_us: AtomicU64::new(0) }
    }

    /// So far.
    pub(super) fn taken_ms(&self) -> f64 {
        self.taken_us.load(Ordering::SeqCst) as f64 / 1_000.0
    }

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

    fn tier(&self) -> Tier {
        self.sandbox.tier()
    }
}
