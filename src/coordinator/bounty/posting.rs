//! A posting taken on: checked against everything that can be known without running it, and kept.

use std::path::Path;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::super::core::Record;
use super::super::error::{CoordinatorError, refusal};
use super::super::run::{DataFolder, META_MANIFEST, META_SECRET, Run, RunTask, secret_bytes, write_manifest};
use super::super::secrets::RunSecret;
use super::state::Escrow;
use crate::bounty::data::Exam;
use crate::bounty::judge::Evaluate;
use crate::bounty::lint::rules;
use crate::bounty::load::Bounty;
use crate::bounty::manifest::{BoxLimits, DemoOnly, Manifest};
use crate::bounty::package::{self, OpenError};
use crate::ln::MAX_HOLD_CLTV_BLOCKS;
use crate::ln::bolt11::Network;
use crate::protocol::amount::Msat;
use crate::protocol::api::PostRequest;
use crate::protocol::bounty::offer::LEAST_TRANCHE;
use crate::protocol::bounty::payload;
use crate::protocol::bounty::statements::{BountyManifest, LONGEST_MS, Posting};
use crate::protocol::ids::{Blake3Hash, UnixMs};
use crate::protocol::manifest::TimingParams;
use crate::protocol::round::RoundRules;
use crate::protocol::sign::{IdentityKey, Signed};
use crate::protocol::statements::Tranche;
use crate::store::StoreError;
use crate::store::coordinator::{meta, set_meta};

const META_HELD_OUT: &str = "bounty_held_out";
const META_SALT: &str = "bounty_salt";

/// Tranches of a sponsor's escrow, a hold invoice each: rewards are covered in steps of one.
const ESCROW_TRANCHES: u64 = 16;
/// A block takes ten minutes; more of them may come.
const BLOCK_MS: u64 = 600_000;
/// What the sponsor's money stays locked for beyond the deadline, in blocks: a day, and what rounds and payers need.
const ESCROW_MARGIN_BLOCKS: u32 = 180;
/// A bounty closes once fewer blocks are left until the sponsor's money may go back: twice what evaluating a round may take,
/// since blocks may come faster, and the money is claimed after it.
pub(super) const LAST_BLOCKS: u32 = (2 * EVALUATION_MS / BLOCK_MS) as u32;
/// A sponsor's clock may be fast by so much.
const CLOCK_SLACK_MS: u64 = 3_600_000;
const _: () = assert!(
    (LONGEST_MS + CLOCK_SLACK_MS) / BLOCK_MS + (ESCROW_MARGIN_BLOCKS as u64) < MAX_HOLD_CLTV_BLOCKS as u64,
    "a node locks the budget of the longest bounty"
);
const _: () = assert!(LAST_BLOCKS < ESCROW_MARGIN_BLOCKS, "a round just before the deadline is covered");
/// For how long an agent's reward may be locked, in blocks.
const HOLD_BLOCKS: u32 = 144;

/// What a stranger's bounty may ask of this machine for a box.
const MOST_WALL_MS: u64 = 600_000;
const MOST_MEMORY_BYTES: u64 = 2_048_000_000;
const MOST_OUTPUT_BYTES: u64 = 64 << 20;
const MOST_PROCESSES: u32 = 256;

/// Boxes that a submission is evaluated in, one after the other, at most.
const MOST_BOXES: u64 = 5;
/// All submissions of a round together must be evaluated in this time, long before the first lock ends.
const EVALUATION_MS: u64 = 8 * 3_600_000;

/// A round takes submissions until one is in and nobody is on the way. These are the longest it waits, and as many as can be
/// evaluated while their rewards are locked.
fn timing(wall_ms: u64) -> TimingParams {
    let fit = EVALUATION_MS / (MOST_BOXES * wall_ms.max(1));
    // 16 at most.
    let max_contributions = fit.clamp(1, 16) as u32;
    TimingParams { commit_ms: 300_000, upload_ms: 420_000, close_at_contributions: 1, max_contributions }
}

