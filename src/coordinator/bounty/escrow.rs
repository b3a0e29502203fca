//! The sponsor's money: waited for, taken step by step as rewards are earned, and given back.
//!
//! The budget is locked in hold invoices of which only this coordinator has the preimages. It takes a tranche when the rewards
//! earned so far pass what it has taken, before any agent's preimage is revealed; between the two the money is in its custody.
//! What was marked as being taken may have been: it is never cancelled, and is in the books once the node says that it is here.

use super::super::core::Core;
use super::super::engine::{Coordinator, Shared};
use super::super::error::CoordinatorError;
use super::super::judging::Bench;
use super::super::news::RunEvent;
use super::posting::{BountyTask, LAST_BLOCKS, escrow_blocks};
use crate::bounty::lint::{Level, Lint};
use crate::ln::{InvoiceRequest, InvoiceStatus};
use crate::offload::Task;
use crate::protocol::amount::Msat;
use crate::protocol::api::BountyPhase;
use crate::protocol::bounty::statements::Rerun;
use crate::protocol::ids::{PaymentHash, Preimage, RoundNumber};
use crate::protocol::round::Account;
use crate::store::ledger;

/// How often a claimed tranche is looked at before the rest is left for the next step: other rewards wait meanwhile.
const LOOKS: u32 = 20;
const LOOK_MS: u64 = 50;
/// The escrow is looked at so often while nothing is taken of it: it may end by itself.
const WATCH_MS: u64 = 30_000;
/// The sponsor has fifteen minutes, and the invoices outlive them: it is the coordinator who ends the waiting.
const ESCROW_EXPIRY_S: u32 = 1_200;

/// What the engine keeps of an escrow between two steps.
#[derive(Debug, Default)]
pub(in super::super) struct Funding {
    /// The baseline, being measured.
    check: Option<Task<Result<Lint, String>>>,
    /// What was paid for, being scored again.
    pub(super) reruns: Option<Task<Vec<Rerun>>>,
    /// Not to be looked at before, by the clock's uptime.
    not_before_ms: u64,
}

/// A tranche of the escrow.
#[derive(Clone, Copy, Debug)]
struct EscrowTranche {
    bit: u32,
    payment_hash: PaymentHash,
    amount: Msat,
}

impl BountyTask {
    fn tranches(&self) -> Vec<EscrowTranche> {
        let escrow = self.manifest.body.escrow.iter().zip(0..);
        escrow
            .map(|(tranche, bit)| EscrowTranche {
                bit,
                payment_hash: tranche.payment_hash,
                amount: tranche.amount_msat,
            })
            .collect()
    }

    pub(super) fn sum(&self, mask: u32) -> Msat {
        let tranches = self.tranches().into_iter().filter(|tranche| mask >> tranche.bit & 1 == 1);
        // Tranches of one budget.
        Msat::checked_sum(tranches.map(|tranche| tranche.amount)).unwrap_or(Msat::MAX_MONEY)
    }
}

impl Shared {
    fn task(&self) -> Result<&BountyTask, CoordinatorError> {
        self.run.bounty_task()
    }

    /// The invoices of the escrow, while it is awaited. The same again gets the same ones.
    pub(super) async fn escrow_invoices(&self) -> Result<Vec<String>, CoordinatorError> {
        if !self.awaits_escrow().await? {
            return Ok(Vec::new());
        }
        let invoices = self.make_escrow_invoices().await?;
        if self.awaits_escrow().await? {
            return Ok(invoices);
        }
        // The waiting has ended meanwhile, and nobody would look at what is paid now.
        let phase = self.with(|core| Ok(core.bounty_state()?.escrow.phase)).await?;
        if phase == BountyPhase::Refused {
            self.cancel_rest(0).await?;
        }
        Ok(Vec::new())
    }

    async fn awaits_escrow(&self) -> Result<bool, CoordinatorError> {
        self.with(|core| Ok(core.bounty_state()?.escrow.phase == BountyPhase::AwaitingEscrow)).await
    }

    async fn make_escrow_invoices(&self) -> Result<Vec<String>, CoordinatorError> {
        let task = self.task()?;
        let (posting, created_ms) = (task.posting(), task.manifest.body.created_ms);
        // Checked when it was posted.
        let blocks = escrow_blocks(created_ms, posting.rules.deadline_ms).unwrap_or(crate::ln::MAX_HOLD_CLTV_BLOCKS);
        let mut invoices = Vec::new();
        for tranche in task.tranches() {
            let request = InvoiceRequest {
                amount: tranche.amount,
                description: format!("l402t bounty {}, tranche {}", posting.bounty_id(), tranche.bit),
                expiry_s: ESCROW_EXPIRY_S,
            };
            invoices.push(self.ln.create_hold_invoice(tranche.payment_hash, &request, blocks).await?);
        }
        Ok(invoices)
    }

