//! Bounties: how long a box takes to start, what an evaluation and a submission take with their boxes and without, how many
//! submissions a minute that makes, and how much fuel a module gets through. Boxes are this machine's; without a sandbox these
//! figures are left out.

mod fuel;
pub(crate) mod ladder;
mod market;
mod timed;

use std::path::Path;
use std::sync::Arc;

use l402t::bounty::judge::{BoxedEvaluator, Evaluate as _};
use l402t::bounty::load::{Bounty, Extent};
use l402t::bounty::sandbox::{BoxSpec, Sandbox, SandboxSettings};
use l402t::clock::Stopwatch;
use market::Market;
use timed::TimedBoxes;

use crate::report::{Measured, Report};

/// Boxes that are started, one after another.
const STARTS: usize = 200;
/// Evaluations, and submissions to each bounty. The example takes 31 steps from its baseline to what better.diff scores.
const SUBMISSIONS: u32 = 20;
/// Of this bounty.
const EXAMPLE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/examples/bounties/logs");
/// Decides the order of items in the second box.
const SALT: [u8; 32] = [7; 32];

const STARTED: [&str; 3] = ["bounty.box_start_least", "bounty.box_start_median", "bounty.box_start_p99"];
const EVALUATED: [&str; 2] = ["bounty.evaluation", "bounty.evaluation_overhead"];
const SUBMITTED: [&str; 2] = ["bounty.submission", "bounty.submission_overhead"];
const SIDE_BY_SIDE: &str = "bounty.submissions_a_minute";

pub(crate) fn measure(report: &mut Report) {
    if !report.wants_any(&[&STARTED[..], &EVALUATED, &SUBMITTED, &[SIDE_BY_SIDE], &fuel::NAMES].concat()) {
        return;
    }
    // What runs modules is the program, not this one.
    let settings = SandboxSettings { program: env!("CARGO_BIN_EXE_l402t").into(), ..SandboxSettings::default() };
    let Ok(sandbox) = Sandbox::detect(settings).map(Arc::new) else { return };
    starts(report, &sandbox);
    evaluations(report, &sandbox);
    submissions(report, &sandbox);
    side_by_side(report, &sandbox);
    fuel::measure_all(report, &sandbox);
}

/// From asking for a box that runs `true` until it is gone.
fn starts(report: &mut Report, sandbox: &Sandbox) {
    if !report.wants_any(&STARTED) {
        return;
    }
    let spec = BoxSpec::new(["/usr/bin/true"]);
    let mut times_ms: Vec<f64> = (0..STARTS)
        .map(|_| {
            let since = Stopwatch::start();
            assert!(sandbox.run(&spec).expect("a box").ending.is_success(), "true ends well");
            ms(since)
        })
        .collect();
    times_ms.sort_by(f64::total_cmp);
    for (name, place) in STARTED.into_iter().zip([0, STARTS / 2, STARTS * 99 / 100 - 1]) {
        report.value(name, "ms", times_ms[place]);
    }
}

/// One tree after another: files written, run twice, restored, scored.
fn evaluations(report: &mut Report, sandbox: &Arc<Sandbox>) {
    if !report.wants_any(&EVALUATED) {
        return;
    }
    let scratch = tempfile::tempdir().expect("a folder");
    let evaluator = BoxedEvaluator::new(TimedBoxes::new(Arc::clone(sandbox)), scratch.path());
    let bounty = example();
    let exam = bounty.held_out_exam().expect("the whole folder");
    let since = Stopwatch::start();
    for number in 0..SUBMISSIONS {
        let evaluation = evaluator.evaluate(&bounty, &market::improved(&bounty, number), &exam).expect("a sandbox");
        evaluation.score.expect("it is an improvement");
    }
    let (whole_ms, boxes_ms) = (ms(since), evaluator.boxes().taken_ms());
    tell(report, EVALUATED, whole_ms, boxes_ms);
}

/// One paid submission after another: from asking for a ticket until the reward is settled.
fn submissions(report: &mut Report, sandbox: &Arc<Sandbox>) {
    if !report.wants_any(&SUBMITTED) {
        return;
    }
    let (mut whole_ms, mut boxes_ms) = (0.0, 0.0);
    in_runtime(async {
        let mut market = Market::open(Arc::clone(sandbox)).await;
        let before_ms = market.evaluator.boxes().taken_ms();
        let since = Stopwatch::start();
        for number in 0..SUBMISSIONS {
            market.submit(number).await;
        }
        (whole_ms, boxes_ms) = (ms(since), market.evaluator.boxes().taken_ms() - before_ms);
    });
    tell(report, SUBMITTED, whole_ms, boxes_ms);
}

/// Of one: all of it, and what is left without its boxes.
fn tell(report: &mut Report, [whole, overhead]: [&str; 2], whole_ms: f64, boxes_ms: f64) {
    report.value(whole, "ms", whole_ms / f64::from(SUBMISSIONS));
    report.value(overhead, "ms", (whole_ms - boxes_ms) / f64::from(SUBMISSIONS));
}

/// As many bounties as the sandbox has slots, two, side by side.
fn side_by_side(report: &mut Report, sandbox: &Arc<Sandbox>) {
    let slots = sandbox.slots().get();
    report.figure(SIDE_BY_SIDE, "1/min", || {
        let ready = std::sync::Barrier::new(slots as usize + 1);
        let one = || {
            in_runtime(async {
                let mut market = Market::open(Arc::clone(sandbox)).await;
                ready.wait();
                for number in 0..SUBMISSIONS {
                    market.submit(number).await;
                }
            });
        };
        let minutes = std::thread::scope(|scope| {
            let bounties: Vec<_> = (0..slots).map(|_| scope.spawn(one)).collect();
            ready.wait();
            let since = Stopwatch::start();
            for bounty in bounties {
                bounty.join().expect("every submission is paid");
            }
            since.elapsed().as_secs_f64() / 60.0
        });
        Some(Measured::alone(f64::from(slots * SUBMISSIONS) / minutes))
    });
}

fn example() -> Bounty {
    Bounty::load(Path::new(EXAMPLE), SALT, Extent::Whole).expect("an example")
}

fn in_runtime(work: impl Future<Output = ()>) {
    tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime").block_on(work);
}

fn ms(since: Stopwatch) -> f64 {
    since.elapsed().as_secs_f64() * 1_000.0
}