/// A bounty's own part of its run.
#[derive(Debug)]
pub struct BountyTask {
    /// Signed by the coordinator.
    pub manifest: Signed<BountyManifest>,
    /// What it is about.
    pub(super) bounty: Arc<Bounty>,
    /// What decides.
    pub(super) exam: Arc<Exam>,
    /// Opens the commitment to the held-out part.
    pub(super) salt: [u8; 32],
    /// The held-out part's package: private until the bounty closes.
    pub(super) held_out: Blake3Hash,
}

impl BountyTask {
    /// The sponsor's word.
    pub fn posting(&self) -> &Posting {
        &self.manifest.body.posting.body
    }
}

/// How long the sponsor's money must stay locked, in blocks; `None` where no node would do that.
pub(super) fn escrow_blocks(now: UnixMs, deadline: UnixMs) -> Option<u32> {
    let blocks = deadline.0.saturating_sub(now.0).div_ceil(BLOCK_MS) + u64::from(ESCROW_MARGIN_BLOCKS);
    u32::try_from(blocks).ok().filter(|blocks| *blocks <= MAX_HOLD_CLTV_BLOCKS)
}

/// The escrow's amounts: equal tranches, of at least 1 sat each; the last has what is left over.
fn escrow_amounts(budget: Msat) -> Vec<Msat> {
    let count = (budget.msat() / LEAST_TRANCHE.msat()).clamp(1, ESCROW_TRANCHES);
    let each = budget.msat() / count;
    let rest = budget.msat() - each * count;
    (0..count).map(|place| Msat::new(if place + 1 == count { each + rest } else { each })).collect()
}

fn bad(code: &str, what: impl std::fmt::Display, fix: &str) -> CoordinatorError {
    refusal(422, code, what.to_string(), fix).into()
}

/// Checks a posting and keeps it: afterwards the folder holds the bounty's run. Nothing is left to check but the baseline.
pub(super) fn start(
    data: &mut DataFolder,
    folder: &Path,
    request: &PostRequest,
    key: &IdentityKey,
    (network, evaluator): (Network, &dyn Evaluate),
    (now, secret_key): (UnixMs, [u8; 32]),
) -> Result<Run, CoordinatorError> {
    let posting = &request.posting.body;
    check_statement(&request.posting, key, now)?;
    let decode = |what: &str, text: &str| {
        STANDARD.decode(text).map_err(|error| bad("bad_package", format!("{what}: {error}"), "Send standard base64"))
    };
    let bytes = decode("package", &request.package)?;
    if Blake3Hash::of(&bytes) != posting.package {
        return Err(bad("bad_package", "the package is not the one that the posting names", "Send that one"));
    }
    let held_out = decode("held_out", &request.held_out)?;
    let (bounty, exam) = unpack(posting, (&bytes, &held_out), request.held_out_salt, folder)?;
    check_rules(&bounty, &exam, posting)?;
    check_place(&bounty.manifest, network, evaluator)?;

    let secret = RunSecret::from_bytes(secret_key);
    let amounts = escrow_amounts(posting.rules.budget_msat);
    let tranche = |(place, amount_msat): (usize, Msat)| Tranche {
        payment_hash: secret.escrow_preimage(place as u32).payment_hash(),
        amount_msat,
    };
    let manifest = key.sign(BountyManifest {
        version: 1,
        posting: request.posting.clone(),
        created_ms: now,
        escrow: amounts.into_iter().enumerate().map(tranche).collect(),
        hold_blocks: HOLD_BLOCKS,
        timing: timing(bounty.manifest.limits.wall_ms),
        max_payload_bytes: payload::length(bounty.manifest.max_diff_bytes),
    });
    data.blobs.put(&bytes)?;
    let held_out = data.private.put(&held_out)?;
    let (signed, manifest) = (manifest.to_bytes(), manifest);
    let run = of_task(manifest, (bounty, exam), request.held_out_salt, held_out, key.clone(), secret);
    data.db.write(|t| {
        Record::RunStarted { run: &run.id.to_string() }.append(t, now)?;
        set_meta(t, META_SECRET, &secret_key)?;
        set_meta(t, META_HELD_OUT, held_out.as_bytes())?;
        set_meta(t, META_SALT, &request.held_out_salt)?;
        Escrow::new(now).save(t)?;
        set_meta(t, META_MANIFEST, &signed)
    })?;
    write_manifest(folder, &signed)?;
    Ok(run)
}

