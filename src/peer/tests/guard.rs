//! The guardian against the chain's height, on a simulated node.

use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use super::fake::{FakeCoordinator, Habit};
use super::{CAPACITY, PUSH};
use crate::clock::{Clock, SystemClock};
use crate::ln::simulated::{Faults, Network};
use crate::ln::{InvoiceRequest, InvoiceStatus, PayLimits, PaymentFailure, PaymentStatus};
use crate::peer::api::{ApiFailure, CoordinatorApi, DownloadProgress, TicketOffer, WantedAggregate};
use crate::peer::events::{EventSink, PeerEvent};
use crate::peer::folder::{DataFolder, journal_in};
use crate::peer::guard::{Guardian, Receipts};
use crate::peer::journal::Journal;
use crate::peer::session::{PeerParts, Session};
use crate::peer::settings::PeerSettings;
use crate::peer::stage::{Entry, Judged, Offer, Stage, Ticketed};
use crate::protocol::amount::{Msat, Ppm};
use crate::protocol::api::{ContributionView, RegistrationView, RoundView, RunView};
use crate::protocol::ids::{Blake3Hash, ContributionId, Preimage, RoundNumber, RunId, UnixMs};
use crate::protocol::l402::Credentials;
use crate::protocol::sign::{IdentityKey, Signed, Statement};
use crate::protocol::statements::{Commitment, InvoiceSubmission, PeerRegistration, Receipt, RewardTerms, Tranche};
use crate::protocol::verdict::{Outcome, Verdict, VerdictRecord};

const HOLD_BLOCKS: u32 = 144;
/// The simulated chain starts at 120, and nodes give back 39 blocks before the timeout.
const EXPIRY_HEIGHT: u32 = 120 + HOLD_BLOCKS - 39;

struct Guarded {
    network: Network,
    session: Session,
    told: Arc<Mutex<Vec<PeerEvent>>>,
    preimage: Preimage,
    entry: Entry,
    data: tempfile::TempDir,
}

fn key(byte: u8) -> IdentityKey {
    IdentityKey::from_secret_bytes(&[byte; 32]).expect("a key")
}

/// The receipt is here, and pays the tranche.
fn judged(offer: Offer, preimage: Preimage) -> Stage {
    let contribution = offer.ticket.terms.body.contribution;
    let outcome = Outcome::Accepted { share_ppm: Ppm::ONE, reward_msat: Msat::new(50_000), tranches_paid: 1 };
    let verdict = VerdictRecord { contribution, loss_after: None, gain: None, clip: None, outcome };
    let receipt = Receipt { contribution, verdict: verdict.digest(), preimages: vec![Some(preimage)] };
    Stage::Judged(Box::new(Judged { offer, receipt: key(3).sign(receipt), verdict: Verdict::Training(verdict) }))
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
            claim: None,
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
        Self { network, session, told, preimage, entry, data }
    }

    async fn look_at(&self, height: u32) -> InvoiceStatus {
        self.network.mine(height.saturating_sub(self.network.height()));
        self.session.guardian.look(Receipts::AskedForElsewhere).await.expect("looked");
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
    assert_eq!(
        guarded.payment().await,
        PaymentStatus::Failed { why: PaymentFailure::Refused, reason: "the payee gave it back".into() }
    );
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
    guarded.session.guardian.look(Receipts::AskedForElsewhere).await.expect("looked");
    assert_eq!(guarded.payment().await, PaymentStatus::InFlight);
}

/// A coordinator that can't be reached.
#[derive(Debug)]
struct Nobody;

#[async_trait::async_trait]
impl CoordinatorApi for Nobody {
    async fn run(&self) -> Result<RunView, ApiFailure> {
        nobody()
    }

    async fn round(&self, _: RoundNumber) -> Result<RoundView, ApiFailure> {
        nobody()
    }

    async fn register(&self, _: &Signed<PeerRegistration>) -> Result<RegistrationView, ApiFailure> {
        nobody()
    }

    async fn ticket(&self, _: &Signed<Commitment>, _: Option<&Credentials>) -> Result<TicketOffer, ApiFailure> {
        nobody()
    }

    async fn submit_invoices(&self, _: &Signed<InvoiceSubmission>) -> Result<ContributionView, ApiFailure> {
        nobody()
    }

    async fn upload(&self, _: ContributionId, _: &[u8]) -> Result<ContributionView, ApiFailure> {
        nobody()
    }

    async fn contribution(&self, _: ContributionId) -> Result<ContributionView, ApiFailure> {
        nobody()
    }

    async fn aggregate(&self, _: &WantedAggregate, _: &Path, _: DownloadProgress<'_>) -> Result<(), ApiFailure> {
        nobody()
    }

    async fn download(&self, _: Blake3Hash, _: &Path, _: DownloadProgress<'_>) -> Result<(), ApiFailure> {
        nobody()
    }
}

fn nobody<T>() -> Result<T, ApiFailure> {
    Err(ApiFailure::Unreachable("connection refused".into()))
}

/// Time passes without anybody waiting.
#[derive(Debug, Default)]
struct Hurry(AtomicU64);

#[async_trait::async_trait]
impl Clock for Hurry {
    fn now(&self) -> UnixMs {
        UnixMs(self.uptime_ms())
    }

    fn uptime_ms(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }

    async fn sleep(&self, ms: u64) {
        self.0.fetch_add(ms, Ordering::Relaxed);
        tokio::task::yield_now().await;
    }
}

impl Guarded {
    /// The same journal and the same node, but no session and no coordinator.
    fn alone(&self) -> Guardian {
        let journal = Arc::new(Journal::open(&journal_in(self.data.path())).expect("there"));
        let events = EventSink::new({
            let told = Arc::clone(&self.told);
            move |event| told.lock().expect("not poisoned").push(event.clone())
        });
        Guardian::new(journal, self.network.node("peer"), Arc::new(Nobody), Arc::new(Hurry::default()), events)
    }
}

#[tokio::test]
async fn without_a_session_what_a_receipt_pays_is_claimed_until_the_node_takes_it() {
    let guarded = Guarded::hold(None, judged).await;
    let guardian = guarded.alone();
    let lost = Faults { calls_lost: Ppm::new(700_000).expect("valid"), ..Faults::NONE };
    guarded.network.set_faults(lost);
    guardian.until_nothing_is_held().await;
    guarded.network.set_faults(Faults::NONE);
    assert!(matches!(guarded.payment().await, PaymentStatus::Succeeded { .. }));
}

#[tokio::test]
async fn without_a_session_what_no_receipt_pays_is_given_back_in_time_and_then_nothing_is_left_to_do() {
    let guarded = Guarded::hold(None, |offer, _| Stage::Uploaded(offer)).await;
    let guardian = guarded.alone();
    assert_eq!(guardian.holding().await.expect("told").tranches, 1);
    let blocks = async {
        while guarded.network.height() < EXPIRY_HEIGHT {
            guarded.network.mine(1);
            // More than a few looks a block.
            for _ in 0..20 {
                tokio::task::yield_now().await;
            }
        }
    };
    tokio::join!(guardian.until_nothing_is_held(), blocks);
    assert_eq!(
        guarded.payment().await,
        PaymentStatus::Failed { why: PaymentFailure::Refused, reason: "the payee gave it back".into() }
    );
    assert!(guardian.holding().await.expect("told").is_none());
    let told = guarded.told.lock().expect("not poisoned").clone();
    assert!(matches!(told[..], [PeerEvent::Guarding(_), PeerEvent::GivenBack { .. }]), "{told:?}");
}
