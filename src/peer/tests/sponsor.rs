//! A sponsor against a fake coordinator over a simulated network: its budget is locked once and comes back, whatever happens.

use std::path::Path;
use std::sync::{Arc, Mutex};

use async_trait::async_trait;

use super::CAPACITY;
use super::fake::{FakeCoordinator, Habit, bounty_manifest, posting, rules};
use super::fuse::{Fuse, Fused};
use crate::clock::{Clock, SystemClock};
use crate::ln::simulated::{Faults, Network};
use crate::ln::{InvoiceRequest, InvoiceStatus, Lightning, PayLimits, PaymentStatus};
use crate::peer::api::{ApiFailure, BountyApi, CoordinatorApi};
use crate::peer::error::PeerError;
use crate::peer::events::EventSink;
use crate::peer::folder::DataFolder;
use crate::peer::session::PeerParts;
use crate::peer::settings::PeerSettings;
use crate::peer::sponsor::record::{Posting, Record};
use crate::peer::sponsor::{Posted, Sponsor, SponsorLimits, check_answer};
use crate::protocol::amount::Msat;
use crate::protocol::api::{BountyPhase, BountyView, PostAnswer, PostRequest, RoundView};
use crate::protocol::bounty::statements::{BountyManifest, SponsorAsk, SponsorRequest};
use crate::protocol::ids::{Preimage, UnixMs};
use crate::protocol::sign::{IdentityKey, Signed};

const BUDGET: Msat = Msat::new(114_000_000);
const LIMITS: SponsorLimits =
    SponsorLimits { max_budget: BUDGET, max_routing_fee: Msat::new(1_000), max_escrow_blocks: 1_000 };
const PUSH: Msat = Msat::new(150_000_000);
/// What the simulated sponsor's channel holds in all.
const SPONSORS_CAPACITY: Msat = Msat::new(CAPACITY.msat() * 4);

fn key(byte: u8) -> IdentityKey {
    IdentityKey::from_secret_bytes(&[byte; 32]).expect("a key")
}

fn request() -> PostRequest {
    let posting = key(7).sign(posting());
    PostRequest { posting, package: "AAAA".into(), held_out: "AAAA".into(), held_out_salt: [4; 32] }
}

/// Takes one posting on; opens it once everything is locked, and closes it when asked to.
#[derive(Debug)]
struct Desk {
    run: Arc<FakeCoordinator>,
    node: Arc<dyn Lightning>,
    phase: Mutex<BountyPhase>,
    /// Taken, and paid to nobody.
    surplus: Mutex<Msat>,
    pay_back: Mutex<Vec<String>>,
    refuses: bool,
}

impl Desk {
    async fn new(network: &Network, refuses: bool) -> Arc<Self> {
        let node = network.node("coordinator");
        let run = FakeCoordinator::of_bounty(node.clone(), &[Habit::Rejects]).await;
        let (phase, surplus) = (Mutex::new(BountyPhase::AwaitingEscrow), Mutex::new(Msat::ZERO));
        Arc::new(Self { run, node, phase, surplus, pay_back: Mutex::default(), refuses })
    }

    fn set(&self, phase: BountyPhase) {
        *self.phase.lock().expect("not poisoned") = phase;
    }

    async fn is_locked(&self, preimage: &Preimage) -> bool {
        let status = self.node.invoice(preimage.payment_hash()).await.expect("online");
        matches!(status, InvoiceStatus::Accepted { .. })
    }

