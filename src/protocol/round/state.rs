//! The round's state, events and effects.

use serde::{Deserialize, Serialize};

use super::super::amount::Msat;
use super::super::api::{ContributionState, Phase};
use super::super::ids::{ContributionId, PeerId, RoundNumber, UnixMs};
use super::super::manifest::TimingParams;

/// What the machine needs to know of the run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RoundRules {
    /// Close early once this many payloads are in and nobody is on the way; 0: never.
    pub close_at_contributions: u32,
    /// Most tickets.
    pub max_contributions: u32,
    /// How long a ticket holder has to send its invoices.
    pub invoices_ms: u64,
    /// For how many blocks a reward is locked.
    pub hold_blocks: u32,
}

/// How long a ticket holder may take over its hold invoices. Making them needs no computing, so that a ticket bought
/// and left lying holds up nobody for longer.
const INVOICES_MS: u64 = 60_000;

impl RoundRules {
    /// The rules of a run.
    pub fn new(timing: &TimingParams, hold_blocks: u32) -> Self {
        Self {
            close_at_contributions: timing.close_at_contributions,
            max_contributions: timing.max_contributions,
            invoices_ms: INVOICES_MS,
            hold_blocks,
        }
    }
}

/// A round.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Round {
    /// Which.
    pub number: RoundNumber,
    /// Where it stands.
    pub phase: Phase,
    /// When it opened.
    pub opened_ms: UnixMs,
    /// No ticket after this.
    pub commit_deadline_ms: UnixMs,
    /// No payload after this.
    pub upload_deadline_ms: UnixMs,
    /// When the receipts came out.
    pub closed_ms: Option<UnixMs>,
    /// In the order of commitments: the place is the sequence number.
    pub contributions: Vec<Contribution>,
}

/// One peer's part in a round.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Contribution {
    /// Which.
    pub id: ContributionId,
    /// Whose.
    pub peer: PeerId,
    /// The committed length of its payload.
    pub payload_bytes: u64,
    /// Where it stands.
    pub progress: Progress,
    /// Until when its invoices are taken.
    pub invoices_deadline_ms: UnixMs,
    /// When its invoices came.
    pub invoices_ms: Option<UnixMs>,
    /// When its whole reward was locked.
    pub locked_ms: Option<UnixMs>,
    /// When its payload came; `None` again if it doesn't count any more because its lock was lost.
    pub uploaded_ms: Option<UnixMs>,
    /// The earliest height at which the peer's node may give back what is locked; `None` before anything was sent.
    #[serde(default)]
    pub expiry_height: Option<u32>,
    /// Which tranches the verdict pays: bit i for the i-th.
    pub tranches_paid: u32,
    /// Where each tranche's money is.
    pub tranches: Vec<Tranche>,
}

/// One tranche of a reward.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tranche {
    /// How much it is.
    pub amount_msat: Msat,
    /// Where its money is.
    pub state: TrancheState,
    /// When it ended.
    pub ended_ms: Option<UnixMs>,
    /// Attempts that ended without reaching the peer's node.
    #[serde(default)]
    pub attempts_in_vain: u32,
    /// The next attempt must not be made before; `None` if none waits.
    #[serde(default)]
    pub again_ms: Option<UnixMs>,
}

impl Tranche {
    /// A tranche that is promised.
    pub fn offered(amount_msat: Msat) -> Self {
        Self { amount_msat, state: TrancheState::Offered, ended_ms: None, attempts_in_vain: 0, again_ms: None }
    }
}

/// Where a contribution stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Progress {
    /// The ticket is sold; the invoices are awaited.
    Ticketed,
    /// The invoices are here and being paid.
    Locking,
    /// Every tranche is locked; the payload is awaited.
    Locked,
    /// The payload is here; the verdict is awaited.
    Uploaded,
    /// It will never be uploaded; the verdict says so when the round closes.
    Lapsed(Lapse),
    /// The receipt is out; some tranche is still locked.
    Settling,
    /// The receipt is out and no money is locked any more.
    Finished,
}

/// Why a contribution will never be uploaded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Lapse {
    /// No invoices by their deadline.
    NoInvoices,
    /// A tranche could not be locked, or came back before the upload.
    NotLocked,
    /// No payload by the deadline.
    NoUpload,
    /// The payload came, but the reward came back or was about to expire before the verdict.
    LockLost,
}

/// Where a tranche's money is: with the coordinator, locked, or with the peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TrancheState {
    /// Promised; no invoice yet. With the coordinator.
    Offered,
    /// To be paid. With the coordinator.
    Queued,
    /// Handed to the node, or about to be: it may be locked. Counted as locked.
    Sending,
    /// The node says that it is under way.
    InFlight,
    /// With the peer.
    Settled,
    /// Back with the coordinator.
    Refunded,
    /// Never sent. With the coordinator.
    Dropped,
}

