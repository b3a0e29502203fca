//! How far a contribution has come. Each stage holds exactly what the next step needs, so that a peer that was killed
//! can go on from what the journal says.

use serde::{Deserialize, Serialize};

use super::journal::{Line, LineKind};
use crate::protocol::amount::Msat;
use crate::protocol::bounty;
use crate::protocol::ids::{ContributionId, PaymentHash, Preimage, RoundNumber, RunId};
use crate::protocol::sign::Signed;
use crate::protocol::statements::{Commitment, InvoiceSubmission, Receipt, RewardTerms};
use crate::protocol::verdict::{Rejection, Verdict};

/// A contribution, as the journal has it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// The contribution.
    pub contribution: ContributionId,
    /// Signed by this peer.
    pub commitment: Signed<Commitment>,
    /// The update's size before compression: 4 bytes a weight. 0 for a bounty.
    pub dense_bytes: u64,
    /// How long training took. 0 for a bounty.
    pub train_ms: u64,
    /// From the submission of the invoices until every tranche was locked.
    pub lock_ms: Option<u64>,
    /// How far it has come.
    pub stage: Stage,
}

impl Entry {
    /// Its run.
    pub fn run(&self) -> RunId {
        self.commitment.body.run
    }

    /// Its round.
    pub fn round(&self) -> RoundNumber {
        self.commitment.body.round
    }

    /// Is it a submission to a bounty? Only those claim a score. SQL asks the same in `Journal::spent_on_bounties`.
    pub fn is_submission(&self) -> bool {
        self.commitment.body.claim.is_some()
    }

    /// The same contribution, one step further.
    pub fn at(self, stage: Stage) -> Self {
        Self { stage, ..self }
    }
}

/// How far a contribution has come.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Stage {
    /// The payload is on disk and the commitment is signed; nobody else knows of it.
    #[serde(rename = "trained")]
    Committed,
    /// The fee may be on its way: never take another challenge before this one's payment is known to have failed.
    Paying(Fee),
    /// The fee is paid, and the ticket not there yet.
    Paid(PaidFee),
    /// The terms are accepted; the hold invoices may exist.
    Ticketed(Ticketed),
    /// The hold invoices exist and their submission is signed; the coordinator may have it.
    Invoiced(Offer),
    /// Every tranche was seen locked on this peer's own node; the payload may have been sent.
    Locked(Offer),
    /// The coordinator has the payload. Nothing is cancelled from here on but by the receipt.
    Uploaded(Offer),
    /// The receipt is here, and with it the preimages.
    Judged(Box<Judged>),
    /// Every tranche has ended.
    Closed(Ending),
}

impl Stage {
    /// For ordering and for people.
    pub fn name(&self) -> &'static str {
        match self {
            Stage::Committed => "committed",
            Stage::Paying(_) => "paying",
            Stage::Paid(_) => "paid",
            Stage::Ticketed(_) => "ticketed",
            Stage::Invoiced(_) => "invoiced",
            Stage::Locked(_) => "locked",
            Stage::Uploaded(_) => "uploaded",
            Stage::Judged(_) => "judged",
            Stage::Closed(_) => "closed",
        }
    }

    /// The terms whose tranches this peer's node may hold, and the receipt if there is one.
    pub fn held(&self) -> Option<(&RewardTerms, Option<&Receipt>)> {
        match self {
            Stage::Ticketed(ticket) => Some((&ticket.terms.body, None)),
            Stage::Invoiced(offer) | Stage::Locked(offer) | Stage::Uploaded(offer) => {
                Some((&offer.ticket.terms.body, None))
            }
            Stage::Judged(judged) => Some((&judged.offer.ticket.terms.body, Some(&judged.receipt.body))),
            Stage::Committed | Stage::Paying(_) | Stage::Paid(_) | Stage::Closed(_) => None,
        }
    }

    /// How it ended, if it has.
    pub fn ending(&self) -> Option<&Ending> {
        match self {
            Stage::Closed(ending) => Some(ending),
            Stage::Committed
            | Stage::Paying(_)
            | Stage::Paid(_)
            | Stage::Ticketed(_)
            | Stage::Invoiced(_)
            | Stage::Locked(_)
            | Stage::Uploaded(_)
            | Stage::Judged(_) => None,
        }
    }

    /// Has it ended?
    pub fn is_closed(&self) -> bool {
        self.rank() == Self::CLOSED_RANK
    }

    const CLOSED_RANK: u8 = 8;

    /// A contribution only ever goes to a higher rank.
    pub fn rank(&self) -> u8 {
        match self {
            Stage::Committed => 0,
            Stage::Paying(_) => 1,
            Stage::Paid(_) => 2,
            Stage::Ticketed(_) => 3,
            Stage::Invoiced(_) => 4,
            Stage::Locked(_) => 5,
            Stage::Uploaded(_) => 6,
            Stage::Judged(_) => 7,
            Stage::Closed(_) => Self::CLOSED_RANK,
        }
    }
}

