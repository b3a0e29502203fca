//! In the place of LND where this l402t was built without it.

use std::path::Path;
use std::sync::Arc;

use crate::cmd::{Context, Failure};
use crate::ln::Lightning;
use crate::protocol::api::LightningView;

fn missing() -> Failure {
    let message = "this l402t was built without LND (feature lnd)";
    Failure::usage("no_lnd", message, "Build it with default features, or set [lightning] node = \"embedded\"")
}

pub(super) async fn start(_: &Context, _: &Path) -> Result<Arc<dyn Lightning>, Failure> {
    Err(missing())
}

pub(super) async fn of_peer(_: &Context, _: &LightningView, _: &Path) -> Result<Arc<dyn Lightning>, Failure> {
    Err(missing())
}

pub(in crate::cmd) fn refuse_folder_of_lnd(_: &Path) -> Result<(), Failure> {
    Ok(())
}
