//! Threads. How work is split can't change a bit: a part's result depends on the part alone.

use std::num::NonZeroUsize;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::{Isa, fp_env};

/// An instruction set and a number of threads. Threads live for one call only: a call is a whole forward pass, next to
/// which starting them costs nothing.
#[derive(Clone, Copy, Debug)]
pub struct Pool {
    isa: Isa,
    threads: NonZeroUsize,
}

impl Pool {
    /// Runs on `isa` with `threads` threads.
    pub fn new(isa: Isa, threads: NonZeroUsize) -> Self {
        Self { isa, threads }
    }

    /// The fastest instruction set, on all cores that the process may use.
    pub fn all_cores() -> Self {
        Self::new(Isa::best(), std::thread::available_parallelism().unwrap_or(NonZeroUsize::MIN))
    }

    /// The instruction set.
    pub fn isa(&self) -> Isa {
        self.isa
    }

    /// How many threads.
    pub fn threads(&self) -> usize {
        self.threads.get()
    }

    /// Calls `work(scratch, part)` once for each part in `0..parts`, in any order, on as many threads as there are entries in
    /// `scratch` (at least one), with DF32's floating-point environment.
    pub fn run<S: Send>(&self, scratch: &mut [S], parts: usize, work: impl Fn(&mut S, usize) + Sync) {
        let next = AtomicUsize::new(0);
        let drain = |own: &mut S| {
            fp_env::pinned(|| {
                loop {
                    let part = next.fetch_add(1, Ordering::Relaxed);
                    if part >= parts {
                        break;
                    }
                    work(own, part);
                }
            });
        };
        let drain = &drain;
        let threads = self.threads().min(parts);
        let Some((first, others)) = scratch.split_first_mut() else { return };
        std::thread::scope(|scope| {
            for own in others.iter_mut().take(threads.saturating_sub(1)) {
                scope.spawn(move || drain(own));
            }
            drain(first);
        });
    }

    /// Runs `work` on this thread with DF32's floating-point environment.
    pub fn here<T>(&self, work: impl FnOnce() -> T) -> T {
        fp_env::pinned(work)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_job_runs_once_on_any_number_of_threads() {
        for threads in [1, 2, 3, 5] {
            let pool = Pool::new(Isa::PORTABLE, NonZeroUsize::new(threads).expect("not zero"));
            let mut scratch = vec![Vec::new(); threads];
            pool.run(&mut scratch, 20, |own, part| own.push(part));
            let mut parts = scratch.concat();
            parts.sort_unstable();
            assert_eq!(parts, (0..20).collect::<Vec<_>>());
        }
    }
}