const POST_AGAIN: &str = "Post it with `l402t bounty post`";

/// Reads back what [`start`] kept; `None` where it was interrupted before it was done.
pub(super) fn read(data: &DataFolder, folder: &Path, key: &IdentityKey) -> Result<Option<Run>, CoordinatorError> {
    let db = data.db.read();
    let corrupt = |what| move || StoreError::Corrupt { what };
    let Some(bytes) = meta(db, META_MANIFEST)? else { return Ok(None) };
    let manifest = Signed::<BountyManifest>::from_bytes(&bytes).map_err(|_| corrupt("manifest")())?;
    let salt = secret_bytes(db, META_SALT)?;
    let held_out = Blake3Hash::from_bytes(secret_bytes(db, META_HELD_OUT)?);
    if manifest.verify(&key.id()).is_err() {
        return Err(corrupt("manifest: another coordinator has signed it")().into());
    }
    let secret = RunSecret::from_bytes(secret_bytes(db, META_SECRET)?);
    // The blobs are on disk to the last byte; what was unpacked of them may not have been when the power went.
    let posting = &manifest.body.posting.body;
    let public = data.blobs.get(&posting.package, package::MOST_BYTES)?;
    let private = data.private.get(&held_out, package::MOST_BYTES)?;
    let loaded = unpack(posting, (&public, &private), salt, folder)?;
    let run = of_task(manifest, loaded, salt, held_out, key.clone(), secret);
    write_manifest(folder, &bytes)?;
    Ok(Some(run))
}

fn of_task(
    manifest: Signed<BountyManifest>,
    (bounty, exam): (Bounty, Exam),
    salt: [u8; 32],
    held_out: Blake3Hash,
    key: IdentityKey,
    secret: RunSecret,
) -> Run {
    let body = &manifest.body;
    Run {
        id: body.run_id(),
        fee: body.posting.body.rules.fee_msat,
        hold_blocks: body.hold_blocks,
        timing: body.timing,
        max_payload_bytes: body.max_payload_bytes,
        rules: RoundRules::new(&body.timing, body.hold_blocks),
        key,
        secret,
        task: RunTask::Bounty(Box::new(BountyTask {
            bounty: Arc::new(bounty),
            exam: Arc::new(exam),
            salt,
            held_out,
            manifest,
        })),
    }
}

fn unpack(
    posting: &Posting,
    packages: (&[u8], &[u8]),
    salt: [u8; 32],
    folder: &Path,
) -> Result<(Bounty, Exam), CoordinatorError> {
    package::open(posting, packages, salt, folder).map_err(|error| match error {
        OpenError::Write { path, source } => StoreError::Io { action: "make the folder", path, source }.into(),
        OpenError::OtherHeldOut => bad("heldout_mismatch", error, POST_AGAIN),
        OpenError::Package(_)
        | OpenError::Bounty(_)
        | OpenError::OtherWorkspace
        | OpenError::HeldOutPackage(_)
        | OpenError::HeldOut(_) => bad("bad_package", error, POST_AGAIN),
    })
}