impl TrancheState {
    /// Might the money be locked?
    pub fn is_locked(self) -> bool {
        match self {
            Self::Sending | Self::InFlight => true,
            Self::Offered | Self::Queued | Self::Settled | Self::Refunded | Self::Dropped => false,
        }
    }
}

impl Contribution {
    /// Is it still on its way to an upload?
    pub fn is_pending(&self) -> bool {
        match self.progress {
            Progress::Ticketed | Progress::Locking | Progress::Locked => true,
            Progress::Uploaded | Progress::Lapsed(_) | Progress::Settling | Progress::Finished => false,
        }
    }

    /// Might some of its money be locked?
    pub fn has_locked(&self) -> bool {
        self.tranches.iter().any(|t| t.state.is_locked())
    }

    /// As the API tells it. One that has lapsed stays where it got to until the receipt is out.
    pub fn api_state(&self) -> ContributionState {
        match self.progress {
            Progress::Ticketed | Progress::Lapsed(Lapse::NoInvoices) => ContributionState::Ticketed,
            Progress::Locking | Progress::Lapsed(Lapse::NotLocked) => ContributionState::Locking,
            Progress::Locked => ContributionState::Locked,
            Progress::Lapsed(Lapse::NoUpload) if self.locked_ms.is_some() => ContributionState::Locked,
            Progress::Lapsed(Lapse::NoUpload) => ContributionState::Locking,
            Progress::Uploaded | Progress::Lapsed(Lapse::LockLost) => ContributionState::Uploaded,
            Progress::Settling => ContributionState::Settling,
            Progress::Finished => ContributionState::Finished,
        }
    }
}

impl Round {
    /// A round that has just opened.
    pub fn open(
        number: RoundNumber,
        opened_ms: UnixMs,
        commit_deadline_ms: UnixMs,
        upload_deadline_ms: UnixMs,
    ) -> Self {
        Self {
            number,
            phase: Phase::Committing,
            opened_ms,
            commit_deadline_ms,
            upload_deadline_ms,
            closed_ms: None,
            contributions: Vec::new(),
        }
    }

    /// A contribution and its sequence number.
    pub fn find(&self, id: &ContributionId) -> Option<(usize, &Contribution)> {
        self.contributions.iter().enumerate().find(|(_, c)| c.id == *id)
    }

    /// Payloads received that count.
    pub fn uploads(&self) -> u32 {
        self.contributions.iter().filter(|c| c.uploaded_ms.is_some()).count() as u32
    }

    /// Tickets sold.
    pub fn tickets(&self) -> u32 {
        self.contributions.len() as u32
    }

    /// Is the round closed, and no money of it locked?
    pub fn has_ended(&self) -> bool {
        self.phase == Phase::Closed && !self.contributions.iter().any(Contribution::has_locked)
    }

    /// The next moment at which time alone changes something; `None` if only events can.
    pub fn next_deadline(&self) -> Option<UnixMs> {
        let own = match self.phase {
            Phase::Committing => self.commit_deadline_ms,
            Phase::Uploading => self.upload_deadline_ms,
            Phase::Judging | Phase::Closed => return None,
        };
        let invoices = self.contributions.iter().filter(|c| c.progress == Progress::Ticketed);
        invoices.map(|c| c.invoices_deadline_ms).chain([own]).min()
    }
}

/// What happened. `tranche` is a place in the contribution's tranches.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "event", deny_unknown_fields)]
pub enum Event {
    /// A submission fee was paid.
    TicketSold {
        /// For which contribution.
        contribution: ContributionId,
        /// By whom.
        peer: PeerId,
        /// The committed length.
        payload_bytes: u64,
        /// What is promised: one amount a tranche, in the order of the terms.
        tranches: Vec<Msat>,
    },
    /// The hold invoices are here, and each was found to be in order.
    InvoicesAccepted {
        /// For which contribution.
        contribution: ContributionId,
    },
    /// The node is about to be asked to pay a tranche.
    PaymentStarted {
        /// Of which contribution.
        contribution: ContributionId,
        /// Which tranche.
        tranche: u32,
        /// The height of the chain: nothing sent from now on expires before it.
        #[serde(default)]
        height: Option<u32>,
    },
    /// The node says that a tranche is under way.
    PaymentInFlight {
        /// Of which contribution.
        contribution: ContributionId,
        /// Which tranche.
        tranche: u32,
    },
    /// The node says that a tranche was claimed.
    PaymentSettled {
        /// Of which contribution.
        contribution: ContributionId,
        /// Which tranche.
        tranche: u32,
        /// Routing fee on top.
        fee_msat: Msat,
    },
    /// The node says that a tranche failed for good.
    PaymentFailed {
        /// Of which contribution.
        contribution: ContributionId,
        /// Which tranche.
        tranche: u32,
    },
    /// The node says that an attempt to lock a tranche never reached the peer's node, and that nothing is left of it.
    PaymentNotReached {
        /// Of which contribution.
        contribution: ContributionId,
        /// Which tranche.
        tranche: u32,
        /// No attempt is worth making after this: the invoice expires.
        payable_until_ms: UnixMs,
    },
    /// A payload arrived whose hash is the committed one.
    Uploaded {
        /// For which contribution.
        contribution: ContributionId,
        /// Its length.
        payload_bytes: u64,
    },
    /// Time passed.
    Tick {
        /// Challenges of this round that may still be paid: somebody may be on the way.
        open_challenges: u32,
        /// The height of the chain; `None` if the node doesn't say.
        #[serde(default)]
        height: Option<u32>,
    },
    /// No more tickets are sold, though there would be time.
    LastCall,
    /// The judge has spoken on every contribution.
    Judged {
        /// The tranches to pay, one mask a contribution, in the order of commitments.
        tranches_paid: Vec<u32>,
    },
}

