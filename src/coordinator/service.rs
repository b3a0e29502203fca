//! The answers to requests.

use std::path::PathBuf;
use std::sync::Arc;

use async_trait::async_trait;

use super::core::{Core, Record};
use super::engine::{Options, Shared};
use super::error::{CoordinatorError, refusal};
use super::handle::{AggregateFile, CoordinatorHandle, Refusal, TicketAnswer};
use super::settings::OpenChannels;
use crate::ln::bolt11::Network;
use crate::ln::{ChannelRequest, ChannelState, NodeInfo};
use crate::offload;
use crate::protocol::api::{ChannelOffer, ContributionView, LightningView, RegistrationView, RoundView, RunView};
use crate::protocol::ids::{Blake3Hash, ContributionId, PeerId, RoundNumber};
use crate::protocol::round::{Event, Illegal};
use crate::protocol::sign::Signed;
use crate::protocol::statements::{Commitment, InvoiceSubmission, PeerRegistration};
use crate::store::StoreError;
use crate::store::blobs::Blobs;
use crate::store::coordinator as tables;

/// Most peers that are remembered.
const MAX_PEERS: u32 = 10_000;
/// Longest `host:port` of a peer.
const MAX_ADDRESS_BYTES: usize = 255;

#[async_trait]
impl CoordinatorHandle for Shared {
    async fn run(&self) -> Result<RunView, Refusal> {
        let Some(training) = self.run.training() else {
            let fix = "Read the bounty itself";
            return Err(refusal(404, "no_training", "this is a bounty, not a training run", fix));
        };
        self.somebody_asks();
        let lightning = self.lightning().await?;
        let most = self.last_rounds();
        let look = move |core: &Core| {
            let last = tables::last_round(core.db.read())?;
            let closed_rounds = tables::count_closed(core.db.read())?;
            // Between two rounds the closed one is still the current one.
            let current_round = last.filter(|_| closed_rounds < most).map(|row| row.state.number);
            Ok((current_round, closed_rounds))
        };
        let (current_round, closed_rounds) = self.read(look).await?;
        Ok(RunView { run: self.run.id, manifest: training.manifest.clone(), lightning, current_round, closed_rounds })
    }

    async fn round(&self, round: Option<RoundNumber>) -> Result<RoundView, Refusal> {
        if round.is_none() && self.run.bounty().is_some() {
            self.somebody_asks();
        }
        Ok(self.read(move |core| core.round_view(round)).await?)
    }

    async fn transcript(&self, round: RoundNumber) -> Result<Vec<u8>, Refusal> {
        let read = move |core: &mut Core| {
            let closed = core.round_row(round)?.is_some_and(|row| row.transcript.is_some());
            if !closed {
                let message = format!("round {round} has no transcript yet");
                return Err(refusal(404, "no_transcript", message, "Ask again once the round has closed").into());
            }
            let path = core.transcript_path(round);
            std::fs::read(&path).map_err(|source| StoreError::Io { action: "read", path, source }.into())
        };
        Ok(self.with(read).await?)
    }

    async fn aggregate(&self, round: RoundNumber) -> Result<AggregateFile, Refusal> {
        let find = move |core: &Core| {
            // The file is written before its round is closed, and counts from then on.
            let next_checkpoint = core.round_row(round)?.and_then(|row| row.next_checkpoint);
            let found = next_checkpoint.and_then(|next_checkpoint| {
                core.aggregates.find(round).map(|path| AggregateFile { path, next_checkpoint })
            });
            let fix = "Download the checkpoint instead";
            let missing =
                || refusal(404, "no_aggregate", format!("there is no aggregate of round {round}, or no more"), fix);
            found.ok_or_else(|| missing().into())
        };
        Ok(self.read(find).await?)
    }

    async fn blob(&self, hash: Blake3Hash) -> Result<PathBuf, Refusal> {
        let find = move |core: &Core| {
            if tables::is_published(core.db.read(), &hash)? && core.blobs.contains(&hash) {
                return Ok(core.blobs.path(&hash));
            }
            let fix = "Payloads can be read once their round has closed";
            Err(refusal(404, "unknown_blob", format!("no blob {hash} is published"), fix).into())
        };
        Ok(self.read(find).await?)
    }

    async fn register(&self, registration: Signed<PeerRegistration>) -> Result<RegistrationView, Refusal> {
        Ok(self.take_registration(registration).await?)
    }

    async fn ticket(
        &self,
        round: RoundNumber,
        commitment: Signed<Commitment>,
        credentials: Option<String>,
    ) -> Result<TicketAnswer, Refusal> {
        Ok(self.sell_ticket(round, commitment, credentials).await?)
    }

