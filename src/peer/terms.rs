//! What every step of a contribution needs to know of its run, whatever the run is for: who speaks for it, what a ticket
//! costs, how long money is locked. Filled only from statements that were checked.

use super::error::PeerError;
use crate::protocol::amount::Msat;
use crate::protocol::bounty::statements::BountyManifest;
use crate::protocol::ids::{PeerId, RunId};
use crate::protocol::manifest::RunManifest;

/// What every step of a contribution needs to know of its run.
#[derive(Clone, Debug)]
pub struct RunTerms {
    /// The run.
    pub run: RunId,
    /// Who signs its statements.
    pub coordinator: PeerId,
    /// What a ticket costs.
    pub fee: Msat,
    /// How many blocks a reward is locked for.
    pub hold_blocks: u32,
    /// What it pays for.
    pub kind: RunKind,
}

/// What a run pays for.
#[derive(Clone, Debug)]
pub enum RunKind {
    /// Updates of a shared model.
    Training(Box<RunManifest>),
    /// A better score.
    Bounty(Box<BountyManifest>),
}

impl RunTerms {
    /// A training run's. Its manifest has been checked.
    pub(super) fn of_training(run: RunId, manifest: RunManifest) -> Self {
        Self {
            run,
            coordinator: manifest.coordinator,
            fee: manifest.reward.fee_msat,
            hold_blocks: manifest.reward.hold_blocks,
            kind: RunKind::Training(Box::new(manifest)),
        }
    }

    /// A bounty's. Its manifest has been checked.
    pub(super) fn of_bounty(run: RunId, manifest: BountyManifest) -> Self {
        Self {
            run,
            coordinator: manifest.posting.body.coordinator,
            fee: manifest.posting.body.rules.fee_msat,
            hold_blocks: manifest.hold_blocks,
            kind: RunKind::Bounty(Box::new(manifest)),
        }
    }

    /// What is trained.
    ///
    /// # Errors
    /// For a bounty's run.
    pub(super) fn training(&self) -> Result<&RunManifest, PeerError> {
        match &self.kind {
            RunKind::Training(manifest) => Ok(manifest),
            RunKind::Bounty(_) => Err(PeerError::Terms(format!("run {} is a bounty's: nothing is trained", self.run))),
        }
    }

    /// What is asked for, and what it pays.
    ///
    /// # Errors
    /// For a training run.
    pub(super) fn bounty(&self) -> Result<&BountyManifest, PeerError> {
        match &self.kind {
            RunKind::Bounty(manifest) => Ok(manifest),
            RunKind::Training(_) => Err(PeerError::Terms(format!("run {} trains: it is no bounty", self.run))),
        }
    }
}