/// What must be done, after the transaction that holds it has been committed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Put a payment into the outbox.
    Pay {
        /// Of which contribution.
        contribution: ContributionId,
        /// Which tranche.
        tranche: u32,
    },
    /// Take a payment out of the outbox: it is being sent, or never will be.
    Dequeue {
        /// Of which contribution.
        contribution: ContributionId,
        /// Which tranche.
        tranche: u32,
    },
    /// Write a movement of money into the ledger.
    Post {
        /// Whence.
        from: Account,
        /// Whither.
        to: Account,
        /// How much.
        amount: Msat,
    },
    /// Draw the held-out batch and judge.
    Judge,
}

/// The places where money can be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Account {
    /// The coordinator's own Lightning balance.
    Wallet,
    /// Submission fees received from peers.
    Fees,
    /// Received from agents for a bounty's package.
    Packages,
    /// Rewards locked in hold invoices.
    Locked,
    /// Rewards that peers have claimed.
    Settled,
    /// Routing fees paid.
    Routing,
    /// What a bounty's sponsor locked: taken into the wallet for rewards, and paid back from it where it was too much.
    Escrow,
}

/// Why an event was refused. The state is as it was.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Illegal {
    /// No such contribution in this round.
    #[error("round {0} has no contribution {1}")]
    UnknownContribution(RoundNumber, ContributionId),
    /// No such tranche.
    #[error("contribution {0} has no tranche {1}")]
    UnknownTranche(ContributionId, u32),
    /// Tickets are no longer sold.
    #[error("round {round} takes no commitments after {deadline:?}")]
    CommitLate {
        /// Which round.
        round: RoundNumber,
        /// Its deadline.
        deadline: UnixMs,
    },
    /// Every ticket is sold.
    #[error("round {round} has sold all of its {tickets} tickets")]
    Full {
        /// Which round.
        round: RoundNumber,
        /// How many.
        tickets: u32,
    },
    /// One contribution a peer and round.
    #[error("the peer has already bought the ticket of contribution {0} in this round")]
    AlreadyCommitted(ContributionId),
    /// The invoices came too late.
    #[error("the invoices of contribution {contribution} were due by {deadline:?}")]
    InvoicesLate {
        /// Which contribution.
        contribution: ContributionId,
        /// Their deadline.
        deadline: UnixMs,
    },
    /// The invoices are here already.
    #[error("contribution {0} already has its invoices")]
    InvoicesTaken(ContributionId),
    /// The reward is not locked.
    #[error("the reward of contribution {0} is not locked")]
    NotLocked(ContributionId),
    /// The payload came too late.
    #[error("round {round} takes no payloads any more (deadline {deadline:?})")]
    UploadLate {
        /// Which round.
        round: RoundNumber,
        /// Its deadline.
        deadline: UnixMs,
    },
    /// The payload is here already.
    #[error("contribution {0} already has its payload")]
    AlreadyUploaded(ContributionId),
    /// Not the committed length.
    #[error("contribution {contribution} committed to {committed} bytes and sent {sent}")]
    WrongLength {
        /// Which contribution.
        contribution: ContributionId,
        /// The committed length.
        committed: u64,
        /// The length sent.
        sent: u64,
    },
    /// A payment's news doesn't fit where its money is.
    #[error("tranche {tranche} of contribution {contribution} is {state:?}")]
    WrongTrancheState {
        /// Which contribution.
        contribution: ContributionId,
        /// Which tranche.
        tranche: u32,
        /// Where its money is.
        state: TrancheState,
    },
    /// The round is not being judged.
    #[error("round {0} is not being judged")]
    NotJudging(RoundNumber),
    /// The verdicts don't fit the contributions: a payment for one without a payload, or a wrong count.
    #[error("the verdicts of round {0} do not fit its contributions")]
    BadVerdicts(RoundNumber),
}
