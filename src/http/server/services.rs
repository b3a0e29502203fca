//! What there is to serve: a training run, bounties, or both.

use std::sync::Arc;

use axum::http::StatusCode;

use super::failure::Failure;
use crate::coordinator::handle::{BountyBoard, BountyHandle, CoordinatorHandle};
use crate::protocol::ids::BountyId;

/// What a server serves. What isn't there is a 404 that names what is.
#[derive(Clone, Debug, Default)]
pub struct Services {
    /// The training run.
    pub training: Option<Arc<dyn CoordinatorHandle>>,
    /// The bounties.
    pub board: Option<Arc<dyn BountyBoard>>,
}

impl Services {
    /// A training run alone.
    pub fn training(run: Arc<dyn CoordinatorHandle>) -> Self {
        Self { training: Some(run), board: None }
    }

    pub(super) fn need_training(&self) -> Result<Arc<dyn CoordinatorHandle>, Failure> {
        self.training.clone().ok_or_else(|| {
            let fix = "what it has are bounties: see /v1/bounties";
            Failure::new(StatusCode::NOT_FOUND, "no_training", "this coordinator has no training run", fix)
        })
    }

    pub(super) fn need_board(&self) -> Result<Arc<dyn BountyBoard>, Failure> {
        self.board.clone().ok_or_else(|| {
            let fix = "what it has is a training run: see /v1/run";
            Failure::new(StatusCode::NOT_FOUND, "no_bounties", "this coordinator has no bounties", fix)
        })
    }

    pub(super) fn need_bounty(&self, bounty: &BountyId) -> Result<Arc<dyn BountyHandle>, Failure> {
        self.need_board()?.find(bounty).ok_or_else(|| {
            let message = format!("this coordinator has no bounty {bounty}");
            Failure::new(StatusCode::NOT_FOUND, "no_such_bounty", message, "those that it has are in /v1/bounties")
        })
    }
}
