//! The statements of a round: who signed what, and whether it follows from the manifest.

use std::collections::HashSet;
use std::str::FromStr;

use lightning_invoice::Bolt11Invoice;

use super::difference::{Check, Difference, compare, expect};
use super::verified;
use crate::protocol::held_out::secret_commitment;
use crate::protocol::ids::PaymentHash;
use crate::protocol::manifest::RunManifest;
use crate::protocol::reward;
use crate::protocol::sign::Statement;
use crate::protocol::statements::{InvoiceSubmission, RewardTerms};
use crate::protocol::transcript::{ContributionRecord, Transcript};
use crate::protocol::verdict::{Outcome, VerdictRecord};

const VERSION: u32 = 1;
/// Most windows of a pool: keeps a hostile manifest from asking an auditor for all its memory.
const MAX_WINDOWS: u32 = 1 << 26;
/// Longest BOLT 11 invoice that is looked at.
const MAX_INVOICE_CHARS: usize = 4_096;

pub(super) fn check_manifest(manifest: &RunManifest) -> Check<()> {
    expect("manifest.body.version", manifest.version, VERSION)?;
    let held_out = &manifest.held_out;
    if held_out.windows > MAX_WINDOWS || held_out.block_windows > held_out.windows {
        let problem = format!("{} windows in blocks of {}", held_out.windows, held_out.block_windows);
        return Err(Difference::invalid("manifest.body.held_out", problem));
    }
    Ok(())
}

/// Everything of a transcript that isn't a contribution's, a window's or the judge's.
pub(super) fn check_header(manifest: &RunManifest, transcript: &Transcript) -> Check<()> {
    expect("version", transcript.version, VERSION)?;
    expect("run", transcript.run, manifest.run_id())?;
    let opening = verified("opening", &transcript.opening, &manifest.coordinator)?;
    expect("opening.body.run", opening.run, transcript.run)?;
    expect("opening.body.round", opening.round, transcript.round)?;
    let timing = &manifest.timing;
    let (commit, upload) = (opening.opened_ms.plus_ms(timing.commit_ms), opening.opened_ms.plus_ms(timing.upload_ms));
    expect("opening.body.commit_deadline_ms", opening.commit_deadline_ms, commit)?;
    expect("opening.body.upload_deadline_ms", opening.upload_deadline_ms, upload)?;
    if opening.secret_commitment != secret_commitment(&transcript.secret) {
        let problem = "it is not the secret that the round's opening committed to";
        return Err(Difference::invalid("secret", problem));
    }
    Ok(())
}

pub(super) fn check_contributions(manifest: &RunManifest, transcript: &Transcript) -> Check<()> {
    let most = manifest.timing.max_contributions as usize;
    if transcript.contributions.len() > most {
        let problem = format!("{} contributions, the run allows {most}", transcript.contributions.len());
        return Err(Difference::invalid("contributions", problem));
    }
    let (mut peers, mut payment_hashes) = (HashSet::new(), HashSet::new());
    for (place, record) in transcript.contributions.iter().enumerate() {
        let path = |part: &str| format!("contributions[{place}].{part}");
        check_commitment(&path("commitment"), transcript, record)?;
        if !peers.insert(record.commitment.body.peer) {
            return Err(Difference::invalid(path("commitment.body.peer"), "this peer has an earlier contribution"));
        }
        check_terms(&path("terms"), manifest, transcript, place, record)?;
        for (tranche, offer) in record.terms.body.tranches.iter().enumerate() {
            if !payment_hashes.insert(offer.payment_hash) {
                let field = path(&format!("terms.body.tranches[{tranche}].payment_hash"));
                return Err(Difference::invalid(field, "the same payment hash was offered before"));
            }
        }
        if let Some(invoices) = &record.invoices {
            let submission = verified(&path("invoices"), invoices, &record.commitment.body.peer)?;
            check_invoices(&path("invoices.body"), &record.terms.body, submission)?;
        } else if record.uploaded {
            let problem = "a payload counts only with its reward locked, which needs invoices";
            return Err(Difference::invalid(path("uploaded"), problem));
        }
        verified(&path("receipt"), &record.receipt, &manifest.coordinator)?;
    }
    Ok(())
}

