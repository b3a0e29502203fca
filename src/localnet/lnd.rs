//! LND as a child process: started, killed and started again as often as a test wants.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::btcd::{Btcd, path_flag};
use super::process::Process;
use super::wallet::LndWallet;
use super::{LocalnetError, Tools, ports};
use crate::sys::StopSignal;

/// LND takes five seconds for its first start on an idle machine, three for a later one.
const START_LIMIT: Duration = Duration::from_secs(180);
const START_POLL: Duration = Duration::from_millis(50);
const STOP_GRACE: Duration = Duration::from_secs(15);

/// How to reach an LND.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LndFiles {
    /// gRPC, `host:port`.
    pub rpc: SocketAddr,
    /// Where other nodes connect, `host:port`.
    pub p2p: SocketAddr,
    /// Its TLS certificate (PEM).
    pub tls_cert: PathBuf,
    /// The macaroon that may do everything.
    pub admin_macaroon: PathBuf,
    /// What it and its start-up wrote.
    pub log: PathBuf,
}

impl LndFiles {
    /// A connection for what a node's owner does.
    ///
    /// # Errors
    /// When the certificate or macaroon can't be read.
    pub async fn wallet(&self) -> Result<LndWallet, LocalnetError> {
        LndWallet::connect(self).await
    }
}

/// An LND on a [`Btcd`]'s chain. Dropping it kills it.
#[derive(Debug)]
pub struct LndProcess {
    name: String,
    folder: PathBuf,
    files: LndFiles,
    program: PathBuf,
    chain_flags: Vec<std::ffi::OsString>,
    more_flags: Vec<String>,
    process: Option<Process>,
}

impl LndProcess {
    /// Starts an LND in `folder` and waits until it can be used. `more_flags` are LND's own, after ours: a flag that is
    /// given again wins.
    ///
    /// # Errors
    /// When the program is missing, can't start, or doesn't come up.
    pub async fn start(
        tools: &Tools,
        folder: &Path,
        name: &str,
        btcd: &Btcd,
        more_flags: &[&str],
    ) -> Result<Self, LocalnetError> {
        std::fs::create_dir_all(folder).map_err(LocalnetError::disk("create", folder))?;
        let files = LndFiles {
            rpc: ([127, 0, 0, 1], ports::free()?).into(),
            p2p: ([127, 0, 0, 1], ports::free()?).into(),
            tls_cert: folder.join("tls.cert"),
            admin_macaroon: folder.join("data/chain/bitcoin/regtest/admin.macaroon"),
            log: folder.join("lnd.log"),
        };
        let mut lnd = Self {
            name: name.to_owned(),
            folder: folder.to_owned(),
            files,
            program: tools.lnd(),
            chain_flags: btcd.lnd_flags(),
            more_flags: more_flags.iter().map(|flag| (*flag).to_owned()).collect(),
            process: None,
        };
        lnd.restart().await?;
        Ok(lnd)
    }

    /// How to reach it.
    pub fn files(&self) -> &LndFiles {
        &self.files
    }

    /// Its alias.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its process id while it runs.
    pub fn pid(&self) -> Option<u32> {
        self.process.as_ref().map(Process::pid)
    }

    /// A connection to it for what a node's owner does: addresses, balances, channels.
    ///
    /// # Errors
    /// When its certificate or macaroon can't be read.
    pub async fn wallet(&self) -> Result<LndWallet, LocalnetError> {
        self.files.wallet().await
    }

    /// Starts it again on the same folder and ports (killed first if it still runs), and waits until it can be used.
    ///
    /// # Errors
    /// When it doesn't come up.
    pub async fn restart(&mut self) -> Result<(), LocalnetError> {
        self.launch()?;
        self.ready().await
    }

    /// Starts it again without waiting: see [`LndProcess::ready`].
    ///
    /// # Errors
    /// When the program can't start.
    pub fn launch(&mut self) -> Result<(), LocalnetError> {
        self.process = None;
        let mut command = Command::new(&self.program);
        command
            .arg(path_flag("--lnddir=", &self.folder))
            .arg("--configfile=/dev/null")
            .arg("--bitcoin.regtest")
            .args(&self.chain_flags)
            .args(["--noseedbackup", "--nobootstrap", "--norest", "--accept-keysend"])
            .args(["--bitcoin.defaultchanconfs=1", "--bitcoin.defaultremotedelay=4"])
            .args(["--trickledelay=50", "--gossip.sub-batch-delay=5ms", "--db.batch-commit-interval=10ms"])
            .args(["--protocol.option-scid-alias", "--protocol.zero-conf", "--maxpendingchannels=20"])
            .arg(format!("--rpclisten={}", self.files.rpc))
            .arg(format!("--listen={}", self.files.p2p))
            // So that it tells others where it is.
            .arg(format!("--externalip={}", self.files.p2p))
            .arg(format!("--alias={}", self.name))
            .args(&self.more_flags);
        // Killed with its owner: its chain may die at the same moment, and then it would not end when asked to.
        self.process = Some(Process::start("lnd", command, &self.files.log, StopSignal::Kill)?);
        Ok(())
    }

    /// Waits until it answers and has followed the chain to its tip.
    ///
    /// # Errors
    /// When it has ended or takes minutes.
    pub async fn ready(&mut self) -> Result<(), LocalnetError> {
        for _ in 0..START_LIMIT.as_millis() / START_POLL.as_millis() {
            if let Some(process) = &mut self.process {
                process.check()?;
            }
            if self.is_synced().await {
                return Ok(());
            }
            tokio::time::sleep(START_POLL).await;
        }
        Err(LocalnetError::TooLate {
            what: format!("lnd {}'s start", self.name),
            limit_s: START_LIMIT.as_secs(),
            log: self.files.log.clone(),
        })
    }

    async fn is_synced(&self) -> bool {
        // The macaroon appears some time after the start; an LND that is unlocking answers with an error.
        match self.wallet().await {
            Ok(mut wallet) => wallet.is_synced().await.unwrap_or(false),
            Err(_) => false,
        }
    }

    /// Has its process ended, though nobody stopped it?
    pub(super) fn has_ended(&mut self) -> bool {
        self.process.as_mut().is_some_and(Process::has_ended)
    }

    /// Kills it (SIGKILL) and waits until it is gone.
    pub fn kill(&mut self) {
        self.process = None;
    }

    /// Stops it in order; killed if it takes too long. Blocks for up to 15 seconds.
    pub fn stop(&mut self) {
        if let Some(mut process) = self.process.take() {
            process.stop(STOP_GRACE);
        }
    }
}
