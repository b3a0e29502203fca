//! Many simulations on every core: each is a thread's own affair.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

/// More failures than anybody reads.
const MOST_FAILURES: usize = 6;

/// Runs every case, and says which failed and how; a panic is a failure.
pub(crate) fn failures<C: std::fmt::Debug + Send>(
    cases: impl IntoIterator<Item = C, IntoIter: Send>,
    run: impl Fn(&C) -> Result<(), String> + Sync,
) -> Vec<String> {
    let cases = Mutex::new(cases.into_iter());
    let (failures, enough) = (Mutex::new(Vec::new()), AtomicBool::new(false));
    let work = || {
        while !enough.load(Ordering::Relaxed) {
            let next = cases.lock().expect("not poisoned").next();
            let Some(case) = next else { return };
            let ran = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| run(&case)));
            if let Err(text) = ran.unwrap_or_else(|_| Err(format!("{case:?} panicked"))) {
                let mut failures = failures.lock().expect("not poisoned");
                failures.push(text);
                enough.store(failures.len() >= MOST_FAILURES, Ordering::Relaxed);
            }
        }
    };
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| (0..threads).for_each(|_| drop(scope.spawn(work))));
    failures.into_inner().expect("not poisoned")
}
