//! A bounty's package: what an agent pays before it can submit.

use super::error::PeerError;
use super::spending::most_cost;
use super::submit::{Consent, Submitter};
use crate::protocol::amount::Msat;

/// Whether anything new is to be paid.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purchase {
    /// At most this.
    New(Msat),
    /// Nothing but what an earlier run was allowed to pay, and may have paid.
    Begun,
}

impl Submitter {
    /// Sees to it that this peer may pay for the package, and can, then has it bought. What is held meanwhile is guarded.
    pub async fn buy_package<T>(
        &self,
        purchase: Purchase,
        consent: &dyn Consent,
        buy: impl Future<Output = T> + Send,
    ) -> Result<T, PeerError> {
        let bought = async {
            if let Purchase::New(price) = purchase {
                self.ready_to_buy(price, consent).await?;
            }
            Ok(buy.await)
        };
        self.session().guarded(bought).await
    }

    async fn ready_to_buy(&self, price: Msat, consent: &dyn Consent) -> Result<(), PeerError> {
        let session = self.session();
        let most = session.parts.settings.limits.max_fee;
        if price > most {
            return Err(PeerError::Terms(format!("its package costs {price}, more than {most}")));
        }
        session.may_spend(price)?;
        consent.ask().await?;
        let outbound = session.ask_node(|| session.parts.ln.info()).await?.outbound_msat;
        if outbound < most_cost(price) {
            // A newcomer is given a channel, where channels are given.
            let lightning = self.look().await?.lightning;
            session.ready_to_be_paid(&lightning).await?;
        }
        Ok(())
    }
}
