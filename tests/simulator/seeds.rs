//! Many seeds, and that each means the same every time.

use std::sync::atomic::{AtomicU64, Ordering};

use l402t::protocol::amount::Msat;

use crate::parallel;
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
    let outcome = std::panic::catch_unwind(|| world::run(&plan));
    let again = format!("Again: ./x simulate --seeds 1 --from {seed}");
    let outcome = outcome.map_err(|_| format!("seed {seed} panicked. {again}"))?;
    if outcome.violations.is_empty() {
        return Ok(outcome);
    }
    let mut text = format!("seed {seed} broke a rule. {plan:#?}\n{}\n", outcome.last_lines);
    outcome.violations.iter().for_each(|rule| text += &format!("seed {seed}: {rule}\n"));
    Err(text + &again)
}

#[test]
fn whatever_happens_every_flow_ends_and_every_msat_is_accounted_for() {
    let (from, seeds) = (setting("L402T_SIMULATE_FROM", 0), setting("L402T_SIMULATE_SEEDS", SEEDS));
    let (settled, refunded) = (AtomicU64::new(0), AtomicU64::new(0));
    let failures = parallel::failures(from..from + seeds, |seed| {
        let outcome = simulate(*seed)?;
        settled.fetch_add(outcome.rewards_settled.msat(), Ordering::Relaxed);
        refunded.fetch_add(outcome.rewards_refunded.msat(), Ordering::Relaxed);
        Ok(())
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
