//! An agent at a bounty, against a fake coordinator over a simulated network: paid once, charged once, whatever happens.

use std::sync::Arc;

use super::fake::{FEE, FakeCoordinator, Habit};
use super::fuse::{Fuse, Fused};
use super::{CAPACITY, PUSH};
use crate::clock::{Clock, SystemClock};
use crate::ln::Lightning;
use crate::ln::simulated::{Faults, Network};
use crate::peer::api::{BountyApi, CoordinatorApi};
use crate::peer::error::PeerError;
use crate::peer::events::EventSink;
use crate::peer::folder::DataFolder;
use crate::peer::identity;
use crate::peer::journal::{Journal, Totals};
use crate::peer::session::PeerParts;
use crate::peer::settings::PeerSettings;
use crate::peer::spending::spent_24h;
use crate::peer::stage::{Ending, Stage};
use crate::peer::submit::{Asked, Repeat, Submission, Submitted, Submitter, Withdrawal};
use crate::protocol::amount::Msat;
use crate::protocol::bounty::score::Score;
use crate::protocol::bounty::verdict::Rejection;
use crate::protocol::ids::DAY_MS;

/// What a claim of 0.8790 is worth.
const WORTH: Msat = Msat::new(7_000_000);

struct Stall {
    network: Network,
    coordinator: Arc<FakeCoordinator>,
    data: tempfile::TempDir,
}

impl Stall {
    async fn set(habits: &[Habit]) -> Self {
        let network = Network::new(1, Faults::NONE);
        network.channel("coordinator", "peer", CAPACITY, PUSH);
        let coordinator = FakeCoordinator::of_bounty(network.node("coordinator"), habits).await;
        Self { network, coordinator, data: tempfile::tempdir().expect("a folder") }
    }

    async fn submitter(&self, fuse: &Arc<Fuse>, min_reward: Msat) -> Submitter {
        self.limited(fuse, min_reward, None).await
    }

    async fn limited(&self, fuse: &Arc<Fuse>, min_reward: Msat, max_daily_fees: Option<Msat>) -> Submitter {
        let api: Arc<dyn CoordinatorApi> = self.coordinator.clone();
        let board: Arc<dyn BountyApi> = self.coordinator.clone();
        let mut settings =
            PeerSettings { poll_ms: 1, channel_wait_ms: 2_000, give_up_after_ms: 50, ..PeerSettings::default() };
        settings.limits.min_reward = min_reward;
        settings.max_daily_fees = max_daily_fees;
        let parts = PeerParts {
            folder: DataFolder::open(self.data.path()).expect("free"),
            key: identity::load_or_create(self.data.path()).expect("a key"),
            api: Arc::new(Fused::<dyn CoordinatorApi> { fuse: fuse.clone(), inner: api }),
            ln: Arc::new(Fused::<dyn Lightning> { fuse: fuse.clone(), inner: self.network.node("peer") }),
            clock: Arc::new(SystemClock),
            settings,
            events: EventSink::new(|_| {}),
        };
        let view = self.coordinator.bounty().await.expect("there");
        let board = Arc::new(Fused::<dyn BountyApi> { fuse: fuse.clone(), inner: board });
        Submitter::open(parts, board, &view).expect("an honest bounty")
    }

    async fn submit(&self, fuse: &Arc<Fuse>) -> Option<Result<Submitted, PeerError>> {
        self.submit_or(fuse, Repeat::Told).await
    }

    async fn submit_or(&self, fuse: &Arc<Fuse>, repeat: Repeat) -> Option<Result<Submitted, PeerError>> {
        let submitter = self.submitter(fuse, Msat::ZERO).await;
        let submission = submission(8_790);
        tokio::select! {
            result = submitter.submit(&submission, repeat, &Asked) => Some(result),
            () = fuse.blown() => None,
        }
    }

    async fn submit_to_the_end(&self) -> Result<Submitted, PeerError> {
        self.submit(&Fuse::endless()).await.expect("the fuse is endless")
    }

    async fn submit_again(&self) -> Result<Submitted, PeerError> {
        self.submit_or(&Fuse::endless(), Repeat::Again).await.expect("the fuse is endless")
    }

    /// Every msat is where the journal says, nothing is locked, no fee was paid twice, and no diff is left behind.
    async fn check_the_books(&self) {
        self.network.advance(100);
        let journal = Journal::open_read_only(&self.data.path().join("peer.sqlite")).expect("there");
        let totals = journal.totals().expect("read");
        let (rewards, locked) = self.coordinator.rewards().await;
        assert_eq!((totals.received_msat, locked), (rewards, 0));
        let fees = self.coordinator.fees_paid().await;
        assert!(fees.iter().all(|paid| *paid <= 1), "a fee was paid twice: {fees:?}");
        assert_eq!(totals.fees_msat.msat(), FEE.msat() * fees.iter().sum::<usize>() as u64);
        let expected = PUSH.msat() + totals.received_msat.msat() - totals.spent_msat().msat();
        assert_eq!(self.network.balance("peer").msat(), expected);
        let outbox: Vec<_> = super::files_in(&self.data.path().join("outbox"));
        assert!(outbox.is_empty(), "left behind: {outbox:?}");
    }
}

