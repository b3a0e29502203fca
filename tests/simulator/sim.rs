//! One thread, one clock, one seed: which task goes on next, when time passes, and what has happened so far.

use std::collections::{BTreeMap, VecDeque};
use std::fmt::Display;
use std::future::poll_fn;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::{Context, Poll, Wake, Waker};

use async_trait::async_trait;
use l402t::clock::Clock;
use l402t::protocol::ids::UnixMs;

use crate::dice::Dice;
use crate::life::Life;

/// When every simulation begins.
const START_MS: u64 = 1_800_000_000_000;
/// So many of the last things that happened are shown when something goes wrong.
const SHOWN_LINES: usize = 80;

type Work = Pin<Box<dyn Future<Output = ()> + Send>>;

/// What everybody in a simulation shares.
#[derive(Debug)]
pub(crate) struct Sim {
    inner: Mutex<Inner>,
}

struct Inner {
    dice: Dice,
    now_ms: u64,
    sleepers: BTreeMap<(u64, u64), Waker>,
    numbers: u64,
    spawned: Vec<(Arc<Life>, Work)>,
    digest: blake3::Hasher,
    lines: VecDeque<String>,
    violations: Vec<String>,
    /// Whose disk is full, and until when.
    full_disk: Option<(&'static str, u64)>,
}

impl std::fmt::Debug for Inner {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Inner")
    }
}

impl Sim {
    pub(crate) fn new(seed: u64) -> Arc<Self> {
        let inner = Inner {
            dice: Dice::new(seed),
            now_ms: START_MS,
            sleepers: BTreeMap::new(),
            numbers: 0,
            spawned: Vec::new(),
            digest: blake3::Hasher::new(),
            lines: VecDeque::new(),
            violations: Vec::new(),
            full_disk: None,
        };
        Arc::new(Self { inner: Mutex::new(inner) })
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().expect("not poisoned")
    }

    pub(crate) fn dice<T>(&self, throw: impl FnOnce(&mut Dice) -> T) -> T {
        throw(&mut self.inner().dice)
    }

    /// Since the start.
    pub(crate) fn elapsed_ms(&self) -> u64 {
        self.inner().now_ms - START_MS
    }

    /// When something was that a clock `ahead_ms` ahead of the simulation's called `at`.
    pub(crate) fn since_start_ms(&self, at: UnixMs, ahead_ms: i64) -> u64 {
        at.0.saturating_add_signed(-ahead_ms).saturating_sub(START_MS)
    }

    /// Notes what happened: part of the trace that the same seed must leave again.
    pub(crate) fn note(&self, who: &str, what: impl Display) {
        let mut inner = self.inner();
        let line = format!("{:>10} ms {who:<12} {what}", inner.now_ms - START_MS);
        inner.digest.update(line.as_bytes());
        if inner.lines.len() == SHOWN_LINES {
            inner.lines.pop_front();
        }
        inner.lines.push_back(line);
    }

    /// Something that must never be.
    pub(crate) fn violated(&self, rule: impl Display) {
        self.note("VIOLATION", &rule);
        self.inner().violations.push(rule.to_string());
    }

    pub(crate) fn violations(&self) -> Vec<String> {
        self.inner().violations.clone()
    }

    /// Of everything noted.
    pub(crate) fn digest(&self) -> String {
        self.inner().digest.finalize().to_hex().to_string()
    }

    pub(crate) fn last_lines(&self) -> String {
        self.inner().lines.iter().fold(String::new(), |text, line| text + line + "\n")
    }

    /// Starts a task that ends with its life.
    pub(crate) fn spawn(&self, life: &Arc<Life>, work: impl Future<Output = ()> + Send + 'static) {
        self.inner().spawned.push((Arc::clone(life), Box::pin(work)));
    }

    /// Lets others go first, if the dice say so.
    pub(crate) async fn give_way(&self) {
        let mut waited = false;
        poll_fn(|context| {
            if std::mem::replace(&mut waited, true) {
                return Poll::Ready(());
            }
            context.waker().wake_by_ref();
            Poll::Pending
        })
        .await;
    }

    pub(crate) async fn sleep(self: &Arc<Self>, ms: u64) {
        let (due_ms, number) = {
            let mut inner = self.inner();
            inner.numbers += 1;
            (inner.now_ms + ms, inner.numbers)
        };
        // Takes the alarm back when nobody waits for it any more.
        let _alarm = Alarm { sim: self, key: (due_ms, number) };
        poll_fn(|context| {
            let mut inner = self.inner();
            if inner.now_ms >= due_ms {
                return Poll::Ready(());
            }
            inner.sleepers.insert((due_ms, number), context.waker().clone());
            Poll::Pending
        })
        .await;
    }