    /// Takes as much of the escrow as all rewards so far need. What could not be taken yet is taken by asking again.
    pub(super) async fn cover(&self, rewards: Msat) -> Result<Covered, CoordinatorError> {
        loop {
            let plan = self.with(move |core| core.plan_taking(rewards)).await?;
            let Some(plan) = plan else { return Ok(Covered::Never) };
            let mut lost = false;
            for (tranche, preimage) in plan {
                match self.take(tranche, preimage).await {
                    Ok(Taken::Yes) => {}
                    Ok(Taken::Lost) => lost = true,
                    Ok(Taken::NotYet) => return Ok(Covered::NotYet),
                    Err(CoordinatorError::Lightning(error)) => {
                        tracing::warn!(%error, tranche = tranche.bit, "the sponsor's money could not be taken yet");
                        return Ok(Covered::NotYet);
                    }
                    Err(error) => return Err(error),
                }
            }
            if !lost {
                return Ok(Covered::Yes);
            }
        }
    }

    /// Claims a tranche, and books it once it is here.
    async fn take(&self, tranche: EscrowTranche, preimage: Preimage) -> Result<Taken, CoordinatorError> {
        for look in 0..LOOKS {
            match self.ln.invoice(tranche.payment_hash).await? {
                InvoiceStatus::Settled { .. } => {
                    self.with(move |core| core.note_taken(tranche)).await?;
                    return Ok(Taken::Yes);
                }
                InvoiceStatus::Accepted { .. } if look == 0 => self.ln.settle(preimage).await?,
                InvoiceStatus::Accepted { .. } => self.clock.sleep(LOOK_MS).await,
                InvoiceStatus::NotFound | InvoiceStatus::Open | InvoiceStatus::Canceled => {
                    self.with(move |core| core.note_lost(tranche)).await?;
                    return Ok(Taken::Lost);
                }
            }
        }
        Ok(Taken::NotYet)
    }

    /// Gives back every tranche that was not taken.
    async fn cancel_rest(&self, taking: u32) -> Result<(), CoordinatorError> {
        for tranche in self.task()?.tranches().iter().filter(|tranche| taking >> tranche.bit & 1 == 0) {
            match self.ln.invoice(tranche.payment_hash).await? {
                InvoiceStatus::Open | InvoiceStatus::Accepted { .. } => self.ln.cancel(tranche.payment_hash).await?,
                InvoiceStatus::NotFound | InvoiceStatus::Canceled | InvoiceStatus::Settled { .. } => {}
            }
        }
        Ok(())
    }

    /// How the untaken tranches stand.
    async fn look_at_escrow(&self, taking: u32) -> Result<Look, CoordinatorError> {
        let height = self.with(|core| Ok(core.height)).await?;
        let mut look = Look::AllLocked;
        for tranche in self.task()?.tranches().iter().filter(|tranche| taking >> tranche.bit & 1 == 0) {
            look = match self.ln.invoice(tranche.payment_hash).await? {
                InvoiceStatus::Accepted { expiry_height, .. } => {
                    let ends =
                        expiry_height.zip(height).is_some_and(|(end, tip)| end <= tip.saturating_add(LAST_BLOCKS));
                    if ends { Look::Ending } else { look }
                }
                InvoiceStatus::NotFound | InvoiceStatus::Open => Look::NotAll,
                InvoiceStatus::Canceled | InvoiceStatus::Settled { .. } => Look::Ending,
            };
            if look != Look::AllLocked {
                return Ok(look);
            }
        }
        Ok(look)
    }
}

/// Is the sponsor's money for all rewards so far here?
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Covered {
    /// Yes: the preimages of these rewards may be revealed.
    Yes,
    /// It is on its way.
    NotYet,
    /// What is missing went back to the sponsor.
    Never,
}

/// What became of a tranche that is being taken.
enum Taken {
    Yes,
    Lost,
    NotYet,
}

/// How an escrow stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Look {
    AllLocked,
    NotAll,
    /// Some of it went back, or will soon.
    Ending,
}

impl Coordinator {
    /// The invoices in which a bounty's sponsor locks its budget, in the manifest's order.
    pub async fn escrow_invoices(&self) -> Result<Vec<String>, CoordinatorError> {
        self.shared.escrow_invoices().await
    }

