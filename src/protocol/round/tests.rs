use proptest::prelude::*;

use super::*;
use crate::protocol::amount::Msat;
use crate::protocol::api::Phase;
use crate::protocol::ids::{ContributionId, PeerId, RoundNumber, UnixMs};

const COMMIT: UnixMs = UnixMs(1_000);
const UPLOAD: UnixMs = UnixMs(2_000);
const TRANCHES: [Msat; 2] = [Msat::new(10), Msat::new(20)];

fn rules() -> RoundRules {
    RoundRules { close_at_contributions: 2, max_contributions: 3, invoices_ms: 300, hold_blocks: 144 }
}

fn id(n: u8) -> ContributionId {
    ContributionId::from_bytes([n; 32])
}

fn peer(n: u8) -> PeerId {
    PeerId::from_bytes([n; 32])
}

fn open() -> Round {
    Round::open(RoundNumber(7), UnixMs(0), COMMIT, UPLOAD)
}

/// Applies events one after the other at `now`; all must be legal.
fn after(mut round: Round, now: u64, events: &[Event]) -> Round {
    for event in events {
        round = transition(&round, event, UnixMs(now), &rules()).expect("a legal event").0;
    }
    round
}

fn refused(round: &Round, now: u64, event: &Event) -> Illegal {
    transition(round, event, UnixMs(now), &rules()).expect_err("an illegal event")
}

fn ticket(n: u8) -> Event {
    Event::TicketSold { contribution: id(n), peer: peer(n), payload_bytes: 5, tranches: TRANCHES.to_vec() }
}

fn invoices(n: u8) -> Event {
    Event::InvoicesAccepted { contribution: id(n) }
}

fn started(n: u8, tranche: u32) -> Event {
    Event::PaymentStarted { contribution: id(n), tranche, height: Some(100) }
}

fn in_flight(n: u8, tranche: u32) -> Event {
    Event::PaymentInFlight { contribution: id(n), tranche }
}

fn settled(n: u8, tranche: u32) -> Event {
    Event::PaymentSettled { contribution: id(n), tranche, fee_msat: Msat::ZERO }
}

fn failed(n: u8, tranche: u32) -> Event {
    Event::PaymentFailed { contribution: id(n), tranche }
}

fn not_reached(n: u8, tranche: u32) -> Event {
    Event::PaymentNotReached { contribution: id(n), tranche, payable_until_ms: UnixMs(1_000_000) }
}

fn upload(n: u8) -> Event {
    Event::Uploaded { contribution: id(n), payload_bytes: 5 }
}

const TICK: Event = Event::Tick { open_challenges: 0, height: None };

fn locked(n: u8) -> Vec<Event> {
    vec![ticket(n), invoices(n), started(n, 0), in_flight(n, 0), started(n, 1), in_flight(n, 1)]
}

#[test]
fn a_round_closes_early_once_enough_payloads_are_in_and_nobody_is_on_the_way() {
    let round = after(open(), 1, &[locked(1), locked(2), vec![upload(1), TICK]].concat());
    assert_eq!(round.phase, Phase::Committing);
    let somebody_pays_a_fee = after(round.clone(), 1, &[upload(2), Event::Tick { open_challenges: 1, height: None }]);
    assert_eq!(somebody_pays_a_fee.phase, Phase::Committing);
    assert_eq!(after(round, 1, &[upload(2), TICK]).phase, Phase::Judging);
}

#[test]
fn earned_tranches_settle_and_the_others_come_back() {
    let round = after(open(), 1, &[locked(1), locked(2), vec![upload(1), upload(2), TICK]].concat());
    let round = after(round, 2, &[Event::Judged { tranches_paid: vec![0b10, 0] }]);
    assert_eq!(round.contributions[0].progress, Progress::Settling);
    let round = after(round, 3, &[settled(1, 1), failed(1, 0), failed(2, 0)]);
    assert_eq!(round.contributions[0].progress, Progress::Finished);
    assert!(!round.has_ended());
    assert!(after(round, 4, &[failed(2, 1)]).has_ended());
}

#[test]
fn a_lost_tranche_before_the_upload_ends_the_contribution_and_sends_nothing_more() {
    let round = after(open(), 1, &[ticket(1), invoices(1), started(1, 0)]);
    let (round, effects) = transition(&round, &failed(1, 0), UnixMs(2), &rules()).expect("legal");
    assert_eq!(round.contributions[0].progress, Progress::Lapsed(Lapse::NotLocked));
    assert_eq!(effects[1..], [Effect::Dequeue { contribution: id(1), tranche: 1 }]);
    assert!(matches!(refused(&round, 2, &started(1, 1)), Illegal::WrongTrancheState { .. }));
    assert_eq!(refused(&round, 2, &upload(1)), Illegal::NotLocked(id(1)));
}

