//! What a sponsor is paid back: once an invoice, whatever it sends and whenever nobody looks.

use super::*;

/// A bounty that alice has earned 15,000 sat of, closed by its sponsor.
async fn closed(world: &World) -> Coordinator {
    let mut coordinator = world.coordinator(&Fuse::never()).await.expect("taken on");
    world.play(&mut coordinator, &mut [], false, |view| view.phase == BountyPhase::Open).await;
    assert_eq!(world.submit(&mut coordinator, "alice", 1_300, "1350").await, reached(15_000));
    let handle = coordinator.bounty_handle();
    let close = key("sponsor").sign(SponsorRequest { bounty: world.id(), ask: SponsorAsk::Close });
    handle.sponsor(close).await.expect("closing");
    while handle.bounty().await.expect("a view").phase != BountyPhase::Closed {
        coordinator.step().await.expect("a step");
        world.pass_time(false).await;
    }
    coordinator
}

#[tokio::test]
async fn the_same_request_for_a_pay_back_is_paid_and_booked_once_however_often_it_comes() {
    let world = World::new();
    let mut coordinator = closed(&world).await;
    let handle = coordinator.bounty_handle();
    let ask = |ask| key("sponsor").sign(SponsorRequest { bounty: world.id(), ask });
    let surplus = handle.bounty().await.expect("a view").surplus_msat;
    let quarter = Msat::new(surplus.msat() / 4);
    let request = InvoiceRequest { amount: quarter, description: "a quarter".into(), expiry_s: 3_600 };
    let invoice = world.sponsor.create_invoice(&request).await.expect("made").bolt11;
    for _ in 0..3 {
        let ask = ask(SponsorAsk::PayBack { invoice: invoice.clone() });
        handle.sponsor(ask).await.expect("taken, and then known");
        for _ in 0..5 {
            coordinator.step().await.expect("a step");
            world.pass_time(true).await;
        }
    }
    assert_eq!(handle.bounty().await.expect("a view").surplus_msat.msat(), surplus.msat() - quarter.msat());
    assert_eq!(world.books().escrow_paid_back_msat, quarter);

    // Of these hashes the node knows payments, or their preimages are out: nothing would be paid.
    let manifest = handle.bounty().await.expect("a view").manifest;
    let record = Signed::<BountyTranscript>::from_bytes(&handle.transcript(RoundNumber(0)).await.expect("closed"));
    let terms = record.expect("canonical").body.contributions[0].terms.body.clone();
    for hash in [manifest.body.escrow[0].payment_hash, terms.tranches[1].payment_hash] {
        let invoice = world.network.node("other").create_hold_invoice(hash, &request, 144).await.expect("made");
        let refused = handle.sponsor(ask(SponsorAsk::PayBack { invoice })).await.expect_err("refused");
        assert_eq!(refused.error.code, "bad_invoice");
    }
}

#[tokio::test]
async fn a_pay_back_that_expired_while_nobody_looked_is_given_up_for_another_and_paid_once() {
    let world = World::new();
    let mut coordinator = closed(&world).await;
    let handle = coordinator.bounty_handle();
    let ask = |ask| key("sponsor").sign(SponsorRequest { bounty: world.id(), ask });
    let surplus = handle.bounty().await.expect("a view").surplus_msat;
    assert_eq!(surplus, Msat::new(625_000));
    let invoice = async |expiry_s, amount| {
        let request = InvoiceRequest { amount, description: "rest".into(), expiry_s };
        let invoice = world.sponsor.create_invoice(&request).await.expect("made").bolt11;
        handle.sponsor(ask(SponsorAsk::PayBack { invoice })).await.map_err(|refused| refused.error.code)
    };
    assert_eq!(invoice(3_600, Msat::new(625_001)).await.expect_err("too much"), "bad_invoice");
    assert_eq!(invoice(30, surplus).await.expect_err("too short"), "bad_invoice");
    invoice(90, surplus).await.expect("taken");
    assert_eq!(invoice(3_600, surplus).await.expect_err("one at a time"), "pay_back_under_way");
    // The coordinator was not there while it could be paid.
    world.clock.advance_ms(100_000);
    coordinator.step().await.expect("a step");
    invoice(3_600, surplus).await.expect("another is taken");
    for _ in 0..20 {
        coordinator.step().await.expect("a step");
        world.pass_time(true).await;
    }
    assert_eq!(world.gained("sponsor"), -15_000_000);
    assert_eq!(world.books().escrow_paid_back_msat, surplus);
}