    /// Takes a bounty's own steps: nothing in a run of training.
    pub(in super::super) async fn fund(&mut self) -> Result<(), CoordinatorError> {
        if self.shared.run.bounty().is_none() {
            return Ok(());
        }
        let escrow = self.shared.with(|core| Ok(core.bounty_state()?.escrow.clone())).await?;
        let waits = matches!(escrow.phase, BountyPhase::AwaitingEscrow | BountyPhase::Checking);
        if let Some(why) = escrow.why.as_ref().filter(|_| waits) {
            self.funding.check = None;
            return self.refuse(why).await;
        }
        match escrow.phase {
            BountyPhase::AwaitingEscrow => match self.shared.look_at_escrow(0).await? {
                Look::AllLocked => self.shared.with(|core| core.go_on_to(BountyPhase::Checking).map(drop)).await,
                Look::NotAll if self.shared.clock.now() <= escrow.fund_until_ms => Ok(()),
                Look::NotAll => self.refuse("the budget was not locked in time").await,
                Look::Ending => self.refuse("the budget went back").await,
            },
            BountyPhase::Checking => self.check_baseline().await,
            BountyPhase::Open => self.watch_escrow(escrow.taking).await,
            BountyPhase::Closing => self.close_bounty().await,
            BountyPhase::Closed => match escrow.pay_back {
                Some(pay_back) => self.shared.pay_back(pay_back).await,
                None => Ok(()),
            },
            BountyPhase::Refused => Ok(()),
        }
    }

    async fn refuse(&self, why: &str) -> Result<(), CoordinatorError> {
        // A crash in between finds the money gone, and refuses again.
        self.shared.cancel_rest(0).await?;
        let why = why.to_owned();
        self.shared.with(move |core| core.set_phase(BountyPhase::Refused, Some(why))).await
    }

    /// Measures the baseline twice, and answers that took no work.
    async fn check_baseline(&mut self) -> Result<(), CoordinatorError> {
        let Bench::Bounty(evaluator) = &self.bench else { return Err(CoordinatorError::Panicked) };
        match self.funding.check.take() {
            None => {
                let task = self.shared.task()?;
                let (bounty, exam, now) = (task.bounty.clone(), task.exam.clone(), self.shared.clock.now());
                let evaluator = evaluator.clone();
                let lint = move || evaluator.lint(&bounty, &exam, now).map_err(|error| error.to_string());
                self.funding.check = Some(Task::start(lint));
                Ok(())
            }
            Some(check) if !check.is_finished() => {
                self.funding.check = Some(check);
                Ok(())
            }
            Some(check) => {
                let lint = check.join().await.map_err(|_| CoordinatorError::Panicked)?;
                let lint = lint.map_err(|problem| CoordinatorError::Judge { round: 0, problem })?;
                let rules = self.shared.task()?.posting().rules;
                match problem(&lint, &rules) {
                    Some(problem) => self.refuse(&problem).await,
                    None => {
                        let bounty = self.shared.task()?.posting().bounty_id();
                        let open = move |core: &mut Core| {
                            if core.go_on_to(BountyPhase::Open)? {
                                core.tell(RunEvent::BountyOpened { bounty });
                            }
                            Ok(())
                        };
                        self.shared.with(open).await
                    }
                }
            }
        }
    }

    async fn watch_escrow(&mut self, taking: u32) -> Result<(), CoordinatorError> {
        let now_ms = self.shared.clock.uptime_ms();
        if now_ms >= self.funding.not_before_ms {
            self.funding.not_before_ms = now_ms + WATCH_MS;
            if self.shared.look_at_escrow(taking).await? != Look::AllLocked {
                return self.shared.with(|core| core.stop_taking("the sponsor's money goes back")).await;
            }
        }
        let end = |core: &mut Core| {
            let over = core.bounty_state()?.book.over(core.clock.now());
            match over.filter(|_| core.open_round().is_none()) {
                Some(over) => core.stop_taking(&over.to_string()),
                None => Ok(()),
            }
        };
        self.shared.with(end).await
    }

    async fn close_bounty(&mut self) -> Result<(), CoordinatorError> {
        let (judged, at_rest) =
            self.shared.with(|core| Ok((core.open_round().is_none(), core.rounds.is_empty()))).await?;
        if !judged {
            return Ok(());
        }
        // The sponsor need not wait for agents that give nothing back.
        let now_ms = self.shared.clock.uptime_ms();
        if at_rest || now_ms >= self.funding.not_before_ms {
            self.funding.not_before_ms = now_ms + WATCH_MS;
            // What was being taken when the coordinator died is taken now: its preimage may be out.
            let paid = self.shared.with(|core| Ok(core.bounty_state()?.book.paid())).await?;
            match self.shared.cover(paid).await? {
                Covered::Yes => {}
                Covered::NotYet => return Ok(()),
                Covered::Never => tracing::error!("the sponsor's money does not cover what was paid"),
            }
            let taking = self.shared.with(|core| Ok(core.bounty_state()?.escrow.taking)).await?;
            self.shared.cancel_rest(taking).await?;
        }
        if !at_rest {
            return Ok(());
        }
        match self.run_again().await? {
            Some(reruns) => self.shared.with(move |core| core.open_seals(reruns)).await,
            None => Ok(()),
        }
    }
}

