//! What must be true at the end, whatever happened: every msat is where both sides' books say, nothing was paid twice,
//! nothing is left open.

use std::collections::BTreeMap;
use std::sync::Arc;

use l402t::ln::{InvoiceStatus, PaymentStatus};
use l402t::peer::folder::journal_in;
use l402t::peer::journal::{Journal, Totals as PeerTotals};
use l402t::peer::stage::{Ending, Stage};
use l402t::protocol::amount::{Msat, Ppm};
use l402t::protocol::hold::REVEAL_MARGIN_BLOCKS;
use l402t::protocol::ids::{PaymentHash, RoundNumber};
use l402t::protocol::manifest::RunManifest;
use l402t::protocol::round::{Event, Round, RoundRules, TrancheState};
use l402t::protocol::sign::{Signed, Statement};
use l402t::protocol::transcript::Transcript;
use l402t::store::coordinator as tables;
use l402t::store::database::{Database, Unwatched};
use l402t::store::ledger::{self, Totals};

use crate::fold::walk;
use crate::plan::{Manner, PeerPlan, Plan};
use crate::world::{COORDINATOR, FUNDS, PUSH, World};

/// Checks everything; what is wrong is noted as a violation. The coordinator's totals.
pub(crate) fn audit(world: &World) -> Totals {
    let Ok(db) = tables::open(&world.data(COORDINATOR), Arc::new(Unwatched)) else {
        world.sim.violated("the coordinator's database can't be opened");
        return Totals::default();
    };
    let books = ledger::totals(db.read(), None).expect("summed");
    let check = |holds: bool, rule: &str| {
        if !holds {
            world.sim.violated(rule);
        }
    };
    let manifest = std::fs::read(world.data(COORDINATOR).join("manifest.json")).expect("a manifest");
    let manifest: Signed<RunManifest> = Signed::from_bytes(&manifest).expect("canonical");
    log_is_projection(world, &db, &manifest.body);
    nothing_is_asked_blindly(world);
    transcripts_follow(world, &db, &manifest.body);

    let mut peers = PeerTotals::default();
    let mut received = Msat::ZERO;
    for peer in &world.plan.peers {
        let (totals, rewards) = audit_peer(world, peer);
        peers = PeerTotals::sum([peers, totals]);
        received = received.checked_add(rewards).expect("small");
    }
    check(books.rewards_locked_msat == Msat::ZERO, "money is still locked in the coordinator's books");
    check(books.rewards_settled_msat == received, "the coordinator's books and the peers' disagree on rewards");
    check(books.fees_received_msat == peers.fees_msat, "the coordinator's books and the peers' disagree on fees");
    let pushed = world.plan.peers.iter().map(|peer| world.network.channels_between(COORDINATOR, peer.name) as u64);
    let pushed = PUSH.msat() * pushed.sum::<u64>();
    let funds = if world.plan.opens_channels {
        FUNDS.msat()
    } else {
        FUNDS.msat() + world.plan.peers.len() as u64 * 1_000_000_000
    };
    let expected = funds + books.fees_received_msat.msat()
        - pushed
        - books.rewards_settled_msat.msat()
        - books.routing_fees_msat.msat();
    check(world.network.balance(COORDINATOR).msat() == expected, "the coordinator's wallet is not what its books say");
    for (hash, _, status) in world.network.payments(COORDINATOR) {
        check(status != PaymentStatus::InFlight, &format!("the coordinator's payment {hash} has not ended"));
    }
    for (hash, _, status) in world.network.invoices(COORDINATOR) {
        let ended = matches!(status, InvoiceStatus::Settled { .. } | InvoiceStatus::Canceled);
        check(ended, &format!("the coordinator's fee invoice {hash} is {status:?}"));
    }
    books
}

/// Was nothing wrong with a peer and with what it depends on, so that it can have missed no block and no receipt?
fn is_calm(plan: &Plan, peer: &PeerPlan) -> bool {
    let calls = plan.lightning.calls_lost == Ppm::ZERO && plan.lightning.answers_lost == Ppm::ZERO;
    let coordinator = plan.coordinator.fate.crash_ppm == 0 && plan.node_crashes == 0 && plan.disk_full_ms.is_none();
    let process = &peer.process;
    let stays = process.fate.crash_ppm == 0 && process.fate.moments == i64::MAX && peer.manner != Manner::Vanishes;
    calls && coordinator && stays && plan.block_ms >= 15_000
}

