//! `l402t export`: a run's model as a Hugging Face folder.

use std::path::Path;

use serde::Serialize;

use super::run_source::Source;
use super::{Answer, Context, Failure};
use crate::cli::{ExportArgs, ExportDtype};
use crate::model::{Checkpoint, Dtype, Export, LlamaConfig};
use crate::protocol::ids::{Blake3Hash, RoundNumber, RunId};
use crate::protocol::manifest::RunManifest;
use crate::protocol::sign::Signed;
use crate::protocol::transcript::Transcript;

/// As transformers cuts its files.
const SHARD_BYTES: u64 = 5_000_000_000;

/// What `--json` prints.
#[derive(Debug, Serialize)]
struct Report<'a> {
    run: RunId,
    /// How many rounds went into it.
    rounds: u32,
    checkpoint: Blake3Hash,
    folder: &'a Path,
    dtype: &'static str,
    bytes: u64,
}

/// Runs the command.
pub async fn run(args: ExportArgs, context: Context) -> Result<Answer, Failure> {
    let source = Source::new(args.from.as_deref(), &context, "export")?;
    let signed = Signed::<RunManifest>::from_bytes(&source.manifest().await?).map_err(|error| untrue(&error))?;
    let manifest = signed.verify(&signed.body.coordinator).map_err(|error| untrue(&error))?.clone();
    let rounds = match args.rounds {
        Some(rounds) => rounds,
        None => source.closed_rounds().await?,
    };
    let hash = match rounds.checked_sub(1).map(RoundNumber) {
        None => manifest.initial_checkpoint,
        Some(last) => {
            let transcript = source.transcript(last).await?;
            let signed = Signed::<Transcript>::from_bytes(&transcript).map_err(|error| untrue(&error))?;
            let transcript = signed.verify(&manifest.coordinator).map_err(|error| untrue(&error))?;
            if (transcript.run, transcript.round) != (manifest.run_id(), last) {
                return Err(untrue(&format_args!("the transcript is of another round than {last} of this run")));
            }
            transcript.next_checkpoint
        }
    };
    let config_json = blob(&source, &manifest.model_config).await?;
    let weights = blob(&source, &hash).await?;
    let run = manifest.run_id();
    context.clone().blocking(move || write(&args, &context, (run, rounds, hash), &config_json, &weights)).await
}

fn write(
    args: &ExportArgs,
    context: &Context,
    (run, rounds, checkpoint): (RunId, u32, Blake3Hash),
    config_json: &[u8],
    weights: &[u8],
) -> Result<Answer, Failure> {
    let config = LlamaConfig::from_json(config_json).map_err(|error| untrue(&error))?;
    let model = Checkpoint::from_safetensors(config, weights).map_err(|error| untrue(&error))?;
    let dtype = match args.dtype {
        ExportDtype::F32 => Dtype::F32,
        ExportDtype::Bf16 => Dtype::Bf16,
        ExportDtype::F16 => Dtype::F16,
    };
    let companions = args.like.as_deref();
    let export = Export { checkpoint: &model, config_json, dtype, most_shard_bytes: SHARD_BYTES, companions };
    let bytes = export.write(&args.folder).map_err(|error| {
        Failure::usage("export", error, "Mend what the message names, then export again: nothing is left half done")
    })?;
    let (folder, dtype) = (args.folder.as_path(), dtype.name());
    context.ui.line(format!("{} has the model after {rounds} rounds, as {dtype}", folder.display()));
    Ok(Answer::yes(Report { run, rounds, checkpoint, folder, dtype, bytes }))
}

async fn blob(source: &Source, hash: &Blake3Hash) -> Result<Vec<u8>, Failure> {
    let failed = |error: String| Failure::remote("blob", error, "Ask the coordinator's operator for it");
    let bytes = source.blob(hash).await.map_err(failed)?;
    if Blake3Hash::of(&bytes) == *hash { Ok(bytes) } else { Err(untrue(&format_args!("the blob is not {hash}"))) }
}

fn untrue(error: &dyn std::fmt::Display) -> Failure {
    Failure::remote("run", error, "What this coordinator or folder holds is damaged: tell its operator")
}
