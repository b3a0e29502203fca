//! Threads that repeat what LDK may not have done the first time: claims, cancellations, connections.

use std::sync::Arc;
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::Duration;

/// A thread that does something again and again until it is stopped.
#[derive(Debug)]
pub(super) struct Keeper {
    /// Dropped to stop it.
    stop: Sender<()>,
    thread: JoinHandle<()>,
}

impl Keeper {
    /// Runs `act` now and then `pause` after each time it is done.
    pub(super) fn start<T: Send + Sync + 'static>(
        name: &str,
        pause: Duration,
        subject: Arc<T>,
        act: impl Fn(&T) + Send + 'static,
    ) -> std::io::Result<Self> {
        let (stop, stopped) = channel::<()>();
        let run = move || {
            loop {
                act(&subject);
                if stopped.recv_timeout(pause) != Err(RecvTimeoutError::Timeout) {
                    return;
                }
            }
        };
        let thread = std::thread::Builder::new().name(name.into()).spawn(run)?;
        Ok(Self { stop, thread })
    }

    /// Stops it and waits until it is done.
    pub(super) fn stop(self) {
        drop(self.stop);
        self.thread.join().ok();
    }
}
