//! How much fuel a module gets through in a millisecond, by what it spends it on. What a bounty.toml may allow (`FUEL_A_MS` in
//! `bounty::manifest`) is to be compared with the least of these.

use l402t::bounty::sandbox::{Limits, Sandbox};
use l402t::bounty::wasm::{ModuleLimits, Outcome, Task, measure};

use crate::report::Report;

/// Of each module's memory: 64 MiB, more than a core's own caches hold.
const PAGES: u32 = 1_024;
/// One after the other, each from where the one before has led.
const LOADS: usize = 64;

pub(super) const NAMES: [&str; 5] = [
    "bounty.fuel_counting",
    "bounty.fuel_scattered",
    "bounty.fuel_following",
    "bounty.fuel_copying",
    "bounty.fuel_beginning",
];

/// What a module does, and so often that it takes about a second.
enum Work {
    /// Instructions: some at first, others in a loop. They have `$x`, which is 0 at first.
    Loop { first: &'static str, again: String, times: u32 },
    /// Nothing but to begin with an item.
    Begin { items: u32 },
}

impl Work {
    /// The figures' in the order of their names.
    fn all() -> [Self; NAMES.len()] {
        let again = |again: &str, times| Self::Loop { first: "", again: again.to_owned(), times };
        // Each line of the memory (64 bytes) says where the next one is: all of them, in no order that a processor foresees.
        let lead = "(loop $fill
          (i32.store (local.get $x) (i32.and (i32.const 0x3ffffc0)
            (i32.add (i32.const 64) (i32.mul (local.get $x) (i32.const 1664525)))))
          (br_if $fill (i32.lt_u (local.tee $x (i32.add (local.get $x) (i32.const 64))) (i32.const 0x4000000))))
          (local.set $x (i32.const 0))";
        let follow = format!("(local.set $x {}(local.get $x){})", "(i32.load ".repeat(LOADS), ")".repeat(LOADS));
        let scattered = "(local.set $x (i32.add (i32.mul (local.get $x) (i32.const 1664525))
            (i32.add (i32.const 1013904223) (i32.load (i32.and (local.get $x) (i32.const 0x3fffff0))))))
          (i32.store (i32.and (local.get $x) (i32.const 0x3fffff0)) (local.get $n))";
        let copy = "(memory.copy (i32.const 0x2000000) (i32.const 0) (i32.const 0x2000000))";
        [
            again("", 100_000_000),
            again(scattered, 10_000_000),
            Self::Loop { first: lead, again: follow, times: 60_000 },
            again(copy, 300),
            Self::Begin { items: 40 },
        ]
    }

    fn times(&self) -> u32 {
        match self {
            Self::Loop { times, .. } => *times,
            Self::Begin { items } => *items,
        }
    }

    /// Doing it so often.
    fn task(&self, times: u32) -> Task {
        let (body, items) = match self {
            Self::Loop { first, again, .. } => {
                let count = "(local.set $n (i32.sub (local.get $n) (i32.const 1)))";
                let body = format!(
                    "{first} (local.set $n (i32.const {times})) (loop $again {again} {count} (br_if $again (local.get $n)))"
                );
                (body, 1)
            }
            Self::Begin { .. } => (String::new(), times),
        };
        let module = format!(
            r#"(module (memory (export "memory") {PAGES}) (func (export "run") (param i32 i32) (result i64)
              (local $n i32) (local $x i32) {body} (i64.const 0)))"#
        );
        let limits = ModuleLimits { fuel: 1 << 40, memory_bytes: 1 << 30, output_bytes: 1 << 20 };
        Task { module: module.into_bytes(), items: vec!["item".to_owned(); items as usize], limits }
    }
}

/// All of them, without what a process takes to start and a module to fill its memory.
pub(super) fn measure_all(report: &mut Report, sandbox: &Sandbox) {
    if !cfg!(feature = "wasm") {
        return;
    }
    for (name, work) in NAMES.into_iter().zip(Work::all()) {
        if report.wants(name) {
            let (once, often) = (spent(sandbox, &work.task(1)), spent(sandbox, &work.task(work.times())));
            report.value(name, "1/ms", (often.0 - once.0) as f64 / (often.1 - once.1) as f64);
        }
    }
}

/// Fuel, and milliseconds on a processor.
fn spent(sandbox: &Sandbox, task: &Task) -> (u64, u64) {
    let measured = measure(sandbox, task, &Limits::default()).expect("a process");
    match measured.outcome {
        Outcome::Answered { fuel, .. } => (fuel, measured.usage.cpu_ms),
        Outcome::Failed { failure, detail } => panic!("{failure:?}: {detail}"),
    }
}
