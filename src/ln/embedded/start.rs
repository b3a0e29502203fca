//! Bringing a node up: its folder, lock, seed, database and LDK itself.

use std::fs::{File, TryLockError};
use std::net::{SocketAddr, TcpListener};
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;
use std::str::FromStr;
use std::sync::Arc;

use bitcoin::Network;
use ldk_node::config::{AnchorChannelsConfig, Config};
use ldk_node::lightning::ln::msgs::SocketAddress;
use ldk_node::logger::{LogLevel, LogRecord, LogWriter};
use ldk_node::{Builder, Node};
use secp256k1::PublicKey;
use secrecy::ExposeSecret;

use super::facts::{self, Marks};
use super::seed::{self, Seed};
use super::settings::{ChainSource, Settings, socket_address};
use super::store::{FILE_NAME, LdkStore, Store, Trouble};
use super::{EmbeddedError, recovery};
use crate::ln::regtest::client;

/// Times that a free port is looked for before giving up.
const PORT_ATTEMPTS: usize = 5;
/// Nothing listens there: the discard service, on this machine.
const NOWHERE: &str = "127.0.0.1:9";

/// Held by the process that runs the node.
pub(super) const LOCK_FILE: &str = "lock";

/// What is started.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mode {
    /// The node as it is.
    Normal,
    /// The node without the channel state that may be old.
    Recovery,
}

/// A started node and what it was started with.
pub(super) struct Started {
    pub(super) node: Node,
    pub(super) store: Arc<Store>,
    pub(super) seed: Seed,
    /// Held while the node runs.
    pub(super) lock: File,
    pub(super) listen: SocketAddr,
}

/// Builds and starts the node. Blocks; must not run on a thread of an async runtime.
///
/// `prepare` runs between: LDK has read its state, but nothing has been sent or received yet.
pub(super) fn start(
    settings: &Settings,
    dir: &Path,
    mode: Mode,
    prepare: impl Fn(&Node, &Arc<Store>) -> Result<(), EmbeddedError>,
) -> Result<Started, EmbeddedError> {
    let disk = |action: &'static str| move |source| EmbeddedError::Disk { action, path: dir.to_path_buf(), source };
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(disk("create"))?;
    let lock = lock(dir)?;
    check_regtest(&settings.chain)?;
    let seed = seed::load_or_create(dir, &dir.join(FILE_NAME))?;
    let store = Arc::new(Store::open(dir)?);
    facts::check_network(&store, settings.network())?;
    let node_id = seed::node_id(&seed, settings.network())?;
    let marks = Marks { folder: settings.marks.as_deref(), node_id: &node_id };
    match mode {
        Mode::Normal => facts::check_may_start(&store, dir, marks)?,
        Mode::Recovery => recovery::set_aside(&store, dir, marks)?,
    }
    marks.attach(&store)?;
    remember_chain(&store, settings).map_err(|error| facts::unusable(&store, &error))?;
    if store.fact(facts::RESCAN).map_err(|error| facts::unusable(&store, &error))?.is_some() {
        begin_at_the_first_block(settings, dir, &seed, &store)?;
    }
    let wanted = settings.listen_address()?;
    for attempt in 1.. {
        let listen = choose_port(wanted, &store).map_err(disk("listen for"))?;
        let node = build(settings, settings.network(), dir, listen, &seed, &store)?;
        prepare(&node, &store)?;
        match node.start() {
            Ok(()) => {
                let noted = store.set_fact(facts::LISTEN, &listen.to_string());
                noted.map_err(|error| facts::unusable(&store, &error))?;
                return Ok(Started { node, store, seed, lock, listen });
            }
            // Another process took the free port in between: look for the next.
            Err(ldk_node::NodeError::InvalidSocketAddress) if wanted.port() == 0 && attempt < PORT_ATTEMPTS => {}
            Err(error) => return Err(not_started(error, listen, settings)),
        }
    }
    unreachable!("the loop ends by returning")
}

