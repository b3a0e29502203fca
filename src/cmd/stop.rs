//! SIGINT and SIGTERM: one request to stop, seen by everything that runs.

use std::time::Duration;

use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

/// The request to stop. Clones share it.
#[derive(Clone, Debug)]
pub struct Stop(watch::Sender<u32>);

impl Default for Stop {
    fn default() -> Self {
        Self::new()
    }
}

impl Stop {
    /// Not requested yet.
    pub fn new() -> Self {
        Self(watch::Sender::new(0))
    }

    /// Asks everything to end in order. Asked twice, the process ends without waiting.
    pub fn request(&self) {
        self.0.send_modify(|requests| *requests += 1);
    }

    /// Has it been asked for?
    pub fn is_requested(&self) -> bool {
        *self.0.borrow() > 0
    }

    /// Waits until it is asked for.
    pub async fn requested(&self) {
        self.at_least(1).await;
    }

    /// Waits until a stop was asked for twice, or once and `grace` has gone by.
    pub(super) async fn overdue(&self, grace: Duration) {
        self.requested().await;
        let _ = tokio::time::timeout(grace, self.at_least(2)).await;
    }

    async fn at_least(&self, count: u32) {
        let mut receiver = self.0.subscribe();
        // The sender lives as long as self, so this ends only once the count is there.
        let _ = receiver.wait_for(|requests| *requests >= count).await;
    }
}

/// Turns the signals into requests, for as long as the runtime lives.
pub(super) fn listen(stop: &Stop) {
    for kind in [SignalKind::interrupt(), SignalKind::terminate()] {
        match signal(kind) {
            Ok(mut signals) => {
                let stop = stop.clone();
                tokio::spawn(async move {
                    while signals.recv().await.is_some() {
                        stop.request();
                    }
                });
            }
            Err(error) => tracing::warn!(%error, "a signal can't be listened to; it ends the process at once"),
        }
    }
}
