//! The embedded node behind the trait.

use async_trait::async_trait;
use tokio::sync::broadcast;

use super::records::InvoiceKind;
use super::{EmbeddedNode, channels};
use crate::ln::limits::check_request;
use crate::ln::{
    ChannelRequest, ChannelState, Invoice, InvoiceRequest, InvoiceStatus, Lightning, LnError, LnEvent,
    MIN_FINAL_CLTV_BLOCKS, NodeInfo, PayLimits, PaymentStatus, bolt11,
};
use crate::protocol::amount::Msat;
use crate::protocol::ids::{PaymentHash, Preimage};

#[async_trait]
impl Lightning for EmbeddedNode {
    async fn info(&self) -> Result<NodeInfo, LnError> {
        self.call(|parts| {
            let node = &parts.htlcs.node;
            let network = parts.settings.network().to_string();
            let channels: Vec<_> = node.list_channels().into_iter().filter(|channel| channel.is_usable).collect();
            Ok(NodeInfo {
                implementation: format!("embedded LDK ({network})"),
                node_id: node.node_id().to_string(),
                address: Some(parts.address.clone()),
                network,
                block_height: parts.htlcs.height(),
                outbound_msat: Msat::new(channels.iter().map(|channel| channel.outbound_capacity_msat).sum()),
                inbound_msat: Msat::new(channels.iter().map(|channel| channel.inbound_capacity_msat).sum()),
                usable_channels: u32::try_from(channels.len()).unwrap_or(u32::MAX),
            })
        })
        .await
    }

    async fn create_invoice(&self, request: &InvoiceRequest) -> Result<Invoice, LnError> {
        check_request(request, MIN_FINAL_CLTV_BLOCKS)?;
        let request = request.clone();
        self.call(move |parts| {
            let mut bytes = [0; 32];
            getrandom::fill(&mut bytes).map_err(|error| LnError::Unavailable(format!("no randomness: {error}")))?;
            let preimage = Preimage::from_bytes(bytes);
            let payment_hash = preimage.payment_hash();
            let own = (payment_hash, Some(preimage), InvoiceKind::Ordinary);
            let bolt11 = parts.htlcs.make_invoice(own, &request, MIN_FINAL_CLTV_BLOCKS)?;
            Ok(Invoice { bolt11, payment_hash })
        })
        .await
    }

    async fn create_hold_invoice(
        &self,
        payment_hash: PaymentHash,
        request: &InvoiceRequest,
        final_cltv_blocks: u32,
    ) -> Result<String, LnError> {
        check_request(request, final_cltv_blocks)?;
        let request = request.clone();
        self.call(move |parts| {
            parts.htlcs.make_invoice((payment_hash, None, InvoiceKind::Hold), &request, final_cltv_blocks)
        })
        .await
    }

    async fn pay(&self, bolt11: &str, limits: PayLimits) -> Result<PaymentHash, LnError> {
        let invoice = bolt11::parse(bolt11, self.parts().settings.network())?;
        let payment_hash = invoice.payment_hash;
        self.call(move |parts| parts.htlcs.pay(&invoice, limits)).await?;
        Ok(payment_hash)
    }

    async fn payment(&self, payment_hash: PaymentHash) -> Result<PaymentStatus, LnError> {
        self.call(move |parts| parts.htlcs.payment_status(payment_hash)).await
    }

    async fn invoice(&self, payment_hash: PaymentHash) -> Result<InvoiceStatus, LnError> {
        self.call(move |parts| parts.htlcs.invoice_status(payment_hash)).await
    }

    async fn settle(&self, preimage: Preimage) -> Result<(), LnError> {
        self.call(move |parts| parts.htlcs.settle(preimage)).await
    }

    async fn cancel(&self, payment_hash: PaymentHash) -> Result<(), LnError> {
        self.call(move |parts| parts.htlcs.cancel(payment_hash)).await
    }

    async fn channel_state(&self, node_id: &str) -> Result<ChannelState, LnError> {
        let peer = channels::node_id(node_id)?;
        self.call(move |parts| Ok(channels::state(&parts.htlcs.node, &peer))).await
    }

    async fn open_channel(&self, request: &ChannelRequest) -> Result<(), LnError> {
        let request = request.clone();
        self.slow_call(move |parts| parts.channels.open(&parts.htlcs.node, parts.faucet.as_ref(), &request)).await
    }

    fn events(&self) -> broadcast::Receiver<LnEvent> {
        self.parts().htlcs.events.subscribe()
    }

    async fn stop(&self) {
        self.stop_and_wait().await;
    }
}
