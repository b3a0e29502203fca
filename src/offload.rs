//! Work on disk or CPU that would hold up the async threads: on a thread of its own, or in place where there is no runtime.
//!
//! The simulator has no runtime: everything happens in its one thread, in the order that its seed decides.

use tokio::runtime::Handle;
use tokio::task::JoinHandle;

/// The work ended by a panic.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a task failed unexpectedly")]
pub struct Panicked;

/// Work under way.
#[derive(Debug)]
pub enum Task<T> {
    /// On a thread.
    Running(JoinHandle<T>),
    /// Done in place.
    Done(T),
}

impl<T: Send + 'static> Task<T> {
    /// Starts.
    pub fn start(work: impl FnOnce() -> T + Send + 'static) -> Self {
        if Handle::try_current().is_ok() {
            Task::Running(tokio::task::spawn_blocking(work))
        } else {
            Task::Done(work())
        }
    }

    /// Would [`Task::join`] return at once?
    pub fn is_finished(&self) -> bool {
        match self {
            Task::Running(handle) => handle.is_finished(),
            Task::Done(_) => true,
        }
    }

    /// Waits for the result.
    pub async fn join(self) -> Result<T, Panicked> {
        match self {
            Task::Running(handle) => handle.await.map_err(|_| Panicked),
            Task::Done(value) => Ok(value),
        }
    }
}

/// Does the work and waits for it.
pub async fn run<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, Panicked> {
    Task::start(work).join().await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_panic_is_reported_and_stays_where_it_is() {
        let panics = || -> u8 { panic!("on purpose") };
        assert_eq!(run(panics).await, Err(Panicked));
        assert_eq!(run(|| 7).await, Ok(7));
    }

    #[test]
    fn without_a_runtime_it_is_done_at_once() {
        assert!(Task::start(|| 7).is_finished());
    }
}
