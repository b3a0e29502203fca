//! What the demo's Lightning nodes stand on: the coordinator's own chain, or btcd with real LNDs on this machine.

use super::folder::DemoFolder;
use super::{COORDINATOR, PEERS};
use crate::cli::{DemoArgs, DemoLightning};
use crate::cmd::Failure;
use crate::coordinator::settings::ChannelSettings;
use crate::localnet::{Funding, Network, NodeAccess, Tools};
use crate::ui::Ui;

/// Peers with an LND of their own where the demo is mixed: the rest run the embedded node.
const ON_LND_WHEN_MIXED: usize = 1;

/// Where all of the demo runs on LND: the honest ones. Those that cheat run the embedded node, so that both kinds of node
/// meet in every run.
const ON_LND: usize = 3;

/// Nodes beside those that the members run in their own processes. Dropping it kills them.
#[derive(Debug)]
pub(super) struct Ground(Option<Network>);

impl Ground {
    /// None yet.
    pub(super) fn none() -> Self {
        Self(None)
    }

    /// Ends them, once no member uses them any more.
    pub(super) fn kill(self) {
        drop(self.0);
    }

    /// Starts what the demo was asked for.
    pub(super) async fn start(args: &DemoArgs, folder: &DemoFolder, ui: &Ui) -> Result<Self, Failure> {
        let peers = match args.ln {
            DemoLightning::Embedded => return Ok(Self(None)),
            DemoLightning::Lnd => ON_LND,
            DemoLightning::Mixed => ON_LND_WHEN_MIXED,
        };
        let Some(tools) = &args.tools else {
            return Err(Failure::usage(
                "no_tools",
                "a demo on LND needs a folder with btcd and lnd",
                "Run ./x demo --ln lnd, which builds them; or name a folder with --tools DIR",
            ));
        };
        let tools = Tools::in_folder(tools)?;
        let mut names = vec![COORDINATOR];
        names.extend(PEERS[..peers].iter().map(|(name, _)| *name));
        ui.say(format!("starting btcd and {} LND nodes", names.len()));
        let channels = u32::try_from(PEERS.len()).unwrap_or(u32::MAX);
        let funding = Funding { channels, capacity_sat: ChannelSettings::default().capacity_sat };
        Ok(Self(Some(Network::start(&tools, &folder.of("localnet"), &names, funding).await?)))
    }

    /// The configuration that gives a member its node; empty for the embedded one on the coordinator's chain.
    pub(super) fn config_of(&self, name: &str) -> String {
        let Some(network) = &self.0 else { return String::new() };
        match network.nodes().find(|node| node.name == name) {
            Some(node) => lnd_config(node),
            None => network.bridge().map(|address| embedded_config(&address)).unwrap_or_default(),
        }
    }

    /// What a peer's LND can send, to the msat; `None` for an embedded node, which says that itself.
    pub(super) async fn spendable_msat(&self, name: &str) -> Result<Option<u64>, Failure> {
        let node = self.0.as_ref().and_then(|network| network.nodes().find(|node| node.name == name));
        match node {
            Some(node) => Ok(Some(node.files.wallet().await?.spendable_msat().await?)),
            None => Ok(None),
        }
    }

    /// What ran, for the summary.
    pub(super) fn described(&self, coordinators: String) -> String {
        let Some(network) = &self.0 else { return coordinators };
        let on_lnd = network.nodes().count().saturating_sub(1);
        let peers = if on_lnd == 1 { "peer" } else { "peers" };
        format!("{coordinators}, {on_lnd} {peers} on LND, {} on embedded LDK", PEERS.len() - on_lnd)
    }

    /// Its processes.
    pub(super) fn pids(&self) -> Vec<u32> {
        self.0.as_ref().map(Network::pids).unwrap_or_default()
    }
}

/// The part of a configuration that makes l402t use an LND.
pub(in crate::cmd) fn lnd_config(node: &NodeAccess) -> String {
    format!(
        "[lightning]\nnode = \"lnd\"\nadvertise = {advertise:?}\n\n[lightning.lnd]\naddress = {address:?}\ntls_cert = {cert:?}\n\
         macaroon = {macaroon:?}\n",
        advertise = node.files.p2p.to_string(),
        address = node.files.rpc.to_string(),
        cert = node.files.tls_cert.display().to_string(),
        macaroon = node.files.admin_macaroon.display().to_string(),
    )
}

/// The part of a configuration that puts an embedded node on btcd's chain.
pub(in crate::cmd) fn embedded_config(bridge: &str) -> String {
    format!("[lightning.chain]\nkind = \"regtest_rpc\"\naddress = {bridge:?}\n")
}