/// A checked challenge.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fee {
    /// Standard base64.
    pub macaroon: String,
    /// BOLT 11.
    pub invoice: String,
    /// The invoice's and the macaroon's.
    pub payment_hash: PaymentHash,
    /// What it asks for.
    pub amount_msat: Msat,
}

/// A paid challenge.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PaidFee {
    /// The challenge.
    pub fee: Fee,
    /// The proof.
    pub preimage: Preimage,
    /// What the route took on top.
    pub routing_msat: Msat,
}

impl PaidFee {
    /// What it took, for the ledger.
    pub(super) fn lines(&self) -> [Line; 2] {
        [
            Line { kind: LineKind::Fee, tranche: 0, amount: self.fee.amount_msat },
            Line { kind: LineKind::Routing, tranche: 0, amount: self.routing_msat },
        ]
    }
}

/// A ticket with terms that were checked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ticketed {
    /// What it cost; `None` where the coordinator asks for nothing.
    pub fee: Option<PaidFee>,
    /// Signed by the coordinator.
    pub terms: Signed<RewardTerms>,
}

/// Terms and the invoices that accept them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Offer {
    /// The ticket.
    pub ticket: Ticketed,
    /// Signed by this peer.
    pub submission: Signed<InvoiceSubmission>,
}

/// A receipt whose every part was checked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Judged {
    /// The offer it answers.
    pub offer: Offer,
    /// Signed by the coordinator.
    pub receipt: Signed<Receipt>,
    /// What the receipt's digest stands for.
    pub verdict: Verdict,
}

/// How a contribution ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Ending {
    /// Part of the outer step, and paid.
    Accepted {
        /// What was received.
        received_msat: Msat,
        /// What the receipt paid but this node could not claim in time.
        lost_msat: Msat,
    },
    /// Judged, and not paid.
    Rejected {
        /// Why.
        rejection: Rejection,
    },
    /// A submission to a bounty that was not paid for.
    NotReached {
        /// Why.
        reason: bounty::verdict::Rejection,
        /// The fee, where it came back.
        received_msat: Msat,
    },
    /// The fee could not be paid; the money is still here.
    FeeUnpaid {
        /// The node's words.
        reason: String,
    },
    /// The fee is paid, and no ticket was sold for it.
    NoTicket {
        /// The coordinator's words.
        reason: String,
    },
    /// It never came to a verdict; every invoice is cancelled.
    Missed {
        /// For people.
        reason: String,
    },
}

impl Ending {
    /// Was it judged?
    pub fn is_verdict(&self) -> bool {
        match self {
            Ending::Accepted { .. } | Ending::Rejected { .. } | Ending::NotReached { .. } => true,
            Ending::FeeUnpaid { .. } | Ending::NoTicket { .. } | Ending::Missed { .. } => false,
        }
    }
}
