//! A Lightning node inside this process: LDK, with real channels and real hold HTLCs.
//!
//! A folder holds everything it owns: the seed (readable by its owner only), one SQLite database and a lock. Calls into
//! LDK block, so they run on threads of their own. It must never run twice on one folder, nor start on another seed.
//!
//! A hold invoice and an ordinary one are the same thing here: for the ordinary one the node has the preimage already
//! and claims at once. LDK's own automatic claiming is not used.

mod backup;
mod channels;
mod error;
mod events;
mod facts;
mod faucet;
mod htlcs;
mod invoice;
mod keeper;
mod look;
mod marker;
mod node;
mod pool;
mod records;
mod recovery;
mod seed;
mod settings;
mod start;
mod store;
mod summary;
#[cfg(test)]
mod tests;
mod withdraw;

use std::fs::File;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

pub use backup::{BackupInfo, BackupKind, back_up, look_at, restore, restore_from_words, words};
use channels::{Channels, Whom};
pub use error::EmbeddedError;
use faucet::Faucet;
use htlcs::Htlcs;
use keeper::Keeper;
pub use look::{LastBackup, NodeState, WalletLook, look_at_wallet};
use pool::Pool;
use records::Records;
pub use recovery::{ClosedBy, Recovery, RecoveryStep};
pub use settings::{ChainNetwork, ChainSource, Settings};
use start::{Mode, Started};
use store::Trouble;
pub use summary::{ChannelSummary, ClosingSummary, OpenState, WalletSummary, last_regtest_chain, last_summary};
use tokio::sync::{broadcast, watch};
pub use withdraw::{Closing, OnChainAmount};

use crate::clock::{Clock, SystemClock};
use crate::ln::LnError;

/// Events that a slow listener may fall behind by.
const EVENT_BUFFER: usize = 1_024;
const CALL_LIMIT: Duration = Duration::from_secs(30);
const SLOW_CALL_LIMIT: Duration = Duration::from_secs(60);
const RECONNECT_PAUSE: Duration = Duration::from_millis(500);
const CLAIM_PAUSE: Duration = Duration::from_secs(1);
const SUMMARY_PAUSE: Duration = Duration::from_secs(1);
/// How many of the first claim rounds after a start also repeat what was canceled before it.
const CANCELLATION_REPEATS: u32 = 10;

/// An LDK node.
pub struct EmbeddedNode {
    /// `None` only while being dropped.
    parts: Option<Arc<Parts>>,
    quick: Pool,
    slow: Pool,
    running: Mutex<Option<Running>>,
}

/// What the node's threads share.
struct Parts {
    htlcs: Arc<Htlcs>,
    channels: Channels,
    faucet: Option<Faucet>,
    settings: Settings,
    mode: Mode,
    address: String,
    lock: File,
    summary: Mutex<Option<WalletSummary>>,
}

impl Parts {
    /// Writes down what the wallet holds, and puts the number of its newest state on disk.
    fn keep_summary(&self) {
        let mut last = self.summary.lock().unwrap_or_else(PoisonError::into_inner);
        let network = self.settings.network().to_string();
        summary::keep(&self.htlcs.node, &self.htlcs.store, &network, SystemClock.now(), &mut last);
        self.htlcs.store.sync_marker();
    }
}

/// The threads to stop.
struct Running {
    events: (watch::Sender<()>, JoinHandle<()>),
    keepers: Vec<Keeper>,
}

/// Tells when a node can't go on: then its process should stop it and end.
#[derive(Debug)]
pub struct NodeWatch {
    trouble: watch::Receiver<Option<Trouble>>,
    database: PathBuf,
}

impl NodeWatch {
    /// Waits, for ever if all is well, until the node can't go on. Says why.
    pub async fn broken(&mut self) -> EmbeddedError {
        loop {
            if let Some(error) = self.now() {
                return error;
            }
            if self.trouble.changed().await.is_err() {
                // The node is gone, and was well.
                std::future::pending::<()>().await;
            }
        }
    }

