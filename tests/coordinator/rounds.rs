//! Whole rounds.

use std::sync::Arc;

use l402t::coordinator::RunEvent;
use l402t::ln::simulated::Faults;
use l402t::protocol::amount::{Msat, Ppm};
use l402t::protocol::api::Phase;
use l402t::protocol::held_out::{open_window, secret_commitment};
use l402t::protocol::ids::RoundNumber;
use l402t::protocol::sign::Statement;
use l402t::protocol::verdict::{Outcome, Rejection};

use crate::fuse::Fuse;
use crate::judge::{WithoutAggregate, WrongThenRight};
use crate::peer::{Manner, Peer};
use crate::world::{COORDINATOR, World};

/// One accepted contribution's reward in these tests: 600,000 msat in tranches of 200,000 and 400,000.
const REWARD: u64 = 600_000;
const FEE: u64 = 5_000;

#[tokio::test]
async fn a_round_pays_what_was_earned_and_nothing_else() {
    let world = World::new();
    let mut peers = [
        Peer::new(&world, "alice", b"good work", Manner::Honest),
        Peer::new(&world, "bob", b"bad work", Manner::Honest),
        Peer::new(&world, "carol", b"good but late", Manner::NoUpload),
        Peer::new(&world, "dave", b"good but gone", Manner::NoInvoices),
    ];
    let before = world.network.total_msat();
    let (mut coordinator, handle) = world.start().await;
    for peer in &mut peers {
        while !peer.registered {
            peer.register(&*handle).await.expect("registered");
        }
    }
    let owned: Vec<Msat> = peers.iter().map(|peer| world.network.balance(peer.name)).collect();
    let coordinator_owned = world.network.balance(COORDINATOR);
    world.play(&mut coordinator, &mut peers).await;
    drop((coordinator, handle));

    assert_eq!(world.network.total_msat(), before);
    let change = |place: usize| world.network.balance(peers[place].name).msat() as i64 - owned[place].msat() as i64;
    assert_eq!(change(0), (REWARD - FEE) as i64);
    assert!((1..4).all(|place| change(place) == -(FEE as i64)));
    let earned = world.network.balance(COORDINATOR).msat() as i64 - coordinator_owned.msat() as i64;
    assert_eq!(earned, (4 * FEE) as i64 - REWARD as i64);

    let books = world.books();
    assert_eq!(books.fees_received_msat, Msat::new(4 * FEE));
    assert_eq!(books.rewards_settled_msat, Msat::new(REWARD));
    assert_eq!(books.rewards_refunded_msat, Msat::new(2 * REWARD));
    assert_eq!(books.rewards_locked_msat, Msat::ZERO);

    let signed = world.transcript(0);
    let transcript = signed.verify(&signed.body.opening.body.checkpoint_signer(&world)).expect("the coordinator's");
    let outcome = |place: usize| &transcript.contributions[place].verdict.outcome;
    assert!(matches!(outcome(0), Outcome::Accepted { reward_msat, .. } if reward_msat.msat() == REWARD));
    assert_eq!(*outcome(1), Outcome::Rejected { rejection: Rejection::GainTooSmall });
    for place in [2, 3] {
        assert_eq!(*outcome(place), Outcome::Rejected { rejection: Rejection::NotUploaded });
        assert!(!transcript.contributions[place].uploaded);
    }
    assert_eq!(secret_commitment(&transcript.secret), transcript.opening.body.secret_commitment);
}

/// The signer of everything in a run.
trait Signer {
    fn checkpoint_signer(&self, world: &World) -> l402t::protocol::ids::PeerId;
}

impl Signer for l402t::protocol::statements::RoundOpening {
    fn checkpoint_signer(&self, world: &World) -> l402t::protocol::ids::PeerId {
        manifest(world).coordinator
    }
}

fn manifest(world: &World) -> l402t::protocol::manifest::RunManifest {
    crate::world::read_manifest(&world.data())
}

#[tokio::test]
async fn rounds_follow_each_other_from_checkpoint_to_checkpoint_until_the_run_ends() {
    let mut world = World::new();
    world.max_rounds = 3;
    world.settings.timing.close_at_contributions = 2;
    let mut peers = [
        Peer::new(&world, "alice", b"good work", Manner::Honest),
        Peer::new(&world, "bob", b"good too", Manner::Honest),
    ];
    let (mut coordinator, handle) = world.start().await;
    world.play(&mut coordinator, &mut peers).await;
    assert_eq!(handle.run().await.expect("run").current_round, None);
    assert_eq!(handle.run().await.expect("run").closed_rounds, 3);
    let view = handle.round(Some(RoundNumber(2))).await.expect("round");
    assert_eq!(view.phase, Phase::Closed);

    let params = manifest(&world);
    let (mut checkpoint, mut previous) = (params.initial_checkpoint, None);
    let mut windows = std::collections::BTreeSet::new();
    for round in 0..3 {
        let body = world.transcript(round).body;
        assert_eq!((body.opening.body.checkpoint, body.opening.body.previous_transcript), (checkpoint, previous));
        for window in &body.held_out {
            open_window(&params.held_out, window).expect("part of the pool");
            assert!(windows.insert(window.index), "window {} serves two rounds", window.index);
        }
        for record in &body.contributions {
            let blob = handle.blob(record.commitment.body.payload).await.expect("published");
            assert_eq!(std::fs::metadata(blob).expect("there").len(), record.commitment.body.payload_bytes);
        }
        handle.blob(body.next_checkpoint).await.expect("published");
        (checkpoint, previous) = (body.next_checkpoint, Some(body.digest()));
    }
    assert_eq!(world.network.total_msat(), Msat::new(10_000_000_000));
}