/// A tranche that was held ends by somebody's decision, and what a receipt pays is paid.
fn nothing_timed_out(world: &World, name: &str, ends: &BTreeMap<PaymentHash, InvoiceStatus>) {
    for (hash, _, status) in world.network.payments(COORDINATOR) {
        if let PaymentStatus::Failed { reason, .. } = status
            && ends.contains_key(&hash)
            && reason == "held until it expired"
        {
            world.sim.violated(format_args!("{name} let {hash} time out"));
        }
    }
}

/// A peer's own books against its node. What it spent and received by its node if it is gone, or by its journal.
fn audit_peer(world: &World, peer: &PeerPlan) -> (PeerTotals, Msat) {
    let (sim, name) = (&world.sim, peer.name);
    let check = |holds: bool, rule: String| {
        if !holds {
            sim.violated(format_args!("{name}: {rule}"));
        }
    };
    let (mut paid, mut routing, mut received) = (0, 0, Msat::ZERO);
    // The payee's word counts: a payer that is gone never hears that it has paid.
    let taken: BTreeMap<_, _> = world.network.invoices(COORDINATOR).into_iter().map(|(hash, _, s)| (hash, s)).collect();
    for (hash, amount, status) in world.network.payments(name) {
        if matches!(taken.get(&hash), Some(InvoiceStatus::Settled { .. })) {
            paid += amount.msat();
        }
        if let PaymentStatus::Succeeded { fee, .. } = status {
            routing += fee.msat();
        }
    }
    let mut ends: BTreeMap<PaymentHash, InvoiceStatus> = BTreeMap::new();
    for (hash, _, status) in world.network.invoices(name) {
        if let InvoiceStatus::Settled { amount } = status {
            received = received.checked_add(amount).expect("small");
        }
        ends.insert(hash, status);
    }
    if is_calm(&world.plan, peer) {
        nothing_timed_out(world, name, &ends);
    }
    let truth = PeerTotals { fees_msat: Msat::new(paid), routing_msat: Msat::new(routing), received_msat: received };
    check(world.network.channels_between(COORDINATOR, name) <= 1, "has more than one channel".into());
    let journal = Journal::open_read_only(&journal_in(&world.data(name)));
    let Ok(journal) = journal else {
        check(peer.manner == Manner::Vanishes, "has no journal".into());
        return (truth, received);
    };
    if peer.manner == Manner::Vanishes {
        return (truth, received);
    }
    let totals = journal.totals().expect("read");
    check(totals == truth, format!("its journal says {totals:?}, its node {truth:?}"));
    let unfinished = journal.unfinished(None).expect("read");
    check(unfinished.is_empty(), format!("{} contributions have not ended", unfinished.len()));
    for (hash, status) in &ends {
        let ended = matches!(status, InvoiceStatus::Settled { .. } | InvoiceStatus::Canceled);
        check(ended, format!("the hold invoice {hash} is {status:?}"));
    }
    for entry in journal.entries().expect("read") {
        let fees = journal.totals_of(entry.contribution).expect("read").fees_msat;
        check(fees <= Msat::new(5_000), format!("paid {fees} in fees for one contribution"));
    }
    for entry in journal.entries().expect("read") {
        if let Stage::Closed(Ending::Accepted { lost_msat, .. }) = entry.stage {
            let lost = lost_msat > Msat::ZERO && is_calm(&world.plan, peer);
            check(!lost, format!("lost {lost_msat} that it had earned in round {}", entry.round()));
        }
    }
    let balance = world.network.balance(name);
    let channels = world.network.channels_between(COORDINATOR, name) as u64;
    let expected = PUSH.msat() * channels + received.msat() - paid - routing;
    check(balance.msat() == expected, format!("its wallet has {balance}, not {expected}"));
    (totals, received)
}

/// Was a tranche whose preimage came out claimed? Only a peer that something was wrong with may have missed it.
fn claimed_or_excused(world: &World, hash: &PaymentHash) -> bool {
    world.plan.peers.iter().filter(|peer| is_calm(&world.plan, peer)).all(|peer| {
        let of_it = |(other, _, status): (PaymentHash, Msat, InvoiceStatus)| (other == *hash).then_some(status);
        let status = world.network.invoices(peer.name).into_iter().find_map(of_it);
        status.is_none_or(|status| matches!(status, InvoiceStatus::Settled { .. }))
    })
}

