//! A whole peer against a fake coordinator over a simulated network: money, crashes, and a coordinator that cheats.

mod beliefs;
mod bounty_beliefs;
mod catch_up;
mod fake;
mod fuse;
mod guard;
mod sponsor;
mod submit;

use std::path::Path;
use std::sync::{Arc, Mutex};

use fake::{FEE, FakeCoordinator, Habit};
use fuse::{Fuse, Fused};

use super::api::CoordinatorApi;
use super::error::PeerError;
use super::events::{EventSink, PeerEvent, Summary};
use super::folder::DataFolder;
use super::identity;
use super::journal::Journal;
use super::session::{PeerParts, Session};
use super::settings::PeerSettings;
use super::trainer::{LocalTrainer, LocalUpdate, Onlooker, RoundWork, TrainerSlot};
use crate::clock::SystemClock;
use crate::ln::Lightning;
use crate::ln::simulated::{Faults, Network};
use crate::protocol::amount::{Msat, Ppm};

const CAPACITY: Msat = Msat::new(100_000_000);
const PUSH: Msat = Msat::new(1_000_000);

/// Trains nothing, but leaves the files that training leaves.
#[derive(Debug)]
struct NoTraining;

impl LocalTrainer for NoTraining {
    fn contribute(&mut self, work: &RoundWork, _: &mut dyn Onlooker) -> Result<Option<LocalUpdate>, PeerError> {
        let staged = work.state_folder.join(format!("{}.0", work.staged_state));
        super::folder::write_durably(&staged, format!("after {}", work.round).as_bytes())?;
        Ok(Some(LocalUpdate { payload: format!("update {}", work.round).into_bytes(), dense_bytes: 4_096 }))
    }
}

struct Stage {
    network: Network,
    coordinator: Arc<FakeCoordinator>,
    data: tempfile::TempDir,
}

impl Stage {
    async fn set(habits: &[Habit], faults: Faults) -> Self {
        let network = Network::new(1, Faults::NONE);
        network.channel("coordinator", "peer", CAPACITY, PUSH);
        let coordinator = FakeCoordinator::new(network.node("coordinator"), habits).await;
        network.set_faults(faults);
        Self { network, coordinator, data: tempfile::tempdir().expect("a folder") }
    }

    /// Runs a peer until it ends or the fuse blows.
    async fn play(&self, fuse: &Arc<Fuse>) -> Option<(Result<Summary, PeerError>, Vec<PeerEvent>)> {
        let told = Arc::new(Mutex::new(Vec::new()));
        let folder = DataFolder::open(self.data.path()).expect("free");
        let key = identity::load_or_create(self.data.path()).expect("a key");
        let api: Arc<dyn CoordinatorApi> = self.coordinator.clone();
        let parts = PeerParts {
            folder,
            key,
            api: Arc::new(Fused::<dyn CoordinatorApi> { fuse: fuse.clone(), inner: api.clone() }),
            ln: Arc::new(Fused::<dyn Lightning> { fuse: fuse.clone(), inner: self.network.node("peer") }),
            clock: Arc::new(SystemClock),
            settings: PeerSettings {
                poll_ms: 1,
                channel_wait_ms: 2_000,
                give_up_after_ms: 50,
                ..PeerSettings::default()
            },
            events: EventSink::new({
                let told = told.clone();
                move |event| told.lock().expect("not poisoned").push(event.clone())
            }),
        };
        let session = Session::open(parts, &api.run().await.expect("there")).expect("an honest run");
        let trainer = TrainerSlot::new(Box::new(NoTraining));
        let result = tokio::select! {
            result = session.serve(&trainer, None) => result,
            () = fuse.blown() => return None,
        };
        let told = told.lock().expect("not poisoned").clone();
        Some((result, told))
    }

    async fn play_to_the_end(&self) -> (Result<Summary, PeerError>, Vec<PeerEvent>) {
        self.play(&Fuse::endless()).await.expect("the fuse is endless")
    }

    /// Every msat is where the journal says, nothing is locked, and no fee was paid twice.
    async fn check_the_books(&self) {
        self.network.set_faults(Faults::NONE);
        self.network.advance(100);
        let totals = Journal::open_read_only(&self.data.path().join("peer.sqlite")).expect("there").totals();
        let totals = totals.expect("read");
        let (rewards, locked) = self.coordinator.rewards().await;
        assert_eq!(locked, 0, "money is still locked");
        assert_eq!(totals.received_msat, rewards, "what was received");
        let fees = self.coordinator.fees_paid().await;
        assert!(fees.iter().all(|paid| *paid <= 1), "a fee was paid twice: {fees:?}");
        assert_eq!(totals.fees_msat.msat(), FEE.msat() * fees.iter().sum::<usize>() as u64, "what was paid");
        let expected = PUSH.msat() + totals.received_msat.msat() - totals.spent_msat().msat();
        assert_eq!(self.network.balance("peer").msat(), expected, "what is in the channel");
    }

    fn state(&self) -> Option<String> {
        let folder = self.data.path().join("state");
        let mut files: Vec<_> =
            std::fs::read_dir(folder).expect("there").map(|file| file.expect("read").path()).collect();
        assert!(files.len() <= 1, "left behind: {files:?}");
        files.pop().map(|path: std::path::PathBuf| std::fs::read_to_string(path).expect("read"))
    }
}

