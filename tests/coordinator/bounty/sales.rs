//! The package of a bounty, sold by L402: paid for once, given as often as it is asked for, and booked whatever happens.

use l402t::coordinator::handle::{Challenge, PackageAnswer};
use l402t::ln::InvoiceStatus;
use l402t::protocol::ids::PaymentHash;
use l402t::protocol::l402::{Credentials, Identifier, Macaroon, TokenError};

use super::*;

async fn package(coordinator: &Coordinator, credentials: Option<&str>) -> PackageAnswer {
    let handle = coordinator.bounty_handle();
    handle.package(credentials.map(str::to_owned)).await.expect("an answer")
}

async fn challenge(coordinator: &Coordinator, credentials: Option<&str>) -> Challenge {
    match package(coordinator, credentials).await {
        PackageAnswer::PaymentRequired(challenge) => challenge,
        PackageAnswer::File(file) => panic!("{file:?} is given away"),
    }
}

fn macaroon(challenge: &Challenge) -> Macaroon {
    Macaroon::from_base64(&challenge.macaroon).expect("a macaroon")
}

fn hash_of(challenge: &Challenge) -> PaymentHash {
    Identifier::of(&macaroon(challenge)).expect("ours").payment_hash
}

impl World {
    /// Posted, locked and open.
    async fn open(&self) -> Coordinator {
        let mut coordinator = self.coordinator(&Fuse::never()).await.expect("it starts");
        self.play(&mut coordinator, &mut [], false, |view| view.phase == BountyPhase::Open).await;
        coordinator
    }

    /// The sponsor has a channel already, and buys like anybody else.
    async fn pay(&self, challenge: &Challenge) -> String {
        let hash = hash_of(challenge);
        // As wallets do: it is looked up first, and paid where nothing is known of it.
        if self.sponsor.payment(hash).await.expect("up") == PaymentStatus::NotFound {
            self.sponsor.pay(&challenge.invoice, LIMITS).await.expect("paid");
        }
        for _ in 0..100 {
            if let PaymentStatus::Succeeded { preimage, .. } = self.sponsor.payment(hash).await.expect("known") {
                return Credentials::new(macaroon(challenge), preimage).expect("ours").to_header();
            }
            self.clock.advance_ms(10);
            tokio::time::sleep(std::time::Duration::from_millis(1)).await;
        }
        panic!("the payment does not arrive");
    }

    async fn close(&self, coordinator: &mut Coordinator) {
        let over = |view: &BountyView| view.phase == BountyPhase::Closed && view.surplus_msat == Msat::ZERO;
        self.play(coordinator, &mut [], true, over).await;
    }
}

#[tokio::test]
async fn a_package_is_paid_for_once_and_given_as_often_as_it_is_asked_for() {
    let world = World::new();
    let mut coordinator = world.open().await;
    assert_eq!(coordinator.bounty_handle().bounty().await.expect("a view").package_fee_msat, PACKAGE_FEE);
    let hash = world.request.posting.body.package;
    assert!(coordinator.handle().blob(hash).await.is_err(), "it is not published beside the gate");

    let first = challenge(&coordinator, None).await;
    let second = challenge(&coordinator, None).await;
    assert_ne!(first.invoice, second.invoice, "strangers can't pay each other's invoices");
    let token = world.pay(&first).await;
    for _ in 0..3 {
        let PackageAnswer::File(file) = package(&coordinator, Some(&token)).await else { panic!("it is paid for") };
        assert_eq!((file.hash, Blake3Hash::of(&std::fs::read(file.path).expect("there"))), (hash, hash));
    }
    assert_eq!((world.books().packages_sold_msat, world.books().fees_received_msat), (PACKAGE_FEE, Msat::ZERO));

    // After a restart the same token is as good.
    drop(coordinator);
    coordinator = world.coordinator(&Fuse::never()).await.expect("it starts");
    assert!(matches!(package(&coordinator, Some(&token)).await, PackageAnswer::File(_)));

    // What is closed is an auditor's, for nothing, at the gate and as a blob.
    world.close(&mut coordinator).await;
    assert!(matches!(package(&coordinator, None).await, PackageAnswer::File(_)));
    assert!(coordinator.handle().blob(hash).await.is_ok());
    assert_eq!(coordinator.bounty_handle().bounty().await.expect("a view").package_fee_msat, Msat::ZERO);
    assert_eq!(world.books().packages_sold_msat, PACKAGE_FEE);
    assert_eq!(world.gained("sponsor"), -(PACKAGE_FEE.msat() as i64));
}

#[tokio::test]
async fn no_other_token_opens_the_gate() {
    let world = World::new();
    let coordinator = world.open().await;
    let unpaid = challenge(&coordinator, None).await;
    let paid = challenge(&coordinator, None).await;
    let token = world.pay(&paid).await;
    let preimage = token.rsplit(':').next().expect("a preimage").to_owned();
    let refused = async |header: String| challenge(&coordinator, Some(&header)).await.refused.expect("refused");

    let stolen = refused(format!("L402 {}:{preimage}", unpaid.macaroon)).await;
    assert_eq!(stolen, TokenError::WrongPreimage(hash_of(&unpaid)));
    assert_eq!(refused("L402 nonsense".into()).await.code(), "token_malformed");

    let other = World::with(&BOUNTY_TOML.replace("Say a large number", "Say a larger number"));
    let elsewhere = other.open().await;
    let foreign = other.pay(&challenge(&elsewhere, None).await).await;
    assert_eq!(refused(foreign).await.code(), "token_bad_signature", "every bounty has its own keys");
    assert_eq!(world.books().packages_sold_msat, Msat::ZERO, "nothing was shown that is in no book");
}