    async fn move_on(&self) {
        let phase = *self.phase.lock().expect("not poisoned");
        match phase {
            BountyPhase::AwaitingEscrow => {
                let mut all = true;
                for preimage in preimages() {
                    all &= self.is_locked(&preimage).await;
                }
                if all {
                    self.set(BountyPhase::Checking);
                }
            }
            BountyPhase::Checking if self.refuses => {
                for preimage in preimages() {
                    self.node.cancel(preimage.payment_hash()).await.expect("online");
                }
                self.set(BountyPhase::Refused);
            }
            BountyPhase::Checking => self.set(BountyPhase::Open),
            BountyPhase::Closing => {
                // 10,000 sat of the first tranche were earned; the rest of it is the sponsor's.
                let [first, second] = preimages();
                self.node.settle(first).await.expect("online");
                self.node.cancel(second.payment_hash()).await.expect("online");
                *self.surplus.lock().expect("not poisoned") = Msat::new(90_000_000);
                self.set(BountyPhase::Closed);
            }
            BountyPhase::Closed => {
                let invoice = self.pay_back.lock().expect("not poisoned").first().cloned();
                if let Some(invoice) = invoice {
                    let limits = PayLimits { max_fee: Msat::ZERO, max_cltv_blocks: 1_000 };
                    let hash = self.node.pay(&invoice, limits).await.expect("payable");
                    if matches!(self.node.payment(hash).await.expect("online"), PaymentStatus::Succeeded { .. }) {
                        *self.surplus.lock().expect("not poisoned") = Msat::ZERO;
                    }
                }
            }
            BountyPhase::Open | BountyPhase::Refused => {}
        }
    }

    async fn look(&self) -> BountyView {
        let view = self.run.bounty().await.expect("there");
        BountyView {
            phase: *self.phase.lock().expect("not poisoned"),
            package_fee_msat: Msat::ZERO,
            demo_only: false,
            surplus_msat: *self.surplus.lock().expect("not poisoned"),
            ..view
        }
    }
}

fn preimages() -> [Preimage; 2] {
    [0x51, 0x52].map(|byte| Preimage::from_bytes([byte; 32]))
}

#[async_trait]
impl BountyApi for Desk {
    async fn bounty(&self) -> Result<BountyView, ApiFailure> {
        self.move_on().await;
        Ok(self.look().await)
    }

    async fn current_round(&self) -> Result<RoundView, ApiFailure> {
        self.run.current_round().await
    }

    async fn post(&self, request: &PostRequest) -> Result<PostAnswer, ApiFailure> {
        assert_eq!(request.posting.body, posting());
        let mut invoices = Vec::new();
        for (preimage, tranche) in preimages().iter().zip(&bounty_manifest().escrow) {
            let request = InvoiceRequest { amount: tranche.amount_msat, description: "escrow".into(), expiry_s: 600 };
            let hash = preimage.payment_hash();
            invoices.push(self.node.create_hold_invoice(hash, &request, 500).await.expect("made"));
        }
        Ok(PostAnswer { view: self.look().await, invoices, pay_until_ms: SystemClock.now().plus_ms(600_000) })
    }

    async fn ask(&self, request: &Signed<SponsorRequest>) -> Result<BountyView, ApiFailure> {
        request.verify(&key(7).id()).expect("the sponsor's");
        match &request.body.ask {
            SponsorAsk::Close => {
                if *self.phase.lock().expect("not poisoned") == BountyPhase::Open {
                    self.set(BountyPhase::Closing);
                }
            }
            SponsorAsk::PayBack { invoice } => {
                let mut known = self.pay_back.lock().expect("not poisoned");
                if !known.contains(invoice) {
                    known.push(invoice.clone());
                }
            }
        }
        self.move_on().await;
        Ok(self.look().await)
    }
}

struct Scene {
    network: Network,
    desk: Arc<Desk>,
    data: tempfile::TempDir,
}

impl Scene {
    async fn set(refuses: bool, push: Msat) -> Self {
        let network = Network::new(1, Faults::NONE);
        network.channel("coordinator", "sponsor", SPONSORS_CAPACITY, push);
        let desk = Desk::new(&network, refuses).await;
        Self { network, desk, data: tempfile::tempdir().expect("a folder") }
    }

    fn bounties(&self) -> std::path::PathBuf {
        self.data.path().join("bounties")
    }

    fn record(&self) -> Record {
        let bounty = posting().bounty_id();
        let known = Record::read(&self.bounties(), bounty).expect("readable");
        known.unwrap_or_else(|| {
            let posting =
                Posting { folder: Path::new("/bounty").into(), coordinator: "http://x".into(), request: request() };
            Record::create(&self.bounties(), posting).expect("written")
        })
    }

