//! One node of a simulated network, behind the trait.

use async_trait::async_trait;
use tokio::sync::broadcast;

use super::Network;
use super::ledger::{InvoiceKind, NodeIndex, Order, PaymentState};
use super::world::World;
use crate::ln::limits::check_request;
use crate::ln::{
    ChannelRequest, ChannelState, Invoice, InvoiceRequest, InvoiceStatus, Lightning, LnError, LnEvent,
    MIN_FINAL_CLTV_BLOCKS, NodeInfo, PayLimits, PaymentStatus, bolt11,
};
use crate::protocol::amount::Msat;
use crate::protocol::ids::{PaymentHash, Preimage};

/// A node of a [`Network`].
#[derive(Debug)]
pub(super) struct SimulatedNode {
    network: Network,
    index: NodeIndex,
}

impl SimulatedNode {
    pub(super) fn new(network: Network, index: NodeIndex) -> Self {
        Self { network, index }
    }

    /// One call: a tick, what it does, what that sets off; or one of the faults.
    fn call<T>(&self, act: impl FnOnce(&mut World, NodeIndex) -> Result<T, LnError>) -> Result<T, LnError> {
        let mut world = self.network.world();
        world.advance(1);
        if !world.ledger.nodes[self.index].online {
            return Err(LnError::Unavailable("the simulated node is down".into()));
        }
        let (calls_lost, answers_lost) = (world.faults.calls_lost, world.faults.answers_lost);
        if world.dice.happens(calls_lost) {
            return Err(LnError::Unavailable("the simulated call was lost".into()));
        }
        let answer = act(&mut world, self.index);
        world.run_due();
        if world.dice.happens(answers_lost) {
            return Err(LnError::Unavailable("the simulated answer was lost".into()));
        }
        answer
    }
}

#[async_trait]
impl Lightning for SimulatedNode {
    async fn info(&self) -> Result<NodeInfo, LnError> {
        self.call(|world, index| {
            let (outbound_msat, inbound_msat, usable_channels) = world.ledger.liquidity(index);
            Ok(NodeInfo {
                implementation: "simulated".into(),
                node_id: world.ledger.nodes[index].node_id.clone(),
                address: Some(format!("{}.simulated:9735", world.identities[index].name)),
                network: bolt11::Network::Regtest.to_string(),
                block_height: world.ledger.height,
                outbound_msat,
                inbound_msat,
                usable_channels,
            })
        })
    }

    async fn create_invoice(&self, request: &InvoiceRequest) -> Result<Invoice, LnError> {
        check_request(request, MIN_FINAL_CLTV_BLOCKS)?;
        self.call(|world, index| {
            let preimage = Preimage::from_bytes(world.dice.bytes32());
            let payment_hash = preimage.payment_hash();
            let own = (payment_hash, Some(preimage), InvoiceKind::Ordinary);
            let bolt11 = world.make_invoice(index, own, request, MIN_FINAL_CLTV_BLOCKS)?;
            Ok(Invoice { bolt11, payment_hash })
        })
    }

    async fn create_hold_invoice(
        &self,
        payment_hash: PaymentHash,
        request: &InvoiceRequest,
        final_cltv_blocks: u32,
    ) -> Result<String, LnError> {
        check_request(request, final_cltv_blocks)?;
        self.call(|world, index| match world.ledger.nodes[index].invoices.get(&payment_hash) {
            Some(known) if known.kind == InvoiceKind::Hold => Ok(known.bolt11.clone()),
            Some(_) => Err(LnError::Refused(format!("{payment_hash} is an ordinary invoice's"))),
            None => world.make_invoice(index, (payment_hash, None, InvoiceKind::Hold), request, final_cltv_blocks),
        })
    }