    /// From now on nothing more fits on somebody's disk.
    pub(crate) fn fill_disk(&self, whose: &'static str, for_ms: u64) {
        self.note(whose, format_args!("has a full disk for {for_ms} ms"));
        let mut inner = self.inner();
        inner.full_disk = Some((whose, inner.now_ms + for_ms));
    }

    pub(crate) fn disk_is_full(&self, whose: &str) -> bool {
        let inner = self.inner();
        inner.full_disk.is_some_and(|(full, until_ms)| full == whose && inner.now_ms < until_ms)
    }

    /// Nobody does anything for so long.
    pub(crate) fn silence(&self, ms: u64) {
        self.inner().now_ms += ms;
    }

    /// Moves the clock to the next alarm. False if nobody sleeps.
    fn pass_time(&self) -> bool {
        let mut inner = self.inner();
        let Some(entry) = inner.sleepers.first_entry() else { return false };
        let due_ms = entry.key().0;
        let waker = entry.remove();
        inner.now_ms = inner.now_ms.max(due_ms);
        drop(inner);
        waker.wake();
        true
    }
}

struct Alarm<'a> {
    sim: &'a Sim,
    key: (u64, u64),
}

impl Drop for Alarm<'_> {
    fn drop(&mut self) {
        self.sim.inner().sleepers.remove(&self.key);
    }
}

/// A process's clock: the simulation's, set wrong by so much.
#[derive(Debug)]
pub(crate) struct SimClock {
    pub(crate) sim: Arc<Sim>,
    pub(crate) ahead_ms: i64,
}

#[async_trait]
impl Clock for SimClock {
    fn now(&self) -> UnixMs {
        UnixMs(self.sim.inner().now_ms.saturating_add_signed(self.ahead_ms))
    }

    fn uptime_ms(&self) -> u64 {
        self.sim.elapsed_ms()
    }

    async fn sleep(&self, ms: u64) {
        self.sim.sleep(ms).await;
    }
}

struct Ready(AtomicBool);

impl Wake for Ready {
    fn wake(self: Arc<Self>) {
        self.0.store(true, Ordering::Relaxed);
    }
}

struct Task {
    life: Arc<Life>,
    ready: Arc<Ready>,
    work: Work,
}

/// Polls tasks, one at a time, in the order that the dice decide.
pub(crate) struct Executor {
    sim: Arc<Sim>,
    tasks: Vec<Task>,
    /// How often time passes though somebody could go on: everybody may be slow.
    pub(crate) dawdle_ppm: u32,
    /// Whether it is the dice that choose among those who could go on, or who came first.
    pub(crate) shuffle: bool,
}

impl Executor {
    pub(crate) fn new(sim: &Arc<Sim>) -> Self {
        Self { sim: Arc::clone(sim), tasks: Vec::new(), dawdle_ppm: 0, shuffle: false }
    }

    /// One step. False if nothing can ever happen again.
    pub(crate) fn step(&mut self) -> bool {
        let spawned = std::mem::take(&mut self.sim.inner().spawned);
        let tasks =
            spawned.into_iter().map(|(life, work)| Task { life, ready: Arc::new(Ready(AtomicBool::new(true))), work });
        self.tasks.extend(tasks);
        let ready: Vec<usize> =
            (0..self.tasks.len()).filter(|place| self.tasks[*place].ready.0.load(Ordering::Relaxed)).collect();
        let (dawdle, place) = self.sim.dice(|dice| {
            let place = if self.shuffle { dice.below(ready.len() as u64) as usize } else { 0 };
            (dice.happens(self.dawdle_ppm), ready.get(place).copied())
        });
        let Some(place) = place.filter(|_| !dawdle) else { return self.sim.pass_time() || !ready.is_empty() };
        let task = &mut self.tasks[place];
        task.ready.0.store(false, Ordering::Relaxed);
        let waker = Waker::from(Arc::clone(&task.ready));
        let done = task.work.as_mut().poll(&mut Context::from_waker(&waker)).is_ready();
        if done {
            drop(self.tasks.remove(place));
        } else if !self.shuffle {
            // Who was just served goes to the back.
            let task = self.tasks.remove(place);
            self.tasks.push(task);
        }
        self.bury();
        true
    }

    /// Drops what the dead left.
    fn bury(&mut self) {
        let (dead, alive) = std::mem::take(&mut self.tasks).into_iter().partition(|task| task.life.is_dead());
        self.tasks = alive;
        let dead: Vec<Task> = dead;
        drop(dead);
    }
}