    fn sponsor(&self, fuse: &Arc<Fuse>, limits: SponsorLimits) -> Sponsor {
        let (api, board): (Arc<dyn CoordinatorApi>, Arc<dyn BountyApi>) = (self.desk.run.clone(), self.desk.clone());
        let parts = PeerParts {
            folder: DataFolder::open(self.data.path()).expect("free"),
            key: key(7),
            api: Arc::new(Fused::<dyn CoordinatorApi> { fuse: fuse.clone(), inner: api }),
            ln: Arc::new(Fused::<dyn Lightning> { fuse: fuse.clone(), inner: self.network.node("sponsor") }),
            clock: Arc::new(SystemClock),
            settings: PeerSettings {
                poll_ms: 1,
                channel_wait_ms: 2_000,
                give_up_after_ms: 50,
                ..PeerSettings::default()
            },
            events: EventSink::new(|_| {}),
        };
        let board = Arc::new(Fused::<dyn BountyApi> { fuse: fuse.clone(), inner: board });
        Sponsor::new(parts, board, limits, self.record())
    }

    async fn post(&self, fuse: &Arc<Fuse>) -> Option<Result<Posted, PeerError>> {
        tokio::select! {
            result = self.sponsor(fuse, LIMITS).post() => Some(result),
            () = fuse.blown() => None,
        }
    }

    async fn close(&self, fuse: &Arc<Fuse>) -> Option<Result<Posted, PeerError>> {
        tokio::select! {
            result = self.sponsor(fuse, LIMITS).close() => Some(result),
            () = fuse.blown() => None,
        }
    }
}

#[tokio::test]
async fn a_sponsor_killed_at_any_call_locks_its_budget_once() {
    let mut fuses = 0;
    for length in 1.. {
        let scene = Scene::set(false, PUSH).await;
        if scene.post(&Fuse::new(length)).await.is_some() {
            break;
        }
        fuses += 1;
        let posted = scene.post(&Fuse::endless()).await.expect("endless").expect("a good end");
        assert_eq!((posted.view.phase, posted.locked_msat), (BountyPhase::Open, BUDGET), "at call {length}");
        assert_eq!(scene.network.balance("sponsor").msat(), PUSH.msat() - BUDGET.msat(), "at call {length}");
    }
    assert!(fuses >= 8, "only {fuses} places to crash at");
}

#[tokio::test]
async fn a_closed_bountys_rest_comes_back_once_wherever_its_sponsor_was_killed() {
    let mut fuses = 0;
    for length in 1.. {
        let scene = Scene::set(false, PUSH).await;
        scene.post(&Fuse::endless()).await.expect("endless").expect("open");
        if scene.close(&Fuse::new(length)).await.is_some() {
            break;
        }
        fuses += 1;
        let closed = scene.close(&Fuse::endless()).await.expect("endless").expect("a good end");
        assert_eq!((closed.view.phase, closed.locked_msat), (BountyPhase::Closed, Msat::ZERO), "at call {length}");
        assert_eq!(closed.taken_msat, Msat::new(100_000_000), "at call {length}");
        assert_eq!(closed.paid_back_msat, Msat::new(90_000_000), "at call {length}");
        assert_eq!(scene.network.balance("sponsor").msat(), PUSH.msat() - 10_000_000, "at call {length}");
        assert_eq!(scene.desk.pay_back.lock().expect("not poisoned").len(), 1, "at call {length}");
        assert!(Record::unfinished(&scene.bounties()).expect("read").is_empty(), "at call {length}");
    }
    assert!(fuses >= 6, "only {fuses} places to crash at");
}

#[tokio::test]
async fn a_refused_bounty_costs_nothing_and_is_over() {
    let scene = Scene::set(true, PUSH).await;
    let posted = scene.post(&Fuse::endless()).await.expect("endless").expect("an answer");
    assert_eq!((posted.view.phase, posted.locked_msat), (BountyPhase::Refused, Msat::ZERO));
    assert_eq!(scene.network.balance("sponsor"), PUSH);
    assert!(Record::unfinished(&scene.bounties()).expect("read").is_empty());
}

