//! A checkpoint without its download: made from an earlier one that is still here, by the small aggregates of the rounds
//! between. Nothing of them is believed: what each makes has the hash that the coordinator signed, or isn't used.

use std::path::{Path, PathBuf};

use super::api::{ApiFailure, WantedAggregate};
use super::error::PeerError;
use super::events::PeerEvent;
use super::folder;
use super::session::Session;
use crate::judge::{CatchUp, Pool};
use crate::model::{Checkpoint, LlamaConfig};
use crate::offload;
use crate::protocol::ids::{Blake3Hash, RoundNumber};
use crate::protocol::manifest::RunManifest;
use crate::protocol::statements::RoundOpening;

/// More missed rounds are not made up for one by one.
const MAX_ROUNDS: u32 = 64;

/// The way from an earlier checkpoint that is here.
struct Way {
    /// The round that starts from it.
    from: RoundNumber,
    checkpoint: Blake3Hash,
    path: PathBuf,
    bytes: u64,
    /// The rounds that changed it since, with what each of them signed: where the next one starts.
    steps: Vec<(RoundNumber, Blake3Hash)>,
}

/// Why a way was not gone.
enum Obstacle {
    /// The checkpoint is downloaded instead.
    Detour(String),
    /// The download would fail too.
    End(PeerError),
}

impl From<PeerError> for Obstacle {
    fn from(error: PeerError) -> Self {
        match error {
            PeerError::Unreachable { .. } => Obstacle::End(error),
            other => Obstacle::Detour(other.to_string()),
        }
    }
}

impl Session {
    /// Makes the round's checkpoint out of an earlier one, if one is here and its way to this one is shorter than the download.
    /// Whatever else goes wrong is told, and the checkpoint is left to be downloaded.
    pub(super) async fn catch_up(&self, opening: &RoundOpening, model_config: &Path) -> Result<(), PeerError> {
        let round = opening.round;
        match self.make_checkpoint(opening, model_config).await {
            Ok(Some(event)) => self.emit(&event),
            Ok(None) => {}
            Err(Obstacle::Detour(reason)) => {
                tracing::warn!(%round, reason, "could not make the checkpoint out of an earlier one");
                self.emit(&PeerEvent::NotCaughtUp { round, reason });
            }
            Err(Obstacle::End(error)) => return Err(error),
        }
        Ok(())
    }

    /// `None` if there is nothing to do, or nothing to do it with.
    async fn make_checkpoint(
        &self,
        opening: &RoundOpening,
        model_config: &Path,
    ) -> Result<Option<PeerEvent>, Obstacle> {
        let path = self.parts.folder.blob(&opening.checkpoint);
        if path.exists() {
            return Ok(None);
        }
        let Some(way) = self.way_to(opening).await? else { return Ok(None) };
        let (aggregates, aggregate_bytes) = self.aggregates(&way).await?;
        let event = PeerEvent::CaughtUp {
            round: opening.round,
            from_round: way.from,
            aggregates: aggregates.len(),
            aggregate_bytes,
            checkpoint_bytes: way.bytes,
        };
        let (manifest, model_config) = (self.terms.training()?.clone(), model_config.to_owned());
        let work = move || go(&way, &aggregates, &manifest, &model_config, &path);
        match offload::run(work).await {
            Ok(Ok(())) => Ok(Some(event)),
            Ok(Err(reason)) => Err(Obstacle::Detour(reason)),
            Err(error) => Err(Obstacle::Detour(error.to_string())),
        }
    }

    /// From the newest earlier checkpoint that is here.
    async fn way_to(&self, opening: &RoundOpening) -> Result<Option<Way>, Obstacle> {
        let manifest = self.terms.training()?;
        let shards = manifest.training_data.shards.iter().map(|shard| shard.hash);
        let known: Vec<Blake3Hash> = shards.chain([manifest.model_config]).collect();
        if !self.parts.folder.has_other_blobs(&known)? {
            return Ok(None);
        }
        let (mut steps, mut next) = (Vec::new(), opening.checkpoint);
        for number in (opening.round.0.saturating_sub(MAX_ROUNDS)..opening.round.0).rev().map(RoundNumber) {
            let checkpoint = self.round(number).await?.opening.body.checkpoint;
            if checkpoint != next {
                steps.push((number, next));
            }
            let path = self.parts.folder.blob(&checkpoint);
            if let Ok(file) = std::fs::metadata(&path) {
                steps.reverse();
                return Ok(Some(Way { from: number, checkpoint, path, bytes: file.len(), steps }));
            }
            next = checkpoint;
        }
        Ok(None)
    }

    /// The aggregates of the steps, each downloaded once, and their bytes: together fewer than a checkpoint's.
    async fn aggregates(&self, way: &Way) -> Result<(Vec<PathBuf>, u64), Obstacle> {
        let doing = "download an aggregate";
        let (mut paths, mut sum) = (Vec::with_capacity(way.steps.len()), 0);
        for (round, next_checkpoint) in &way.steps {
            let path = self.parts.folder.aggregate(next_checkpoint);
            let wanted = WantedAggregate {
                round: *round,
                next_checkpoint: *next_checkpoint,
                max_bytes: way.bytes.saturating_sub(sum),
            };
            if !path.exists() {
                let events = self.parts.events.clone();
                let progress =
                    move |bytes, total_bytes| events.emit(&PeerEvent::Download { doing, bytes, total_bytes });
                let done = self.patiently(doing, || self.parts.api.aggregate(&wanted, &path, &progress)).await;
                done.map_err(|failure| match failure {
                    ApiFailure::Unreachable(_) => Obstacle::End(self.failed(doing, failure)),
                    ApiFailure::Refused { .. } | ApiFailure::Garbled(_) | ApiFailure::Disk { .. } => {
                        Obstacle::Detour(format!("the aggregate of round {round}: {failure}"))
                    }
                })?;
            }
            let bytes = std::fs::metadata(&path).map_err(|error| PeerError::io("read", &path, error))?.len();
            if bytes > wanted.max_bytes {
                return Err(Obstacle::Detour(format!(
                    "the aggregates from round {} on are longer than a checkpoint",
                    way.from
                )));
            }
            sum += bytes;
            paths.push(path);
        }
        Ok((paths, sum))
    }
}

/// Goes the way, and writes the checkpoint that it leads to. An aggregate that is not what it should be is removed.
fn go(way: &Way, aggregates: &[PathBuf], manifest: &RunManifest, model_config: &Path, to: &Path) -> Result<(), String> {
    let read = |path: &Path| std::fs::read(path).map_err(|error| PeerError::io("read", path, error).to_string());
    let config = LlamaConfig::from_json(&read(model_config)?).map_err(|error| error.to_string())?;
    let start = Checkpoint::from_safetensors(config, &read(&way.path)?).map_err(|error| error.to_string())?;
    let mut reached = CatchUp::from(start);
    if reached.reached() != way.checkpoint {
        return Err(format!("the checkpoint of round {} in {} is damaged", way.from, way.path.display()));
    }
    let pool = Pool::all_cores();
    for ((round, next), path) in way.steps.iter().zip(aggregates) {
        reached = match reached.step(&pool, manifest, *next, &read(path)?) {
            Ok(reached) => reached,
            Err(error) => {
                folder::remove_if_there(path).map_err(|error| error.to_string())?;
                return Err(format!("the aggregate of round {round}: {error}"));
            }
        };
    }
    folder::write_durably(to, &reached.into_checkpoint().to_safetensors()).map_err(|error| error.to_string())
}
