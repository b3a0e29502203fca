//! What was so when: the chain's height, and who was there to do their duty.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard};

/// In milliseconds since the start.
#[derive(Debug, Default)]
pub(crate) struct History(Mutex<Inner>);

#[derive(Debug, Default)]
struct Inner {
    /// Each height, and since when.
    heights: Vec<(u64, u32)>,
    /// Who is at work, and since when.
    at_work: BTreeMap<&'static str, u64>,
    /// When who was at work: from and to.
    shifts: Vec<(&'static str, u64, u64)>,
}

impl History {
    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().expect("not poisoned")
    }

    pub(crate) fn height_is(&self, now_ms: u64, height: u32) {
        self.inner().heights.push((now_ms, height));
    }

    pub(crate) fn begins(&self, who: &'static str, now_ms: u64) {
        self.inner().at_work.entry(who).or_insert(now_ms);
    }

    pub(crate) fn ends(&self, who: &'static str, now_ms: u64) {
        let mut inner = self.inner();
        if let Some(since_ms) = inner.at_work.remove(who) {
            inner.shifts.push((who, since_ms, now_ms));
        }
    }

    /// For how long the chain has been at `height` or above, with `who` at work all the while.
    pub(crate) fn on_duty_ms(&self, who: &str, height: u32, now_ms: u64) -> u64 {
        let inner = self.inner();
        let Some(begun_ms) = inner.at_work.get(who) else { return 0 };
        let last_below = inner.heights.iter().rposition(|(_, at)| *at < height);
        let since_ms = inner.heights.get(last_below.map_or(0, |place| place + 1)).map_or(now_ms, |(ms, _)| *ms);
        now_ms.saturating_sub(since_ms.max(*begun_ms))
    }

    /// The lowest height of a time.
    pub(crate) fn lowest_height(&self, from_ms: u64, to_ms: u64) -> Option<u32> {
        let inner = self.inner();
        let first = inner.heights.iter().rposition(|(ms, _)| *ms <= from_ms).unwrap_or(0);
        inner.heights[first..].iter().take_while(|(ms, _)| *ms <= to_ms).map(|(_, height)| *height).min()
    }

    /// The longest time that `who` was at work without a break.
    pub(crate) fn longest_shift_ms(&self, who: &str, from_ms: u64, to_ms: u64) -> u64 {
        let inner = self.inner();
        let open = inner.at_work.iter().map(|(name, since_ms)| (*name, *since_ms, u64::MAX));
        let all = inner.shifts.iter().copied().chain(open).filter(|(name, ..)| *name == who);
        all.map(|(_, begun_ms, ended_ms)| ended_ms.min(to_ms).saturating_sub(begun_ms.max(from_ms))).max().unwrap_or(0)
    }
}
