//! Many seeds, and that each means the same every time.

use std::sync::atomic::{AtomicU64, Ordering};

use l402t::protocol::amount::Msat;

use crate::plan::Plan;
use crate::world::{self, Outcome};

/// In a plain test run; `./x simulate` says otherwise.
const SEEDS: u64 = 200;

#[allow(clippy::disallowed_methods, reason = "how ./x simulate says what to do")]
fn setting(name: &str, otherwise: u64) -> u64 {
    std::env::var(name).ok().map_or(otherwise, |text| text.parse().expect("a number"))
}

fn simulate(seed: u64) -> Result<Outcome, String> {
    let plan = Plan::of(seed);
    let outcome = std::panic::catch_unwind(|| world::run(&plan)).map_err(|_| format!("seed {seed} panicked"))?;
    if outcome.violations.is_empty() {
        return Ok(outcome);
    }
    let mut text = format!("seed {seed} broke a rule. {plan:#?}\n{}\n", outcome.last_lines);
    outcome.violations.iter().for_each(|rule| text += &format!("seed {seed}: {rule}\n"));
    Err(text + &format!("Again: ./x simulate --seeds 1 --from {seed}"))
}

#[test]
fn whatever_happens_every_flow_ends_and_every_msat_is_accounted_for() {
    let (from, seeds) = (setting("L402T_SIMULATE_FROM", 0), setting("L402T_SIMULATE_SEEDS", SEEDS));
    let next = AtomicU64::new(from);
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let (settled, refunded) = (AtomicU64::new(0), AtomicU64::new(0));
    let failures = std::thread::scope(|scope| {
        let work = || {
            let mut failures = Vec::new();
            loop {
                let seed = next.fetch_add(1, Ordering::Relaxed);
                if seed >= from + seeds || failures.len() > 5 {
                    return failures;
                }
                match simulate(seed) {
                    Ok(outcome) => {
                        settled.fetch_add(outcome.rewards_settled.msat(), Ordering::Relaxed);
                        refunded.fetch_add(outcome.rewards_refunded.msat(), Ordering::Relaxed);
                    }
                    Err(text) => failures.push(text),
                }
            }
        };
        let workers: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
        workers.into_iter().flat_map(|worker| worker.join().expect("no panic")).collect::<Vec<_>>()
    });
    assert!(failures.is_empty(), "{} seeds failed\n{}", failures.len(), failures.join("\n\n"));
    // A simulation in which nothing is ever paid shows nothing.
    assert!(seeds < 20 || settled.into_inner() > 0 && refunded.into_inner() > 0);
}

#[test]
fn a_seed_means_the_same_every_time() {
    for seed in 0..10 {
        let digest = || world::run(&Plan::of(seed)).digest;
        assert_eq!(digest(), digest(), "seed {seed}");
    }
}

#[test]
fn where_nothing_goes_wrong_good_work_is_paid_and_bad_work_is_not() {
    let outcome = world::run(&Plan::quiet(0));
    assert_eq!(outcome.violations, Vec::<String>::new(), "{}", outcome.last_lines);
    assert_eq!(outcome.rewards_settled, Msat::new(600_000));
    assert_eq!(outcome.rewards_refunded, Msat::new(600_000));
}
