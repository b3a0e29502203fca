//! In the place of the embedded node where this l402t was built without it: an auditor needs none.

use std::path::Path;

use super::Node;
use crate::cmd::Failure;
use crate::config::LightningConfig;
use crate::protocol::api::LightningView;

/// Can't be made.
#[derive(Debug)]
pub(super) enum OwnChain {}

/// Can't be made.
#[derive(Debug)]
pub(super) enum OwnWatch {}

pub(super) async fn broken(watch: &mut OwnWatch) -> Failure {
    match *watch {}
}

pub(in crate::cmd) fn missing() -> Failure {
    let message = "this l402t was built without a Lightning node of its own (feature embedded)";
    Failure::usage("no_lightning", message, "Build it with default features")
}

#[cfg(feature = "mcp")]
pub(super) fn last_summary(_: &Path) -> Result<Option<serde_json::Value>, Failure> {
    Ok(None)
}

pub(super) async fn of_coordinator(_: &LightningConfig, _: &Path, _: u32, _: u64) -> Result<Node, Failure> {
    Err(missing())
}

pub(super) async fn of_peer(_: &LightningConfig, _: &LightningView, _: &Path) -> Result<Node, Failure> {
    Err(missing())
}

pub(super) fn stop(chain: OwnChain) {
    match chain {}
}

pub(super) async fn of_wallet(_: &LightningConfig, _: &Path) -> Result<Node, Failure> {
    Err(missing())
}

pub(super) async fn of_peer_alone(_: &LightningConfig, _: &Path, _: &Path) -> Result<Node, Failure> {
    Err(missing())
}
