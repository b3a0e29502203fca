//! An LND node, over gRPC.
//!
//! LND keeps the state of every payment and invoice; this room asks it and orders it about. It must never take silence
//! for a failure, never send a payment without having looked for it, and never show the macaroon or a preimage.

mod channels;
mod client;
mod core;
mod error;
mod invoices;
mod node;
mod payments;
mod permissions;
mod records;
mod settings;
mod start;
mod tls;
mod watch;

use std::path::Path;
use std::sync::Arc;

use client::Client;
use core::Core;
pub use error::LndError;
pub use permissions::{PERMISSIONS, bake_command};
pub use records::FILE_NAME as RECORDS_FILE;
use records::Records;
pub use settings::Settings;

use crate::ln::{LnError, NodeInfo};

/// An LND node that was checked and is listened to.
pub struct LndNode {
    core: Arc<Core>,
}

impl std::fmt::Debug for LndNode {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LndNode").field("node_id", &self.core.node_id).finish_non_exhaustive()
    }
}

/// What there is to see of a node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Look {
    /// As for every node.
    pub info: NodeInfo,
    /// What its on-chain wallet can spend, in sat.
    pub on_chain_sat: u64,
    /// Whether it knows the channels of others.
    pub synced_to_graph: bool,
}

impl LndNode {
    /// Checks whether a node can be used with `dir`, without writing anything.
    ///
    /// # Errors
    /// The first thing that is in the way, with what to do about it: [`LndError::fix`].
    pub async fn look(settings: &Settings, dir: &Path) -> Result<Look, LndError> {
        let client = Client::new(settings)?;
        let checked = start::check(&client).await?;
        if dir.join(RECORDS_FILE).exists() {
            Records::open(dir)?.belongs_to(&checked.node_id)?;
        }
        let answer = |error: LnError| LndError::Answer { method: "a look at its channels", reason: error.to_string() };
        let synced_to_graph = checked.synced_to_graph;
        // Thrown away with the process's memory of it: nothing is listened to.
        let core = Core::new(client, checked, Records::in_memory()?, settings.advertise.clone());
        let info = core.info().await.map_err(answer)?;
        let on_chain_sat = core.on_chain_sat().await.map_err(answer)?;
        Ok(Look { info, on_chain_sat, synced_to_graph })
    }

    /// Connects to a node and checks that it can be used. `dir` gets a few records of our own, and belongs to this node
    /// from then on.
    ///
    /// # Errors
    /// The first thing that is in the way, with what to do about it: [`LndError::fix`].
    pub async fn start(settings: &Settings, dir: &Path) -> Result<Self, LndError> {
        let client = Client::new(settings)?;
        let checked = start::check(&client).await?;
        let records = Records::open(dir)?;
        records.belongs_to(&checked.node_id)?;
        let core = Core::new(client, checked, records, settings.advertise.clone());
        watch::start(&core);
        Ok(Self { core })
    }

    /// Compressed public key, 66 hex digits.
    pub fn node_id(&self) -> &str {
        &self.core.node_id
    }

    /// LND's version, as it says it.
    pub fn version(&self) -> &str {
        &self.core.version
    }

    /// What the on-chain wallet can spend, in sat.
    ///
    /// # Errors
    /// When LND does not answer.
    pub async fn on_chain_balance_sat(&self) -> Result<u64, LnError> {
        self.core.on_chain_sat().await
    }

    /// Connects to another node, if it is not connected already.
    ///
    /// # Errors
    /// When it can't be reached now.
    pub async fn connect(&self, node_id: &str, address: &str) -> Result<(), LnError> {
        self.core.connect(node_id, address).await
    }
}

impl Drop for LndNode {
    fn drop(&mut self) {
        self.core.watch.stop();
    }
}
