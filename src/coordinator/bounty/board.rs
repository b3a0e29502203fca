//! All bounties of a coordinator: taken on, found again at a start, each run by an engine of its own.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use tokio::sync::broadcast;
use tokio::task::JoinHandle;

use super::super::core::Core;
use super::super::engine::{ChannelGate, Coordinator, Options, Shared, network_of};
use super::super::error::{CoordinatorError, refusal};
use super::super::handle::{BountyBoard, BountyHandle, Refusal};
use super::super::judging::Bench;
use super::super::news::RunEvent;
use super::super::run::DataFolder;
use super::super::secrets::Entropy;
use super::posting;
use super::waiting::gives_way;
use crate::bounty::judge::Evaluate;
use crate::clock::Clock;
use crate::ln::Lightning;
use crate::ln::bolt11::Network;
use crate::offload;
use crate::protocol::amount::Msat;
use crate::protocol::api::{BountyList, BountyPhase, PostAnswer, PostRequest};
use crate::protocol::bounty::offer::fee_tranche;
use crate::protocol::ids::{BountyId, UnixMs};
use crate::protocol::sign::IdentityKey;
use crate::store::StoreError;
use crate::store::database::CommitObserver;

/// Postings that wait for their escrow at one time: each costs disk, and nobody has paid for it yet.
const MOST_WAITING: usize = 8;
/// How long a posting that was never paid for can be asked about.
const FORGET_MS: u64 = 900_000;
/// Postings that were refused and can still be asked about, at most: they cost as much disk as others.
const MOST_REFUSED: usize = 8;
/// How long an engine that has ended rests before it is started again.
const RESTART_MS: u64 = 60_000;
/// Events kept for a listener that is slow.
const EVENT_BACKLOG: usize = 256;

/// What a coordinator's operator decides about bounties.
#[derive(Clone, Debug)]
pub struct BoardSettings {
    /// The folder that holds a folder for each bounty.
    pub folder: PathBuf,
    /// Bounties that are not over, at most.
    pub most_bounties: usize,
    /// Smallest budget.
    pub least_budget: Msat,
    /// As for rounds of training.
    pub options: Options,
}

/// What a bounty's coordinator is put into.
#[derive(Clone, Debug)]
pub struct BoardSurroundings {
    /// Signs every statement.
    pub key: IdentityKey,
    /// The coordinator's node.
    pub ln: Arc<dyn Lightning>,
    /// Who decides about that node's channels holds it.
    pub channel_gate: ChannelGate,
    /// Evaluates submissions.
    pub evaluator: Arc<dyn Evaluate>,
    /// The time.
    pub clock: Arc<dyn Clock>,
    /// Told of every commit: tests stop everything at the n-th one.
    pub observer: Arc<dyn CommitObserver>,
    /// Where the secrets of a bounty come from.
    pub entropy: Arc<dyn Entropy>,
}

impl BoardSurroundings {
    async fn network(&self) -> Result<Network, CoordinatorError> {
        network_of(&self.ln.info().await?)
    }

    async fn assemble(&self, core: Core, options: &Options) -> Result<Coordinator, CoordinatorError> {
        let bench = Bench::Bounty(Arc::clone(&self.evaluator));
        let node = (Arc::clone(&self.ln), self.channel_gate.clone());
        Coordinator::assemble(core, options.clone(), node, Arc::clone(&self.clock), bench).await
    }
}

/// Takes a posting on, in an empty folder: checked against everything that can be known without running it.
pub async fn start(
    folder: &Path,
    request: PostRequest,
    options: &Options,
    around: &BoardSurroundings,
) -> Result<Coordinator, CoordinatorError> {
    let network = around.network().await?;
    let unreadable = |source| CoordinatorError::Unreadable { path: "the system's random source".into(), source };
    let secret = around.entropy.bytes32().map_err(unreadable)?;
    let (folder, key) = (folder.to_owned(), around.key.clone());
    let (clock, observer) = (Arc::clone(&around.clock), Arc::clone(&around.observer));
    let evaluator = Arc::clone(&around.evaluator);
    let start = move || {
        let mut data = DataFolder::open(&folder, observer)?;
        let run = posting::start(&mut data, &folder, &request, &key, (network, &*evaluator), (clock.now(), secret))?;
        Core::new(data, Arc::new(run), clock, &folder)
    };
    let core = offload::run(start).await.unwrap_or(Err(CoordinatorError::Panicked))?;
    around.assemble(core, options).await
}

/// Opens a bounty's folder again; `None` where it was never taken on.
pub async fn open(
    folder: &Path,
    options: &Options,
    around: &BoardSurroundings,
) -> Result<Option<Coordinator>, CoordinatorError> {
    let (folder, key) = (folder.to_owned(), around.key.clone());
    let (clock, observer) = (Arc::clone(&around.clock), Arc::clone(&around.observer));
    let open = move || {
        let data = DataFolder::open(&folder, observer)?;
        let Some(run) = posting::read(&data, &folder, &key)? else { return Ok(None) };
        Core::new(data, Arc::new(run), clock, &folder).map(Some)
    };
    match offload::run(open).await.unwrap_or(Err(CoordinatorError::Panicked))? {
        Some(core) => around.assemble(core, options).await.map(Some),
        None => Ok(None),
    }
}

