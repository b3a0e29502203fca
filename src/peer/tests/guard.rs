//! The guardian against the chain's height, on a simulated node.

use std::sync::{Arc, Mutex};

use super::fake::{FakeCoordinator, Habit};
use super::{CAPACITY, PUSH};
use crate::clock::SystemClock;
use crate::ln::simulated::{Faults, Network};
use crate::ln::{InvoiceRequest, InvoiceStatus, PayLimits, PaymentStatus};
use crate::peer::api::CoordinatorApi;
use crate::peer::events::{EventSink, PeerEvent};
use crate::peer::folder::DataFolder;
use crate::peer::session::{PeerParts, Session};
use crate::peer::settings::PeerSettings;
use crate::peer::stage::{Entry, Judged, Offer, Stage, Ticketed};
use crate::protocol::amount::{Msat, Ppm};
use crate::protocol::ids::{Blake3Hash, Preimage, RoundNumber, RunId, UnixMs};
use crate::protocol::sign::{IdentityKey, Statement};
use crate::protocol::statements::{Commitment, InvoiceSubmission, Receipt, RewardTerms, Tranche};
use crate::protocol::verdict::{Outcome, VerdictRecord};

const HOLD_BLOCKS: u32 = 144;
/// The simulated chain starts at 120, and nodes give back 39 blocks before the timeout.
const EXPIRY_HEIGHT: u32 = 120 + HOLD_BLOCKS - 39;

struct Guarded {
    network: Network,
    session: Session,
    told: Arc<Mutex<Vec<PeerEvent>>>,
    preimage: Preimage,
    entry: Entry,
    _data: tempfile::TempDir,
}

fn key(byte: u8) -> IdentityKey {
    IdentityKey::from_secret_bytes(&[byte; 32]).expect("a key")
}

impl Guarded {
    /// A peer that holds one tranche of `run`'s, or of the coordinator's own run; what its journal says is `stage`'s to
    /// decide.
    async fn hold(run: Option<RunId>, stage: impl FnOnce(Offer, Preimage) -> Stage) -> Self {
        let network = Network::new(1, Faults::NONE);
        network.channel("coordinator", "peer", CAPACITY, PUSH);
        let coordinator = FakeCoordinator::new(network.node("coordinator"), &[Habit::Rejects]).await;
        let view = coordinator.run().await.expect("there");
        let data = tempfile::tempdir().expect("a folder");
        let told = Arc::new(Mutex::new(Vec::new()));
        let sink = Arc::clone(&told);
        let parts = PeerParts {
            folder: DataFolder::open(data.path()).expect("free"),
            key: key(1),
            api: coordinator,
            ln: network.node("peer"),
            clock: Arc::new(SystemClock),
            settings: PeerSettings::default(),
            events: EventSink::new(move |event| sink.lock().expect("not poisoned").push(event.clone())),
        };
        let session = Session::open(parts, &view).expect("an honest run");
        let preimage = Preimage::from_bytes([1; 32]);
        let amount_msat = Msat::new(50_000);
        let commitment = Commitment {
            run: run.unwrap_or(view.run),
            round: RoundNumber(0),
            opening: Blake3Hash::of(b"opening"),
            peer: key(1).id(),
            payload: Blake3Hash::of(b"payload"),
            payload_bytes: 7,
        };
        let contribution = commitment.contribution_id();
        let terms = RewardTerms {
            contribution,
            sequence: 0,
            tranches: vec![Tranche { payment_hash: preimage.payment_hash(), amount_msat }],
            hold_blocks: HOLD_BLOCKS,
            invoices_deadline_ms: UnixMs(1),
        };
        let submission = InvoiceSubmission { contribution, terms: terms.digest(), invoices: Vec::new() };
        let ticket = Ticketed { fee: None, terms: key(3).sign(terms) };
        let entry = Entry {
            contribution,
            commitment: key(1).sign(commitment),
            dense_bytes: 0,
            train_ms: 0,
            lock_ms: None,
            stage: stage(Offer { ticket, submission: key(1).sign(submission) }, preimage),
        };
        session.journal().save(&entry, &[], UnixMs(1)).expect("saved");
        let request = InvoiceRequest { amount: amount_msat, description: "tranche".into(), expiry_s: 600 };
        let hash = preimage.payment_hash();
        let invoice = network.node("peer").create_hold_invoice(hash, &request, HOLD_BLOCKS).await.expect("made");
        let limits = PayLimits { max_fee: Msat::ZERO, max_cltv_blocks: 1_000 };
        network.node("coordinator").pay(&invoice, limits).await.expect("paid");
        Self { network, session, told, preimage, entry, _data: data }
    }