#[tokio::test]
async fn after_a_round_that_nobody_came_to_the_next_one_waits_until_somebody_asks() {
    let mut world = World::new();
    world.max_rounds = 3;
    let (mut coordinator, handle) = world.start().await;
    for _ in 0..50 {
        coordinator.step().await.expect("a step");
        world.pass_time(false).await;
    }
    let view = handle.round(None).await.expect("round");
    assert_eq!((view.opening.body.round, view.phase), (RoundNumber(0), Phase::Closed));
    assert!(world.transcript(0).body.contributions.is_empty());
    // Between two rounds the closed one is the current one; to ask for it is what opens the next.
    assert_eq!(handle.run().await.expect("run").current_round, Some(RoundNumber(0)));
    coordinator.step().await.expect("a step");
    assert_eq!(handle.run().await.expect("run").current_round, Some(RoundNumber(1)));
    assert_eq!(handle.round(None).await.expect("round").phase, Phase::Committing);
}

#[tokio::test]
async fn an_engine_that_is_dropped_at_every_turn_loses_no_round_no_money_and_no_event() {
    let mut world = World::new();
    world.max_rounds = 3;
    world.settings.timing.close_at_contributions = 2;
    let mut peers = [
        Peer::new(&world, "alice", b"good work", Manner::Honest),
        Peer::new(&world, "bob", b"bad work", Manner::Honest),
    ];
    let mut coordinator = world.open(&Fuse::never()).await.expect("opened");
    let (handle, mut events) = (coordinator.handle(), coordinator.events());
    let (mut opened, mut closed) = (Vec::new(), Vec::new());
    'run: for turn in 0..20_000u64 {
        let patience = std::time::Duration::from_micros(turn * 37 % 4_000);
        let _ = tokio::time::timeout(patience, coordinator.run()).await;
        while let Ok(event) = events.try_recv() {
            match event {
                RunEvent::RoundOpened { round, .. } => opened.push(round.0),
                RunEvent::RoundClosed { round, .. } => closed.push(round.0),
                RunEvent::RoundJudging { .. } | RunEvent::DiskFull { .. } | RunEvent::DiskFreed => {}
                RunEvent::SubmissionsJudged { .. } | RunEvent::BountyOpened { .. } => panic!("no bounty"),
                RunEvent::RunFinished { .. } => break 'run,
            }
        }
        for peer in &mut peers {
            // A peer may come too early: the first round opens in its own time.
            let _ = peer.act(&*handle).await;
        }
        world.clock.advance_ms(1);
    }
    assert_eq!((opened, closed), (vec![0, 1, 2], vec![0, 1, 2]));
    assert!(coordinator.is_finished());
    drop((coordinator, handle));
    let books = world.books();
    assert_eq!(books.rewards_settled_msat, Msat::new(3 * REWARD));
    assert_eq!(books.rewards_refunded_msat, Msat::new(3 * REWARD));
}

#[tokio::test]
async fn money_locked_by_a_peer_that_never_settles_comes_back_with_the_timeout_and_holds_nobody_up() {
    let mut world = World::new();
    world.max_rounds = 2;
    world.settings.timing.close_at_contributions = 1;
    let mut idle = [Peer::new(&world, "idle", b"good work", Manner::NeverSettles)];
    let (mut coordinator, handle) = world.start().await;
    for _ in 0..200 {
        coordinator.step().await.expect("a step");
        let moved = idle[0].act(&*handle).await.expect("an honest request");
        world.pass_time(moved).await;
        if handle.run().await.expect("run").current_round.is_none() {
            break;
        }
    }
    assert_eq!(handle.run().await.expect("run").closed_rounds, 2);
    assert!(!coordinator.is_finished(), "its money is still locked");
    world.network.mine(200);
    for _ in 0..3 {
        coordinator.step().await.expect("a step");
    }
    assert!(coordinator.is_finished());
    drop((coordinator, handle));
    let books = world.books();
    assert_eq!(books.rewards_settled_msat, Msat::ZERO);
    assert_eq!(books.rewards_refunded_msat, Msat::new(2 * REWARD));
}

