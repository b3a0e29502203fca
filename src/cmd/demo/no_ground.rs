//! In the place of the nodes beside the members' own where this l402t was built without LND.

use super::folder::DemoFolder;
use crate::cli::{DemoArgs, DemoLightning};
use crate::cmd::Failure;
use crate::ui::Ui;

/// Nothing.
#[derive(Debug)]
pub(super) struct Ground;

impl Ground {
    pub(super) fn none() -> Self {
        Self
    }

    pub(super) fn kill(self) {}

    pub(super) async fn start(args: &DemoArgs, _: &DemoFolder, _: &Ui) -> Result<Self, Failure> {
        match args.ln {
            DemoLightning::Embedded => Ok(Self),
            DemoLightning::Lnd | DemoLightning::Mixed => {
                let message = "this l402t was built without LND (feature lnd)";
                Err(Failure::usage("no_lnd", message, "Build it with default features"))
            }
        }
    }

    pub(super) fn config_of(&self, _: &str) -> String {
        String::new()
    }

    pub(super) async fn spendable_msat(&self, _: &str) -> Result<Option<u64>, Failure> {
        Ok(None)
    }

    pub(super) fn described(&self, coordinators: String) -> String {
        coordinators
    }

    pub(super) fn pids(&self) -> Vec<u32> {
        Vec::new()
    }
}
