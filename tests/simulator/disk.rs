//! The coordinator's disk is full while its node and everybody else go on.

use std::sync::atomic::{AtomicU32, Ordering};

use l402t::protocol::amount::Msat;

use crate::matrix::{REWARD, one_peer};
use crate::parallel;
use crate::plan::Plan;
use crate::world;

/// More than a round takes.
const LAST_START_MS: u64 = 30_000;
/// While a round is under way.
const EARLY_START_MS: u64 = 2_000;

fn full(from_ms: u64, for_ms: u64) -> Plan {
    let mut plan = one_peer(true);
    plan.commit_ms = 300_000;
    plan.disk_full_ms = Some((from_ms, for_ms));
    plan
}

#[test]
fn a_coordinator_whose_disk_is_full_for_a_while_goes_on_by_itself_and_pays_as_before() {
    let starts = (0..LAST_START_MS).step_by(500);
    let failures = parallel::failures(starts, |from_ms| {
        let outcome = world::run(&full(*from_ms, 20_000));
        let right =
            (outcome.rewards_settled, outcome.rewards_refunded, outcome.full_disk_ends) == (REWARD, Msat::ZERO, 0);
        // The very first files are made before there is anything to go on with.
        if outcome.violations.is_empty() && (right || *from_ms == 0) {
            return Ok(());
        }
        Err(format!("full from {from_ms} ms on: {:?}\n{}", outcome.violations, outcome.last_lines))
    });
    assert!(failures.is_empty(), "{}", failures.join("\n\n"));
}

#[test]
fn a_coordinator_whose_disk_stays_full_ends_and_after_a_new_start_nothing_is_lost() {
    let ends = AtomicU32::new(0);
    let starts = (0..EARLY_START_MS).step_by(250);
    let failures = parallel::failures(starts, |from_ms| {
        let outcome = world::run(&full(*from_ms, 1_500_000));
        ends.fetch_add(outcome.full_disk_ends, Ordering::Relaxed);
        if outcome.violations.is_empty() {
            return Ok(());
        }
        Err(format!("full from {from_ms} ms on: {:?}\n{}", outcome.violations, outcome.last_lines))
    });
    assert!(failures.is_empty(), "{}", failures.join("\n\n"));
    assert!(ends.into_inner() > 0, "the disk was never full for too long");
}
