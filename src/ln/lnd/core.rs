//! What the node's calls and the tasks that listen to LND share.

use std::sync::Arc;

use tokio::sync::{Mutex, broadcast};

use super::client::Client;
use super::payments::Unsure;
use super::records::Records;
use super::start::Checked;
use super::watch::Watch;
use crate::clock::{Clock, SystemClock};
use crate::ln::LnEvent;
use crate::ln::bolt11::Network;
use crate::protocol::ids::UnixMs;

/// Events that a slow listener may fall behind by.
const EVENT_BUFFER: usize = 1_024;

/// One LND, as far as we know it.
pub(super) struct Core {
    pub(super) client: Client,
    pub(super) records: Records,
    pub(super) node_id: String,
    pub(super) network: Network,
    pub(super) version: String,
    pub(super) advertise: Option<String>,
    pub(super) events: broadcast::Sender<LnEvent>,
    pub(super) watch: Watch,
    pub(super) unsure: Unsure,
    /// Held while it is decided whether an open invoice is withdrawn or its preimage kept.
    pub(super) ending: Mutex<()>,
    /// Held while a channel is opened: one at a time.
    pub(super) opening: Mutex<()>,
}

impl Core {
    pub(super) fn new(client: Client, checked: Checked, records: Records, advertise: Option<String>) -> Arc<Self> {
        let Checked { node_id, network, version, .. } = checked;
        Arc::new(Self {
            client,
            records,
            node_id,
            network,
            version,
            advertise,
            events: broadcast::channel(EVENT_BUFFER).0,
            watch: Watch::default(),
            unsure: Unsure::default(),
            ending: Mutex::default(),
            opening: Mutex::default(),
        })
    }

    pub(super) fn now(&self) -> UnixMs {
        SystemClock.now()
    }

    pub(super) fn tell(&self, event: LnEvent) {
        // Nobody may be listening.
        self.events.send(event).ok();
    }
}