    async fn pay(&self, bolt11: &str, limits: PayLimits) -> Result<PaymentHash, LnError> {
        let invoice = bolt11::parse(bolt11, bolt11::Network::Regtest)?;
        let payment_hash = invoice.payment_hash;
        self.call(|world, payer| {
            if world.ledger.nodes[payer].node_id == invoice.payee_node_id {
                return Err(LnError::Refused("this is the node's own invoice".into()));
            }
            world.blind_resends += u64::from(world.doubtful.contains(&(payer, payment_hash)));
            match world.ledger.nodes[payer].payments.get(&payment_hash).map(|payment| &payment.state) {
                Some(PaymentState::Locked | PaymentState::Claimed(_) | PaymentState::Succeeded(_)) => {
                    return Ok(payment_hash);
                }
                Some(PaymentState::Failed(..)) | None => {}
            }
            if invoice.is_expired(world.now()) {
                return Err(LnError::BadInvoice("it has expired".into()));
            }
            let Some(payee) = world.node_by_id(&invoice.payee_node_id) else {
                world.fail(payer, (payment_hash, invoice.amount), "no route: nobody knows the payee".into());
                return Ok(payment_hash);
            };
            world.send(&Order {
                payment_hash,
                payer,
                payee,
                amount: invoice.amount,
                final_cltv_blocks: invoice.min_final_cltv_blocks,
                max_fee: limits.max_fee,
                max_cltv_blocks: limits.max_cltv_blocks,
            });
            Ok(payment_hash)
        })
    }

    async fn payment(&self, payment_hash: PaymentHash) -> Result<PaymentStatus, LnError> {
        self.call(|world, index| {
            let status_unknown = world.faults.status_unknown;
            if world.dice.happens(status_unknown) {
                world.doubtful.insert((index, payment_hash));
                return Ok(PaymentStatus::Unknown);
            }
            world.doubtful.remove(&(index, payment_hash));
            let payment = world.ledger.nodes[index].payments.get(&payment_hash);
            Ok(payment.map_or(PaymentStatus::NotFound, |payment| payment.status()))
        })
    }

    async fn invoice(&self, payment_hash: PaymentHash) -> Result<InvoiceStatus, LnError> {
        self.call(|world, index| {
            let now = world.now();
            let invoice = world.ledger.nodes[index].invoices.get(&payment_hash);
            Ok(invoice.map_or(InvoiceStatus::NotFound, |invoice| invoice.status(now)))
        })
    }

    async fn settle(&self, preimage: Preimage) -> Result<(), LnError> {
        self.call(|world, index| world.settle(index, preimage))
    }

    async fn cancel(&self, payment_hash: PaymentHash) -> Result<(), LnError> {
        self.call(|world, index| world.cancel(index, payment_hash))
    }

    async fn channel_state(&self, node_id: &str) -> Result<ChannelState, LnError> {
        self.call(|world, index| {
            let other = world.node_by_id(node_id);
            Ok(other.map_or(ChannelState::None, |other| world.ledger.channel_state(index, other)))
        })
    }

    async fn open_channel(&self, request: &ChannelRequest) -> Result<(), LnError> {
        self.call(|world, index| {
            let to = world
                .node_by_id(&request.node_id)
                .filter(|to| world.ledger.nodes[*to].online)
                .ok_or_else(|| LnError::Unavailable(format!("can't reach node {}", request.node_id)))?;
            if world.ledger.channel_state(index, to) != ChannelState::None {
                return Ok(());
            }
            let capacity = Msat::from_sat(request.capacity_sat).unwrap_or(Msat::MAX_MONEY);
            world.ledger.open_channel(index, to, capacity, request.push).map_err(LnError::Refused)?;
            world.tell(index, LnEvent::Channels);
            world.tell(to, LnEvent::Channels);
            Ok(())
        })
    }

    fn events(&self) -> broadcast::Receiver<LnEvent> {
        self.network.world().identities[self.index].events.subscribe()
    }

    async fn stop(&self) {
        self.network.world().crash(self.index);
    }
}