/// Why a bounty can't open, if it can't.
fn problem(lint: &Lint, rules: &crate::protocol::bounty::statements::Rules) -> Option<String> {
    let errors = lint.findings.iter().filter(|finding| finding.level == Level::Error);
    // Anybody reads this, and a message may quote the held-out part: `l402t bounty check` tells the sponsor.
    let errors: Vec<&str> = errors.map(|finding| finding.code).collect();
    if !errors.is_empty() {
        return Some(errors.join(", "));
    }
    match lint.rules {
        Some(measured) if measured.allow(rules) => None,
        Some(measured) => Some(format!(
            "baseline_differs: the posting says {}, and {} is measured here",
            rules.baseline.shown(rules.decimals),
            measured.baseline.shown(rules.decimals)
        )),
        None => Some("baseline_fails: the baseline comes to no score here".to_owned()),
    }
}

impl Core {
    pub(super) fn set_phase(&mut self, phase: BountyPhase, why: Option<String>) -> Result<(), CoordinatorError> {
        let news = serde_json::to_string(&phase).unwrap_or_default();
        self.change_escrow(
            news.trim_matches('"'),
            |escrow| {
                escrow.phase = phase;
                escrow.why = why;
            },
            |_, _| Ok(()),
        )
    }

    /// Goes on, unless somebody has ended it since that was decided: then the next step ends it. Did it go on?
    fn go_on_to(&mut self, phase: BountyPhase) -> Result<bool, CoordinatorError> {
        if self.bounty_state()?.escrow.why.is_some() {
            return Ok(false);
        }
        self.set_phase(phase, None)?;
        Ok(true)
    }

    /// No more rounds are opened; those that are under way are brought to their end.
    pub(super) fn stop_taking(&mut self, why: &str) -> Result<(), CoordinatorError> {
        match self.bounty_state()?.escrow.phase {
            BountyPhase::Open => self.set_phase(BountyPhase::Closing, Some(why.to_owned())),
            // The engine gives the money back, and then it is refused.
            phase @ (BountyPhase::AwaitingEscrow | BountyPhase::Checking) => {
                self.set_phase(phase, Some(why.to_owned()))
            }
            BountyPhase::Closing | BountyPhase::Closed | BountyPhase::Refused => Ok(()),
        }
    }

    /// Which tranches must be taken for these rewards, marked as such; `None` if there are not enough.
    fn plan_taking(&mut self, rewards: Msat) -> Result<Option<Vec<(EscrowTranche, Preimage)>>, CoordinatorError> {
        let run = std::sync::Arc::clone(&self.run);
        let task = run.bounty_task()?;
        let escrow = &self.bounty_state()?.escrow;
        let (mut taking, lost) = (escrow.taking, escrow.lost);
        for tranche in task.tranches() {
            if task.sum(taking & !lost) >= rewards {
                break;
            }
            if lost >> tranche.bit & 1 == 0 {
                taking |= 1 << tranche.bit;
            }
        }
        if task.sum(taking & !lost) < rewards {
            return Ok(None);
        }
        self.change_escrow("taking", |escrow| escrow.taking = taking, |_, _| Ok(()))?;
        let taken = self.bounty_state()?.escrow.taken;
        let open = taking & !taken & !lost;
        let tranches = task.tranches().into_iter().filter(|tranche| open >> tranche.bit & 1 == 1);
        Ok(Some(tranches.map(|tranche| (tranche, run.secret.escrow_preimage(tranche.bit))).collect()))
    }

    fn note_taken(&mut self, tranche: EscrowTranche) -> Result<(), CoordinatorError> {
        let round = self.rounds.keys().next_back().copied().unwrap_or(RoundNumber(0));
        self.change_escrow(
            "taken",
            |escrow| escrow.taken |= 1 << tranche.bit,
            |t, event| ledger::post(t, event, round, (Account::Escrow, Account::Wallet), tranche.amount),
        )
    }

    fn note_lost(&mut self, tranche: EscrowTranche) -> Result<(), CoordinatorError> {
        self.change_escrow("escrow_lost", |escrow| escrow.lost |= 1 << tranche.bit, |_, _| Ok(()))
    }
}