    /// Why the node can't go on, if it can't.
    pub fn now(&self) -> Option<EmbeddedError> {
        let folder = self.database.parent().unwrap_or(&self.database).to_path_buf();
        let trouble = *self.trouble.borrow();
        trouble.map(|trouble| match trouble {
            Trouble::Behind => EmbeddedError::Behind(folder),
            Trouble::Broken => EmbeddedError::BrokenOff(folder),
            Trouble::WriteFailed => EmbeddedError::NotWritten(self.database.clone()),
        })
    }
}

impl std::fmt::Debug for EmbeddedNode {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("EmbeddedNode").field("node_id", &self.node_id()).finish_non_exhaustive()
    }
}

impl EmbeddedNode {
    /// Starts the node in `dir`, which is made on the first start. It must be stopped before the process exits.
    ///
    /// # Errors
    /// The folder, another process on it, a missing seed, a setting, an unreachable chain source or a port in use.
    pub async fn start(settings: &Settings, dir: &Path) -> Result<Self, EmbeddedError> {
        start_in(settings, dir, Mode::Normal).await
    }

    fn parts(&self) -> &Arc<Parts> {
        self.parts.as_ref().expect("only taken by drop")
    }

    /// Compressed public key, 66 hex digits.
    pub fn node_id(&self) -> String {
        self.parts().htlcs.node.node_id().to_string()
    }

    /// To hear of it when the node can't go on.
    pub fn watch(&self) -> NodeWatch {
        let store = &self.parts().htlcs.store;
        NodeWatch { trouble: store.watch_trouble(), database: store.path().to_path_buf() }
    }

