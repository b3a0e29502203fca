//! A Bitcoin regtest chain inside this process, so that demo and tests need no daemon.
//!
//! Real blocks and real scripts, with a faucet. Other processes on the machine reach it over JSON-RPC on 127.0.0.1. It
//! mines only when a transaction waits: blocks that come by themselves would make held payments expire. It must never
//! serve anything but regtest.

mod chain;
pub(crate) mod client;
mod error;
mod mempool;
mod record_file;
mod rpc;
pub(crate) mod server;
#[cfg(test)]
mod tests;

use std::net::SocketAddr;
use std::path::Path;
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use chain::Chain;
pub use error::RegtestError;
use serde_json::Value;
use server::{Answers, Server};

use crate::clock::SystemClock;

/// The chain behind its lock.
#[derive(Clone, Debug)]
struct SharedChain(Arc<Mutex<Chain>>);

impl SharedChain {
    fn lock(&self) -> MutexGuard<'_, Chain> {
        // A thread that panicked while it held the lock had not connected a block halfway: that can't panic.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Answers for SharedChain {
    fn answer(&self, method: &str, params: &Value) -> Result<Value, RegtestError> {
        rpc::answer(&mut self.lock(), method, params)
    }
}

/// A regtest chain. Dropping it stops what it runs.
#[derive(Debug)]
pub struct RegtestChain {
    chain: SharedChain,
    server: Option<Server>,
    miner: Option<Miner>,
}

#[derive(Debug)]
struct Miner {
    /// Dropped to stop it.
    stop: Sender<()>,
    thread: JoinHandle<()>,
}

impl RegtestChain {
    /// Opens the chain in `dir`, or makes one of 110 blocks there.
    ///
    /// # Errors
    /// The disk, another process that has it open, or a damaged block file.
    pub fn open(dir: &Path) -> Result<Self, RegtestError> {
        let chain = Chain::open(dir, Arc::new(SystemClock))?;
        Ok(Self { chain: SharedChain(Arc::new(Mutex::new(chain))), server: None, miner: None })
    }

    /// Serves JSON-RPC on 127.0.0.1 and `port`, or any free port for 0. Returns where.
    ///
    /// # Errors
    /// When the port can't be listened on.
    pub fn serve(&mut self, port: u16) -> Result<SocketAddr, RegtestError> {
        // The old one first: it may hold the same port.
        self.server = None;
        let server = Server::start(Arc::new(self.chain.clone()), port)?;
        let address = server.address();
        self.server = Some(server);
        Ok(address)
    }

    /// From now on mines a block at most `delay` after a transaction came.
    ///
    /// # Errors
    /// When no thread can be started.
    pub fn automine(&mut self, delay: Duration) -> Result<(), RegtestError> {
        self.stop_miner();
        let (stop, stopped) = channel::<()>();
        let chain = self.chain.clone();
        let mine = move || {
            while stopped.recv_timeout(delay) == Err(RecvTimeoutError::Timeout) {
                let mut chain = chain.lock();
                if chain.mempool.len() > 0
                    && let Err(error) = chain.mine(0)
                {
                    tracing::error!(%error, "no block was mined; trying again");
                }
            }
        };
        let spawned = std::thread::Builder::new().name("regtest-mine".into()).spawn(mine);
        let thread = spawned.map_err(|source| RegtestError::Disk {
            action: "start a thread for",
            path: "the regtest chain".into(),
            source,
        })?;
        self.miner = Some(Miner { stop, thread });
        Ok(())
    }

    /// Mines `blocks` blocks now.
    ///
    /// # Errors
    /// The disk; blocks before the failed one are there.
    pub fn mine(&self, blocks: u32) -> Result<(), RegtestError> {
        let mut chain = self.chain.lock();
        (0..blocks).rev().try_for_each(|remaining| chain.mine(remaining))
    }

    /// Replaces the last `depth` blocks by `depth + 1` others, as when another miner was faster. Nodes that follow the
    /// chain must see it before this process ends: the replaced blocks are not kept on disk.
    ///
    /// # Errors
    /// More blocks than came after the first ones, or the disk.
    pub fn reorganise(&self, depth: u32) -> Result<(), RegtestError> {
        self.chain.lock().reorganise(depth)
    }

    /// The best block's height.
    pub fn height(&self) -> u32 {
        self.chain.lock().height()
    }

    /// How many transactions wait for a block.
    pub fn waiting(&self) -> usize {
        self.chain.lock().mempool.len()
    }

    /// Stops serving and mining.
    pub fn stop(&mut self) {
        self.server = None;
        self.stop_miner();
    }

    fn stop_miner(&mut self) {
        if let Some(Miner { stop, thread }) = self.miner.take() {
            drop(stop);
            thread.join().ok();
        }
    }
}

impl Drop for RegtestChain {
    fn drop(&mut self) {
        self.stop();
    }
}
