//! What is believed of a bounty: one true view and true terms, and every way in which they could be false.

use super::fake::{FEE, FakeCoordinator, Habit, bounty_manifest, rules};
use crate::ln::simulated::{Faults, Network};
use crate::peer::Limits;
use crate::peer::api::BountyApi;
use crate::peer::checks::{NotWorthIt, check_bounty, check_bounty_limits, check_terms, worth};
use crate::peer::settings::PeerSettings;
use crate::peer::stage::Fee;
use crate::peer::terms::RunTerms;
use crate::protocol::amount::Msat;
use crate::protocol::api::{BountyPhase, BountyView, Ticket};
use crate::protocol::bounty::offer::Offer;
use crate::protocol::bounty::score::Score;
use crate::protocol::bounty::statements::BountyManifest;
use crate::protocol::ids::{Blake3Hash, BountyId, Preimage, RoundNumber, RunId, UnixMs};
use crate::protocol::sign::IdentityKey;
use crate::protocol::statements::{Commitment, RewardTerms, Tranche};

fn key(byte: u8) -> IdentityKey {
    IdentityKey::from_secret_bytes(&[byte; 32]).expect("a key")
}

fn score(units: i64) -> Score {
    Score::from_units(units).expect("in range")
}

async fn view() -> BountyView {
    let network = Network::new(1, Faults::NONE);
    FakeCoordinator::of_bounty(network.node("coordinator"), &[Habit::Rejects]).await.bounty().await.expect("there")
}

/// A view of a manifest that its coordinator has signed.
fn signed(view: &BountyView, manifest: BountyManifest) -> BountyView {
    let bounty = manifest.posting.body.bounty_id();
    BountyView { bounty, run: manifest.run_id(), manifest: key(3).sign(manifest), ..view.clone() }
}

#[tokio::test]
async fn a_bounty_must_be_what_its_sponsor_and_its_coordinator_signed() {
    let view = view().await;
    check_bounty(&view).expect("as signed");
    let changed = |change: fn(&mut BountyManifest)| {
        let mut manifest = bounty_manifest();
        change(&mut manifest);
        signed(&view, manifest)
    };
    let other_id = BountyView { bounty: BountyId::from_bytes([0; 32]), ..view.clone() };
    let other_run = BountyView { run: RunId::from_bytes([0; 32]), ..view.clone() };
    let mut unsigned = view.clone();
    unsigned.manifest.body.hold_blocks += 1;
    unsigned.run = unsigned.manifest.body.run_id();
    let by_another = BountyView { manifest: key(4).sign(bounty_manifest()), ..view.clone() };
    let refused = [
        ("another bounty's id", other_id),
        ("another run's id", other_run),
        ("a manifest changed after it was signed", unsigned),
        ("a manifest signed by another than the posting names", by_another),
        ("a posting that its sponsor did not sign", changed(|manifest| manifest.posting.body.title = "other".into())),
        ("an escrow below the budget", changed(|manifest| manifest.escrow[0].amount_msat = Msat::new(99_999_999))),
        ("an escrow above the budget", changed(|manifest| manifest.escrow[0].amount_msat = Msat::new(100_000_001))),
        ("no escrow", changed(|manifest| manifest.escrow.clear())),
        (
            "an empty tranche",
            changed(|manifest| {
                let empty =
                    Tranche { payment_hash: Preimage::from_bytes([9; 32]).payment_hash(), amount_msat: Msat::ZERO };
                manifest.escrow.push(empty);
            }),
        ),
        (
            "a payment hash used twice",
            changed(|manifest| {
                manifest.escrow[1].payment_hash = manifest.escrow[0].payment_hash;
            }),
        ),
        ("too short a hold", changed(|manifest| manifest.hold_blocks = 40)),
        ("another version", changed(|manifest| manifest.version = 2)),
        (
            "rules that can't be kept",
            changed(|manifest| {
                let mut posting = manifest.posting.body.clone();
                posting.rules.target = posting.rules.baseline;
                manifest.posting = key(7).sign(posting);
            }),
        ),
    ];
    for (what, view) in refused {
        assert!(check_bounty(&view).is_err(), "{what} was believed");
    }
}

#[tokio::test]
async fn an_agents_limits_hold_against_the_bounty() {
    let limits = PeerSettings::default().limits;
    let manifest = bounty_manifest();
    check_bounty_limits(&manifest, &limits).expect("within");
    let dear = Limits { max_fee: Msat::new(FEE.msat() - 1), ..limits };
    assert!(check_bounty_limits(&manifest, &dear).is_err());
    let short = Limits { max_hold_blocks: 143, ..limits };
    assert!(check_bounty_limits(&manifest, &short).is_err());
}

