//! The contract over LND nodes on btcd. Ignored by default: `./x regtest test` builds the programs and runs these.
//!
//! Chain, nodes and channel start once for all scenarios, which run one after another over them.

use std::panic::AssertUnwindSafe;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use l402t::clock::{Clock, SystemClock};
use l402t::ln::lnd::{LndNode, Settings};
use l402t::ln::{ChannelRequest, ChannelState, Lightning};
use l402t::localnet::{Btcd, LndFiles, LndProcess, Tools};
use l402t::protocol::ids::Preimage;
use secrecy::SecretSlice;

use crate::bench::{Bench, CAPACITY_SAT, FINAL_CLTV_BLOCKS, LIMITS, PUSH, accepted, refunded, request, until};
use crate::latency::{now, report, say};

const MINE_AFTER: Duration = Duration::from_millis(20);
const FUNDS_SAT: u64 = 100_000_000;
/// Three seconds of looking whether something is under way, and how often it is helped on.
const POLLS: u32 = 60;
const NUDGES: u32 = 3;

#[allow(clippy::disallowed_methods, reason = "what `./x regtest test` built")]
pub(crate) fn tools() -> Tools {
    let folder = std::env::var_os("REGTEST_TOOLS").expect("REGTEST_TOOLS names the folder of btcd and lnd");
    Tools::in_folder(&PathBuf::from(folder)).expect("btcd and lnd are there")
}

/// How this program reaches an LND that it did not start.
pub(crate) fn settings(files: &LndFiles, macaroon: &Path) -> Settings {
    let read = |path: &Path| SecretSlice::from(std::fs::read(path).expect("readable"));
    Settings {
        address: files.rpc.to_string(),
        tls_cert: read(&files.tls_cert),
        macaroon: read(macaroon),
        advertise: Some(files.p2p.to_string()),
    }
}

/// An LND, and this program's view of it.
pub(crate) struct Side {
    pub(crate) process: LndProcess,
    pub(crate) node: Option<Arc<LndNode>>,
    folder: PathBuf,
}

impl Side {
    pub(crate) async fn start(tools: &Tools, root: &Path, name: &str, btcd: &Btcd) -> Side {
        let process = LndProcess::start(tools, &root.join(name), name, btcd, &[]).await.expect("lnd runs");
        let mut side = Side { process, node: None, folder: root.join(format!("{name}-records")) };
        side.attach().await;
        side
    }

    /// Connects to the LND that runs.
    pub(crate) async fn attach(&mut self) {
        let files = self.process.files();
        let node = LndNode::start(&settings(files, &files.admin_macaroon), &self.folder).await;
        self.node = Some(Arc::new(node.expect("it can be used")));
    }

    pub(crate) fn node(&self) -> Arc<LndNode> {
        self.node.clone().expect("runs")
    }

    /// Where this program keeps its records beside that LND.
    pub(crate) fn folder(&self) -> &Path {
        &self.folder
    }

    async fn down(&mut self) {
        self.node.take().expect("runs").stop().await;
        self.process.stop();
    }

    async fn up(&mut self) {
        self.process.restart().await.expect("lnd comes back");
        self.attach().await;
    }
}

pub(crate) struct Lnd {
    pub(crate) coordinator: Side,
    pub(crate) peer: Side,
    pub(crate) btcd: Btcd,
    root: tempfile::TempDir,
}

pub(crate) async fn start() -> Lnd {
    let (tools, root) = (tools(), tempfile::tempdir().expect("a folder"));
    let mut btcd = Btcd::start(&tools, &root.path().join("btcd")).expect("btcd runs");
    btcd.automine(MINE_AFTER).expect("it mines");
    let (coordinator, peer) = tokio::join!(
        Side::start(&tools, root.path(), "coordinator", &btcd),
        Side::start(&tools, root.path(), "peer", &btcd)
    );
    let mut wallet = coordinator.process.wallet().await.expect("readable");
    btcd.pay(&wallet.new_address().await.expect("an address"), FUNDS_SAT).expect("paid");
    let node = coordinator.node();
    until("the coins are there", async || node.on_chain_balance_sat().await.ok() == Some(FUNDS_SAT)).await;
    let info = peer.node().info().await.expect("up");
    let address = info.address.expect("advertised");
    let request = ChannelRequest { node_id: info.node_id, address, capacity_sat: CAPACITY_SAT, push: PUSH };
    node.open_channel(&request).await.expect("opened");
    let lnd = Lnd { coordinator, peer, btcd, root };
    lnd.usable().await;
    lnd
}

impl Lnd {
    /// Where the nodes of this bench have their folders.
    pub(crate) fn root(&self) -> &Path {
        self.root.path()
    }