fn files_in(folder: &Path) -> Vec<String> {
    let files = std::fs::read_dir(folder).expect("there");
    files.map(|file| file.expect("read").file_name().into_string().expect("text")).collect()
}

#[tokio::test]
async fn accepted_work_is_paid_in_part_and_rejected_work_is_not() {
    let stage = Stage::set(&[Habit::Pays(0b01), Habit::Rejects, Habit::Pays(0b11)], Faults::NONE).await;
    let (result, events) = stage.play_to_the_end().await;
    let summary = result.expect("a good end");
    assert_eq!((summary.contributions, summary.accepted, summary.rejected, summary.missed), (3, 2, 1, 0));
    let unit = 7_000_000 / 3;
    assert_eq!(summary.reward_msat, Msat::new(unit + 3 * unit));
    assert_eq!(summary.fee_msat, Msat::new(3 * FEE.msat()));
    stage.check_the_books().await;
    assert_eq!(stage.state().as_deref(), Some("after 2"));
    assert_eq!(files_in(&stage.data.path().join("outbox")), ["round-2.update"]);
    let locked = events.iter().position(|event| matches!(event, PeerEvent::Locked { .. })).expect("locked");
    let uploaded = events.iter().position(|event| matches!(event, PeerEvent::Uploaded { .. })).expect("uploaded");
    assert!(locked < uploaded);
}

#[tokio::test]
async fn a_peer_killed_at_any_call_goes_on_and_loses_nothing() {
    let habits = [Habit::Pays(0b01)];
    let mut fuses = 0;
    for length in 1.. {
        let stage = Stage::set(&habits, Faults::NONE).await;
        if stage.play(&Fuse::new(length)).await.is_some() {
            break;
        }
        fuses += 1;
        let (result, _) = stage.play_to_the_end().await;
        result.unwrap_or_else(|error| panic!("after a crash at call {length}: {error}"));
        stage.check_the_books().await;
        let fees: usize = stage.coordinator.fees_paid().await.iter().sum();
        assert_eq!(fees, 1, "after a crash at call {length}");
        assert_eq!(stage.coordinator.rewards().await.0, Msat::new(7_000_000 / 3), "after a crash at call {length}");
        assert_eq!(stage.state().as_deref(), Some("after 0"), "after a crash at call {length}");
    }
    assert!(fuses >= 20, "only {fuses} places to crash at");
}

#[tokio::test]
async fn a_peer_survives_a_node_that_loses_calls_and_answers() {
    let ppm = |ppm| Ppm::new(ppm).expect("valid");
    let faults = Faults {
        delay_steps_max: 5,
        events_dropped: ppm(300_000),
        events_duplicated: ppm(300_000),
        answers_lost: ppm(100_000),
        calls_lost: ppm(100_000),
        ..Faults::NONE
    };
    let stage = Stage::set(&[Habit::Rejects, Habit::Pays(0b10)], Faults::NONE).await;
    // The coordinator's own node shares the faults, so only the calls that the peer makes alone may fail.
    stage.network.set_faults(Faults { answers_lost: Ppm::ZERO, calls_lost: Ppm::ZERO, ..faults });
    let (result, _) = stage.play_to_the_end().await;
    assert_eq!(result.expect("a good end").contributions, 2);
    stage.check_the_books().await;
}

#[tokio::test]
async fn a_reward_that_is_never_locked_costs_no_payload() {
    let stage = Stage::set(&[Habit::NeverLocks, Habit::Pays(0b11)], Faults::NONE).await;
    let (result, events) = stage.play_to_the_end().await;
    let summary = result.expect("a good end");
    assert_eq!((summary.missed, summary.accepted), (1, 1));
    let uploads = events.iter().filter(|event| matches!(event, PeerEvent::Uploaded { .. })).count();
    assert_eq!(uploads, 1);
    stage.check_the_books().await;
}

#[tokio::test]
async fn a_coordinator_that_only_takes_fees_is_left() {
    let stage = Stage::set(&[Habit::TakesFees; 5], Faults::NONE).await;
    let (result, _) = stage.play_to_the_end().await;
    assert!(matches!(result, Err(PeerError::FeesTaken { times: 3 })), "{result:?}");
    stage.check_the_books().await;
}

#[tokio::test]
async fn a_wrong_preimage_is_reported_and_the_right_ones_are_claimed() {
    let stage = Stage::set(&[Habit::WrongPreimage], Faults::NONE).await;
    let (result, _) = stage.play_to_the_end().await;
    assert!(matches!(result, Err(PeerError::Untrusted(_))), "{result:?}");
    assert_eq!(stage.network.balance("peer").msat(), PUSH.msat() - FEE.msat() + 7_000_000 / 3);
}

#[tokio::test]
async fn terms_other_than_the_manifests_are_refused() {
    for (habit, fees) in [(Habit::OffersLess, 1), (Habit::Overcharges, 0)] {
        let stage = Stage::set(&[habit], Faults::NONE).await;
        let (result, events) = stage.play_to_the_end().await;
        assert!(matches!(result, Err(PeerError::Untrusted(_))), "{habit:?}: {result:?}");
        assert_eq!(stage.coordinator.fees_paid().await.iter().sum::<usize>(), fees, "{habit:?}");
        assert!(!events.iter().any(|event| matches!(event, PeerEvent::Uploaded { .. })));
    }
}
