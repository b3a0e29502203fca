//! What a coordinator says of itself outside of /v1, for programs that know nothing of it yet.

use serde::{Deserialize, Serialize};

use super::amount::Msat;
use super::api::{BountyPhase, BountyView, Phase};
use super::ids::{RoundNumber, RunId, UnixMs};

/// GET /.well-known/ai.json: what this is, and where what is. Addresses are paths at the coordinator's own.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Description {
    /// Of the service.
    pub name: String,
    /// In a sentence or two.
    pub description: String,
    /// The program's.
    pub version: String,
    /// The API's description, OpenAPI 3.1.
    pub openapi: String,
    /// The same for readers.
    pub llms: String,
    /// A [`ServiceStatus`].
    pub status: String,
    /// The training run; `None` where there is none.
    pub training: Option<String>,
    /// The bounties; `None` where there are none.
    pub bounties: Option<String>,
    /// How fees are paid, and rewards come.
    pub payment: PaymentMethod,
}

/// How money moves.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PaymentMethod {
    /// `L402`.
    pub protocol: String,
    /// `lightning`.
    pub network: String,
    /// `regtest`, `signet`, `testnet`, `bitcoin`; `None` before the coordinator has a run or a bounty.
    pub chain: Option<String>,
}

/// GET /status.json: whether there is anything to do here.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServiceStatus {
    /// True: what isn't alive doesn't answer.
    pub alive: bool,
    /// The program's.
    pub version: String,
    /// `regtest`, `signet`, `testnet`, `bitcoin`; `None` where there is neither a run nor a board.
    pub network: Option<String>,
    /// The coordinator's Lightning node, 66 hex digits; `None` where there is neither a run nor a board.
    pub node_id: Option<String>,
    /// The training run, if there is one.
    pub training: Option<TrainingStatus>,
    /// The bounties, if any are taken.
    pub bounties: Option<BountiesStatus>,
    /// The coordinator's clock; `None` before it has a bounty or an open round.
    pub now_ms: Option<UnixMs>,
}

/// Where the training run stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TrainingStatus {
    /// Which.
    pub run: RunId,
    /// The round that isn't closed; `None` once the run has ended.
    pub current_round: Option<RoundNumber>,
    /// Of that round.
    pub phase: Option<Phase>,
    /// How many rounds have a transcript.
    pub closed_rounds: u32,
}

/// What can be earned by bounties.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct BountiesStatus {
    /// Bounties that take submissions and have something left to pay.
    pub open: u32,
    /// What those have not paid yet.
    pub on_offer_msat: Msat,
}

impl BountiesStatus {
    /// Of these bounties.
    pub fn of(bounties: &[BountyView]) -> Self {
        let open = bounties.iter().filter(|one| one.phase == BountyPhase::Open && one.least_claim.is_some());
        let left = open.map(|one| {
            let budget = one.manifest.body.posting.body.rules.budget_msat;
            budget.checked_sub(one.paid_msat).unwrap_or(Msat::ZERO)
        });
        let left: Vec<Msat> = left.collect();
        Self {
            open: u32::try_from(left.len()).unwrap_or(u32::MAX),
            on_offer_msat: Msat::checked_sum(left).unwrap_or(Msat::MAX_MONEY),
        }
    }
}
