//! What a peer believes: one true statement, and every way in which it could be false.

use super::fake::{FEE, FakeCoordinator, Habit};
use crate::ln::bolt11::Network as Bitcoin;
use crate::ln::simulated::{Faults, Network};
use crate::ln::{InvoiceRequest, Lightning};
use crate::peer::api::CoordinatorApi;
use crate::peer::checks::{check_challenge, check_opening, check_receipt, check_run};
use crate::peer::settings::PeerSettings;
use crate::peer::stage::{Entry, Offer, Stage, Ticketed};
use crate::peer::terms::RunTerms;
use crate::protocol::amount::{Msat, Ppm};
use crate::protocol::api::RunView;
use crate::protocol::ids::{Blake3Hash, ContributionId, PaymentHash, Preimage, RoundNumber, RunId, UnixMs};
use crate::protocol::l402::{ChallengeParams, Goods, Grant, Identifier, RootKey, Scheme, TokenId, mint};
use crate::protocol::manifest::{MAX_CONTRIBUTIONS, RunManifest};
use crate::protocol::reward::tranche_amounts;
use crate::protocol::sign::{IdentityKey, Statement};
use crate::protocol::statements::{Commitment, InvoiceSubmission, Receipt, RewardTerms, Tranche};
use crate::protocol::verdict::{Outcome, Rejection, Verdict, VerdictRecord};

const NOW: UnixMs = UnixMs(1_000);

fn key(byte: u8) -> IdentityKey {
    IdentityKey::from_secret_bytes(&[byte; 32]).expect("a key")
}

async fn terms(coordinator: &FakeCoordinator) -> RunTerms {
    let view = coordinator.run().await.expect("there");
    RunTerms::of_training(view.run, view.manifest.body)
}

async fn challenge(node: &dyn Lightning, amount: Msat) -> (PaymentHash, String) {
    let request = InvoiceRequest { amount, description: "fee".into(), expiry_s: 600 };
    let invoice = node.create_invoice(&request).await.expect("online");
    (invoice.payment_hash, invoice.bolt11)
}

fn macaroon(payment_hash: PaymentHash) -> String {
    let identifier = Identifier { payment_hash, token_id: TokenId::from_bytes([1; 32]) };
    let grant = Grant { goods: Goods::Ticket(ContributionId::from_bytes([2; 32])), valid_until_s: 600 };
    mint(&RootKey::from_bytes([3; 32]), &identifier, &grant).to_base64()
}

#[tokio::test]
async fn a_challenge_is_paid_only_if_all_of_it_fits() {
    let network = Network::new(1, Faults::NONE);
    let node = network.node("coordinator");
    let coordinator = FakeCoordinator::new(node.clone(), &[Habit::Rejects]).await;
    let terms = terms(&coordinator).await;
    let limits = PeerSettings::default().limits;
    let (hash, invoice) = challenge(&*node, FEE).await;
    let (_, dear) = challenge(&*node, Msat::new(FEE.msat() + 1)).await;
    let check = |macaroon: String, invoice: &str, network, now| {
        let params = ChallengeParams { scheme: Scheme::L402, macaroon, invoice: invoice.to_owned() };
        check_challenge(&params, &terms, &limits, network, now)
    };
    let fee = check(macaroon(hash), &invoice, Bitcoin::Regtest, NOW).expect("all of it fits").expect("in time");
    assert_eq!((fee.payment_hash, fee.amount_msat), (hash, FEE));
    let refused = [
        (
            "another token's macaroon",
            check(macaroon(PaymentHash::from_bytes([9; 32])), &invoice, Bitcoin::Regtest, NOW),
        ),
        ("more than the fee", check(macaroon(hash), &dear, Bitcoin::Regtest, NOW)),
        ("another network", check(macaroon(hash), &invoice, Bitcoin::Bitcoin, NOW)),
        ("no macaroon", check("AAAA".into(), &invoice, Bitcoin::Regtest, NOW)),
        ("no invoice", check(macaroon(hash), "lnbc1", Bitcoin::Regtest, NOW)),
    ];
    for (what, answer) in refused {
        assert!(answer.is_err(), "{what} was taken");
    }
    let late = check(macaroon(hash), &invoice, Bitcoin::Regtest, UnixMs(u64::MAX));
    assert_eq!(late.expect("nobody's fault"), None, "a late challenge is not paid, and no reason for distrust");
}