    /// Runs a call into LDK.
    async fn call<T: Send + 'static>(
        &self,
        call: impl FnOnce(&Parts) -> Result<T, LnError> + Send + 'static,
    ) -> Result<T, LnError> {
        self.quick.run(CALL_LIMIT, self.checked(call)).await
    }

    /// Runs a call that waits for another node or for a block, where it holds up no other kind.
    async fn slow_call<T: Send + 'static>(
        &self,
        call: impl FnOnce(&Parts) -> Result<T, LnError> + Send + 'static,
    ) -> Result<T, LnError> {
        self.slow.run(SLOW_CALL_LIMIT, self.checked(call)).await
    }

    fn checked<T>(
        &self,
        call: impl FnOnce(&Parts) -> Result<T, LnError> + Send + 'static,
    ) -> impl FnOnce() -> Result<T, LnError> + Send + 'static {
        let parts = Arc::clone(self.parts());
        move || {
            parts.htlcs.check_store()?;
            call(&parts)
        }
    }

    /// Connects to a node and remembers it: while there is a channel with it, it is connected to again and again.
    ///
    /// # Errors
    /// When it can't be reached now.
    pub async fn connect(&self, node_id: &str, address: &str) -> Result<(), LnError> {
        let (peer, text) = (channels::node_id(node_id)?, address.to_string());
        self.slow_call(move |parts| {
            let address = text.parse().map_err(|_| LnError::Refused(format!("{text:?} is not host:port")))?;
            let connected = parts.htlcs.node.connect(peer, address, true);
            connected.map_err(|_| LnError::Unavailable(format!("can't reach node {peer} at {text}")))
        })
        .await
    }

    /// An address of the on-chain wallet.
    ///
    /// # Errors
    /// When the wallet can't be written.
    pub async fn on_chain_address(&self) -> Result<String, LnError> {
        self.call(|parts| {
            let address = parts.htlcs.node.onchain_payment().new_address();
            address.map(|address| address.to_string()).map_err(|error| htlcs::ldk_error("make an address", error))
        })
        .await
    }

    /// What the wallet holds now.
    ///
    /// # Errors
    /// When the node does not answer.
    pub async fn summary(&self) -> Result<WalletSummary, LnError> {
        self.call(|parts| {
            let network = parts.settings.network().to_string();
            Ok(summary::of(&parts.htlcs.node, &network, SystemClock.now()))
        })
        .await
    }

    /// What the on-chain wallet can spend, in sat.
    ///
    /// # Errors
    /// When the node does not answer.
    pub async fn on_chain_balance_sat(&self) -> Result<u64, LnError> {
        self.call(|parts| Ok(parts.htlcs.node.list_balances().spendable_onchain_balance_sats)).await
    }

    /// Reads the chain now instead of at the next poll.
    ///
    /// # Errors
    /// When the chain source does not answer.
    pub async fn sync(&self) -> Result<(), LnError> {
        self.slow_call(|parts| {
            parts.htlcs.node.sync_wallets().map_err(|error| htlcs::ldk_error("read the chain", error))
        })
        .await
    }

    /// Has the faucet of the in-process regtest chain pay this node, unless it has that much already, and waits for the
    /// block. Somebody must be mining.
    ///
    /// # Errors
    /// On any other chain; when the faucet refuses or no block comes within ten seconds.
    pub async fn fund_from_regtest_faucet(&self, amount_sat: u64) -> Result<(), LnError> {
        self.slow_call(move |parts| match &parts.faucet {
            Some(faucet) => faucet.fund(&parts.htlcs.node, amount_sat),
            None => Err(LnError::Refused("only the in-process regtest chain has a faucet".into())),
        })
        .await
    }

    /// Has the faucet of the in-process regtest chain pay a little: blocks only come there when something waits for one.
    ///
    /// # Errors
    /// On any other chain; when the faucet refuses.
    pub async fn ask_faucet_for_a_block(&self) -> Result<(), LnError> {
        self.slow_call(|parts| match &parts.faucet {
            Some(faucet) => faucet.pay(&parts.htlcs.node, 0),
            None => Err(LnError::Refused("only the in-process regtest chain has a faucet".into())),
        })
        .await
    }

    async fn stop_and_wait(&self) {
        let running = self.running.lock().unwrap_or_else(PoisonError::into_inner).take();
        let Some(running) = running else { return };
        let parts = Arc::clone(self.parts());
        let (sender, stopped) = tokio::sync::oneshot::channel();
        let stop = move || {
            stop_blocking(running, &parts);
            drop(parts);
            sender.send(()).ok();
        };
        if std::thread::Builder::new().name("lightning-stop".into()).spawn(stop).is_ok() {
            stopped.await.ok();
        }
    }
}

impl Drop for EmbeddedNode {
    /// LDK's own runtime can't be dropped on a thread of another one.
    fn drop(&mut self) {
        let running = self.running.get_mut().unwrap_or_else(PoisonError::into_inner).take();
        let Some(parts) = self.parts.take() else { return };
        let end = move || {
            if let Some(running) = running {
                stop_blocking(running, &parts);
            }
        };
        std::thread::Builder::new().name("lightning-drop".into()).spawn(end).ok();
    }
}

async fn start_in(settings: &Settings, dir: &Path, mode: Mode) -> Result<EmbeddedNode, EmbeddedError> {
    let (settings, dir) = (settings.clone(), dir.to_path_buf());
    let (sender, started) = tokio::sync::oneshot::channel();
    let start = move || drop(sender.send(start_blocking(settings, &dir, mode)));
    let broke_off = || EmbeddedError::Node { action: "start", reason: "its thread broke off; see the log".into() };
    std::thread::Builder::new().name("lightning-start".into()).spawn(start).map_err(|_| broke_off())?;
    started.await.map_err(|_| broke_off())?
}

