//! btcd: the chain of the local network, and its miner.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use bitcoin::Txid;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::faucet::{self, Faucet};
use super::process::Process;
use super::rpc::BtcdRpc;
use super::{LocalnetError, Tools, ports};
use crate::sys::StopSignal;

/// So many that segwit and taproot are active (432) and hundreds of coinbases can be spent.
const FIRST_BLOCKS: u32 = 450;

/// It listens on this machine alone, and its coins are worth nothing.
const USER: &str = "l402t";
const PASSWORD: &str = "l402t";

const START_LIMIT: Duration = Duration::from_secs(60);
const START_POLL: Duration = Duration::from_millis(50);
const STOP_GRACE: Duration = Duration::from_secs(10);

/// How another process reaches a btcd of ours.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BtcdAccess {
    /// JSON-RPC over TLS, `host:port`.
    pub rpc: SocketAddr,
    /// Its certificate (PEM).
    pub certificate: PathBuf,
}

impl BtcdAccess {
    /// The best block's height. Blocks.
    ///
    /// # Errors
    /// When btcd doesn't answer.
    pub fn height(&self) -> Result<u32, LocalnetError> {
        faucet::height(&BtcdRpc::new(self.rpc.port(), USER, PASSWORD, &self.certificate)?)
    }
}

/// A btcd on regtest with a chain of 450 blocks or more. The chain lives as long as this: btcd throws away what it finds
/// of an earlier regtest chain. Dropping it kills it.
#[derive(Debug)]
pub struct Btcd {
    process: Process,
    rpc: BtcdRpc,
    certificate: PathBuf,
    faucet: Arc<Mutex<Faucet>>,
    miner: Option<Miner>,
}

#[derive(Debug)]
struct Miner {
    /// Dropped to stop it.
    stop: Sender<()>,
    thread: JoinHandle<()>,
}

impl Btcd {
    /// Starts a btcd on a new chain in `folder`. Blocks until it answers: under a second on an idle machine.
    ///
    /// # Errors
    /// When the program is missing, can't start, or the folder can't be written.
    pub fn start(tools: &Tools, folder: &Path) -> Result<Self, LocalnetError> {
        std::fs::create_dir_all(folder).map_err(LocalnetError::disk("create", folder))?;
        let (certificate, key) = certificate(folder)?;
        let (rpc_port, p2p_port) = (ports::free()?, ports::free()?);
        let faucet = Faucet::new()?;
        let mut command = Command::new(tools.btcd());
        command
            .args(["--regtest", "--txindex", "--rejectnonstd", "--nobanning", "--nostalldetect", "--nowinservice"])
            .args(["--trickleinterval=100ms", "--rpcmaxwebsockets=100", "--rpcmaxclients=200"])
            // Its own 250 MiB are for a chain with many coins.
            .arg("--utxocachemaxsize=16")
            .arg(format!("--rpcuser={USER}"))
            .arg(format!("--rpcpass={PASSWORD}"))
            .arg(format!("--rpclisten=127.0.0.1:{rpc_port}"))
            .arg(format!("--listen=127.0.0.1:{p2p_port}"))
            .arg(format!("--miningaddr={}", faucet.mining_address()))
            .arg(path_flag("--rpccert=", &certificate))
            .arg(path_flag("--rpckey=", &key))
            .arg(path_flag("--datadir=", &folder.join("data")))
            .arg(path_flag("--logdir=", &folder.join("logs")))
            // A configuration of the user's own must not leak in.
            .arg("--configfile=/dev/null");
        let process = Process::start("btcd", command, &folder.join("btcd.log"), StopSignal::Terminate)?;
        let rpc = BtcdRpc::new(rpc_port, USER, PASSWORD, &certificate)?;
        let mut btcd = Self { process, rpc, certificate, faucet: Arc::new(Mutex::new(faucet)), miner: None };
        btcd.wait_until_it_answers()?;
        btcd.generate(FIRST_BLOCKS)?;
        Ok(btcd)
    }

    fn wait_until_it_answers(&mut self) -> Result<(), LocalnetError> {
        for _ in 0..START_LIMIT.as_millis() / START_POLL.as_millis() {
            self.process.check()?;
            if self.height().is_ok() {
                return Ok(());
            }
            std::thread::sleep(START_POLL);
        }
        Err(LocalnetError::TooLate {
            what: "btcd's first answer".to_owned(),
            limit_s: START_LIMIT.as_secs(),
            log: self.process.log().to_owned(),
        })
    }

    /// One call of btcd's JSON-RPC. Blocks.
    ///
    /// # Errors
    /// When btcd doesn't answer or refuses.
    pub fn call(&self, method: &str, params: &Value) -> Result<Value, LocalnetError> {
        self.rpc.call(method, params)
    }

    /// The best block's height.
    ///
    /// # Errors
    /// When btcd doesn't answer.
    pub fn height(&self) -> Result<u32, LocalnetError> {
        faucet::height(&self.rpc)
    }

    /// Mines `blocks` blocks now.
    ///
    /// # Errors
    /// When btcd doesn't answer or refuses.
    pub fn generate(&self, blocks: u32) -> Result<(), LocalnetError> {
        self.rpc.call("generate", &json!([blocks])).map(drop)
    }