/// No preimage comes out with so few blocks left that its peer could not claim by it.
fn revealed_in_time(world: &World, at_ms: u64, event: &Event, round: &Round) {
    let Event::Judged { tranches_paid } = event else { return };
    let from_ms = at_ms.saturating_sub(world.plan.slowness_ms());
    let Some(height) = world.history.lowest_height(from_ms, at_ms) else { return };
    for (contribution, paid) in round.contributions.iter().zip(tranches_paid) {
        let late = contribution.expiry_height.is_some_and(|expiry| height + REVEAL_MARGIN_BLOCKS > expiry);
        if *paid != 0 && late {
            world.sim.violated(format_args!("round {}: preimages came out at block {height}", round.number));
        }
    }
}

/// What is queued is sent while there is time, if the coordinator and its node are there.
fn sent_in_time(world: &World, at_ms: u64, before: &Round, after: &Round) {
    for (before, after) in before.contributions.iter().zip(&after.contributions) {
        let Some(queued_ms) = before.invoices_ms else { continue };
        let queued_ms = world.sim.since_start_ms(queued_ms, world.plan.coordinator.ahead_ms);
        let dropped = before
            .tranches
            .iter()
            .zip(&after.tranches)
            .any(|(before, after)| (before.state, after.state) == (TrancheState::Queued, TrancheState::Dropped));
        let never_sent = before.expiry_height.is_none();
        let there_ms = world.history.longest_shift_ms(COORDINATOR, queued_ms, at_ms);
        let stored = world.plan.disk_full_ms.is_none();
        if stored && dropped && never_sent && there_ms > world.plan.slowness_ms() + 20_000 {
            world
                .sim
                .violated(format_args!("a reward was never sent though the coordinator was there for {there_ms} ms"));
        }
    }
}

/// Whose payment the node can't tell of looks again, and never pays on the off chance.
fn nothing_is_asked_blindly(world: &World) {
    let resends = world.network.blind_resends();
    if resends > 0 {
        world.sim.violated(format_args!("{resends} payments were sent again though their fate was unknown"));
    }
}

/// The stored rounds are what the events lead to.
fn log_is_projection(world: &World, db: &Database, manifest: &RunManifest) {
    let rules = RoundRules::new(&manifest.timing, manifest.reward.hold_blocks);
    let folded = walk(db, &rules, |at, event, before, after| {
        // From the coordinator's clock to the simulation's.
        let at_ms = world.sim.since_start_ms(at, world.plan.coordinator.ahead_ms);
        revealed_in_time(world, at_ms, event, before);
        sent_in_time(world, at_ms, before, after);
    });
    let stored: Vec<_> = tables::rounds(db.read()).expect("rounds").into_iter().map(|row| row.state).collect();
    if folded != stored {
        world.sim.violated("the stored rounds are not what the log of events leads to");
    }
}

/// One transcript a round, each signed, each following from the one before; a preimage in a receipt is the tranche's own.
fn transcripts_follow(world: &World, db: &Database, manifest: &RunManifest) {
    let (mut checkpoint, mut previous) = (manifest.initial_checkpoint, None);
    let rounds = tables::rounds(db.read()).expect("rounds").len() as u32;
    for round in 0..rounds {
        let path = world.data(COORDINATOR).join(format!("transcripts/{round}.json"));
        let Ok(bytes) = std::fs::read(path) else {
            world.sim.violated(format_args!("round {round} has no transcript"));
            return;
        };
        let signed: Signed<Transcript> = Signed::from_bytes(&bytes).expect("canonical");
        let body = signed.verify(&manifest.coordinator).expect("the coordinator's");
        let opening = &body.opening.body;
        let follows = (opening.round, opening.checkpoint, opening.previous_transcript)
            == (RoundNumber(round), checkpoint, previous);
        if !follows {
            world.sim.violated(format_args!("round {round} does not follow from the one before"));
        }
        for record in &body.contributions {
            for (tranche, preimage) in record.terms.body.tranches.iter().zip(&record.receipt.body.preimages) {
                if preimage.is_some() && !claimed_or_excused(world, &tranche.payment_hash) {
                    world.sim.violated(format_args!("round {round}: a preimage came out and nobody could claim by it"));
                }
                if preimage.is_some_and(|preimage| preimage.payment_hash() != tranche.payment_hash) {
                    world.sim.violated(format_args!("round {round}: a receipt has a wrong preimage"));
                }
            }
        }
        (checkpoint, previous) = (body.next_checkpoint, Some(body.digest()));
    }
}
