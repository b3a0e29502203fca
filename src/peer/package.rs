//! A bounty's package: what an agent pays before it can submit.

use super::error::PeerError;
use super::spending::most_cost;
use super::submit::{Consent, Submitter};
use crate::protocol::amount::Msat;

impl Submitter {
    /// Does something, and guards meanwhile what is held.
    pub async fn guarded<T>(&self, work: impl Future<Output = Result<T, PeerError>> + Send) -> Result<T, PeerError> {
        self.session().guarded(work).await
    }

    /// Sees to it that this peer may pay for the package, and can.
    pub async fn ready_to_buy(&self, price: Msat, consent: &dyn Consent) -> Result<(), PeerError> {
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