    /// How many transactions wait for a block.
    ///
    /// # Errors
    /// When btcd doesn't answer.
    pub fn waiting(&self) -> Result<u64, LocalnetError> {
        waiting(&self.rpc)
    }

    /// Pays `amount_sat` to a regtest address, in sat. It takes a block to confirm.
    ///
    /// # Errors
    /// When the address is no regtest address or the mined coins don't suffice.
    pub fn pay(&self, address: &str, amount_sat: u64) -> Result<Txid, LocalnetError> {
        self.pay_all(&BTreeMap::from([(address.to_owned(), amount_sat)]))
    }

    /// Pays many addresses in one transaction: address → sat.
    ///
    /// # Errors
    /// As [`Btcd::pay`].
    pub fn pay_all(&self, payments: &BTreeMap<String, u64>) -> Result<Txid, LocalnetError> {
        self.faucet.lock().unwrap_or_else(PoisonError::into_inner).pay(&self.rpc, payments)
    }

    /// From now on mines a block at most `delay` after a transaction came, and none without: blocks that come by
    /// themselves would make held payments expire.
    ///
    /// # Errors
    /// When no thread can be started.
    pub fn automine(&mut self, delay: Duration) -> Result<(), LocalnetError> {
        self.stop_mining();
        let (stop, stopped) = channel::<()>();
        let rpc = self.rpc.clone();
        let mine = move || {
            while stopped.recv_timeout(delay) == Err(RecvTimeoutError::Timeout) {
                let mined = waiting(&rpc)
                    .and_then(|waiting| if waiting > 0 { rpc.call("generate", &json!([1])).map(drop) } else { Ok(()) });
                if let Err(error) = mined {
                    tracing::warn!(%error, "no block was mined; trying again");
                }
            }
        };
        let spawned = std::thread::Builder::new().name("localnet-mine".into()).spawn(mine);
        let thread =
            spawned.map_err(|source| LocalnetError::Start { program: "a thread that mines".into(), source })?;
        self.miner = Some(Miner { stop, thread });
        Ok(())
    }

    /// Mines no more by itself.
    pub fn stop_mining(&mut self) {
        if let Some(Miner { stop, thread }) = self.miner.take() {
            drop(stop);
            thread.join().ok();
        }
    }

    /// Serves this chain as Bitcoin Core would, for embedded nodes, on 127.0.0.1 and any free port.
    ///
    /// # Errors
    /// When there is no port.
    #[cfg(feature = "embedded")]
    pub fn bridge(&self) -> Result<super::Bridge, LocalnetError> {
        super::Bridge::start(self.rpc.clone(), Arc::clone(&self.faucet))
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.process.pid()
    }

    /// How to reach its JSON-RPC.
    pub fn access(&self) -> BtcdAccess {
        BtcdAccess { rpc: self.rpc.address(), certificate: self.certificate.clone() }
    }

    /// Stops it in order. Blocks. Stop every LND before: one whose chain is gone doesn't end when asked to.
    pub fn stop(&mut self) {
        self.stop_mining();
        self.process.stop(STOP_GRACE);
    }

    /// How LND is told to use it.
    pub(super) fn lnd_flags(&self) -> Vec<std::ffi::OsString> {
        vec![
            "--bitcoin.node=btcd".into(),
            format!("--btcd.rpchost={}", self.rpc.address()).into(),
            format!("--btcd.rpcuser={USER}").into(),
            format!("--btcd.rpcpass={PASSWORD}").into(),
            path_flag("--btcd.rpccert=", &self.certificate),
        ]
    }
}

impl Drop for Btcd {
    fn drop(&mut self) {
        self.stop_mining();
    }
}

fn waiting(rpc: &BtcdRpc) -> Result<u64, LocalnetError> {
    let info = rpc.call("getmempoolinfo", &json!([]))?;
    info["size"].as_u64().ok_or_else(|| faucet::odd(rpc, "getmempoolinfo", &info))
}

/// `--flag=` with a path, which need not be UTF-8.
pub(super) fn path_flag(flag: &str, path: &Path) -> std::ffi::OsString {
    let mut text = std::ffi::OsString::from(flag);
    text.push(path);
    text
}

/// btcd's certificate and key, made once a folder: btcd's own is on a curve that rustls on ring can't check.
fn certificate(folder: &Path) -> Result<(PathBuf, PathBuf), LocalnetError> {
    let (certificate_path, key_path) = (folder.join("rpc.cert"), folder.join("rpc.key"));
    if certificate_path.is_file() && key_path.is_file() {
        return Ok((certificate_path, key_path));
    }
    let names = vec!["127.0.0.1".to_owned(), "localhost".to_owned()];
    let made = rcgen::generate_simple_self_signed(names);
    let made = made.map_err(|error| LocalnetError::Certificate(error.to_string()))?;
    let write = |path: &Path, text: String| std::fs::write(path, text).map_err(LocalnetError::disk("write", path));
    write(&key_path, made.signing_key.serialize_pem())?;
    write(&certificate_path, made.cert.pem())?;
    Ok((certificate_path, key_path))
}