/// A round with time for every attempt.
fn long() -> Round {
    Round::open(RoundNumber(7), UnixMs(0), UnixMs(1_000), UnixMs(1_000_000))
}

#[test]
fn a_tranche_that_did_not_reach_the_peer_is_sent_again_after_longer_and_longer_pauses_and_then_given_up() {
    let mut round = after(long(), 1, &[ticket(1), invoices(1), started(1, 0), started(1, 1), in_flight(1, 1)]);
    let mut now = 1;
    for pause_ms in LOCK_PAUSES_MS {
        let (next, effects) = transition(&round, &not_reached(1, 0), UnixMs(now), &rules()).expect("legal");
        assert_eq!(effects, [], "the money stays counted as locked");
        let contribution = &next.contributions[0];
        assert_eq!(contribution.progress, Progress::Locking);
        assert_eq!(contribution.tranches[0].again_ms, Some(UnixMs(now + pause_ms)));
        assert_eq!(contribution.tranches[0].state, TrancheState::Sending);
        (round, now) = (next, now + pause_ms);
    }
    let locked = after(round.clone(), now, &[in_flight(1, 0)]);
    assert_eq!(locked.contributions[0].progress, Progress::Locked);
    assert_eq!(locked.contributions[0].tranches[0].again_ms, None);
    let (round, effects) = transition(&round, &not_reached(1, 0), UnixMs(now), &rules()).expect("legal");
    assert_eq!(round.contributions[0].progress, Progress::Lapsed(Lapse::NotLocked));
    assert_eq!(effects, [Effect::Post { from: Account::Locked, to: Account::Wallet, amount: Msat::new(10) }]);
}

#[test]
fn a_lock_that_comes_undone_before_the_payload_is_made_again() {
    let round = after(long(), 1, &[locked(1), vec![not_reached(1, 0)]].concat());
    assert_eq!(round.contributions[0].progress, Progress::Locking);
    assert_eq!(refused(&round, 2, &upload(1)), Illegal::NotLocked(id(1)));
    let round = after(round, 2, &[in_flight(1, 0), upload(1)]);
    assert_eq!(round.contributions[0].progress, Progress::Uploaded);
    let late = after(round, 3, &[not_reached(1, 0)]);
    assert_eq!(late.contributions[0].progress, Progress::Lapsed(Lapse::LockLost));
}

#[test]
fn no_attempt_is_made_after_the_last_deadline_or_on_an_invoice_that_expires() {
    let sent = |upload_ms| {
        let round = Round::open(RoundNumber(7), UnixMs(0), UnixMs(1_000), UnixMs(upload_ms));
        after(round, 1, &[ticket(1), invoices(1), started(1, 0)])
    };
    let gives_up = |round: Round, payable_until_ms: u64| {
        let payable_until_ms = UnixMs(payable_until_ms);
        let event = Event::PaymentNotReached { contribution: id(1), tranche: 0, payable_until_ms };
        let round = after(round, 1, &[event]);
        assert_eq!(
            round.contributions[0].tranches[0].state == TrancheState::Refunded,
            !round.contributions[0].is_pending()
        );
        !round.contributions[0].is_pending()
    };
    let again = 1 + LOCK_PAUSES_MS[0];
    assert!(gives_up(sent(again), 1_000_000) && !gives_up(sent(again + 1), 1_000_000));
    assert!(gives_up(sent(1_000_000), again - 1) && !gives_up(sent(1_000_000), again));
    let round = after(after(sent(5_000), 1, &[not_reached(1, 0)]), 5_001, &[TICK]);
    assert_eq!(round.contributions[0].progress, Progress::Lapsed(Lapse::NoUpload));
    // What waited for its next attempt is not sent any more, and its money is not counted as locked for ever.
    let round = after(round, 5_002, &[Event::Judged { tranches_paid: vec![0] }, not_reached(1, 0)]);
    assert!(round.has_ended());
}