    async fn submit_invoices(
        &self,
        contribution: ContributionId,
        submission: Signed<InvoiceSubmission>,
    ) -> Result<ContributionView, Refusal> {
        self.take_invoices(contribution, submission).await?;
        self.contribution(contribution).await
    }

    async fn upload_allowance(&self, contribution: ContributionId) -> Result<u64, Refusal> {
        Ok(self.read(move |core| Ok(core.upload_target(contribution)?.payload_bytes())).await?)
    }

    async fn upload(&self, contribution: ContributionId, payload: Vec<u8>) -> Result<ContributionView, Refusal> {
        let target = self.read(move |core| core.upload_target(contribution)).await?;
        // Hashing and writing take as long as the payload is large: nothing else waits for that.
        let store = move || {
            check_payload(&target.commitment, &payload)?;
            target.blobs.put(&payload)?;
            Ok(target)
        };
        let target = offload::run(store).await.unwrap_or(Err(CoordinatorError::Panicked))?;
        self.with(move |core| core.note_payload(contribution, &target)).await?;
        self.wake();
        self.contribution(contribution).await
    }

    async fn contribution(&self, contribution: ContributionId) -> Result<ContributionView, Refusal> {
        Ok(self.read(move |core| core.contribution_view(contribution)).await?)
    }

    async fn status(&self) -> Result<serde_json::Value, Refusal> {
        let lightning = self.lightning().await?;
        let status = self.with(move |core| core.status(lightning)).await?;
        Ok(serde_json::to_value(status).map_err(|_| CoordinatorError::Panicked)?)
    }
}

impl Options {
    fn opens_channels(&self, network: Network) -> bool {
        match self.channels.open_to_peers {
            OpenChannels::Never => false,
            OpenChannels::OnRegtest => network == Network::Regtest,
            OpenChannels::Always => true,
        }
    }

    /// How a peer reaches the node that `info` is about.
    pub(super) fn lightning(&self, info: NodeInfo, network: Network) -> LightningView {
        LightningView {
            node_id: info.node_id,
            address: info.address,
            network: info.network,
            regtest_rpc: self.regtest_rpc.clone(),
            opens_channels: self.opens_channels(network),
        }
    }
}

impl Shared {
    fn opens_channels(&self) -> bool {
        self.options.opens_channels(self.network)
    }

    pub(super) async fn lightning(&self) -> Result<LightningView, CoordinatorError> {
        Ok(self.options.lightning(self.ln.info().await?, self.network))
    }

    async fn take_registration(
        &self,
        registration: Signed<PeerRegistration>,
    ) -> Result<RegistrationView, CoordinatorError> {
        let PeerRegistration { run, peer, node_id, address } = registration.body.clone();
        if registration.verify(&peer).is_err() {
            let message = format!("the signature on the registration is not by peer {peer}");
            return Err(refusal(400, "bad_signature", message, "Sign the registration with the peer's own key").into());
        }
        if run != self.run.id {
            let message = format!("this coordinator's run is {}, the registration is for {run}", self.run.id);
            return Err(refusal(409, "wrong_run", message, "Read /v1/run again").into());
        }
        let readable = node_id.len() == 66 && node_id.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
        if !readable || node_id.parse::<secp256k1::PublicKey>().is_err() {
            let fix = "Send the node's compressed public key, 66 lower-case hex digits";
            return Err(refusal(422, "bad_node_id", "node_id is not a public key", fix).into());
        }
        if address.as_ref().is_some_and(|address| address.len() > MAX_ADDRESS_BYTES) {
            let message = format!("the address has more than {MAX_ADDRESS_BYTES} bytes");
            return Err(refusal(422, "bad_address", message, "Send host:port").into());
        }
        let (id, place) = (node_id.clone(), address.clone());
        self.with(move |core| core.remember_peer(peer, &id, place.as_deref())).await?;
        let channel = self.offer_channel(peer, node_id, address).await?;
        Ok(RegistrationView { channel })
    }

    async fn offer_channel(
        &self,
        peer: PeerId,
        node_id: String,
        address: Option<String>,
    ) -> Result<ChannelOffer, CoordinatorError> {
        let _gate = self.channel_gate.lock().await;
        match self.ln.channel_state(&node_id).await? {
            ChannelState::Usable => return Ok(ChannelOffer::Usable),
            ChannelState::Pending => return Ok(ChannelOffer::Opening),
            ChannelState::None => {}
        }
        let most = self.options.channels.max_channels;
        let spent = self.with(|core| Ok(tables::count_channel_opens(core.db.read())?)).await?;
        let Some(address) = address.filter(|_| self.opens_channels() && spent < most) else {
            return Ok(ChannelOffer::BringYourOwn);
        };
        // Counted before it is opened: a crash in between costs one of the channels allowed, never a second one unseen.
        self.with(move |core| Ok(core.db.write(|t| tables::mark_channel_opened(t, &peer))?)).await?;
        let (capacity_sat, push) = (self.options.channels.capacity_sat, self.options.channels.push_msat);
        self.ln.open_channel(&ChannelRequest { node_id, address, capacity_sat, push }).await?;
        Ok(ChannelOffer::Opening)
    }
}