fn start_blocking(settings: Settings, dir: &Path, mode: Mode) -> Result<EmbeddedNode, EmbeddedError> {
    let threads = |source| EmbeddedError::Disk { action: "start the threads for", path: dir.to_path_buf(), source };
    let prepare = |node: &ldk_node::Node, store: &Arc<store::Store>| {
        let reconciled = htlcs::reconcile(node, &Records::new(Arc::clone(store)));
        reconciled.map_err(|error| EmbeddedError::Store { path: store_path(dir), reason: error.to_string() })
    };
    let Started { node, store, seed, lock, listen } = start::start(&settings, dir, mode, prepare)?;
    // Derived for regtest or mainnet alike: the network only changes how a key would be written.
    let secret = seed::node_secret(&seed, settings.network())?;
    let htlcs = Arc::new(Htlcs {
        node,
        records: Records::new(Arc::clone(&store)),
        store,
        network: settings.network(),
        secret,
        events: broadcast::channel(EVENT_BUFFER).0,
        turn: Mutex::default(),
    });
    let channels = Channels::new(settings.max_dust_exposure_sat);
    channels.raise_all_dust_limits(&htlcs.node);
    let address = settings.advertise.clone().unwrap_or_else(|| listen.to_string());
    let faucet = Faucet::of(&settings.chain);
    let parts = Arc::new(Parts { htlcs, channels, faucet, settings, mode, address, lock, summary: Mutex::default() });
    let running = start_threads(&parts).map_err(threads)?;
    let (quick, slow) = (Pool::start().map_err(threads)?, Pool::start().map_err(threads)?);
    Ok(EmbeddedNode { parts: Some(parts), quick, slow, running: Mutex::new(Some(running)) })
}

fn store_path(dir: &Path) -> PathBuf {
    dir.join(store::FILE_NAME)
}

fn start_threads(parts: &Arc<Parts>) -> std::io::Result<Running> {
    let (stop_events, stopped) = watch::channel(());
    let shared = Arc::clone(parts);
    let take_events = move || events::run(&shared.htlcs, &shared.channels, stopped);
    let events = std::thread::Builder::new().name("lightning-events".into()).spawn(take_events)?;
    let reconnect = Keeper::start("lightning-peers", RECONNECT_PAUSE, Arc::clone(parts), |parts| {
        let whom = match parts.mode {
            Mode::Normal => Whom::WithChannels,
            Mode::Recovery => Whom::Everybody,
        };
        // LDK breaks off, with its locks held, when a peer proves that the channel state is old.
        let reached = catch_unwind(AssertUnwindSafe(|| channels::reconnect(&parts.htlcs.node, whom)));
        if reached.is_err() {
            parts.htlcs.store.set_trouble(Trouble::Broken);
        }
    })?;
    let summary = Keeper::start("lightning-summary", SUMMARY_PAUSE, Arc::clone(parts), |parts| {
        // As above: what can't be read any more is not written down.
        catch_unwind(AssertUnwindSafe(|| parts.keep_summary())).ok();
    })?;
    let cancellations = AtomicU32::new(CANCELLATION_REPEATS);
    let claim = Keeper::start("lightning-claims", CLAIM_PAUSE, Arc::clone(parts), move |parts| {
        let htlcs = &parts.htlcs;
        let mut looked_after = htlcs.look_after_accepted().and_then(|()| htlcs.resolve_interrupted());
        let repeat = cancellations.try_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1));
        if repeat.is_ok() {
            looked_after = looked_after.and_then(|()| htlcs.repeat_cancellations());
        }
        if let Err(error) = looked_after {
            tracing::warn!(%error, "claims are repeated later");
        }
    })?;
    Ok(Running { events: (stop_events, events), keepers: vec![reconnect, claim, summary] })
}

fn stop_blocking(running: Running, parts: &Parts) {
    let Running { events: (stop_events, events), keepers } = running;
    stop_events.send(()).ok();
    keepers.into_iter().for_each(Keeper::stop);
    events.join().ok();
    if parts.htlcs.store.trouble().is_none() {
        parts.keep_summary();
    }
    // LDK can't even be stopped once it has broken off.
    match catch_unwind(AssertUnwindSafe(|| parts.htlcs.node.stop())) {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::warn!(%error, "the Lightning node did not stop cleanly"),
        Err(_) => tracing::error!("the Lightning node broke off"),
    }
    parts.htlcs.store.sync_marker();
    parts.lock.unlock().ok();
}