    async fn look_at(&self, height: u32) -> InvoiceStatus {
        self.network.mine(height.saturating_sub(self.network.height()));
        self.session.look_after_held().await.expect("looked");
        self.network.node("peer").invoice(self.preimage.payment_hash()).await.expect("known")
    }

    async fn payment(&self) -> PaymentStatus {
        self.network.node("coordinator").payment(self.preimage.payment_hash()).await.expect("known")
    }
}

#[tokio::test]
async fn a_tranche_without_a_receipt_is_given_back_before_the_node_does_and_the_reason_is_kept() {
    let guarded = Guarded::hold(None, |offer, _| Stage::Uploaded(offer)).await;
    let held = InvoiceStatus::Accepted { amount: Msat::new(50_000), expiry_height: Some(EXPIRY_HEIGHT) };
    assert_eq!(guarded.look_at(120).await, held);
    assert_eq!(guarded.look_at(EXPIRY_HEIGHT - 3).await, held);
    assert_eq!(guarded.look_at(EXPIRY_HEIGHT - 2).await, InvoiceStatus::Canceled);
    assert_eq!(guarded.payment().await, PaymentStatus::Failed { reason: "the payee gave it back".into() });
    guarded.look_at(EXPIRY_HEIGHT).await;
    let notes = guarded.session.journal().notes(guarded.entry.contribution).expect("read");
    assert_eq!(notes.len(), 1);
    assert!(notes[0].1.contains(&format!("at block {}", EXPIRY_HEIGHT - 2)), "{notes:?}");
    let told = guarded.told.lock().expect("not poisoned").clone();
    assert!(matches!(told[..], [PeerEvent::GivenBack { tranche: 0, .. }]), "{told:?}");
}

#[tokio::test]
async fn a_tranche_of_another_run_is_guarded_too() {
    let guarded = Guarded::hold(Some(RunId::from_bytes([9; 32])), |offer, _| Stage::Locked(offer)).await;
    assert_eq!(guarded.look_at(EXPIRY_HEIGHT - 1).await, InvoiceStatus::Canceled);
}

#[tokio::test]
async fn what_a_receipt_pays_is_claimed_at_the_first_look() {
    let judged = |offer: Offer, preimage: Preimage| {
        let contribution = offer.ticket.terms.body.contribution;
        let outcome = Outcome::Accepted { share_ppm: Ppm::ONE, reward_msat: Msat::new(50_000), tranches_paid: 1 };
        let verdict = VerdictRecord { contribution, loss_after: None, gain: None, clip: None, outcome };
        let receipt = Receipt { contribution, verdict: verdict.digest(), preimages: vec![Some(preimage)] };
        Stage::Judged(Box::new(Judged { offer, receipt: key(3).sign(receipt), verdict }))
    };
    let guarded = Guarded::hold(None, judged).await;
    // Even so late that anything else would be given back.
    assert_eq!(guarded.look_at(EXPIRY_HEIGHT - 1).await, InvoiceStatus::Settled { amount: Msat::new(50_000) });
    assert!(matches!(guarded.payment().await, PaymentStatus::Succeeded { .. }));
}

#[tokio::test]
async fn blocks_that_are_taken_back_give_a_tranche_more_time() {
    let guarded = Guarded::hold(None, |offer, _| Stage::Uploaded(offer)).await;
    guarded.network.mine(EXPIRY_HEIGHT - 2 - 120);
    guarded.network.unmine(3);
    guarded.session.look_after_held().await.expect("looked");
    assert_eq!(guarded.payment().await, PaymentStatus::InFlight);
}