#[tokio::test]
async fn a_network_that_delays_drops_and_doubles_changes_nothing_in_the_end() {
    let percent = |n: u32| Ppm::new(n * 10_000).expect("valid");
    let faults = Faults {
        delay_steps_max: 6,
        events_dropped: percent(30),
        events_duplicated: percent(30),
        answers_lost: Ppm::ZERO,
        calls_lost: Ppm::ZERO,
        ..Faults::NONE
    };
    let mut world = World::new();
    world.settings.timing.close_at_contributions = 2;
    let mut peers = [
        Peer::new(&world, "alice", b"good work", Manner::Honest),
        Peer::new(&world, "bob", b"bad work", Manner::Honest),
    ];
    let (mut coordinator, handle) = world.start().await;
    let tickets = [peers[0].buy(&*handle).await.expect("sold"), peers[1].buy(&*handle).await.expect("sold")];
    for (peer, ticket) in peers.iter_mut().zip(tickets) {
        let submission = peer.invoices(&ticket).await;
        handle.submit_invoices(ticket.contribution, submission.clone()).await.expect("taken");
        peer.work = Some(crate::peer::Work {
            round: RoundNumber(0),
            commitment: peer.commit(&*handle).await.expect("signed"),
            credentials: None,
            ticket: Some(ticket),
            submission: Some(submission),
            uploaded: false,
            receipt: None,
        });
    }
    world.network.set_faults(faults);
    world.play(&mut coordinator, &mut peers).await;
    drop((coordinator, handle));
    let books = world.books();
    assert_eq!(books.rewards_settled_msat, Msat::new(REWARD));
    assert_eq!(books.rewards_refunded_msat, Msat::new(REWARD));
}

#[tokio::test]
async fn a_second_start_goes_on_with_the_same_run_and_refuses_other_settings() {
    let mut world = World::new();
    let (coordinator, handle) = world.start().await;
    let run = handle.run().await.expect("run").run;
    drop((coordinator, handle));
    let (coordinator, handle) = world.start().await;
    assert_eq!(handle.run().await.expect("run").run, run);
    assert!(world.open(&Fuse::never()).await.is_err(), "the folder is in use");
    drop((coordinator, handle));
    world.settings.reward.tranches = 3;
    let error = world.open(&Fuse::never()).await.expect_err("refused").to_string();
    assert!(error.contains("reward.tranches"), "{error}");
}

#[tokio::test]
async fn a_judge_that_fails_or_pays_what_the_rules_do_not_is_asked_again_and_nothing_is_revealed() {
    let mut world = World::new();
    world.judge = Arc::new(WrongThenRight::default());
    let mut peers = [
        Peer::new(&world, "alice", b"good work", Manner::Honest),
        Peer::new(&world, "bob", b"good but idle", Manner::NoUpload),
    ];
    let (mut coordinator, handle) = world.start().await;
    for _ in 0..2_000 {
        let _ = tokio::time::timeout(std::time::Duration::from_millis(3), coordinator.run()).await;
        let mut moved = false;
        for peer in &mut peers {
            moved |= peer.act(&*handle).await.expect("an honest request");
        }
        world.pass_time(moved).await;
        if coordinator.is_finished() {
            break;
        }
    }
    assert!(coordinator.is_finished());
    assert_eq!(peers[1].receipts[0].body.preimages, [None, None]);
    drop((coordinator, handle));
    let books = world.books();
    assert_eq!(books.rewards_settled_msat, Msat::new(REWARD));
    assert_eq!(books.rewards_refunded_msat, Msat::new(REWARD));
}

#[tokio::test]
async fn a_round_without_an_aggregate_is_paid_like_any_other() {
    let mut world = World::new();
    world.judge = Arc::new(WithoutAggregate);
    let mut peers = [Peer::new(&world, "alice", b"good work", Manner::Honest)];
    let (mut coordinator, handle) = world.start().await;
    world.play(&mut coordinator, &mut peers).await;
    let refused = handle.aggregate(RoundNumber(0)).await.expect_err("there is none");
    assert_eq!((refused.status, &*refused.error.code), (404, "no_aggregate"));
    handle.transcript(RoundNumber(0)).await.expect("closed");
    drop((coordinator, handle));
    assert_eq!(world.books().rewards_settled_msat, Msat::new(REWARD));
}

#[tokio::test]
async fn a_coordinator_that_was_down_past_the_deadlines_judges_what_it_has_and_pays_for_it() {
    let world = World::new();
    let mut peers = [
        Peer::new(&world, "alice", b"good work", Manner::Honest),
        Peer::new(&world, "bob", b"good but slow", Manner::NoUpload),
    ];
    let (mut coordinator, handle) = world.start().await;
    while handle.round(None).await.expect("round").uploads == 0 {
        for peer in &mut peers {
            peer.act(&*handle).await.expect("an honest request");
        }
        coordinator.step().await.expect("a step");
    }
    drop((coordinator, handle));
    world.clock.advance_ms(7_200_000);
    let (mut coordinator, handle) = world.start().await;
    world.play(&mut coordinator, &mut peers).await;
    drop((coordinator, handle));
    let outcome = |place: usize| world.transcript(0).body.contributions[place].verdict.outcome.clone();
    assert!(matches!(outcome(0), Outcome::Accepted { .. }));
    assert_eq!(outcome(1), Outcome::Rejected { rejection: Rejection::NotUploaded });
    assert_eq!(world.books().rewards_settled_msat, Msat::new(REWARD));
}