/// For commands that are given the wallet's folder alone.
fn remember_chain(store: &Store, settings: &Settings) -> rusqlite::Result<()> {
    match &settings.chain {
        ChainSource::RegtestRpc { address } if store.fact(facts::REGTEST_RPC)?.as_ref() != Some(address) => {
            store.set_fact(facts::REGTEST_RPC, address)
        }
        ChainSource::RegtestRpc { .. }
        | ChainSource::BitcoindRpc { .. }
        | ChainSource::Esplora { .. }
        | ChainSource::Electrum { .. } => Ok(()),
    }
}

/// ldk-node begins a new wallet at the chain's tip, where older coins are not seen, unless it can't ask for the tip. So
/// a wallet that is restored is made where no chain answers, and then reads the real one from its first block on.
fn begin_at_the_first_block(
    settings: &Settings,
    dir: &Path,
    seed: &Seed,
    store: &Arc<Store>,
) -> Result<(), EmbeddedError> {
    match &settings.chain {
        ChainSource::RegtestRpc { .. } | ChainSource::BitcoindRpc { .. } => {
            let nowhere = Settings { chain: ChainSource::RegtestRpc { address: NOWHERE.into() }, ..settings.clone() };
            drop(build(&nowhere, settings.network(), dir, settings.listen_address()?, seed, store)?);
        }
        // These are asked for the whole history of a new wallet anyway.
        ChainSource::Esplora { .. } | ChainSource::Electrum { .. } => {}
    }
    store.forget_fact(facts::RESCAN).map_err(|error| facts::unusable(store, &error))
}

/// ldk-node starts on a regtest chain that isn't there, and then waits for it silently.
fn check_regtest(chain: &ChainSource) -> Result<(), EmbeddedError> {
    let ChainSource::RegtestRpc { address } = chain else { return Ok(()) };
    let answered = client::call(address, "getblockchaininfo", &serde_json::json!([]));
    answered.map(drop).map_err(|error| EmbeddedError::Node { action: "start", reason: error.to_string() })
}

fn not_started(error: ldk_node::NodeError, listen: SocketAddr, settings: &Settings) -> EmbeddedError {
    use ldk_node::NodeError;
    let reason = match error {
        NodeError::InvalidSocketAddress => {
            format!("{listen} can't be listened on: another program may use it. Choose another `listen`")
        }
        NodeError::FeerateEstimationUpdateFailed | NodeError::FeerateEstimationUpdateTimeout => {
            format!("its chain source does not answer ({}). Check that it runs", source_name(&settings.chain))
        }
        other => other.to_string(),
    };
    EmbeddedError::Node { action: "start", reason }
}

fn source_name(chain: &ChainSource) -> String {
    match chain {
        ChainSource::RegtestRpc { address } => format!("regtest at {address}"),
        ChainSource::BitcoindRpc { host, port, .. } => format!("bitcoind at {host}:{port}"),
        ChainSource::Esplora { url, .. } | ChainSource::Electrum { url, .. } => url.clone(),
    }
}

/// One process at a time: two on one wallet would broadcast old channel states.
pub(super) fn lock(dir: &Path) -> Result<File, EmbeddedError> {
    let path = dir.join(LOCK_FILE);
    let failed = |source| EmbeddedError::Disk { action: "lock", path: path.clone(), source };
    let file = File::options().create(true).write(true).truncate(false).open(&path).map_err(failed)?;
    match crate::lock::lock(&file) {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(EmbeddedError::InUse(dir.to_path_buf())),
        Err(TryLockError::Error(source)) => Err(failed(source)),
    }
}

/// The wanted address; for port 0 the port of last time if it is free, else any free one.
fn choose_port(wanted: SocketAddr, store: &Store) -> std::io::Result<SocketAddr> {
    if wanted.port() != 0 {
        return Ok(wanted);
    }
    let last = store.fact(facts::LISTEN).ok().flatten().and_then(|text| text.parse::<SocketAddr>().ok());
    if let Some(last) = last.filter(|last| last.ip() == wanted.ip())
        && TcpListener::bind(last).is_ok()
    {
        return Ok(last);
    }
    TcpListener::bind(wanted)?.local_addr()
}

