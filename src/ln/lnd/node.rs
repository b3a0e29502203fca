//! The LND node behind the trait.

use async_trait::async_trait;
use tokio::sync::broadcast;

use super::LndNode;
use crate::ln::limits::check_request;
use crate::ln::{
    ChannelRequest, ChannelState, Invoice, InvoiceRequest, InvoiceStatus, Lightning, LnError, LnEvent,
    MIN_FINAL_CLTV_BLOCKS, NodeInfo, PayLimits, PaymentStatus, bolt11,
};
use crate::protocol::ids::{PaymentHash, Preimage};

#[async_trait]
impl Lightning for LndNode {
    async fn info(&self) -> Result<NodeInfo, LnError> {
        self.core.info().await
    }

    async fn create_invoice(&self, request: &InvoiceRequest) -> Result<Invoice, LnError> {
        check_request(request, MIN_FINAL_CLTV_BLOCKS)?;
        self.core.add_invoice(request).await
    }

    async fn create_hold_invoice(
        &self,
        payment_hash: PaymentHash,
        request: &InvoiceRequest,
        final_cltv_blocks: u32,
    ) -> Result<String, LnError> {
        check_request(request, final_cltv_blocks)?;
        self.core.add_hold_invoice(payment_hash, request, final_cltv_blocks).await
    }

    async fn pay(&self, bolt11: &str, limits: PayLimits) -> Result<PaymentHash, LnError> {
        let invoice = bolt11::parse(bolt11, self.core.network)?;
        self.core.pay(&invoice, limits).await?;
        Ok(invoice.payment_hash)
    }

    async fn payment(&self, payment_hash: PaymentHash) -> Result<PaymentStatus, LnError> {
        self.core.payment_status(payment_hash).await
    }

    async fn invoice(&self, payment_hash: PaymentHash) -> Result<InvoiceStatus, LnError> {
        self.core.invoice_status(payment_hash).await
    }

    async fn settle(&self, preimage: Preimage) -> Result<(), LnError> {
        self.core.settle(preimage).await
    }

    async fn cancel(&self, payment_hash: PaymentHash) -> Result<(), LnError> {
        self.core.cancel(payment_hash).await
    }

    async fn channel_state(&self, node_id: &str) -> Result<ChannelState, LnError> {
        self.core.channel_state(node_id).await
    }

    async fn open_channel(&self, request: &ChannelRequest) -> Result<(), LnError> {
        self.core.open_channel(request).await
    }

    fn events(&self) -> broadcast::Receiver<LnEvent> {
        self.core.events.subscribe()
    }

    async fn stop(&self) {
        self.core.watch.stop();
    }
}