#[test]
fn deadlines_hold_to_the_millisecond() {
    assert!(transition(&open(), &ticket(1), COMMIT, &rules()).is_ok());
    assert!(matches!(refused(&open(), COMMIT.0 + 1, &ticket(1)), Illegal::CommitLate { .. }));
    let round = after(open(), 100, &[ticket(1)]);
    assert!(transition(&round, &invoices(1), UnixMs(400), &rules()).is_ok());
    assert!(matches!(refused(&round, 401, &invoices(1)), Illegal::InvoicesLate { .. }));
    let round = after(open(), 100, &locked(1));
    assert!(transition(&round, &upload(1), UPLOAD, &rules()).is_ok());
    assert!(matches!(refused(&round, UPLOAD.0 + 1, &upload(1)), Illegal::UploadLate { .. }));
}

#[test]
fn a_verdict_can_only_pay_what_was_uploaded() {
    let round = after(open(), 1, &[locked(1), vec![ticket(2)]].concat());
    let round = after(round, 1, &[upload(1)]);
    assert_eq!(refused(&round, 1, &Event::Judged { tranches_paid: vec![1, 0] }), Illegal::NotJudging(RoundNumber(7)));
    let round = after(round, UPLOAD.0 + 1, &[TICK]);
    for tranches_paid in [vec![1], vec![0, 1], vec![4, 0]] {
        let verdicts = Event::Judged { tranches_paid };
        assert_eq!(refused(&round, 3_000, &verdicts), Illegal::BadVerdicts(RoundNumber(7)));
    }
}

#[test]
fn a_round_that_nobody_bought_a_ticket_in_closes_with_the_commit_deadline() {
    assert_eq!(after(open(), COMMIT.0, &[TICK]).phase, Phase::Committing);
    let round = after(open(), COMMIT.0 + 1, &[TICK]);
    assert_eq!(round.phase, Phase::Judging);
    assert!(after(round, COMMIT.0 + 1, &[Event::Judged { tranches_paid: vec![] }]).has_ended());
}

#[test]
fn a_peer_has_one_contribution_a_round_and_a_round_so_many_tickets() {
    let round = after(open(), 1, &[ticket(1)]);
    let again = Event::TicketSold { contribution: id(9), peer: peer(1), payload_bytes: 1, tranches: TRANCHES.to_vec() };
    assert_eq!(refused(&round, 1, &again), Illegal::AlreadyCommitted(id(1)));
    let round = after(round, 1, &[ticket(2), ticket(3)]);
    assert!(matches!(refused(&round, 1, &ticket(4)), Illegal::Full { tickets: 3, .. }));
}

#[test]
fn after_the_last_call_no_ticket_is_sold_and_a_round_that_nobody_waits_for_is_judged() {
    let round = after(open(), 1, &[Event::LastCall]);
    assert!(matches!(refused(&round, 1, &ticket(1)), Illegal::CommitLate { .. }));
    assert_eq!(after(round, 1, &[TICK]).phase, Phase::Judging);
    let waiting = after(open(), 1, &[ticket(1), Event::LastCall, TICK]);
    assert_eq!(waiting.phase, Phase::Uploading);
}

fn any_event() -> impl Strategy<Value = Event> {
    let who = 1u8..5;
    let place = (1u8..5, 0u32..3);
    prop_oneof![
        2 => who.clone().prop_map(ticket),
        3 => who.clone().prop_map(invoices),
        6 => place.clone().prop_map(|(n, t)| started(n, t)),
        8 => place.clone().prop_map(|(n, t)| in_flight(n, t)),
        1 => place.clone().prop_map(|(n, t)| settled(n, t)),
        1 => place.prop_map(|(n, t)| failed(n, t)),
        6 => who.prop_map(upload),
        1 => (0u32..2, proptest::option::of(100u32..300))
            .prop_map(|(open_challenges, height)| Event::Tick { open_challenges, height }),
        1 => Just(Event::LastCall),
        1 => proptest::collection::vec(0u32..5, 0..4).prop_map(|tranches_paid| Event::Judged { tranches_paid }),
    ]
}

fn balance(books: &[(Account, i64)], account: Account) -> i64 {
    books.iter().filter(|(a, _)| *a == account).map(|(_, msat)| msat).sum()
}

fn at_height(height: u32) -> Event {
    Event::Tick { open_challenges: 0, height: Some(height) }
}

/// Sent at 100 for 144 blocks: a node may give it back from 205 on, and nothing is revealed in the last six blocks.
const LAST_TO_REVEAL: u32 = 199;