fn build(
    settings: &Settings,
    network: Network,
    dir: &Path,
    listen: SocketAddr,
    seed: &Seed,
    store: &Arc<Store>,
) -> Result<Node, EmbeddedError> {
    let mut builder = Builder::from_config(Config {
        storage_dir_path: dir.to_string_lossy().into_owned(),
        network,
        listening_addresses: Some(vec![SocketAddress::from(listen)]),
        trusted_peers_0conf: trusted(settings)?,
        anchor_channels_config: Some(AnchorChannelsConfig {
            // Trusting on both sides leaves force-closes unresolved.
            trusted_peers_no_reserve: Vec::new(),
            per_channel_reserve_sats: settings.anchor_reserve_sat(),
        }),
        ..Config::default()
    });
    builder.set_entropy_seed_bytes(*seed.expose_secret());
    builder.set_gossip_source_p2p();
    builder.set_custom_logger(Arc::new(Logger(Arc::clone(store))));
    set_chain_source(&mut builder, &settings.chain)?;
    builder
        .build_with_store(Arc::new(LdkStore(Arc::clone(store))))
        .map_err(|error| EmbeddedError::Node { action: "be built", reason: error.to_string() })
}

fn trusted(settings: &Settings) -> Result<Vec<PublicKey>, EmbeddedError> {
    let parse = |text: &String| {
        PublicKey::from_str(text).map_err(|_| EmbeddedError::Setting {
            name: "trusted_peers_0conf",
            reason: format!("{text:?} is not a node id of 66 hex digits"),
        })
    };
    settings.trusted_peers_0conf.iter().map(parse).collect()
}

fn set_chain_source(builder: &mut Builder, chain: &ChainSource) -> Result<(), EmbeddedError> {
    match chain {
        ChainSource::RegtestRpc { address } => {
            let address = socket_address("chain.address", address)?;
            // The regtest chain asks for no password, but ldk-node insists on sending one.
            let nobody = || "l402t".to_string();
            builder.set_chain_source_bitcoind_rpc(address.ip().to_string(), address.port(), nobody(), nobody());
        }
        ChainSource::BitcoindRpc { host, port, user, password_file, .. } => {
            builder.set_chain_source_bitcoind_rpc(host.clone(), *port, user.clone(), password(password_file)?);
        }
        ChainSource::Esplora { url, .. } => {
            builder.set_chain_source_esplora(url.clone(), None);
        }
        ChainSource::Electrum { url, .. } => {
            builder.set_chain_source_electrum(url.clone(), None);
        }
    }
    Ok(())
}

/// What a bitcoind's password file holds.
pub(super) fn password(file: &Path) -> Result<String, EmbeddedError> {
    let password = std::fs::read_to_string(file).map_err(|source| EmbeddedError::Disk {
        action: "read the RPC password from",
        path: file.to_path_buf(),
        source,
    })?;
    Ok(password.trim_end_matches(['\r', '\n']).to_string())
}

/// LDK's log as ours, one level quieter. Below `Info` it may show what must stay secret: that is dropped.
struct Logger(Arc<Store>);

/// What LDK says before it breaks off because a peer proved that the channel state is old.
const FALLEN_BEHIND: &str = "We have fallen behind";

impl LogWriter for Logger {
    fn log(&self, record: LogRecord<'_>) {
        let (module, text) = (record.module_path, record.args);
        match record.level {
            LogLevel::Gossip | LogLevel::Trace | LogLevel::Debug => {}
            LogLevel::Info => tracing::debug!(target: "l402t::ldk", module, "{text}"),
            LogLevel::Warn => tracing::info!(target: "l402t::ldk", module, "{text}"),
            LogLevel::Error => {
                let text = text.to_string();
                if text.starts_with(FALLEN_BEHIND) {
                    self.0.set_trouble(Trouble::Behind);
                    // Where it can't be written, the next peer proves it again.
                    self.0.set_fact(facts::BEHIND, "1").ok();
                }
                tracing::info!(target: "l402t::ldk", module, "{text}");
            }
        }
    }
}
