//! The coordinator's state, on disk and in memory, and the one way to change it.
//!
//! Synchronous: callers go through [`super::engine::Shared::with`], off the async threads.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::Serialize;
use tokio::sync::broadcast;

use super::bounty::BountyState;
use super::challenges::{InvoiceWatch, Promised};
use super::error::CoordinatorError;
use super::news::RunEvent;
use super::run::{DataFolder, Run};
use crate::clock::Clock;
use crate::protocol::api::Phase;
use crate::protocol::held_out;
use crate::protocol::ids::{Blake3Hash, ContributionId, PaymentHash, PeerId, RoundNumber, UnixMs};
use crate::protocol::round::{self, Effect, Event, Round};
use crate::protocol::sign::{Signed, Statement as _};
use crate::protocol::statements::RoundOpening;
use crate::store::aggregates::Aggregates;
use crate::store::blobs::Blobs;
use crate::store::coordinator as tables;
use crate::store::database::{Connection, Database, Transaction};
use crate::store::{StoreError, events, ledger};

/// What the event log holds.
#[derive(Debug, Serialize)]
#[serde(rename_all = "snake_case", tag = "record")]
pub(super) enum Record<'a> {
    RunStarted {
        run: &'a str,
    },
    RoundOpened {
        opening: &'a RoundOpening,
    },
    Round {
        round: RoundNumber,
        #[serde(flatten)]
        event: &'a Event,
    },
    FeeReceived {
        round: RoundNumber,
        contribution: ContributionId,
        payment_hash: PaymentHash,
    },
    PackageSold {
        payment_hash: PaymentHash,
    },
    PeerRegistered {
        peer: PeerId,
        node_id: &'a str,
    },
    /// A bounty's own news.
    Bounty {
        news: &'a str,
    },
}

impl Record<'_> {
    pub(super) fn append(&self, db: &Connection, now: UnixMs) -> Result<events::EventSequence, StoreError> {
        let body = serde_json::to_string(self).map_err(|_| StoreError::Corrupt { what: "event that is not JSON" })?;
        events::append(db, now, &body)
    }
}

/// Events kept for a listener that is slow.
const EVENT_BACKLOG: usize = 256;

/// The coordinator's state.
#[derive(Debug)]
pub(super) struct Core {
    pub(super) db: Database,
    pub(super) blobs: Arc<Blobs>,
    /// What nobody may read yet.
    pub(super) private: Blobs,
    pub(super) run: Arc<Run>,
    pub(super) clock: Arc<dyn Clock>,
    /// The height of the chain, when it was last looked at; `None` if the node didn't say.
    pub(super) height: Option<u32>,
    /// When that was, by the clock's uptime.
    pub(super) height_read_ms: u64,
    /// Tranches of which the node has taken charge of the present attempt, as far as this process knows.
    pub(super) taken: BTreeSet<PaymentHash>,
    /// Every round that is open or has money locked.
    pub(super) rounds: BTreeMap<RoundNumber, Round>,
    /// The open round and the digest of its opening.
    pub(super) opening: Option<(RoundNumber, Blake3Hash)>,
    /// The seats that are spoken for; `None` once something but a new challenge has changed them.
    pub(super) promised: Option<Promised>,
    /// Which open challenges the node is asked about next.
    pub(super) fees: InvoiceWatch,
    /// The same for a bounty's package.
    pub(super) sales: InvoiceWatch,
    /// Where what has been stored is told. Here, so that nothing stored goes untold when an engine's step is dropped.
    pub(super) events: broadcast::Sender<RunEvent>,
    pub(super) aggregates: Aggregates,
    /// Where a bounty stands; `None` in a training run.
    pub(super) bounty: Option<BountyState>,
    folder: PathBuf,
}

impl Core {
    pub(super) fn new(
        data: DataFolder,
        run: Arc<Run>,
        clock: Arc<dyn Clock>,
        folder: &Path,
    ) -> Result<Self, CoordinatorError> {
        let DataFolder { db, blobs, private } = data;
        let rows = tables::unended_rounds(db.read())?;
        let open = rows.iter().rev().find(|row| row.state.phase != Phase::Closed);
        let opening = open.map(|row| (row.state.number, row.opening.body.digest()));
        let rounds = rows.into_iter().map(|row| (row.state.number, row.state)).collect();
        let transcripts = folder.join("transcripts");
        std::fs::create_dir_all(&transcripts).map_err(|source| StoreError::Io {
            action: "make the folder",
            path: transcripts,
            source,
        })?;
        let aggregates = Aggregates::open(folder.join("aggregates"))?;
        let events = broadcast::channel(EVENT_BACKLOG).0;
        let bounty = run.bounty().map(|task| BountyState::load(db.read(), task)).transpose()?;
        Ok(Self {
            db,
            blobs: Arc::new(blobs),
            private,
            run,
            clock,
            height: None,
            height_read_ms: 0,
            taken: BTreeSet::new(),
            rounds,
            opening,
            promised: None,
            fees: InvoiceWatch::default(),
            sales: InvoiceWatch::default(),
            events,
            aggregates,
            bounty,
            folder: folder.to_owned(),
        })
    }