/// A bounty whose engine runs.
#[derive(Debug)]
struct Running {
    shared: Arc<Shared>,
    engine: JoinHandle<()>,
}

impl Running {
    /// Stops its engine, and waits until it has.
    async fn ended(mut self) {
        self.engine.abort();
        // However it ended.
        let _ = (&mut self.engine).await;
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // Safe at any await: what was begun is found again.
        self.engine.abort();
    }
}

/// What is on the board already.
struct Places {
    /// Postings whose budget is awaited.
    waiting: Vec<Arc<Shared>>,
    /// Bounties that are not over: those, and the others.
    alive: usize,
}

/// All bounties of a coordinator.
#[derive(Debug)]
pub struct Board {
    settings: BoardSettings,
    around: BoardSurroundings,
    running: Mutex<BTreeMap<BountyId, Running>>,
    /// Held while a posting is taken on, so that the same one isn't twice.
    posting: tokio::sync::Mutex<()>,
    events: broadcast::Sender<(BountyId, RunEvent)>,
}

impl Board {
    /// Opens every bounty in the folder and lets it go on.
    pub async fn open(settings: BoardSettings, around: BoardSurroundings) -> Result<Arc<Self>, CoordinatorError> {
        let folder = settings.folder.clone();
        let list = move || {
            let failed = |source| StoreError::Io { action: "read the folder", path: folder.clone(), source };
            fs::create_dir_all(&folder).map_err(failed)?;
            let entries = fs::read_dir(&folder).map_err(failed)?.collect::<Result<Vec<_>, _>>().map_err(failed)?;
            Ok::<_, CoordinatorError>(entries.into_iter().map(|entry| entry.path()).collect::<Vec<_>>())
        };
        let folders = offload::run(list).await.unwrap_or(Err(CoordinatorError::Panicked))?;
        let (running, posting) = (Mutex::default(), tokio::sync::Mutex::new(()));
        let events = broadcast::channel(EVENT_BACKLOG).0;
        let board = Arc::new(Self { settings, around, running, posting, events });
        for folder in folders.iter().filter(|folder| id_of(folder).is_some()) {
            match open(folder, &board.settings.options, &board.around).await {
                Ok(Some(coordinator)) => board.run(coordinator),
                Ok(None) => remove(folder).await,
                // Others must not stand still for it.
                Err(error) => {
                    tracing::error!(folder = %folder.display(), "this bounty is not served, and its money is not looked after: {error}");
                }
            }
        }
        Ok(board)
    }

    /// What happens from now on, and to which bounty.
    pub fn events(&self) -> broadcast::Receiver<(BountyId, RunEvent)> {
        self.events.subscribe()
    }