/// A contribution that may be uploaded to.
struct UploadTarget {
    round: RoundNumber,
    commitment: Commitment,
    blobs: Arc<Blobs>,
}

impl UploadTarget {
    fn payload_bytes(&self) -> u64 {
        self.commitment.payload_bytes
    }
}

impl Core {
    fn remember_peer(&mut self, peer: PeerId, node_id: &str, address: Option<&str>) -> Result<(), CoordinatorError> {
        let now = self.clock.now();
        let known = tables::peer(self.db.read(), &peer)?;
        if known.as_ref().is_some_and(|known| known.node_id == node_id && known.address.as_deref() == address) {
            return Ok(());
        }
        if known.is_none() && tables::count_peers(self.db.read())? >= MAX_PEERS {
            let message = format!("{MAX_PEERS} peers have registered, no more are taken");
            return Err(refusal(403, "too_many_peers", message, "Ask the coordinator's operator").into());
        }
        self.db.write(|t| {
            Record::PeerRegistered { peer, node_id }.append(t, now)?;
            tables::save_peer(t, &peer, node_id, address)
        })?;
        Ok(())
    }

    fn round_view(&self, round: Option<RoundNumber>) -> Result<RoundView, CoordinatorError> {
        let row = match round {
            Some(round) => self.round_row(round)?,
            None => tables::last_round(self.db.read())?,
        };
        let Some(row) = row else {
            let message =
                round.map_or("no round has opened yet".into(), |round| format!("there is no round {round} yet"));
            return Err(refusal(404, "no_round", message, "Ask for the current round").into());
        };
        Ok(RoundView {
            phase: row.state.phase,
            tickets: row.state.tickets(),
            uploads: row.state.uploads(),
            transcript: row.transcript,
            next_checkpoint: row.next_checkpoint,
            now_ms: self.clock.now(),
            opening: row.opening,
        })
    }

    fn contribution_view(&self, id: ContributionId) -> Result<ContributionView, CoordinatorError> {
        let missing = || refusal(404, "unknown_contribution", format!("no contribution {id}"), "Buy a ticket first");
        let documents = tables::contribution(self.db.read(), &id)?.ok_or_else(missing)?;
        let row = self.round_row(documents.round)?.ok_or(StoreError::Corrupt { what: "round" })?;
        let (_, entry) = row.state.find(&id).ok_or(StoreError::Corrupt { what: "round" })?;
        Ok(ContributionView {
            contribution: id,
            round: documents.round,
            state: entry.api_state(),
            verdict: documents.verdict,
            receipt: documents.receipt,
        })
    }

    /// Says whether a payload would be taken now. One that is here already would be, if it is the same.
    fn upload_target(&self, id: ContributionId) -> Result<UploadTarget, CoordinatorError> {
        let missing = || refusal(404, "unknown_contribution", format!("no contribution {id}"), "Buy a ticket first");
        let documents = tables::contribution(self.db.read(), &id)?.ok_or_else(missing)?;
        let (round, commitment) = (documents.round, documents.commitment.body);
        let event = Event::Uploaded { contribution: id, payload_bytes: commitment.payload_bytes };
        match self.preview(round, &event) {
            Ok(()) | Err(CoordinatorError::Illegal(Illegal::AlreadyUploaded(_))) => {
                Ok(UploadTarget { round, commitment, blobs: Arc::clone(&self.blobs) })
            }
            Err(error) => Err(error),
        }
    }

    fn note_payload(&mut self, id: ContributionId, target: &UploadTarget) -> Result<(), CoordinatorError> {
        let event = Event::Uploaded { contribution: id, payload_bytes: target.payload_bytes() };
        match self.apply_event(target.round, &event) {
            // The same bytes: their hash was checked.
            Err(CoordinatorError::Illegal(Illegal::AlreadyUploaded(_))) => Ok(()),
            answer => answer,
        }
    }
}

/// Refuses any bytes but the committed ones.
fn check_payload(commitment: &Commitment, payload: &[u8]) -> Result<(), CoordinatorError> {
    let hash = Blake3Hash::of(payload);
    if hash == commitment.payload && payload.len() as u64 == commitment.payload_bytes {
        return Ok(());
    }
    let message = format!(
        "the payload is {hash} with {} bytes, the commitment says {} with {}",
        payload.len(),
        commitment.payload,
        commitment.payload_bytes
    );
    Err(refusal(422, "payload_mismatch", message, "Send the very bytes that the commitment names").into())
}