fn check_statement(signed: &Signed<Posting>, key: &IdentityKey, now: UnixMs) -> Result<(), CoordinatorError> {
    let posting = &signed.body;
    if signed.verify(&posting.sponsor).is_err() {
        let message = format!("the signature on the posting is not by sponsor {}", posting.sponsor);
        return Err(refusal(400, "bad_signature", message, "Sign the posting with the sponsor's own key").into());
    }
    if posting.coordinator != key.id() {
        let message = format!("this is coordinator {}, the posting is for {}", key.id(), posting.coordinator);
        return Err(refusal(409, "wrong_coordinator", message, "Post it to the coordinator that it names").into());
    }
    if let Err(error) = posting.rules.scale() {
        return Err(bad("rules", error, "Mend bounty.toml"));
    }
    if posting.rules.deadline_ms <= now {
        return Err(bad("deadline", "the deadline is over", "Set a later submissions.deadline"));
    }
    if posting.rules.deadline_ms > now.plus_ms(LONGEST_MS + CLOCK_SLACK_MS) {
        let most = LONGEST_MS / 3_600_000;
        let message = format!("the deadline is more than {most} hours away, and no node locks a budget for so long");
        return Err(bad("deadline", message, "Set an earlier submissions.deadline, and post it again after that"));
    }
    Ok(())
}

fn check_rules(bounty: &Bounty, exam: &Exam, posting: &Posting) -> Result<(), CoordinatorError> {
    if !rules(&bounty.manifest, posting.rules.baseline, exam.scored().len()).allow(&posting.rules)
        || bounty.manifest.title != posting.title
    {
        let message = "the posting's rules don't follow from its bounty.toml";
        return Err(bad("rules", message, POST_AGAIN));
    }
    let BoxLimits { wall_ms, memory_bytes, output_bytes, processes, .. } = bounty.manifest.limits;
    let fits = wall_ms <= MOST_WALL_MS
        && memory_bytes <= MOST_MEMORY_BYTES
        && output_bytes <= MOST_OUTPUT_BYTES
        && processes <= MOST_PROCESSES;
    if !fits {
        let message =
            "its boxes may use more of this machine than 600 s, 2,048 MB of memory, 64 MB of output or 256 processes";
        return Err(bad("limits", message, "Lower [limits] in bounty.toml"));
    }
    Ok(())
}

/// Is this the network, and the machine, that it asks for?
fn check_place(manifest: &Manifest, network: Network, evaluator: &dyn Evaluate) -> Result<(), CoordinatorError> {
    let (here, least) = (evaluator.tier(), manifest.tier);
    if here < least {
        let message = format!("its boxes must be held by {least} at least, and this machine has {here}");
        return Err(bad("tier", message, "Lower [sandbox] tier in bounty.toml, or post it to another coordinator"));
    }
    match manifest.demo_only {
        DemoOnly::Yes if network == Network::Bitcoin => {
            let message = "this bounty is marked demo_only: its held-out part is no secret";
            Err(bad("demo_only", message, "Post it on regtest or signet"))
        }
        DemoOnly::Yes | DemoOnly::No => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::ids::DAY_MS;

    #[test]
    fn a_budget_is_cut_into_equal_tranches_of_a_satoshi_or_more() {
        let msat = |budget| escrow_amounts(Msat::new(budget)).iter().map(|tranche| tranche.msat()).collect::<Vec<_>>();
        assert_eq!(msat(1_600_007), [vec![100_000; 15], vec![100_007]].concat());
        assert_eq!(msat(2_500), [1_250, 1_250]);
        assert_eq!(msat(999), [999]);
    }

    #[test]
    fn a_round_takes_no_more_submissions_than_can_be_evaluated_while_their_rewards_are_locked() {
        let most = |wall_s: u64| timing(wall_s * 1_000).max_contributions;
        assert_eq!([most(30), most(360), most(600), most(3_600)], [16, 16, 9, 1]);
    }

    #[test]
    fn money_is_not_locked_for_longer_than_a_node_would() {
        assert_eq!(escrow_blocks(UnixMs(0), UnixMs(DAY_MS)), Some(144 + 180));
        let longest = (1_000 - 180) * BLOCK_MS;
        assert_eq!(escrow_blocks(UnixMs(0), UnixMs(longest)), Some(1_000));
        assert_eq!(escrow_blocks(UnixMs(0), UnixMs(longest + 1)), None);
    }
}
