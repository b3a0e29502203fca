//! Guards what a peer's node holds while there is no session to do it: before the coordinator has answered, and after the
//! peer has given up.
//!
//! The node is started for it alone, and stopped before a session starts it with what the run says.

use std::future::Future;
use std::sync::Arc;

use super::node::Node;
use super::{Context, Failure};
use crate::clock::{Clock, Timer};
use crate::ln::Lightning;
use crate::peer::api::CoordinatorApi;
use crate::peer::error::PeerError;
use crate::peer::events::EventSink;
use crate::peer::folder::DataFolder;
use crate::peer::guard::Guardian;
use crate::peer::identity;
use crate::peer::journal::Journal;
use crate::peer::session::PeerParts;
use crate::peer::settings::PeerSettings;

/// How long to wait before a node that could not be started is tried again.
const NODE_AGAIN_MS: u64 = 30_000;

/// What is needed to guard.
pub(super) struct Watch<'a> {
    pub(super) context: &'a Context,
    pub(super) folder: &'a DataFolder,
    pub(super) journal: Arc<Journal>,
    pub(super) api: Arc<dyn CoordinatorApi>,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) events: EventSink,
}

impl Watch<'_> {
    /// What a peer is made of that works with this node.
    pub(super) fn parts(&self, ln: Arc<dyn Lightning>, settings: PeerSettings) -> Result<PeerParts, PeerError> {
        Ok(PeerParts {
            folder: self.folder.clone(),
            key: identity::load_or_create(self.folder.root())?,
            api: Arc::clone(&self.api),
            ln,
            clock: Arc::clone(&self.clock),
            settings,
            events: self.events.clone(),
        })
    }

    /// Has the run, or the bounty, found; `find` is told how long it may take. Meanwhile what is held is guarded, and for as
    /// long as something is, the search goes on. `None` when the owner says stop.
    pub(super) async fn find<T, Fut>(
        &self,
        find: impl Fn(u64) -> Fut,
        give_up_after_ms: u64,
    ) -> Result<Option<T>, Failure>
    where
        Fut: Future<Output = Result<T, PeerError>>,
    {
        let started = Timer::start(&self.clock);
        loop {
            let mut node = self.node_if_needed().await?;
            let guardian = node.as_ref().map(|node| self.guardian(node.ln.clone()));
            let needed = self.journal.may_be_held().map_err(PeerError::from)?;
            let left_ms = give_up_after_ms.saturating_sub(started.elapsed_ms());
            let search = async {
                loop {
                    match &guardian {
                        None if needed => return find(left_ms.min(NODE_AGAIN_MS)).await,
                        None => return find(left_ms).await,
                        Some(guardian) => match find(give_up_after_ms).await {
                            Err(PeerError::Unreachable { .. }) if still_holds(guardian).await => {}
                            found => return found,
                        },
                    }
                }
            };
            let found = tokio::select! {
                found = search => Ok(Some(found)),
                () = self.context.stop.requested() => Ok(None),
                broken = broken(&mut node) => Err(broken),
                never = guard(&guardian) => match never {},
            };
            drop(guardian);
            let guarded = node.is_some();
            if let Some(node) = node {
                node.stop().await;
            }
            match found? {
                None => return Ok(None),
                Some(Ok(run)) => return Ok(Some(run)),
                Some(Err(PeerError::Unreachable { .. }))
                    if needed && !guarded && started.elapsed_ms() < give_up_after_ms => {}
                Some(Err(error)) => return Err(error.into()),
            }
        }
    }

    /// Guards until nothing is held, the node breaks or the owner says stop. Nothing that goes wrong here matters more than
    /// why the peer gave up.
    pub(super) async fn until_nothing_is_held(&self) {
        let mut node = match self.node_if_needed().await {
            Ok(Some(node)) => node,
            Ok(None) => return,
            Err(error) => {
                tracing::warn!(error = error.message, "what is held is not looked after until the next start");
                return;
            }
        };
        let guardian = self.guardian(node.ln.clone());
        tokio::select! {
            () = guardian.until_nothing_is_held() => {}
            () = self.context.stop.requested() => {}
            broken = node.broken() => tracing::warn!(error = broken.message, "the node can't go on"),
        }
        drop(guardian);
        node.stop().await;
    }

    fn guardian(&self, ln: Arc<dyn Lightning>) -> Guardian {
        let (journal, api) = (Arc::clone(&self.journal), Arc::clone(&self.api));
        Guardian::new(journal, ln, api, Arc::clone(&self.clock), self.events.clone())
    }

    /// The node, if it may hold something for the journal and can be started.
    async fn node_if_needed(&self) -> Result<Option<Node>, Failure> {
        if !self.journal.may_be_held().map_err(PeerError::from)? {
            return Ok(None);
        }
        match Node::of_peer_alone(self.context, self.folder.root(), &self.folder.lightning()).await {
            Ok(node) => Ok(Some(node)),
            Err(error) => {
                tracing::warn!(
                    error = error.message,
                    fix = error.fix,
                    "the node can't be started to look after what it holds"
                );
                Ok(None)
            }
        }
    }
}

async fn broken(node: &mut Option<Node>) -> Failure {
    match node {
        Some(node) => node.broken().await,
        None => std::future::pending().await,
    }
}

async fn guard(guardian: &Option<Guardian>) -> std::convert::Infallible {
    match guardian {
        Some(guardian) => guardian.guard().await,
        None => std::future::pending().await,
    }
}

/// A node that doesn't say is not left alone.
async fn still_holds(guardian: &Guardian) -> bool {
    guardian.holding().await.map_or(true, |holding| !holding.is_none())
}