    /// Stops every engine. What was begun is found again at the next start.
    pub async fn stop(&self) {
        let running = std::mem::take(&mut *self.lock());
        for running in running.into_values() {
            running.ended().await;
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<BountyId, Running>> {
        // A map of handles is whole whatever panicked.
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn run(&self, mut coordinator: Coordinator) {
        let shared = Arc::clone(&coordinator.shared);
        let Some(task) = shared.run.bounty() else { return };
        let id = task.posting().bounty_id();
        let (tell, mut heard) = (self.events.clone(), coordinator.events());
        let engine = tokio::spawn(async move {
            let told = async {
                loop {
                    match heard.recv().await {
                        // Nobody need listen.
                        Ok(event) => drop(tell.send((id, event))),
                        Err(broadcast::error::RecvError::Lagged(_)) => {}
                        Err(broadcast::error::RecvError::Closed) => std::future::pending().await,
                    }
                }
            };
            tokio::select! {
                () = keep_running(&mut coordinator, id) => {}
                () = told => {}
            }
        });
        self.lock().insert(id, Running { shared, engine });
    }

    fn handles(&self) -> Vec<Arc<Shared>> {
        self.lock().values().map(|running| Arc::clone(&running.shared)).collect()
    }

    /// Forgets postings that were refused some time ago, or before many others, and looks at the rest.
    async fn sweep(&self, now: UnixMs) -> Result<Places, CoordinatorError> {
        let (mut places, mut refused) = (Places { waiting: Vec::new(), alive: 0 }, Vec::new());
        for shared in self.handles() {
            let escrow = shared.with(|core| Ok(core.bounty_state()?.escrow.clone())).await?;
            match escrow.phase {
                BountyPhase::AwaitingEscrow => {
                    places.alive += 1;
                    places.waiting.push(shared);
                }
                BountyPhase::Checking | BountyPhase::Open | BountyPhase::Closing => places.alive += 1,
                BountyPhase::Closed => {}
                BountyPhase::Refused => {
                    refused.push((escrow.fund_until_ms, shared.run.bounty_task()?.posting().bounty_id()));
                }
            }
        }
        refused.sort();
        let too_many = refused.len().saturating_sub(MOST_REFUSED);
        for (place, (fund_until_ms, id)) in refused.into_iter().enumerate() {
            if place < too_many || now > fund_until_ms.plus_ms(FORGET_MS) {
                let running = self.lock().remove(&id);
                if let Some(running) = running {
                    running.ended().await;
                }
                remove(&self.folder_of(&id)).await;
            }
        }
        Ok(places)
    }

    /// Checks a posting and keeps it, in the place of another where all are taken.
    async fn start(&self, request: PostRequest, places: Places) -> Result<Coordinator, CoordinatorError> {
        let Places { waiting, alive } = places;
        let message = format!("{} postings wait for their money, {alive} bounties are not over", waiting.len());
        let full = || refusal(503, "board_full", message.clone(), "Try again in a minute").into();
        let is_full = waiting.len() >= MOST_WAITING || alive >= self.settings.most_bounties;
        let place = match is_full {
            true => Some(gives_way(waiting, self.around.clock.now()).await?.ok_or_else(full)?),
            false => None,
        };
        let folder = self.folder_of(&request.posting.body.bounty_id());
        let coordinator = start(&folder, request, &self.settings.options, &self.around).await?;
        match place {
            // Nothing gives way to a posting that is refused itself.
            Some(place) if !place.give_way().await? => Err(full()),
            Some(_) | None => Ok(coordinator),
        }
    }

    fn folder_of(&self, bounty: &BountyId) -> PathBuf {
        self.settings.folder.join(bounty.to_string())
    }

    async fn take_on(&self, request: PostRequest) -> Result<PostAnswer, CoordinatorError> {
        let posting = &request.posting.body;
        let id = posting.bounty_id();
        let _one_at_a_time = self.posting.lock().await;
        let known = self.lock().get(&id).map(|running| Arc::clone(&running.shared));
        let shared = match known {
            Some(shared) => shared,
            None => {
                let places = self.sweep(self.around.clock.now()).await?;
                if posting.rules.budget_msat < self.settings.least_budget {
                    let message = format!(
                        "a budget of {} is less than {}",
                        posting.rules.budget_msat, self.settings.least_budget
                    );
                    return Err(refusal(422, "budget_too_small", message, "Offer more").into());
                }
                if fee_tranche(posting.rules.fee_msat).is_none() {
                    let message = "evaluating a submission costs this coordinator time, and its fee is less than 1 sat";
                    return Err(refusal(422, "fee_too_small", message, "Set reward.fee_sat to 1 or more").into());
                }
                match self.start(request, places).await {
                    Ok(coordinator) => {
                        let shared = Arc::clone(&coordinator.shared);
                        self.run(coordinator);
                        shared
                    }
                    Err(error) => {
                        remove(&self.folder_of(&id)).await;
                        return Err(error);
                    }
                }
            }
        };
        let pay_until_ms = shared.with(|core| Ok(core.bounty_state()?.escrow.fund_until_ms)).await?;
        let invoices = shared.escrow_invoices().await?;
        Ok(PostAnswer { view: shared.bounty_view().await?, invoices, pay_until_ms })
    }
}

#[async_trait]
impl BountyBoard for Board {
    async fn list(&self) -> Result<BountyList, Refusal> {
        let info = self.around.ln.info().await.map_err(CoordinatorError::from)?;
        let lightning = self.settings.options.lightning(info.clone(), network_of(&info)?);
        let mut bounties = Vec::new();
        for shared in self.handles() {
            bounties.push(shared.bounty_view_with(lightning.clone()).await?);
        }
        bounties.sort_by_key(|view| std::cmp::Reverse((view.manifest.body.created_ms, view.bounty)));
        Ok(BountyList { coordinator: self.around.key.id(), lightning, bounties })
    }

    async fn post(&self, request: PostRequest) -> Result<PostAnswer, Refusal> {
        Ok(self.take_on(request).await?)
    }

    fn find(&self, bounty: &BountyId) -> Option<Arc<dyn BountyHandle>> {
        self.lock().get(bounty).map(|running| Arc::clone(&running.shared) as Arc<dyn BountyHandle>)
    }
}

/// Runs a bounty's engine whatever ends it, such as a disk that was full for long: its tickets are sold, so they must be judged.
async fn keep_running(coordinator: &mut Coordinator, id: BountyId) {
    let clock = coordinator.shared.clock.clone();
    loop {
        let ended = match coordinator.reconcile().await {
            Ok(()) => coordinator.run().await,
            Err(error) => Err(error),
        };
        if let Err(error) = ended {
            tracing::error!(bounty = %id, "it stands still for a minute: {error}");
        }
        clock.sleep(RESTART_MS).await;
    }
}

/// The bounty whose folder this is.
fn id_of(folder: &Path) -> Option<BountyId> {
    folder.file_name().and_then(|name| name.to_str()).and_then(|name| name.parse().ok())
}

async fn remove(folder: &Path) {
    let folder = folder.to_owned();
    let gone = offload::run(move || match fs::remove_dir_all(&folder) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            tracing::warn!(folder = %folder.display(), %error, "a posting that was not taken on stays behind");
        }
        Ok(()) | Err(_) => {}
    });
    if gone.await.is_err() {
        tracing::warn!("removing a folder panicked");
    }
}