#[tokio::test]
async fn a_claim_that_can_not_pay_off_is_not_submitted() {
    let view = view().await;
    let limits = PeerSettings::default().limits;
    let of = |change: &dyn Fn(&mut BountyView)| {
        let mut view = view.clone();
        change(&mut view);
        worth(&view, score(8_790), &limits)
    };
    assert_eq!(of(&|_| {}), Ok(Msat::new(7_000_000)));
    assert_eq!(of(&|view| view.best = score(8_730)), Ok(Msat::new(6_000_000)));
    assert_eq!(of(&|view| view.phase = BountyPhase::Closing), Err(NotWorthIt::NotOpen(BountyPhase::Closing)));
    assert_eq!(of(&|view| view.now_ms = UnixMs(u64::MAX)), Err(NotWorthIt::Late));
    assert_eq!(of(&|view| view.submissions = 9), Err(NotWorthIt::Full(9)));
    assert_eq!(of(&|view| view.least_claim = None), Err(NotWorthIt::NothingLeft));
    let small = of(&|view| view.least_claim = Some(score(8_791)));
    assert_eq!(small, Err(NotWorthIt::ClaimTooSmall { least: "0.8791".into(), best: "0.8720".into() }));
    let proud = Limits { min_reward: Msat::new(7_000_001), ..limits };
    assert!(matches!(worth(&view, score(8_790), &proud), Err(NotWorthIt::TooLittle { .. })));
}

#[test]
fn an_offer_must_be_the_tranches_of_what_the_claim_can_be_worth() {
    let manifest = bounty_manifest();
    let run = RunTerms::of_bounty(manifest.run_id(), manifest.clone());
    let commitment = |claim| Commitment {
        run: run.run,
        round: RoundNumber(0),
        opening: Blake3Hash::of(b"opening"),
        peer: key(1).id(),
        payload: Blake3Hash::of(b"payload"),
        payload_bytes: 7,
        claim,
    };
    let claimed = commitment(Some(score(8_790)));
    let fee = Fee {
        macaroon: String::new(),
        invoice: String::new(),
        payment_hash: Preimage::from_bytes([0xfe; 32]).payment_hash(),
        amount_msat: FEE,
    };
    let check = |signer: u8, commitment: &Commitment, amounts: &[Msat], hold_blocks| {
        let preimage = |place: usize| Preimage::from_bytes([place as u8 + 1; 32]);
        let tranches = amounts.iter().enumerate().map(|(place, amount_msat)| Tranche {
            payment_hash: preimage(place).payment_hash(),
            amount_msat: *amount_msat,
        });
        let contribution = commitment.contribution_id();
        let terms = RewardTerms {
            contribution,
            sequence: 0,
            tranches: tranches.collect(),
            hold_blocks,
            invoices_deadline_ms: UnixMs(1),
        };
        check_terms(&Ticket { contribution, terms: key(signer).sign(terms) }, commitment, &run, Some(&fee))
    };
    let offer = |msat| Offer::new(Msat::new(msat), rules().fee_msat).expect("a satoshi or more").tranches();
    let whole = offer(7_000_000);
    check(3, &claimed, &whole, 144).expect("all that it can be worth");
    check(3, &claimed, &offer(5_000), 144).expect("less: others came first");
    let mut moved = whole.clone();
    moved[1] = Msat::new(moved[1].msat() - 1);
    moved[2] = Msat::new(moved[2].msat() + 1);
    let mut no_refund = whole.clone();
    no_refund.remove(0);
    let mut small_refund = whole.clone();
    small_refund[0] = Msat::new(FEE.msat() - 1);
    let refused = [
        ("more than it can be worth", check(3, &claimed, &offer(7_000_001), 144)),
        ("other tranches of the same sum", check(3, &claimed, &moved, 144)),
        ("no tranche for the fee", check(3, &claimed, &no_refund, 144)),
        ("a smaller tranche for the fee", check(3, &claimed, &small_refund, 144)),
        ("nothing but the fee", check(3, &claimed, &whole[..1], 144)),
        ("nothing", check(3, &claimed, &[], 144)),
        ("another hold", check(3, &claimed, &whole, 143)),
        ("another's signature", check(4, &claimed, &whole, 144)),
        ("no claim", check(3, &commitment(None), &whole, 144)),
    ];
    for (what, answer) in refused {
        assert!(answer.is_err(), "terms with {what} were taken");
    }
}