#[tokio::test]
async fn a_run_and_its_rounds_must_be_what_the_coordinator_signed() {
    let network = Network::new(1, Faults::NONE);
    let coordinator = FakeCoordinator::new(network.node("coordinator"), &[Habit::Rejects; 2]).await;
    let limits = PeerSettings::default().limits;
    let view = coordinator.run().await.expect("there");
    let manifest = check_run(&view, &limits).expect("as signed").clone();
    let mut other = view.clone();
    other.manifest.body.name = "other".into();
    assert!(check_run(&other, &limits).is_err(), "a changed manifest");
    let mut other = view.clone();
    other.run = RunId::from_bytes([0; 32]);
    assert!(check_run(&other, &limits).is_err(), "another run's id");
    let dear = crate::peer::Limits { max_fee: Msat::new(FEE.msat() - 1), ..limits };
    assert!(check_run(&view, &dear).is_err(), "a fee past the owner's limit");
    for (contributions, possible) in [(0, false), (1, true), (MAX_CONTRIBUTIONS, true), (MAX_CONTRIBUTIONS + 1, false)]
    {
        let mut body = manifest.clone();
        body.timing.max_contributions = contributions;
        let run = body.run_id();
        let other = RunView { run, manifest: coordinator.key().sign(body), ..view.clone() };
        assert_eq!(check_run(&other, &limits).is_ok(), possible, "rounds of {contributions} contributions");
    }

    let opening = coordinator.round(RoundNumber(1)).await.expect("there").opening;
    let terms = RunTerms::of_training(view.run, manifest);
    check_opening(&opening, &terms, RoundNumber(1)).expect("as signed");
    assert!(check_opening(&opening, &terms, RoundNumber(0)).is_err(), "another round");
    let mut other = opening.clone();
    other.body.checkpoint = Blake3Hash::of(b"other");
    assert!(check_opening(&other, &terms, RoundNumber(1)).is_err(), "another checkpoint");
}

/// A contribution whose two tranches have the preimages 1 and 2.
fn contribution(manifest: &RunManifest) -> (Entry, Offer) {
    let commitment = Commitment {
        run: manifest.run_id(),
        round: RoundNumber(0),
        opening: Blake3Hash::of(b"opening"),
        peer: key(1).id(),
        payload: Blake3Hash::of(b"payload"),
        payload_bytes: 7,
        claim: None,
    };
    let contribution = commitment.contribution_id();
    let amounts = tranche_amounts(&manifest.reward);
    let tranches = (1..).zip(amounts).map(|(byte, amount_msat)| Tranche {
        payment_hash: Preimage::from_bytes([byte; 32]).payment_hash(),
        amount_msat,
    });
    let terms = RewardTerms {
        contribution,
        sequence: 0,
        tranches: tranches.collect(),
        hold_blocks: manifest.reward.hold_blocks,
        invoices_deadline_ms: NOW,
    };
    let submission = InvoiceSubmission { contribution, terms: terms.digest(), invoices: Vec::new() };
    let offer =
        Offer { ticket: Ticketed { fee: None, terms: key(3).sign(terms) }, submission: key(1).sign(submission) };
    let commitment = key(1).sign(commitment);
    let entry = Entry {
        contribution,
        commitment,
        dense_bytes: 0,
        train_ms: 0,
        lock_ms: None,
        stage: Stage::Uploaded(offer.clone()),
    };
    (entry, offer)
}

#[tokio::test]
async fn a_receipt_must_pay_what_its_verdict_says() {
    let network = Network::new(1, Faults::NONE);
    let coordinator = FakeCoordinator::new(network.node("coordinator"), &[Habit::Rejects]).await;
    let manifest = coordinator.run().await.expect("there").manifest.body;
    let (entry, offer) = contribution(&manifest);
    let terms = terms(&coordinator).await;
    let unit = tranche_amounts(&manifest.reward)[0];
    let verdict = |tranches_paid, reward_msat| VerdictRecord {
        contribution: entry.contribution,
        loss_after: None,
        gain: None,
        clip: None,
        outcome: Outcome::Accepted { share_ppm: Ppm::ONE, reward_msat, tranches_paid },
    };
    let paid = |byte| Some(Preimage::from_bytes([byte; 32]));
    let check = |signer: u8, of: ContributionId, shown: &VerdictRecord, meant: &VerdictRecord, preimages| {
        let receipt = key(signer).sign(Receipt { contribution: of, verdict: meant.digest(), preimages });
        check_receipt(&entry, &offer, &receipt, &Verdict::Training(shown.clone()), &terms)
    };
    let id = entry.contribution;
    let one = verdict(0b01, unit);
    check(3, id, &one, &one, vec![paid(1), None]).expect("as it should be");
    let rejected = VerdictRecord { outcome: Outcome::Rejected { rejection: Rejection::NotFinite }, ..one.clone() };
    check(3, id, &rejected, &rejected, vec![None, None]).expect("as it should be");
    let refused = [
        ("signed by someone else", check(4, id, &one, &one, vec![paid(1), None])),
        ("another contribution's", check(3, ContributionId::from_bytes([0; 32]), &one, &one, vec![paid(1), None])),
        ("for another verdict", check(3, id, &one, &rejected, vec![paid(1), None])),
        ("with too few entries", check(3, id, &one, &one, vec![paid(1)])),
        ("without its preimage", check(3, id, &one, &one, vec![None, None])),
        ("with a wrong preimage", check(3, id, &one, &one, vec![paid(2), None])),
        ("with less than the verdict", check(3, id, &verdict(0b11, unit), &verdict(0b11, unit), vec![paid(1), None])),
        ("with another sum", check(3, id, &verdict(0b01, Msat::ZERO), &verdict(0b01, Msat::ZERO), vec![paid(1), None])),
    ];
    for (what, answer) in refused {
        assert!(answer.is_err(), "a receipt {what} was believed");
    }
}