fn check_commitment(path: &str, transcript: &Transcript, record: &ContributionRecord) -> Check<()> {
    let body = verified(path, &record.commitment, &record.commitment.body.peer)?;
    expect(&format!("{path}.body.run"), body.run, transcript.run)?;
    expect(&format!("{path}.body.round"), body.round, transcript.round)?;
    expect(&format!("{path}.body.opening"), body.opening, transcript.opening.body.digest())
}

fn check_terms(
    path: &str,
    manifest: &RunManifest,
    transcript: &Transcript,
    place: usize,
    record: &ContributionRecord,
) -> Check<()> {
    let terms = verified(path, &record.terms, &manifest.coordinator)?;
    expect(&format!("{path}.body.contribution"), terms.contribution, record.commitment.body.contribution_id())?;
    expect(&format!("{path}.body.sequence"), u64::from(terms.sequence), place as u64)?;
    expect(&format!("{path}.body.hold_blocks"), terms.hold_blocks, manifest.reward.hold_blocks)?;
    let offered: Vec<_> = terms.tranches.iter().map(|tranche| tranche.amount_msat).collect();
    compare(&format!("{path}.body.tranches (amounts)"), &offered, &reward::tranche_amounts(&manifest.reward))?;
    let opening = &transcript.opening.body;
    if !(opening.opened_ms..=opening.upload_deadline_ms).contains(&terms.invoices_deadline_ms) {
        let problem = format!("{} is not within the round", terms.invoices_deadline_ms.0);
        return Err(Difference::invalid(format!("{path}.body.invoices_deadline_ms"), problem));
    }
    Ok(())
}

fn check_invoices(path: &str, terms: &RewardTerms, submission: &InvoiceSubmission) -> Check<()> {
    expect(&format!("{path}.contribution"), submission.contribution, terms.contribution)?;
    expect(&format!("{path}.terms"), submission.terms, terms.digest())?;
    expect(&format!("{path}.invoices (number)"), submission.invoices.len(), terms.tranches.len())?;
    for (place, (text, tranche)) in submission.invoices.iter().zip(&terms.tranches).enumerate() {
        let field = format!("{path}.invoices[{place}]");
        let invoice = parse_invoice(text).map_err(|problem| Difference::invalid(&field, problem))?;
        let hash: &[u8; 32] = invoice.payment_hash().as_ref();
        expect(&format!("{field} (payment hash)"), PaymentHash::from_bytes(*hash), tranche.payment_hash)?;
        let amount = invoice.amount_milli_satoshis();
        expect(&format!("{field} (amount)"), amount, Some(tranche.amount_msat.msat()))?;
    }
    Ok(())
}

fn parse_invoice(text: &str) -> Result<Bolt11Invoice, String> {
    if text.len() > MAX_INVOICE_CHARS {
        return Err(format!("{} characters are more than {MAX_INVOICE_CHARS}", text.len()));
    }
    Bolt11Invoice::from_str(text).map_err(|error| format!("not a BOLT 11 invoice: {error}"))
}

/// The receipt pays what the verdict says, no more and no less.
pub(super) fn check_receipt(place: usize, record: &ContributionRecord, verdict: &VerdictRecord) -> Check<()> {
    let path = |part: &str| format!("contributions[{place}].receipt.body.{part}");
    let receipt = &record.receipt.body;
    expect(&path("contribution"), receipt.contribution, verdict.contribution)?;
    expect(&path("verdict"), receipt.verdict, verdict.digest())?;
    let tranches = &record.terms.body.tranches;
    expect(&path("preimages (number)"), receipt.preimages.len(), tranches.len())?;
    let paid = match verdict.outcome {
        Outcome::Accepted { tranches_paid, .. } => tranches_paid,
        Outcome::Rejected { .. } => 0,
    };
    for (bit, (preimage, tranche)) in receipt.preimages.iter().zip(tranches).enumerate() {
        let field = path(&format!("preimages[{bit}]"));
        match (preimage, paid >> bit & 1) {
            (None, 0) => {}
            (Some(_), 0) => return Err(Difference::invalid(field, "a preimage where nothing was earned")),
            (None, _) => return Err(Difference::invalid(field, "no preimage where the tranche was earned")),
            (Some(preimage), _) => {
                let field = format!("{field} (SHA-256)");
                expect(&field, preimage.payment_hash(), tranche.payment_hash)?;
            }
        }
    }
    Ok(())
}
