//! The answers to requests about one bounty.

use async_trait::async_trait;

use super::super::core::Core;
use super::super::engine::Shared;
use super::super::error::{CoordinatorError, refusal};
use super::super::handle::{BountyHandle, PackageAnswer, Refusal};
use super::closing::CLOSING_FILE;
use super::sales::fee_of_package;
use crate::bounty::manifest::DemoOnly;
use crate::protocol::amount::Msat;
use crate::protocol::api::{BountyPhase, BountyView, LightningView};
use crate::protocol::bounty::statements::{SponsorAsk, SponsorRequest};
use crate::protocol::sign::Signed;
use crate::store::StoreError;
use crate::store::coordinator as tables;

#[async_trait]
impl BountyHandle for Shared {
    async fn bounty(&self) -> Result<BountyView, Refusal> {
        self.somebody_asks();
        Ok(self.bounty_view().await?)
    }

    async fn package(&self, credentials: Option<String>) -> Result<PackageAnswer, Refusal> {
        Ok(self.give_package(credentials).await?)
    }

    async fn closing(&self) -> Result<Vec<u8>, Refusal> {
        let read = |core: &mut Core| {
            if core.bounty_state()?.escrow.phase != BountyPhase::Closed {
                let message = "the bounty has not closed yet";
                return Err(refusal(404, "not_closed", message, "Ask again once it has").into());
            }
            let path = core.folder().join(CLOSING_FILE);
            std::fs::read(&path).map_err(|source| StoreError::Io { action: "read", path, source }.into())
        };
        Ok(self.with(read).await?)
    }

    async fn sponsor(&self, request: Signed<SponsorRequest>) -> Result<BountyView, Refusal> {
        let network = self.network;
        self.with(move |core| core.answer_sponsor(&request, network)).await?;
        self.wake();
        Ok(self.bounty_view().await?)
    }
}

impl Shared {
    pub(super) async fn bounty_view(&self) -> Result<BountyView, CoordinatorError> {
        self.bounty_view_with(self.lightning().await?).await
    }

    pub(super) async fn bounty_view_with(&self, lightning: LightningView) -> Result<BountyView, CoordinatorError> {
        let package_fee = self.options.package_fee;
        self.read(move |core| core.view(lightning, package_fee)).await
    }
}

impl Core {
    fn answer_sponsor(
        &mut self,
        request: &Signed<SponsorRequest>,
        network: crate::ln::bolt11::Network,
    ) -> Result<(), CoordinatorError> {
        let run = std::sync::Arc::clone(&self.run);
        let posting = run.bounty_task()?.posting();
        if request.verify(&posting.sponsor).is_err() {
            let message = format!("the signature on the request is not by sponsor {}", posting.sponsor);
            return Err(refusal(400, "bad_signature", message, "Sign it with the sponsor's own key").into());
        }
        if request.body.bounty != posting.bounty_id() {
            let message = format!("the request is about bounty {}", request.body.bounty);
            return Err(refusal(409, "wrong_bounty", message, "Send it to that one").into());
        }
        match &request.body.ask {
            SponsorAsk::Close => self.stop_taking("the sponsor has closed it"),
            SponsorAsk::PayBack { invoice } => self.take_pay_back(invoice, network),
        }
    }

    fn view(&self, lightning: LightningView, package_fee: Msat) -> Result<BountyView, CoordinatorError> {
        let task = self.run.bounty_task()?;
        let state = self.bounty_state()?;
        let last = tables::last_round(self.db.read())?;
        Ok(BountyView {
            bounty: task.posting().bounty_id(),
            run: self.run.id,
            manifest: task.manifest.clone(),
            phase: state.escrow.phase,
            why: state.escrow.why.clone(),
            best: state.book.best(),
            least_claim: state.book.least_claim(),
            submissions: u32::try_from(state.book.entries().len()).unwrap_or(u32::MAX),
            paid_msat: state.book.paid(),
            package_fee_msat: fee_of_package(state.escrow.phase, package_fee),
            demo_only: task.bounty.manifest.demo_only == DemoOnly::Yes,
            surplus_msat: self.surplus()?,
            closed_rounds: tables::count_closed(self.db.read())?,
            current_round: last.map(|row| row.state.number),
            lightning,
            now_ms: self.clock.now(),
        })
    }
}