/// The diff is the same each time.
fn submission(units: i64) -> Submission {
    Submission { diff: b"--- a".to_vec(), claim: Score::from_units(units).expect("in range") }
}

#[tokio::test]
async fn a_claim_that_is_reached_is_paid() {
    let stall = Stall::set(&[Habit::Pays(0)]).await;
    let submitted = stall.submit_to_the_end().await.expect("a good end");
    assert_eq!(submitted.ending, Some(Ending::Accepted { received_msat: WORTH, lost_msat: Msat::ZERO }));
    let expected = Totals { fees_msat: FEE, routing_msat: Msat::ZERO, received_msat: WORTH };
    assert_eq!(submitted.totals, expected);
    stall.check_the_books().await;
}

#[tokio::test]
async fn a_claim_that_is_not_reached_costs_its_fee_and_one_that_could_not_be_judged_does_not() {
    let stall = Stall::set(&[Habit::Rejects, Habit::Refunds]).await;
    let rejected = stall.submit_to_the_end().await.expect("a good end");
    let none = Msat::ZERO;
    assert_eq!(rejected.ending, Some(Ending::NotReached { reason: Rejection::BelowClaim, received_msat: none }));
    let refunded = stall.submit_again().await.expect("a good end");
    let reason = Rejection::ScorerFailed;
    assert_eq!(refunded.ending, Some(Ending::NotReached { reason, received_msat: FEE }));
    stall.check_the_books().await;
    assert_eq!(stall.network.balance("peer").msat(), PUSH.msat() - FEE.msat());
}

#[tokio::test]
async fn an_agent_killed_at_any_call_submits_once_and_is_paid_once() {
    let mut fuses = 0;
    for length in 1.. {
        let stall = Stall::set(&[Habit::Pays(0), Habit::Pays(0)]).await;
        if stall.submit(&Fuse::new(length)).await.is_some() {
            break;
        }
        fuses += 1;
        let submitted = stall.submit_to_the_end().await;
        let submitted = submitted.unwrap_or_else(|error| panic!("after a crash at call {length}: {error}"));
        stall.check_the_books().await;
        assert!(matches!(submitted.ending, Some(Ending::Accepted { .. })), "at call {length}: {submitted:?}");
        let journal = Journal::open_read_only(&stall.data.path().join("peer.sqlite")).expect("there");
        let entries = journal.entries().expect("read").len();
        assert_eq!(stall.coordinator.commitments(), entries, "after a crash at call {length}");
        assert_eq!(entries, 1, "submitted twice after a crash at call {length}");
        let earned = stall.coordinator.rewards().await.0.msat();
        assert_eq!(earned, WORTH.msat() * entries as u64, "after a crash at call {length}");
    }
    assert!(fuses >= 20, "only {fuses} places to crash at");
}

#[tokio::test]
async fn what_was_decided_is_told_again_for_nothing_and_submitted_again_only_on_request() {
    let stall = Stall::set(&[Habit::Rejects, Habit::Pays(0), Habit::Pays(0)]).await;
    let rejected = stall.submit_to_the_end().await.expect("a good end");
    assert!(!rejected.earlier, "{rejected:?}");
    let told = stall.submit_to_the_end().await.expect("an answer");
    assert_eq!(told, Submitted { earlier: true, ..rejected.clone() });
    assert_eq!(stall.coordinator.commitments(), 1);
    // Killed on its way, the second attempt goes on whether or not it is asked for again.
    for repeat in [Repeat::Again, Repeat::Told] {
        let stall = Stall::set(&[Habit::Rejects, Habit::Pays(0)]).await;
        stall.submit_to_the_end().await.expect("a good end");
        assert!(stall.submit_or(&Fuse::new(14), Repeat::Again).await.is_none());
        let second = stall.submit_or(&Fuse::endless(), repeat).await.expect("endless").expect("a good end");
        assert!(matches!(second.ending, Some(Ending::Accepted { .. })) && !second.earlier, "{repeat:?}: {second:?}");
        assert_eq!(stall.coordinator.commitments(), 2);
        stall.check_the_books().await;
    }
    let second = stall.submit_again().await.expect("a good end");
    assert!(matches!(second.ending, Some(Ending::Accepted { .. })), "{second:?}");
    assert_eq!(stall.submit_to_the_end().await.expect("an answer"), Submitted { earlier: true, ..second });
    assert_eq!(stall.coordinator.commitments(), 2);
    stall.check_the_books().await;
}