#[test]
fn a_payload_whose_lock_is_about_to_expire_is_neither_judged_nor_paid() {
    let uploaded = after(open(), 1, &[locked(1), locked(2), vec![upload(1), upload(2)]].concat());
    let judging = after(uploaded, 3, &[at_height(LAST_TO_REVEAL)]);
    assert_eq!((judging.phase, judging.uploads()), (Phase::Judging, 2));
    let late = after(judging.clone(), 4, &[at_height(LAST_TO_REVEAL + 1)]);
    assert!(late.contributions.iter().all(|c| c.progress == Progress::Lapsed(Lapse::LockLost)));
    assert_eq!(late.uploads(), 0);
    refused(&late, 5, &Event::Judged { tranches_paid: vec![1, 0] });
    let closed = after(late, 5, &[Event::Judged { tranches_paid: vec![0, 0] }]);
    assert!(closed.contributions.iter().all(|c| c.progress == Progress::Settling));
    // Whoever is judged in time is paid, however late it claims.
    let closed = after(judging, 4, &[Event::Judged { tranches_paid: vec![3, 3] }, at_height(1_000)]);
    assert_eq!(closed.contributions[0].tranches_paid, 3);
}

#[test]
fn nothing_is_uploaded_for_a_lock_that_is_about_to_expire() {
    let round = after(open(), 1, &[locked(1), vec![at_height(LAST_TO_REVEAL + 1)]].concat());
    assert_eq!(round.contributions[0].progress, Progress::Lapsed(Lapse::NotLocked));
    refused(&round, 2, &upload(1));
}

#[test]
fn a_payload_counts_only_while_its_whole_reward_is_locked() {
    let round = after(open(), 1, &[locked(1), vec![upload(1), failed(1, 0)]].concat());
    assert_eq!(round.contributions[0].progress, Progress::Lapsed(Lapse::LockLost));
    assert_eq!(round.uploads(), 0);
}

#[test]
fn a_lock_is_dated_by_the_first_tranche_that_was_sent_and_an_unknown_height_ends_nothing() {
    let later = Event::PaymentStarted { contribution: id(1), tranche: 1, height: Some(150) };
    let round = after(open(), 1, &[ticket(1), invoices(1), started(1, 0), later]);
    assert_eq!(round.contributions[0].expiry_height, Some(205));
    let round = after(open(), 1, &[locked(1), vec![upload(1), TICK]].concat());
    assert_eq!(round.contributions[0].progress, Progress::Uploaded);
}

proptest! {
    #[test]
    fn no_sequence_of_events_loses_or_doubles_money_or_breaks_a_deadline(
        steps in proptest::collection::vec((any_event(), 0u64..60), 0..200),
    ) {
        let rules = rules();
        let (mut round, mut now, mut books) = (open(), 0, Vec::new());
        let mut settled_ever = std::collections::BTreeSet::new();
        for (event, wait) in steps {
            now += wait;
            let before = round.clone();
            let Ok((after, effects)) = transition(&round, &event, UnixMs(now), &rules) else { continue };
            for effect in effects {
                if let Effect::Post { from, to, amount } = effect {
                    books.push((from, -(amount.msat() as i64)));
                    books.push((to, amount.msat() as i64));
                }
            }
            match &event {
                Event::TicketSold { .. } => prop_assert!(now <= round.commit_deadline_ms.0),
                Event::Uploaded { contribution, .. } => {
                    prop_assert!(now <= round.upload_deadline_ms.0);
                    let (_, contribution) = before.find(contribution).expect("known");
                    prop_assert!(contribution.tranches.iter().all(|t| t.state == TrancheState::InFlight));
                }
                Event::PaymentSettled { contribution, tranche, .. } => {
                    prop_assert!(settled_ever.insert((*contribution, *tranche)), "settled twice");
                }
                _ => {}
            }
            round = after;
            // The ledger and the tranches agree on where every msat is.
            let total = |wanted: &dyn Fn(TrancheState) -> bool| -> i64 {
                let of = |c: &Contribution| -> i64 {
                    let counted = c.tranches.iter().filter(|tranche| wanted(tranche.state));
                    counted.map(|tranche| tranche.amount_msat.msat() as i64).sum()
                };
                round.contributions.iter().map(of).sum()
            };
            prop_assert_eq!(balance(&books, Account::Locked), total(&TrancheState::is_locked));
            prop_assert_eq!(balance(&books, Account::Settled), total(&|s| s == TrancheState::Settled));
            prop_assert_eq!(books.iter().map(|(_, msat)| msat).sum::<i64>(), 0);
            if round.has_ended() {
                prop_assert_eq!(balance(&books, Account::Locked), 0);
            }
        }
    }
}
