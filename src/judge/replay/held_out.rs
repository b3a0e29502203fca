//! The held-out batch of a transcript: the right windows, in the order of the draw, each opened against the root.

use super::difference::{Check, Difference, expect};
use super::{ReplayError, Stop};
use crate::judge::HeldOutBatch;
use crate::model::LlamaConfig;
use crate::protocol::held_out::{draw, open_window};
use crate::protocol::ids::ContributionId;
use crate::protocol::manifest::RunManifest;
use crate::protocol::transcript::Transcript;

pub(super) fn check(
    manifest: &RunManifest,
    transcript: &Transcript,
    config: &LlamaConfig,
) -> Result<HeldOutBatch, Stop> {
    check_draw(manifest, transcript)?;
    let windows = transcript.held_out.iter().enumerate().map(|(place, window)| {
        let path = || format!("held_out[{place}]");
        open_window(&manifest.held_out, window).map_err(|error| Difference::invalid(path(), error))
    });
    let windows = windows.collect::<Check<Vec<_>>>()?;
    HeldOutBatch::new(config, windows).map_err(|error| Stop::Error(ReplayError::Judge(error)))
}

fn check_draw(manifest: &RunManifest, transcript: &Transcript) -> Check<()> {
    let contributions: Vec<ContributionId> =
        transcript.contributions.iter().map(|record| record.commitment.body.contribution_id()).collect();
    let drawn = draw(&manifest.held_out, &transcript.run, transcript.round, &transcript.secret, &contributions);
    if drawn.is_empty() {
        return Err(Difference::invalid("round", "the held-out pool ended before this round"));
    }
    for (place, (window, index)) in transcript.held_out.iter().zip(&drawn).enumerate() {
        expect(&format!("held_out[{place}].index"), window.index, *index)?;
    }
    expect("held_out (number of windows)", transcript.held_out.len(), drawn.len())
}
