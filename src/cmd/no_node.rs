//! In the place of the Lightning node where this l402t was built without one: an auditor needs none.

use std::path::Path;
use std::sync::Arc;

use super::Failure;
use crate::config::LightningConfig;
use crate::ln::Lightning;
use crate::protocol::api::LightningView;

/// Can't be made: every way to one ends in the same error.
#[derive(Debug)]
#[allow(dead_code, reason = "the same fields as the real one, so that the commands need not know which it is")]
pub(super) struct Node {
    pub(super) ln: Arc<dyn Lightning>,
    pub(super) regtest_rpc: Option<String>,
}

fn missing() -> Failure {
    let message = "this l402t was built without a Lightning node (feature embedded)";
    Failure::usage("no_lightning", message, "Build it with default features")
}

impl Node {
    pub(super) async fn of_coordinator(_: &LightningConfig, _: &Path, _: u32, _: u64) -> Result<Self, Failure> {
        Err(missing())
    }

    pub(super) async fn of_peer(_: &LightningConfig, _: &LightningView, _: &Path) -> Result<Self, Failure> {
        Err(missing())
    }

    pub(super) async fn stop(self) {
        self.ln.stop().await;
    }
}
