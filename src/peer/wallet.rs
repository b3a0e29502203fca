//! Makes sure that the peer can be paid: its node is known to the coordinator, and a channel is usable.

use crate::ln::{ChannelState, NodeInfo};
use crate::protocol::api::{ChannelOffer, LightningView};
use crate::protocol::statements::PeerRegistration;

use super::error::PeerError;
use super::events::PeerEvent;
use super::session::Session;

/// The coordinator is reminded this often while it is opening a channel.
const REMIND_MS: u64 = 10_000;

impl Session {
    /// Registers this peer's node and waits for a usable channel.
    pub(super) async fn ready_to_be_paid(&self, lightning: &LightningView) -> Result<NodeInfo, PeerError> {
        let watch = self.timer();
        let mut hints = self.parts.ln.events();
        let info = self.ask_node(|| self.parts.ln.info()).await?;
        if info.network != lightning.network {
            return Err(PeerError::Terms(format!(
                "its Lightning network is {}, this node's is {}",
                lightning.network, info.network
            )));
        }
        let registration = PeerRegistration {
            run: self.terms.run,
            peer: self.parts.key.id(),
            node_id: info.node_id.clone(),
            address: info.address.clone(),
        };
        let registration = self.parts.key.sign(registration);
        let doing = "open a channel";
        let mut reminded_ms = None;
        loop {
            // First of all, and again now and then: one who brings a channel must be known to the coordinator too.
            let waited_ms = watch.elapsed_ms();
            if reminded_ms.is_none_or(|at| waited_ms.saturating_sub(at) >= REMIND_MS) {
                reminded_ms = Some(waited_ms);
                let answer = self.patiently(doing, || self.parts.api.register(&registration)).await;
                match answer.map_err(|failure| self.failed(doing, failure))?.channel {
                    ChannelOffer::Usable | ChannelOffer::Opening => {}
                    ChannelOffer::BringYourOwn => {
                        tracing::info!("the coordinator opens no channels; looking for our own")
                    }
                }
            }
            if self.can_be_paid(&lightning.node_id).await? {
                let info = self.ask_node(|| self.parts.ln.info()).await?;
                self.emit(&PeerEvent::Registered {
                    run: self.terms.run,
                    peer: self.parts.key.id(),
                    node_id: info.node_id.clone(),
                    network: info.network.clone(),
                    channel_ms: watch.elapsed_ms(),
                    outbound_msat: info.outbound_msat,
                    inbound_msat: info.inbound_msat,
                });
                return Ok(info);
            }
            if waited_ms > self.parts.settings.channel_wait_ms {
                return Err(PeerError::NoChannel { waited_s: waited_ms / 1_000 });
            }
            self.hint(&mut hints).await;
        }
    }

    /// Is there a channel with the coordinator, or any other with room to receive?
    pub(super) async fn can_be_paid(&self, coordinator_node: &str) -> Result<bool, PeerError> {
        let state = self.ask_node(|| self.parts.ln.channel_state(coordinator_node)).await?;
        if state == ChannelState::Usable {
            return Ok(true);
        }
        let info = self.ask_node(|| self.parts.ln.info()).await?;
        Ok(info.usable_channels > 0 && info.inbound_msat > crate::protocol::amount::Msat::ZERO)
    }
}