#[tokio::test]
async fn nothing_is_locked_where_the_owner_or_the_channel_allows_less() {
    let scene = Scene::set(false, PUSH).await;
    let limits = SponsorLimits { max_budget: Msat::new(BUDGET.msat() - 1), ..LIMITS };
    let result = scene.sponsor(&Fuse::endless(), limits).post().await;
    assert!(matches!(result, Err(PeerError::Terms(_))), "{result:?}");
    let poor = Scene::set(false, Msat::new(100_000_000)).await;
    let result = poor.post(&Fuse::endless()).await.expect("endless");
    assert!(matches!(result, Err(PeerError::TooLittleOutbound { .. })), "{result:?}");
    assert_eq!(poor.network.balance("sponsor"), Msat::new(100_000_000));
}

#[tokio::test]
async fn only_invoices_of_the_signed_escrow_are_paid() {
    let scene = Scene::set(false, PUSH).await;
    let honest = scene.desk.post(&request()).await.expect("taken on");
    assert_eq!(check_answer(&request(), &honest, &LIMITS).expect("honest").len(), 2);
    let hold = |node: &str, byte: u8, msat: u64, blocks: u32| {
        let node = scene.network.node(node);
        async move {
            let request = InvoiceRequest { amount: Msat::new(msat), description: "other".into(), expiry_s: 600 };
            let hash = Preimage::from_bytes([byte; 32]).payment_hash();
            node.create_hold_invoice(hash, &request, blocks).await.expect("made")
        }
    };
    let with = |invoice: String| {
        let mut answer = honest.clone();
        answer.invoices[0] = invoice;
        answer
    };
    let mut swapped = honest.clone();
    swapped.invoices.swap(0, 1);
    let mut fewer = honest.clone();
    fewer.invoices.pop();
    let none = PostAnswer { invoices: Vec::new(), ..honest.clone() };
    let of_another = |change: fn(&mut BountyManifest)| {
        let mut manifest = bounty_manifest();
        change(&mut manifest);
        let bounty = manifest.posting.body.bounty_id();
        let view =
            BountyView { bounty, run: manifest.run_id(), manifest: key(3).sign(manifest), ..honest.view.clone() };
        PostAnswer { view, ..honest.clone() }
    };
    let other_posting = of_another(|manifest| {
        let mut posting = manifest.posting.body.clone();
        posting.rules.deadline_ms = UnixMs(7);
        manifest.posting = key(7).sign(posting);
    });
    let other_escrow = of_another(|manifest| manifest.escrow[0].amount_msat = Msat::new(99_000_000));
    let refused = [
        ("another hash", with(hold("coordinator", 0x77, 100_000_000, 500).await)),
        ("more than the escrow names", with(hold("coordinator", 0x78, 100_000_001, 500).await)),
        ("another node", with(hold("sponsor", 0x51, 100_000_000, 500).await)),
        ("invoices in another order", swapped),
        ("too few invoices", fewer),
        ("no invoices", none),
        ("no invoice at all", with("lnbc1".into())),
        ("another posting", other_posting),
        ("an escrow that is not the budget", other_escrow),
    ];
    for (what, answer) in refused {
        assert!(check_answer(&request(), &answer, &LIMITS).is_err(), "{what} was believed");
    }
    let long = SponsorLimits { max_escrow_blocks: 499, ..LIMITS };
    assert!(check_answer(&request(), &honest, &long).is_err(), "a lock past the owner's limit");
    assert_eq!(rules().budget_msat, BUDGET);
}

#[test]
fn a_damaged_record_is_an_error_and_never_a_reason_to_post_again() {
    let data = tempfile::tempdir().expect("a folder");
    let bounties = data.path().join("bounties");
    let posting = Posting { folder: "/bounty".into(), coordinator: "http://x".into(), request: request() };
    let record = Record::create(&bounties, posting.clone()).expect("written");
    assert_eq!(Record::unfinished(&bounties).expect("read")[0].posting(), &posting);
    assert!(record.answer().expect("none yet").is_none());
    let folder = bounties.join(posting.request.posting.body.bounty_id().to_string());
    std::fs::write(folder.join("answer.json"), b"{").expect("written");
    assert!(record.answer().is_err());
    std::fs::write(folder.join("posting.json"), b"").expect("written");
    assert!(Record::unfinished(&bounties).is_err());
}
