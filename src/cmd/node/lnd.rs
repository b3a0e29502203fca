//! An LND node, wired to its configuration.

use std::path::Path;
use std::sync::Arc;

use crate::cmd::{Context, Failure};
use crate::ln::Lightning;
use crate::ln::lnd::{LndError, LndNode, Look, RECORDS_FILE, Settings};
use crate::protocol::api::LightningView;

/// What an embedded node leaves in its folder.
const EMBEDDED_FILE: &str = "lightning.sqlite";

/// Connects to the configured LND.
pub(super) async fn start(context: &Context, folder: &Path) -> Result<Arc<dyn Lightning>, Failure> {
    Ok(Arc::new(connect(context, folder).await?))
}

/// Connects to the configured LND, and it to the coordinator's node: that can't reach one behind a home router.
pub(super) async fn of_peer(
    context: &Context,
    view: &LightningView,
    folder: &Path,
) -> Result<Arc<dyn Lightning>, Failure> {
    let node = connect(context, folder).await?;
    if let Some(address) = &view.address
        && let Err(error) = node.connect(&view.node_id, address).await
    {
        tracing::info!(%error, "not connected to the coordinator's node yet");
    }
    Ok(Arc::new(node))
}

/// The configured LND, checked without changing anything.
pub(in crate::cmd) async fn look(context: &Context, folder: &Path) -> Result<Look, Failure> {
    refuse_folder_of_embedded(folder)?;
    Ok(LndNode::look(&settings(context)?, folder).await?)
}

/// The configured LND, checked.
async fn connect(context: &Context, folder: &Path) -> Result<LndNode, Failure> {
    refuse_folder_of_embedded(folder)?;
    let node = LndNode::start(&settings(context)?, folder).await?;
    tracing::info!(node_id = node.node_id(), version = node.version(), "connected to LND");
    Ok(node)
}

fn refuse_folder_of_embedded(folder: &Path) -> Result<(), Failure> {
    if folder.join(EMBEDDED_FILE).exists() {
        let message = format!("{} holds an embedded node's channels, but the configured node is LND", folder.display());
        return Err(Failure::usage("another_node", message, OTHER_FOLDER));
    }
    Ok(())
}

const OTHER_FOLDER: &str = "Set [lightning] node back, or choose another --data folder: a second node would make the first one's payments again";

/// A folder that was used with LND is not for an embedded node.
pub(in crate::cmd) fn refuse_folder_of_lnd(folder: &Path) -> Result<(), Failure> {
    if folder.join(RECORDS_FILE).exists() {
        let message = format!("{} was used with LND, but the configured node is embedded", folder.display());
        return Err(Failure::usage("another_node", message, OTHER_FOLDER));
    }
    Ok(())
}

fn settings(context: &Context) -> Result<Settings, Failure> {
    let config = &context.config.lightning;
    let macaroon = config.lnd.macaroon.as_deref().ok_or_else(|| {
        let fix = format!("Name it as macaroon under [lightning.lnd]. To make one: {}", crate::ln::lnd::bake_command());
        Failure::usage("no_macaroon", "the configured node is LND, but no macaroon is configured", fix)
    })?;
    Ok(Settings {
        address: config.lnd.address.clone(),
        tls_cert: context.read_reference("tls_cert", &config.lnd.tls_cert)?,
        macaroon: context.read_reference("macaroon", macaroon)?,
        advertise: config.advertise.clone(),
    })
}

impl From<LndError> for Failure {
    fn from(error: LndError) -> Self {
        let fix = error.fix();
        match &error {
            LndError::Unreachable { .. }
            | LndError::Starting(_)
            | LndError::NotSynced { .. }
            | LndError::NoChain(_)
            | LndError::Answer { .. } => Failure::payment(error.code(), &error, fix),
            LndError::Setting { .. }
            | LndError::WrongCertificate { .. }
            | LndError::NoWallet(_)
            | LndError::WalletLocked(_)
            | LndError::TooOld { .. }
            | LndError::WrongMacaroon(_)
            | LndError::NotAllowed(_)
            | LndError::Missing(_)
            | LndError::AnotherNode { .. }
            | LndError::Records { .. } => Failure::usage(error.code(), &error, fix),
        }
    }
}
