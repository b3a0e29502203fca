//! The only place that reads the time, and where coordinator and peer wait for it to pass: a simulator's clock decides
//! both.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use async_trait::async_trait;

use crate::protocol::ids::UnixMs;

/// Tells the time, and lets it pass.
#[async_trait]
pub trait Clock: Send + Sync + std::fmt::Debug {
    /// Milliseconds since the Unix epoch. May go back when somebody sets it.
    fn now(&self) -> UnixMs;

    /// Milliseconds since some moment in this process's life. Never goes back.
    fn uptime_ms(&self) -> u64;

    /// Returns after `ms`.
    async fn sleep(&self, ms: u64);
}

/// The machine's clock.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemClock;

#[async_trait]
impl Clock for SystemClock {
    #[allow(clippy::disallowed_methods, reason = "the one place that reads the time")]
    fn now(&self) -> UnixMs {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        UnixMs(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
    }

    fn uptime_ms(&self) -> u64 {
        static START: OnceLock<Stopwatch> = OnceLock::new();
        START.get_or_init(Stopwatch::start).elapsed_ms()
    }

    async fn sleep(&self, ms: u64) {
        tokio::time::sleep(Duration::from_millis(ms)).await;
    }
}

/// A clock that shows what it was told. Sleeping takes real time.
#[derive(Debug, Default)]
pub struct ManualClock(AtomicU64);

impl ManualClock {
    /// Starts at `now`.
    pub fn new(now: UnixMs) -> Self {
        Self(AtomicU64::new(now.0))
    }

    /// Moves forward by `ms`.
    pub fn advance_ms(&self, ms: u64) {
        self.0.fetch_add(ms, Ordering::SeqCst);
    }
}

#[async_trait]
impl Clock for ManualClock {
    fn now(&self) -> UnixMs {
        UnixMs(self.0.load(Ordering::SeqCst))
    }

    fn uptime_ms(&self) -> u64 {
        SystemClock.uptime_ms()
    }

    async fn sleep(&self, ms: u64) {
        SystemClock.sleep(ms).await;
    }
}

/// Measures how long something took, by a given clock.
#[derive(Clone, Debug)]
pub struct Timer {
    clock: Arc<dyn Clock>,
    started_ms: u64,
}

impl Timer {
    /// Starts.
    pub fn start(clock: &Arc<dyn Clock>) -> Self {
        Self { clock: Arc::clone(clock), started_ms: clock.uptime_ms() }
    }

    /// Milliseconds since the start.
    pub fn elapsed_ms(&self) -> u64 {
        self.clock.uptime_ms().saturating_sub(self.started_ms)
    }
}

/// Measures how long something took on this machine.
#[derive(Clone, Copy, Debug)]
pub struct Stopwatch(Instant);

impl Stopwatch {
    /// Starts.
    #[allow(clippy::disallowed_methods, reason = "the one place that reads the time")]
    pub fn start() -> Self {
        Self(Instant::now())
    }

    /// Milliseconds since the start.
    pub fn elapsed_ms(&self) -> u64 {
        u64::try_from(self.0.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    /// Time since the start.
    pub fn elapsed(&self) -> Duration {
        self.0.elapsed()
    }
}