    pub(crate) async fn usable(&self) {
        let (coordinator, peer) = (self.coordinator.node(), self.peer.node());
        until("the channel is usable", async || {
            coordinator.channel_state(peer.node_id()).await.ok() == Some(ChannelState::Usable)
                && peer.channel_state(coordinator.node_id()).await.ok() == Some(ChannelState::Usable)
        })
        .await;
    }

    /// Nothing is under way any more: LND's balances move a moment after its payments end. An LND that was stopped
    /// in the middle of an exchange ends it at the next update, so it is given one.
    pub(crate) async fn quiet(&self) {
        for nudge in 0..NUDGES {
            for _ in 0..POLLS {
                if self.pending_htlcs().await == 0 {
                    return;
                }
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
            say(&format!("an exchange was left open; nudge {nudge}"));
            self.nudge().await;
        }
        panic!("something is under way for ever");
    }

    /// An update on the channel that changes nothing.
    pub(crate) async fn nudge(&self) {
        let mut bytes = [200; 32];
        bytes[..8].copy_from_slice(&SystemClock.now().0.to_le_bytes());
        let hash = Preimage::from_bytes(bytes).payment_hash();
        let invoice = self.peer().create_hold_invoice(hash, &request(1_000_000), FINAL_CLTV_BLOCKS).await;
        self.coordinator().pay(&invoice.expect("made"), LIMITS).await.expect("taken");
        accepted(self, hash).await;
        self.peer().cancel(hash).await.expect("taken");
        refunded(self, hash).await;
    }

    async fn pending_htlcs(&self) -> usize {
        let mut pending = 0;
        for side in [&self.coordinator, &self.peer] {
            let mut wallet = side.process.wallet().await.expect("readable");
            let channels = wallet.channels().await.unwrap_or_default();
            pending += channels.iter().map(|channel| channel.pending_htlcs).sum::<usize>();
        }
        pending
    }
}

impl Bench for Lnd {
    fn coordinator(&self) -> Arc<dyn Lightning> {
        self.coordinator.node()
    }

    fn peer(&self) -> Arc<dyn Lightning> {
        self.peer.node()
    }

    async fn peer_down(&mut self) {
        let peer = self.peer.node().node_id().to_owned();
        self.peer.down().await;
        let coordinator = self.coordinator.node();
        until("it is seen that the peer is gone", async || {
            coordinator.channel_state(&peer).await.is_ok_and(|state| state != ChannelState::Usable)
        })
        .await;
    }

    async fn peer_up(&mut self) {
        self.peer.up().await;
        self.usable().await;
    }

    async fn restart_coordinator(&mut self) {
        self.coordinator.down().await;
        self.coordinator.up().await;
        self.usable().await;
    }

    async fn mine(&mut self, blocks: u32) {
        self.btcd.generate(blocks).expect("mined");
        let height = self.btcd.height().expect("known");
        for node in [self.coordinator.node(), self.peer.node()] {
            until("the blocks are seen", async || node.info().await.is_ok_and(|info| info.block_height >= height))
                .await;
        }
    }

    fn slots(&self) -> u32 {
        483
    }

    async fn stop(&mut self) {
        for side in [&mut self.coordinator, &mut self.peer] {
            side.node.take().expect("runs").stop().await;
            side.process.stop();
        }
        self.btcd.stop();
    }
}

/// Runs scenarios one after another on one bench, all of them whatever becomes of one.
macro_rules! in_sequence {
    ($bench:ident: $($scenario:ident),+ $(,)?) => {{
        let mut failed: Vec<&str> = Vec::new();
        $(
            $bench.quiet().await;
            let start = now();
            let ran = AssertUnwindSafe(crate::contract::$scenario(&mut $bench)).catch_unwind().await;
            say(&format!("{} {} {:.1?}", stringify!($scenario), if ran.is_ok() { "ok" } else { "FAILED" }, start.elapsed()));
            if ran.is_err() {
                failed.push(stringify!($scenario));
            }
        )+
        failed
    }};
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs btcd and lnd: ./x regtest test"]
async fn lnd_keeps_the_whole_contract() {
    let mut bench = start().await;
    let failed = crate::contract::scenarios!(in_sequence, bench);
    assert!(failed.is_empty(), "{failed:?}");
    bench.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "a measurement, not a test; needs btcd and lnd"]
async fn lock_and_settle_lnd() {
    let start_of_all = now();
    let mut bench = start().await;
    report("from nothing to a usable channel", &mut [start_of_all.elapsed()]);
    crate::latency::measure(&mut bench).await;
    bench.stop().await;
}