#[tokio::test]
async fn what_is_paid_and_never_asked_for_again_is_booked_and_what_is_not_paid_is_forgotten() {
    let world = World::new();
    let mut coordinator = world.open().await;
    let (paid, unpaid) = (challenge(&coordinator, None).await, challenge(&coordinator, None).await);
    let token = world.pay(&paid).await;
    coordinator.step().await.expect("a step");
    assert_eq!(world.books().packages_sold_msat, PACKAGE_FEE);

    let node = world.network.node(COORDINATOR);
    world.clock.advance_ms(118_000);
    coordinator.step().await.expect("a step");
    assert_eq!(
        node.invoice(hash_of(&unpaid)).await.expect("up"),
        InvoiceStatus::Open,
        "it may be paid in the last moment"
    );
    world.clock.advance_ms(33_000);
    coordinator.step().await.expect("a step");
    assert_eq!(
        node.invoice(hash_of(&unpaid)).await.expect("up"),
        InvoiceStatus::Canceled,
        "nobody can pay for nothing"
    );
    assert!(matches!(package(&coordinator, Some(&token)).await, PackageAnswer::File(_)));
    assert_eq!(world.books().packages_sold_msat, PACKAGE_FEE, "booked once");
}

#[tokio::test]
async fn only_an_open_bounty_sells_its_package_and_who_has_paid_gets_it_all_the_same() {
    let world = World::new();
    let coordinator = world.coordinator(&Fuse::never()).await.expect("it starts");
    let handle = coordinator.bounty_handle();
    assert_eq!(handle.package(None).await.expect_err("not open yet").error.code, "bounty_not_open");
    drop((handle, coordinator));

    let coordinator = world.open().await;
    let token = world.pay(&challenge(&coordinator, None).await).await;
    let close = key("sponsor").sign(SponsorRequest { bounty: world.id(), ask: SponsorAsk::Close });
    let handle = coordinator.bounty_handle();
    assert_eq!(handle.sponsor(close).await.expect("its sponsor").phase, BountyPhase::Closing);
    assert_eq!(handle.package(None).await.expect_err("closing").error.code, "bounty_not_open");
    assert!(matches!(package(&coordinator, Some(&token)).await, PackageAnswer::File(_)));
}

#[tokio::test]
async fn invoices_that_nobody_pays_are_bounded_and_make_room_again() {
    let world = World::new();
    let mut coordinator = world.open().await;
    let handle = coordinator.bounty_handle();
    let mut made = 0;
    let refusal = loop {
        match handle.package(None).await {
            Ok(_) => made += 1,
            Err(refusal) => break refusal,
        }
        assert!(made <= 1_000, "bounded");
    };
    assert_eq!((refusal.status, refusal.error.code.as_str(), made), (503, "busy", 1_000));
    // Who comes next takes the place of the oldest, once that has had its time; one that was paid meanwhile is booked.
    world.clock.advance_ms(21_000);
    let next = challenge(&coordinator, None).await;
    let token = world.pay(&next).await;
    assert!(matches!(package(&coordinator, Some(&token)).await, PackageAnswer::File(_)));
    assert_eq!(world.books().packages_sold_msat, PACKAGE_FEE);
    world.clock.advance_ms(151_000);
    for _ in 0..40 {
        coordinator.step().await.expect("a step");
        world.clock.advance_ms(2_000);
    }
    assert!(handle.package(None).await.is_ok());
}

/// A buyer's whole purchase, with a coordinator that dies when the fuse blows and is started again. Says how many moments there
/// were.
async fn buy(fuse: Arc<Fuse>) -> u64 {
    let world = World::new();
    drop(world.open().await);
    let total = world.network.total_msat();
    let (mut current, mut coordinator, mut token, mut made) = (Arc::clone(&fuse), None, None, None);
    for _ in 0..100 {
        if current.is_blown() {
            coordinator = None;
            current = Fuse::never();
        }
        if coordinator.is_none() {
            coordinator = world.coordinator(&current).await;
        }
        let Some(alive) = coordinator.as_mut() else { continue };
        if alive.step().await.is_err() {
            continue;
        }
        match (alive.bounty_handle().package(token.clone()).await, &made) {
            (Ok(PackageAnswer::File(_)), _) => {
                drop(coordinator);
                assert_eq!(world.network.total_msat(), total);
                assert_eq!(world.books().packages_sold_msat, PACKAGE_FEE);
                return fuse.moments();
            }
            // The first one that arrives is paid, and that is all that ever is.
            (Ok(PackageAnswer::PaymentRequired(challenge)), None) => {
                token = Some(world.pay(&challenge).await);
                made = Some(challenge);
            }
            (Ok(PackageAnswer::PaymentRequired(challenge)), Some(_)) => {
                panic!("paid in vain: {:?}", challenge.refused);
            }
            (Err(refusal), _) => assert!(current.is_blown(), "{refusal}"),
        }
    }
    panic!("stuck after {} moments", fuse.moments());
}

#[tokio::test]
async fn a_crash_at_any_moment_of_a_sale_neither_loses_the_token_nor_books_it_twice() {
    let moments = buy(Fuse::never()).await;
    assert!(moments > 5, "{moments}");
    for moment in 1..=moments as i64 {
        buy(Fuse::after(moment)).await;
    }
}
