//! The Lightning node of a coordinator or a peer: the one in this process, or an LND, as configured.

#[cfg(feature = "embedded")]
mod embedded;
#[cfg(not(feature = "embedded"))]
#[path = "no_embedded.rs"]
mod embedded;
#[cfg(feature = "lnd")]
pub(super) mod lnd;
#[cfg(not(feature = "lnd"))]
#[path = "no_lnd.rs"]
pub(super) mod lnd;

use std::path::Path;
use std::sync::Arc;

#[cfg(not(feature = "embedded"))]
pub(super) use embedded::missing;
#[cfg(feature = "embedded")]
pub(super) use embedded::{for_owner, network};

use super::{Context, Failure};
use crate::config::NodeKind;
use crate::ln::Lightning;
use crate::protocol::api::LightningView;

/// What an embedded node held when it last looked; `None` where it never ran, or is an LND.
#[cfg(feature = "mcp")]
pub(super) fn last_summary(
    config: &crate::config::LightningConfig,
    folder: &Path,
) -> Result<Option<serde_json::Value>, Failure> {
    match config.node {
        NodeKind::Embedded => embedded::last_summary(folder),
        NodeKind::Lnd => Ok(None),
    }
}

/// A running node, and the chain if this process runs that too.
#[derive(Debug)]
pub(super) struct Node {
    /// The node.
    pub(super) ln: Arc<dyn Lightning>,
    /// Where peers on this machine find the regtest chain.
    pub(super) regtest_rpc: Option<String>,
    chain: Option<embedded::OwnChain>,
    watch: Option<embedded::OwnWatch>,
}

impl Node {
    /// A coordinator's: with a regtest chain of its own where the node is embedded and no other chain is configured.
    pub(super) async fn of_coordinator(
        context: &Context,
        data: &Path,
        channels: u32,
        capacity_sat: u64,
    ) -> Result<Self, Failure> {
        let config = &context.config.lightning;
        let folder = data.join("lightning");
        match config.node {
            NodeKind::Embedded => {
                lnd::refuse_folder_of_lnd(&folder)?;
                embedded::of_coordinator(config, data, channels, capacity_sat).await
            }
            NodeKind::Lnd => Ok(Self::of(lnd::start(context, &folder).await?)),
        }
    }

    /// A peer's: where it is embedded, on the configured chain or on the coordinator's regtest chain on the same machine.
    pub(super) async fn of_peer(context: &Context, view: &LightningView, folder: &Path) -> Result<Self, Failure> {
        let config = &context.config.lightning;
        match config.node {
            NodeKind::Embedded => {
                lnd::refuse_folder_of_lnd(folder)?;
                embedded::of_peer(config, view, folder).await
            }
            NodeKind::Lnd => Ok(Self::of(lnd::of_peer(context, view, folder).await?)),
        }
    }

    /// A peer's that was used before, on the chain that it followed last: no coordinator is needed to start it.
    pub(super) async fn of_peer_alone(context: &Context, data: &Path, folder: &Path) -> Result<Self, Failure> {
        let config = &context.config.lightning;
        match config.node {
            NodeKind::Embedded => {
                lnd::refuse_folder_of_lnd(folder)?;
                embedded::of_peer_alone(config, data, folder).await
            }
            NodeKind::Lnd => Ok(Self::of(lnd::start(context, folder).await?)),
        }
    }

    /// The one that pays for what has nothing to do with a run. `view` is of the peer's coordinator, if it has one.
    pub(super) async fn of_wallet(
        context: &Context,
        view: Option<&LightningView>,
        folder: &Path,
    ) -> Result<Self, Failure> {
        let config = &context.config.lightning;
        match (config.node, view) {
            (_, Some(view)) => Self::of_peer(context, view, folder).await,
            (NodeKind::Embedded, None) => {
                lnd::refuse_folder_of_lnd(folder)?;
                embedded::of_wallet(config, folder).await
            }
            (NodeKind::Lnd, None) => Ok(Self::of(lnd::start(context, folder).await?)),
        }
    }

    fn of(ln: Arc<dyn Lightning>) -> Self {
        Self { ln, regtest_rpc: None, chain: None, watch: None }
    }

    /// Waits, for ever if all is well, until the node in this process can't go on. Says why.
    pub(super) async fn broken(&mut self) -> Failure {
        match &mut self.watch {
            Some(watch) => embedded::broken(watch).await,
            None => std::future::pending().await,
        }
    }

    /// Stops the node, then the chain.
    pub(super) async fn stop(mut self) {
        self.ln.stop().await;
        if let Some(chain) = self.chain.take() {
            embedded::stop(chain);
        }
    }
}
