//! Threads for calls into LDK, which block: its own runtime must not meet ours.
//!
//! It must never run LDK on a thread of the caller's async runtime: ldk-node would then put its connections there.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use crate::ln::LnError;

const THREADS: usize = 6;
/// Calls that may wait for a thread.
const QUEUE: usize = 1_024;

type Call = Box<dyn FnOnce() + Send>;

/// The threads. They end when the pool is dropped.
#[derive(Debug)]
pub(super) struct Pool {
    calls: SyncSender<Call>,
}

impl Pool {
    pub(super) fn start() -> std::io::Result<Self> {
        let (calls, queue) = sync_channel::<Call>(QUEUE);
        let queue = Arc::new(Mutex::new(queue));
        for number in 0..THREADS {
            let queue = Arc::clone(&queue);
            std::thread::Builder::new().name(format!("lightning-{number}")).spawn(move || work(&queue))?;
        }
        Ok(Self { calls })
    }

    /// Runs `call` on a thread of its own and waits for up to `limit`. A call that takes longer goes on, unheard.
    pub(super) async fn run<T: Send + 'static>(
        &self,
        limit: Duration,
        call: impl FnOnce() -> Result<T, LnError> + Send + 'static,
    ) -> Result<T, LnError> {
        let (sender, answer) = tokio::sync::oneshot::channel();
        let task: Call = Box::new(move || drop(sender.send(call())));
        self.calls.try_send(task).map_err(|_| LnError::Unavailable("too many calls are waiting".into()))?;
        match tokio::time::timeout(limit, answer).await {
            Ok(Ok(answer)) => answer,
            Ok(Err(_)) => Err(LnError::Unavailable("the call broke off; see the log".into())),
            Err(_) => Err(LnError::Unavailable(format!("no answer within {} s", limit.as_secs()))),
        }
    }
}

fn work(queue: &Mutex<Receiver<Call>>) {
    loop {
        let next = queue.lock().unwrap_or_else(PoisonError::into_inner).recv();
        let Ok(call) = next else { return };
        if catch_unwind(AssertUnwindSafe(call)).is_err() {
            tracing::error!("a call into the Lightning node panicked");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_call_that_panics_or_hangs_takes_no_other_with_it() {
        let pool = Pool::start().expect("threads");
        let second = Duration::from_secs(5);
        let broken = pool.run::<()>(second, || panic!("on purpose")).await;
        assert!(matches!(broken, Err(LnError::Unavailable(_))));
        let (release, held) = std::sync::mpsc::channel::<()>();
        let slow = pool.run(Duration::from_millis(20), move || {
            held.recv().ok();
            Ok(())
        });
        assert!(matches!(slow.await, Err(LnError::Unavailable(_))));
        assert_eq!(pool.run(second, || Ok(7)).await.expect("answered"), 7);
        drop(release);
    }
}