#[tokio::test]
async fn another_change_waits_for_the_one_that_was_begun() {
    let stall = Stall::set(&[Habit::Pays(0), Habit::Rejects]).await;
    // Killed once the fee is paid.
    assert!(stall.submit(&Fuse::new(12)).await.is_none());
    let submitter = stall.submitter(&Fuse::endless(), Msat::ZERO).await;
    let other = submission(8_900);
    let submitted = submitter.submit(&other, Repeat::Told, &Asked).await.expect("a good end");
    assert!(matches!(submitted.ending, Some(Ending::NotReached { .. })), "{submitted:?}");
    assert_eq!(submitted.claim, Some(other.claim));
    drop(submitter);
    assert_eq!(stall.coordinator.commitments(), 2);
    stall.check_the_books().await;
}

#[tokio::test]
async fn a_round_that_closes_before_anything_is_paid_is_followed_by_the_next() {
    let stall = Stall::set(&[Habit::ClosesEarly, Habit::ClosesEarly, Habit::Pays(0)]).await;
    let submitted = stall.submit_to_the_end().await.expect("a good end");
    assert!(matches!(submitted.ending, Some(Ending::Accepted { .. })), "{submitted:?}");
    assert_eq!(submitted.round.0, 2);
    stall.check_the_books().await;
}

#[tokio::test]
async fn terms_that_pay_less_than_the_owner_wants_are_not_taken_and_better_ones_than_possible_not_believed() {
    let stall = Stall::set(&[Habit::OffersLess]).await;
    let submitter = stall.submitter(&Fuse::endless(), WORTH).await;
    let submitted = submitter.submit(&submission(8_790), Repeat::Told, &Asked).await.expect("a good end");
    assert!(matches!(submitted.ending, Some(Ending::NoTicket { .. })), "{submitted:?}");
    drop(submitter);
    stall.check_the_books().await;

    for habit in [Habit::OffersMore, Habit::Overcharges] {
        let stall = Stall::set(&[habit]).await;
        let result = stall.submit_to_the_end().await;
        assert!(matches!(result, Err(PeerError::Untrusted(_))), "{habit:?}: {result:?}");
    }
}

#[tokio::test]
async fn a_claim_that_is_too_small_is_refused_before_anything_happens() {
    let stall = Stall::set(&[Habit::Pays(0)]).await;
    let submitter = stall.submitter(&Fuse::endless(), Msat::ZERO).await;
    let result = submitter.submit(&submission(8_769), Repeat::Told, &Asked).await;
    assert!(matches!(result, Err(PeerError::NotWorthIt(_))), "{result:?}");
    assert_eq!(stall.coordinator.commitments(), 0);
}

#[tokio::test]
async fn a_submission_is_withdrawn_wherever_that_is_safe_and_goes_on_where_it_is_not() {
    let mut seen = Vec::new();
    for length in 1.. {
        let stall = Stall::set(&[Habit::Pays(0)]).await;
        if stall.submit(&Fuse::new(length)).await.is_some() {
            break;
        }
        let submitter = stall.submitter(&Fuse::endless(), Msat::ZERO).await;
        let stage =
            submitter.session().journal().unfinished(None).expect("read").first().map(|entry| entry.stage.name());
        for withdrawal in submitter.withdraw().await.expect("an answer") {
            match withdrawal {
                Withdrawal::Done(done) => {
                    assert!(matches!(done.ending, Some(Ending::Missed { .. } | Ending::NoTicket { .. })), "{done:?}");
                    let (rewards, locked) = stall.coordinator.rewards().await;
                    assert_eq!((rewards, locked), (Msat::ZERO, 0), "at call {length}");
                    seen.push((stage, "withdrawn"));
                }
                Withdrawal::Refused { .. } => {
                    let went_on = submitter.go_on().await.expect("a good end");
                    assert!(matches!(went_on[0].ending, Some(Ending::Accepted { .. })), "at call {length}");
                    seen.push((stage, "kept"));
                }
            }
        }
        drop(submitter);
        stall.check_the_books().await;
    }
    seen.dedup();
    for wanted in [
        (Some("committed"), "withdrawn"),
        (Some("paying"), "withdrawn"),
        (Some("paid"), "withdrawn"),
        (Some("ticketed"), "withdrawn"),
        (Some("invoiced"), "withdrawn"),
        (Some("locked"), "withdrawn"),
        (Some("locked"), "kept"),
        (Some("uploaded"), "kept"),
    ] {
        assert!(seen.contains(&wanted), "{wanted:?} never happened: {seen:?}");
    }
}

