//! A crash of each process before and after each of its commits and each call to its node, in every flow: whatever had
//! happened by then, the flow ends as it would have ended.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use l402t::protocol::amount::Msat;

use crate::life::Fate;
use crate::parallel;
use crate::plan::{Manner, Plan, ProcessPlan};
use crate::world::{self, Outcome};

/// An accepted contribution's reward in these rounds.
pub(crate) const REWARD: Msat = Msat::new(600_000);

/// A way that a contribution can go, and what has been settled and given back by its end.
#[derive(Clone, Copy, Debug)]
struct Flow {
    name: &'static str,
    plan: fn() -> Plan,
    settled: Msat,
    refunded: Msat,
}

const FLOWS: [Flow; 4] = [
    Flow { name: "fee, lock, upload, settle", plan: || one_peer(true), settled: REWARD, refunded: Msat::ZERO },
    Flow { name: "fee, lock, upload, reject", plan: || one_peer(false), settled: Msat::ZERO, refunded: REWARD },
    Flow { name: "fee, lock, no upload", plan: no_upload, settled: Msat::ZERO, refunded: REWARD },
    Flow { name: "fee, lock, upload, expire", plan: expire, settled: Msat::ZERO, refunded: REWARD },
];

pub(crate) fn one_peer(good: bool) -> Plan {
    let mut plan = Plan::quiet(1);
    plan.peers.truncate(1);
    plan.peers[0].good = good;
    plan.close_at_contributions = 1;
    plan
}

fn no_upload() -> Plan {
    let mut plan = one_peer(true);
    plan.peers[0].manner = Manner::NeverUploads;
    plan
}

/// The round lasts longer than the locks: a lock may be relied on for fifteen blocks, which take four seconds each.
fn expire() -> Plan {
    let mut plan = one_peer(true);
    plan.close_at_contributions = 0;
    (plan.hold_blocks, plan.block_ms, plan.commit_ms) = (60, 4_000, 100_000);
    plan
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Victim {
    Coordinator,
    Peer,
}

impl Victim {
    fn of(self, plan: &mut Plan) -> &mut ProcessPlan {
        match self {
            Victim::Coordinator => &mut plan.coordinator,
            Victim::Peer => &mut plan.peers[0].process,
        }
    }
}

fn run(flow: &Flow, victim: Victim, moments: i64) -> (Outcome, u64) {
    let mut plan = (flow.plan)();
    let fate = Fate { moments, ..Fate::none() };
    let counter = Arc::clone(&fate.counter);
    // Every other time its node is away with it: a reward that can't be locked in that moment is locked later.
    let owns_node = moments % 2 == 0;
    *victim.of(&mut plan) = ProcessPlan { fate, down_ms_max: 1_000, owns_node, ahead_ms: 0 };
    let outcome = world::run(&plan);
    (outcome, counter.load(Ordering::Relaxed))
}

/// One crash, at that moment.
fn survives(flow: &Flow, victim: Victim, moment: i64) -> Result<(), String> {
    let (outcome, _) = run(flow, victim, moment);
    let ended = (outcome.rewards_settled, outcome.rewards_refunded);
    if outcome.violations.is_empty() && ended == (flow.settled, flow.refunded) {
        return Ok(());
    }
    let Outcome { violations, last_lines, .. } = outcome;
    Err(format!("{}: {victim:?} killed at moment {moment}: {ended:?} {violations:?}\n{last_lines}", flow.name))
}

#[test]
fn a_crash_of_either_side_at_any_moment_of_any_flow_changes_nothing_in_the_end() {
    let mut cases = Vec::new();
    for flow in &FLOWS {
        for victim in [Victim::Coordinator, Victim::Peer] {
            let (outcome, moments) = run(flow, victim, i64::MAX);
            assert_eq!(outcome.violations, Vec::<String>::new(), "{}: {}", flow.name, outcome.last_lines);
            assert_eq!((outcome.rewards_settled, outcome.rewards_refunded), (flow.settled, flow.refunded), "{flow:?}");
            assert!(moments > 30, "{}: {victim:?} has {moments} moments only", flow.name);
            // Where one side only looks again and again at what does not change, every look is like the one before.
            let all = 1..=moments.min(MOST_MOMENTS) as i64;
            cases.extend(all.map(|moment| (flow, victim, moment)));
        }
    }
    assert!(cases.len() > 500, "only {} crashes", cases.len());
    let failures = parallel::failures(cases, |(flow, victim, moment)| survives(flow, *victim, *moment));
    assert!(failures.is_empty(), "{} crashes were not survived\n{}", failures.len(), failures.join("\n\n"));
}

/// Most moments of one process in one flow.
const MOST_MOMENTS: u64 = 600;
