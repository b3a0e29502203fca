//! At a coordinator: its client, and the node, journal and guardian of whoever works at one of its bounties.

use std::sync::Arc;

use super::super::node::Node;
use super::super::peer::{client as peers_client, settings as peers_settings};
use super::super::peer_guard::Watch;
use super::super::peer_view::PeerView;
use super::super::{Context, Failure, interrupted};
use super::buy::look_up;
use super::claimed::Note;
use super::joined;
use crate::clock::SystemClock;
use crate::http::client::{ClientError, CoordinatorClient};
use crate::peer::api::BountyApi;
use crate::peer::error::PeerError;
use crate::peer::events::EventSink;
use crate::peer::folder::DataFolder;
use crate::peer::journal::Journal;
use crate::peer::remote::{RemoteBounty, WithOthers};
use crate::peer::session::{PeerParts, patiently};
use crate::peer::settings::PeerSettings;
use crate::peer::submit::Submitter;
use crate::peer::{Limits, check_bounty};
use crate::protocol::amount::Msat;
use crate::protocol::api::{BountyView, LightningView};
use crate::protocol::ids::BountyId;

/// The data folder is the peer's: one wallet, one journal, one identity.
pub(in crate::cmd) const DATA: &str = "peer";

/// A coordinator, named by a flag or by the configuration.
pub(super) fn client(context: &Context, url: Option<&str>) -> Result<CoordinatorClient, Failure> {
    peers_client(&context.config.peer, url)
}

/// What a failed call means.
pub(super) fn refused(doing: &'static str) -> impl Fn(ClientError) -> Failure {
    move |error| PeerError::api(doing, 0, error.into()).into()
}

/// A bounty as it is now, with its statements checked.
pub(super) async fn look(client: &CoordinatorClient, bounty: BountyId) -> Result<BountyView, Failure> {
    let view = client.bounty(bounty).await.map_err(refused("read the bounty"))?;
    check_bounty(&view)?;
    Ok(view)
}

/// A whole number of satoshis.
pub(in crate::cmd) fn sat(key: &str, sat: u64) -> Result<Msat, Failure> {
    let msat = sat.checked_mul(1_000).map(Msat::new).filter(|msat| *msat <= Msat::MAX_MONEY);
    msat.ok_or_else(|| Failure::usage("amount", format!("{key} = {sat} sat will never exist"), "Allow less"))
}

/// What the owner allows agents, in the place of a peer's limits.
fn settings(context: &Context) -> Result<PeerSettings, Failure> {
    let config = &context.config.bounty;
    let limits = Limits {
        max_fee: sat("[bounty] max_fee_sat", config.max_fee_sat)?,
        min_reward: sat("[bounty] min_reward_sat", config.min_reward_sat)?,
        max_hold_blocks: config.max_hold_blocks,
    };
    let max_daily_fees = Some(sat("[bounty] max_daily_fees_sat", config.max_daily_fees_sat)?);
    Ok(PeerSettings { limits, max_daily_fees, ..peers_settings(&context.config.peer) })
}

/// What work at a bounty is done with.
#[derive(Debug)]
pub(super) struct Bench {
    pub(super) parts: PeerParts,
    pub(super) board: Arc<dyn BountyApi>,
}

impl Bench {
    /// Whoever submits to a bounty, which must still be the one that was claimed.
    pub(super) async fn submitter(self, claimed: &Note) -> Result<Submitter, PeerError> {
        let Self { parts, board } = self;
        let view = board.bounty().await.map_err(|failure| PeerError::api("read the bounty", 0, failure))?;
        let run = claimed.manifest.body.run_id();
        if view.run != run {
            let message = format!("the bounty was claimed as run {run}, and now it is {}", view.run);
            return Err(PeerError::Untrusted(message));
        }
        Submitter::open(parts, board, &view)
    }
}

/// Where work at a bounty is done.
#[derive(Debug)]
pub(super) struct Workplace<'a> {
    pub(super) context: &'a Context,
    pub(super) client: &'a CoordinatorClient,
    pub(super) bounty: BountyId,
    pub(super) folder: DataFolder,
}

impl Workplace<'_> {
    /// Starts the node, does the work and stops the node. Until nothing is held any more, what is held is guarded: also before
    /// the coordinator answers, and after the work has failed.
    ///
    /// `find` says where the coordinator's node is.
    pub(super) async fn work<T, F, W>(&self, work: impl FnOnce(Bench) -> W, find: F) -> Result<T, Failure>
    where
        F: AsyncFn(&CoordinatorClient) -> Result<LightningView, ClientError>,
        W: Future<Output = Result<T, PeerError>>,
    {
        let Self { context, client, bounty, folder } = self;
        let remote = RemoteBounty::new(client, *bounty);
        let view = PeerView::new(context.ui.clone());
        let journal = Arc::new(Journal::open(&folder.journal()).map_err(PeerError::from)?);
        let others = joined::under_way(context, folder.root(), &journal)?;
        let watch = Watch {
            context,
            folder,
            journal,
            api: Arc::new(WithOthers::new(remote.run_api().clone(), others)),
            clock: Arc::new(SystemClock),
            events: EventSink::new(move |event| view.show(event)),
        };
        let settings = settings(context)?;
        let doing = "read the bounty";
        let found = watch.find(
            async |patience_ms| {
                let ask = || async { Ok(find(client).await?) };
                let found = patiently(&watch.clock, &watch.events, patience_ms, doing, ask).await;
                found.map_err(|failure| PeerError::api(doing, patience_ms / 1_000, failure))
            },
            settings.give_up_after_ms,
        );
        let Some(lightning) = found.await? else { return Err(interrupted()) };
        let ended = self.with_node(&watch, settings, lightning, Arc::new(remote), work).await;
        if !context.stop.is_requested() {
            watch.until_nothing_is_held().await;
        }
        ended
    }

    async fn with_node<T, W>(
        &self,
        watch: &Watch<'_>,
        settings: PeerSettings,
        lightning: LightningView,
        board: Arc<dyn BountyApi>,
        work: impl FnOnce(Bench) -> W,
    ) -> Result<T, Failure>
    where
        W: Future<Output = Result<T, PeerError>>,
    {
        let mut node = Node::of_peer(self.context, &lightning, &self.folder.lightning()).await?;
        let ended = match watch.parts(node.ln.clone(), settings) {
            Ok(parts) => tokio::select! {
                ended = async {
                    look_up(&parts).await?;
                    work(Bench { parts, board }).await
                } => ended.map_err(Failure::from),
                broken = node.broken() => Err(broken),
                () = self.context.stop.requested() => Err(interrupted()),
            },
            Err(error) => Err(error.into()),
        };
        // Whatever happened, the node's state is flushed.
        node.stop().await;
        ended
    }
}