#[tokio::test]
async fn entries_of_another_run_are_left_alone() {
    let stall = Stall::set(&[Habit::Pays(0)]).await;
    assert!(stall.submit(&Fuse::new(12)).await.is_none());
    // Another bounty's agent in the same data folder.
    let network = Network::new(1, Faults::NONE);
    network.channel("coordinator", "peer", CAPACITY, PUSH);
    let training = FakeCoordinator::new(network.node("coordinator"), &[]).await;
    let parts = PeerParts {
        folder: DataFolder::open(stall.data.path()).expect("free"),
        key: identity::load_or_create(stall.data.path()).expect("a key"),
        api: training.clone(),
        ln: network.node("peer"),
        clock: Arc::new(SystemClock),
        settings: PeerSettings { poll_ms: 1, ..PeerSettings::default() },
        events: EventSink::new(|_| {}),
    };
    let session = crate::peer::session::Session::open(parts, &training.run().await.expect("there")).expect("honest");
    let trainer = crate::peer::trainer::TrainerSlot::new(Box::new(super::NoTraining));
    let summary = session.serve(&trainer, None).await.expect("nothing to do");
    assert_eq!(summary.unfinished, 1);
    let entry = session.journal().unfinished(None).expect("read").remove(0);
    assert!(!matches!(entry.stage, Stage::Closed(_)));
    drop(session);
    // Its payload is still there: it goes on as if nothing had been.
    let submitted = stall.submit_to_the_end().await.expect("a good end");
    assert!(matches!(submitted.ending, Some(Ending::Accepted { .. })), "{submitted:?}");
    assert_eq!(stall.coordinator.commitments(), 1);
}

#[tokio::test]
async fn a_day_allows_no_more_than_its_limit_and_what_is_on_its_way_counts() {
    let stall = Stall::set(&[Habit::Pays(0), Habit::Pays(0)]).await;
    let limited = async |most: Msat, units: i64| {
        let submitter = stall.limited(&Fuse::endless(), Msat::ZERO, Some(most)).await;
        submitter.submit(&submission(units), Repeat::Told, &Asked).await
    };
    let cost = FEE.msat() + 5_000;
    let refused = limited(Msat::new(cost - 1), 8_790).await.expect_err("one msat too many");
    assert!(matches!(refused, PeerError::SpendingCap { spent: Msat::ZERO, .. }), "{refused}");
    assert_eq!(stall.coordinator.fees_paid().await.iter().sum::<usize>(), 0, "nothing was paid");
    let submitted = limited(Msat::new(cost), 8_790).await.expect("exactly what may be spent");
    assert!(matches!(submitted.ending, Some(Ending::Accepted { .. })), "{submitted:?}");
    // The same again costs nothing; another one would.
    assert!(limited(Msat::new(cost), 8_790).await.expect("told").earlier);
    let refused = limited(Msat::new(FEE.msat() + cost - 1), 8_800).await.expect_err("spent in 24 hours");
    assert!(matches!(refused, PeerError::SpendingCap { spent: FEE, .. }), "{refused}");
    stall.check_the_books().await;

    let journal = Journal::open_read_only(&stall.data.path().join("peer.sqlite")).expect("there");
    let now = SystemClock.now();
    assert_eq!(spent_24h(Some(&journal), stall.data.path(), now).expect("read"), FEE);
    assert_eq!(
        spent_24h(Some(&journal), stall.data.path(), now.plus_ms(DAY_MS + 1)).expect("read"),
        Msat::ZERO,
        "a day later"
    );
}

#[tokio::test]
async fn what_was_only_committed_to_is_paid_for_within_the_days_limit_too() {
    for length in 1.. {
        let stall = Stall::set(&[Habit::Pays(0)]).await;
        assert!(stall.submit(&Fuse::new(length)).await.is_none(), "it was never only committed to");
        let journal = Journal::open_read_only(&stall.data.path().join("peer.sqlite")).expect("there");
        if journal.unfinished(None).expect("read").first().is_none_or(|entry| entry.stage != Stage::Committed) {
            continue;
        }
        let cost = FEE.msat() + 5_000;
        let submitter = stall.limited(&Fuse::endless(), Msat::ZERO, Some(Msat::new(cost - 1))).await;
        let refused = submitter.go_on().await.expect_err("one msat too many");
        assert!(matches!(refused, PeerError::SpendingCap { .. }), "{refused}");
        assert_eq!(stall.coordinator.fees_paid().await.iter().sum::<usize>(), 0);
        drop(submitter);
        let submitter = stall.limited(&Fuse::endless(), Msat::ZERO, Some(Msat::new(cost))).await;
        let ended = submitter.go_on().await.expect("what may be spent");
        assert!(matches!(ended[0].ending, Some(Ending::Accepted { .. })), "{ended:?}");
        return;
    }
}