    /// Tells whoever listens; nobody need.
    pub(super) fn tell(&self, event: RunEvent) {
        let _ = self.events.send(event);
    }

    /// The data folder.
    pub(super) fn folder(&self) -> &Path {
        &self.folder
    }

    /// Where a round's transcript is kept.
    pub(super) fn transcript_path(&self, round: RoundNumber) -> PathBuf {
        self.folder.join("transcripts").join(format!("{round}.json"))
    }

    /// The round that isn't closed, if there is one.
    pub(super) fn open_round(&self) -> Option<&Round> {
        self.rounds.values().rev().find(|round| round.phase != Phase::Closed)
    }

    /// A round, whether it has ended or not.
    pub(super) fn round_row(&self, number: RoundNumber) -> Result<Option<tables::RoundRow>, StoreError> {
        tables::round(self.db.read(), number)
    }

    /// Would this event be legal now?
    pub(super) fn preview(&self, number: RoundNumber, event: &Event) -> Result<(), CoordinatorError> {
        let round = self.live(number, event)?;
        round::transition(round, event, self.clock.now(), &self.run.rules)?;
        Ok(())
    }

    fn live(&self, number: RoundNumber, event: &Event) -> Result<&Round, CoordinatorError> {
        // A round that has ended is no longer in memory. What may still be asked of it is answered as it would have been.
        self.rounds.get(&number).ok_or_else(|| {
            tracing::debug!(%number, ?event, "an event for a round that has ended");
            CoordinatorError::Illegal(round::Illegal::UploadLate { round: number, deadline: UnixMs(0) })
        })
    }

    /// Stores an event with all that follows from it, in one transaction. `documents` adds what else belongs to it.
    pub(super) fn apply(
        &mut self,
        number: RoundNumber,
        event: &Event,
        documents: impl FnOnce(&Transaction<'_>, &Round) -> Result<(), StoreError>,
    ) -> Result<(), CoordinatorError> {
        let now = self.clock.now();
        let state = self.live(number, event)?;
        let (next, effects) = round::transition(state, event, now, &self.run.rules)?;
        if next == *state && effects.is_empty() {
            return Ok(());
        }
        self.db.write(|t| {
            let sequence = Record::Round { round: number, event }.append(t, now)?;
            tables::save_state(t, &next)?;
            documents(t, &next)?;
            for effect in &effects {
                match effect {
                    Effect::Pay { contribution, tranche } => tables::outbox_add(t, contribution, *tranche)?,
                    Effect::Dequeue { contribution, tranche } => tables::outbox_remove(t, contribution, *tranche)?,
                    Effect::Post { from, to, amount } => ledger::post(t, sequence, number, (*from, *to), *amount)?,
                    // The phase says so.
                    Effect::Judge => {}
                }
            }
            Ok::<_, StoreError>(())
        })?;
        tracing::info!(round = number.0, ?event, "stored");
        if next.has_ended() {
            self.rounds.remove(&number);
        } else {
            self.rounds.insert(number, next);
        }
        Ok(())
    }

    /// An event that needs no further documents.
    pub(super) fn apply_event(&mut self, number: RoundNumber, event: &Event) -> Result<(), CoordinatorError> {
        self.apply(number, event, |_, _| Ok(()))
    }

    /// Opens a round. Its secret is on disk before its commitment can be seen.
    pub(super) fn open(
        &mut self,
        number: RoundNumber,
        previous_transcript: Option<Blake3Hash>,
        checkpoint: Blake3Hash,
    ) -> Result<Signed<RoundOpening>, CoordinatorError> {
        let now = self.clock.now();
        let timing = &self.run.timing;
        let (commit, upload) = (now.plus_ms(timing.commit_ms), now.plus_ms(timing.upload_ms));
        // A bounty's deadline is that of its last round.
        let commit = self.bounty.as_ref().map_or(commit, |bounty| commit.min(bounty.deadline_ms()));
        let secret = self.run.secret.of_round(number, now);
        let opening = self.run.key.sign(RoundOpening {
            run: self.run.id,
            round: number,
            previous_transcript,
            checkpoint,
            secret_commitment: held_out::secret_commitment(&secret),
            opened_ms: now,
            commit_deadline_ms: commit,
            upload_deadline_ms: upload,
        });
        let state = Round::open(number, now, commit, upload);
        self.db.write(|t| {
            Record::RoundOpened { opening: &opening.body }.append(t, now)?;
            tables::insert_round(t, &opening, &secret, &state)
        })?;
        self.rounds.insert(number, state);
        self.opening = Some((number, opening.body.digest()));
        Ok(opening)
    }
}
