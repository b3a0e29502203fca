//! A real round in memory, and everything that can be changed in its transcript.

use std::collections::HashMap;
use std::sync::OnceLock;

use l402t_kernels::Pool;
use lightning_invoice::{Currency, InvoiceBuilder, PaymentSecret};
use serde_json::Value;

use super::*;
use crate::judge::fixtures::{Fixture, config};
use crate::protocol::held_out::{MerkleTree, draw, leaf, secret_commitment, tokens_to_hex};
use crate::protocol::ids::{Preimage, UnixMs};
use crate::protocol::manifest::HeldOutParams;
use crate::protocol::reward::tranche_amounts;
use crate::protocol::sign::IdentityKey;
use crate::protocol::statements::{Commitment, InvoiceSubmission, Receipt, RewardTerms, RoundOpening, Tranche};
use crate::protocol::transcript::RevealedWindow;
use crate::protocol::verdict::Rejection;

const OPENED: UnixMs = UnixMs(1_800_000_000_000);
const WINDOWS: u32 = 24;

impl Blobs for HashMap<Blake3Hash, Vec<u8>> {
    fn blob(&self, hash: &Blake3Hash) -> Result<Vec<u8>, String> {
        self.get(hash).cloned().ok_or_else(|| "not here".into())
    }
}

fn key(n: u8) -> IdentityKey {
    IdentityKey::from_secret_bytes(&[n; 32]).expect("a valid key")
}

fn coordinator() -> IdentityKey {
    key(99)
}

fn preimage(place: usize, tranche: usize) -> Preimage {
    Preimage::from_bytes(*blake3::hash(&[place as u8, tranche as u8]).as_bytes())
}

fn invoice(tranche: &Tranche) -> String {
    let secret = bitcoin::secp256k1::SecretKey::from_slice(&[41; 32]).expect("a valid key");
    let invoice = InvoiceBuilder::new(Currency::Regtest)
        .description("a tranche".into())
        .payment_hash(bitcoin::hashes::Hash::from_byte_array(*tranche.payment_hash.as_bytes()))
        .payment_secret(PaymentSecret([42; 32]))
        .duration_since_epoch(std::time::Duration::from_millis(OPENED.0))
        .min_final_cltv_expiry_delta(144)
        .amount_milli_satoshis(tranche.amount_msat.msat())
        .build_signed(|message| bitcoin::secp256k1::SECP256K1.sign_ecdsa_recoverable(message, &secret));
    invoice.expect("a valid invoice").to_string()
}

fn tokens(window: u32) -> Vec<u32> {
    (0..20).map(|t| (t * t + window) % 7).collect()
}

fn salt(window: u32) -> Blake3Hash {
    Blake3Hash::of(&window.to_le_bytes())
}

fn pool_tree() -> MerkleTree {
    MerkleTree::new((0..WINDOWS).map(|w| leaf(w, &salt(w), &tokens(w))).collect()).expect("not empty")
}

/// A closed round: accepted, its copy, garbage, one that never uploaded, and another accepted one.
struct Round {
    manifest: Signed<RunManifest>,
    transcript: Signed<Transcript>,
    blobs: HashMap<Blake3Hash, Vec<u8>>,
}

fn manifest(fixture: &Fixture) -> RunManifest {
    RunManifest {
        coordinator: coordinator().id(),
        created_ms: OPENED,
        held_out: HeldOutParams {
            root: pool_tree().root(),
            windows: WINDOWS,
            block_windows: 12,
            windows_per_round: 6,
            window_tokens: 20,
        },
        ..fixture.manifest()
    }
}

/// Plays the coordinator and the peers of round `round`, from `start`.
fn play(fixture: &Fixture, round: u32, start: &Checkpoint, previous: Option<&Transcript>) -> Round {
    let manifest = manifest(fixture);
    let run = manifest.run_id();
    let secret = Blake3Hash::of(b"the round's secret");
    let opening = coordinator().sign(RoundOpening {
        run,
        round: RoundNumber(round),
        previous_transcript: previous.map(Statement::digest),
        checkpoint: start.hash(),
        secret_commitment: secret_commitment(&secret),
        opened_ms: OPENED,
        commit_deadline_ms: OPENED.plus_ms(1_000),
        upload_deadline_ms: OPENED.plus_ms(2_000),
    });
    let good = fixture.encode(&fixture.helpful_update(1));
    let other = fixture.encode(&fixture.helpful_update(2));
    let payloads = [good.clone(), good, b"garbage".to_vec(), b"never sent".to_vec(), other];
    let uploaded = [true, true, true, false, true];

    let mut blobs = HashMap::new();
    let config_json = config().to_json().into_bytes();
    for blob in payloads.iter().chain([&config_json, &start.to_safetensors()]) {
        blobs.insert(Blake3Hash::of(blob), blob.clone());
    }
    let commitments: Vec<Signed<Commitment>> = payloads
        .iter()
        .enumerate()
        .map(|(place, payload)| {
            let peer = key(place as u8 + 1);
            peer.sign(Commitment {
                run,
                round: RoundNumber(round),
                opening: opening.body.digest(),
                peer: peer.id(),
                payload: Blake3Hash::of(payload),
                payload_bytes: payload.len() as u64,
                claim: None,
            })
        })
        .collect();
    let ids: Vec<_> = commitments.iter().map(|commitment| commitment.body.contribution_id()).collect();
    let tree = pool_tree();
    let held_out: Vec<RevealedWindow> = draw(&manifest.held_out, &run, RoundNumber(round), &secret, &ids)
        .into_iter()
        .map(|index| RevealedWindow {
            index,
            salt: salt(index),
            tokens_hex: tokens_to_hex(&tokens(index)),
            proof: tree.proof(index).expect("a leaf"),
        })
        .collect();
    let batch = held_out.iter().map(|window| tokens(window.index)).collect();
    let submissions: Vec<Submission<'_>> = ids
        .iter()
        .zip(payloads.iter().zip(uploaded))
        .map(|(id, (payload, uploaded))| Submission { contribution: *id, payload: uploaded.then_some(payload) })
        .collect();
    let input = RoundInput {
        start,
        codec: &manifest.codec,
        judge: &manifest.judge,
        reward: &manifest.reward,
        held_out: &crate::judge::HeldOutBatch::new(&start.config, batch).expect("valid"),
        submissions: &submissions,
    };
    let judged = judge_round(&input, Pool::all_cores(), &mut |_| {}).expect("judged");
    let contributions = commitments
        .into_iter()
        .zip(&judged.verdicts)
        .enumerate()
        .map(|(place, (commitment, verdict))| record(&manifest, place, commitment, uploaded[place], verdict))
        .collect();
    let transcript = coordinator().sign(Transcript {
        version: 1,
        run,
        round: RoundNumber(round),
        opening,
        secret,
        contributions,
        held_out,
        loss_before: judged.loss_before,
        loss_after: judged.loss_after,
        next_checkpoint: judged.next.hash(),
    });
    blobs.insert(judged.next.hash(), judged.next.to_safetensors());
    Round { manifest: coordinator().sign(manifest), transcript, blobs }
}

fn record(
    manifest: &RunManifest,
    place: usize,
    commitment: Signed<Commitment>,
    uploaded: bool,
    verdict: &VerdictRecord,
) -> ContributionRecord {
    let contribution = commitment.body.contribution_id();
    let tranches: Vec<Tranche> = tranche_amounts(&manifest.reward)
        .into_iter()
        .enumerate()
        .map(|(bit, amount_msat)| Tranche { payment_hash: preimage(place, bit).payment_hash(), amount_msat })
        .collect();
    let invoices: Vec<String> = tranches.iter().map(invoice).collect();
    let paid = match verdict.outcome {
        Outcome::Accepted { tranches_paid, .. } => tranches_paid,
        Outcome::Rejected { .. } => 0,
    };
    let preimages = (0..tranches.len()).map(|bit| (paid >> bit & 1 == 1).then(|| preimage(place, bit))).collect();
    let terms = coordinator().sign(RewardTerms {
        contribution,
        sequence: place as u32,
        tranches,
        hold_blocks: manifest.reward.hold_blocks,
        invoices_deadline_ms: OPENED.plus_ms(1_500),
    });
    let submission = InvoiceSubmission { contribution, terms: terms.body.digest(), invoices };
    ContributionRecord {
        commitment,
        invoices: uploaded.then(|| key(place as u8 + 1).sign(submission)),
        uploaded,
        verdict: verdict.clone(),
        receipt: coordinator().sign(Receipt { contribution, verdict: verdict.digest(), preimages }),
        terms,
    }
}

impl Round {
    /// Played once for all tests.
    fn get() -> &'static Self {
        static ROUND: OnceLock<Round> = OnceLock::new();
        ROUND.get_or_init(|| {
            let fixture = Fixture::new();
            play(&fixture, 0, &fixture.start, None)
        })
    }

    fn replay_bytes(&self, transcript: &[u8]) -> Result<Replay, ReplayError> {
        let manifest = self.manifest.to_bytes();
        let input = ReplayInput { round: self.transcript.body.round, manifest: &manifest, transcript, previous: None };
        replay(&input, &self.blobs, Pool::all_cores(), &mut |_| {})
    }

    fn replay_body(&self, body: Transcript) -> Result<Replay, ReplayError> {
        self.replay_bytes(&coordinator().sign(body).to_bytes())
    }

    fn difference(&self, body: Transcript) -> String {
        match self.replay_body(body) {
            Ok(Replay::Different(difference)) => difference.to_string(),
            other => panic!("no difference was found: {other:?}"),
        }
    }
}

#[test]
fn an_honest_round_replays_to_the_same_bits() {
    let round = Round::get();
    let Ok(Replay::Identical(found)) = round.replay_bytes(&round.transcript.to_bytes()) else {
        panic!("{:?}", round.replay_bytes(&round.transcript.to_bytes()));
    };
    assert_eq!((found.accepted, found.rejected), (2, 3));
    assert!(found.reward_msat > Msat::ZERO && found.loss_after < found.loss_before);
    assert_eq!(found.transcript, round.transcript.body.digest());
    let reasons: Vec<_> = round.transcript.body.contributions.iter().map(|record| &record.verdict.outcome).collect();
    assert!(matches!(reasons[1], Outcome::Rejected { rejection: Rejection::Copy { .. } }));
    assert!(matches!(reasons[2], Outcome::Rejected { rejection: Rejection::Malformed { .. } }));
    assert!(matches!(reasons[3], Outcome::Rejected { rejection: Rejection::NotUploaded }));
}

/// Every value that isn't a list or an object, as a JSON pointer.
fn leaves(value: &Value, path: &str, found: &mut Vec<String>) {
    match value {
        Value::Object(map) => map.iter().for_each(|(key, value)| leaves(value, &format!("{path}/{key}"), found)),
        Value::Array(list) => {
            list.iter().enumerate().for_each(|(place, value)| leaves(value, &format!("{path}/{place}"), found));
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => found.push(path.to_owned()),
    }
}

/// Other values of the same kind, as near as can be.
fn changes(value: &Value) -> Vec<Value> {
    match value {
        Value::Null => vec![Value::from(0), Value::from("00".repeat(32))],
        Value::Bool(flag) => vec![Value::from(!flag), Value::Null],
        Value::Number(number) => {
            let number = number.as_i64().expect("an integer");
            vec![Value::from(number ^ 1), Value::Null]
        }
        Value::String(text) => {
            let flip = |place: usize| {
                let mut bytes = text.clone().into_bytes();
                bytes[place] = if bytes[place] == b'0' { b'1' } else { b'0' };
                Value::from(String::from_utf8(bytes).expect("ASCII"))
            };
            vec![flip(0), flip(text.len() - 1), Value::Null]
        }
        Value::Array(_) | Value::Object(_) => Vec::new(),
    }
}

/// Signs anew everything that the coordinator signs and nobody else vouches for, inner statements first.
fn sign_all(mut body: Transcript) -> Transcript {
    body.opening = coordinator().sign(body.opening.body);
    for record in &mut body.contributions {
        record.terms = coordinator().sign(record.terms.body.clone());
        record.receipt.body.verdict = record.verdict.digest();
        record.receipt = coordinator().sign(record.receipt.body.clone());
    }
    body
}

/// Fields that a coordinator may choose freely as long as no peer has answered: the terms of a contribution whose peer never
/// sent invoices. Nobody acted on them and no money hangs on them.
fn is_free(pointer: &str) -> bool {
    pointer.starts_with("/contributions/3/terms/body/")
        && (pointer.ends_with("/payment_hash") || pointer.ends_with("/invoices_deadline_ms"))
}

#[test]
fn a_change_of_any_field_is_caught_however_much_the_coordinator_signs_again() {
    let round = Round::get();
    let original = serde_json::to_value(&round.transcript.body).expect("JSON");
    let mut pointers = Vec::new();
    leaves(&original, "", &mut pointers);
    assert!(pointers.len() > 200, "{}", pointers.len());
    for pointer in &pointers {
        for change in changes(original.pointer(pointer).expect("a leaf")) {
            let mut value = original.clone();
            *value.pointer_mut(pointer).expect("a leaf") = change.clone();
            // A value that isn't of the field's type can't be a transcript at all.
            let Ok(body) = serde_json::from_value::<Transcript>(value) else { continue };
            let caught = |body: Transcript| !matches!(round.replay_body(body), Ok(Replay::Identical(_)));
            assert!(caught(body.clone()), "{pointer} changed to {change} and nothing was noticed");
            let resigned = sign_all(body);
            if resigned != round.transcript.body && !is_free(pointer) {
                assert!(caught(resigned), "{pointer} changed to {change}, all signed again, and nothing was noticed");
            }
        }
    }
}

#[test]
fn any_bit_of_the_signed_bytes_matters() {
    let round = Round::get();
    let bytes = round.transcript.to_bytes();
    let mut caught = 0;
    for place in (0..bytes.len()).step_by(37) {
        for bit in 0..8 {
            let mut changed = bytes.clone();
            changed[place] ^= 1 << bit;
            let found = round.replay_bytes(&changed).expect("a verdict on the bytes");
            assert!(matches!(found, Replay::Different(_)), "byte {place} bit {bit}");
            caught += 1;
        }
    }
    assert!(caught > 1_000);
    for changed in [&bytes[..bytes.len() - 1], &[bytes.as_slice(), b" "].concat(), b""] {
        assert!(matches!(round.replay_bytes(changed), Ok(Replay::Different(_))));
    }
}

#[test]
fn contributions_and_windows_can_be_neither_dropped_nor_added_nor_swapped() {
    let round = Round::get();
    let body = || round.transcript.body.clone();
    let mut dropped = body();
    dropped.contributions.pop();
    assert!(round.difference(dropped).starts_with("held_out["));
    let mut swapped = body();
    swapped.contributions.swap(0, 1);
    assert!(round.difference(swapped).starts_with("contributions[0].terms.body.sequence: transcript says 1"));
    let mut twice = body();
    let copy = twice.contributions[4].clone();
    twice.contributions.push(copy);
    assert!(round.difference(twice).contains("this peer has an earlier contribution"));
    let mut fewer = body();
    fewer.held_out.pop();
    assert!(round.difference(fewer).starts_with("held_out (number of windows): transcript says 5, replay says 6"));
    let mut more = body();
    let window = more.held_out[0].clone();
    more.held_out.push(window);
    assert!(round.difference(more).starts_with("held_out (number of windows)"));
}

#[test]
fn the_first_difference_is_named_with_both_values() {
    let round = Round::get();
    let mut body = round.transcript.body.clone();
    let gain = body.contributions[4].verdict.gain.as_mut().expect("scored");
    gain.0 += 1;
    let (said, found) = (gain.0, gain.0 - 1);
    let expected = format!("contributions[4].verdict.gain: transcript says {said}, replay says {found}");
    assert_eq!(round.difference(sign_all(body)), expected);
}

#[test]
fn money_that_was_not_earned_or_not_paid_is_noticed() {
    let round = Round::get();
    let mut body = round.transcript.body.clone();
    let mut receipts = body.contributions.iter_mut().map(|contribution| &mut contribution.receipt.body);
    let preimage_paid = receipts.find_map(|receipt| receipt.preimages.iter_mut().find(|preimage| preimage.is_some()));
    *preimage_paid.expect("somebody is paid") = None;
    assert!(round.difference(sign_all(body)).contains("no preimage where the tranche was earned"));
    let mut body = round.transcript.body.clone();
    body.contributions[2].receipt.body.preimages[0] = Some(preimage(2, 0));
    assert!(round.difference(sign_all(body)).contains("a preimage where nothing was earned"));
}

#[test]
fn rounds_form_a_chain() {
    let fixture = Fixture::new();
    let first = play(&fixture, 0, &fixture.start, None);
    let next = first.blobs.get(&first.transcript.body.next_checkpoint).expect("published");
    let next = Checkpoint::from_safetensors(config(), next).expect("valid");
    let second = play(&fixture, 1, &next, Some(&first.transcript.body));
    let (manifest, transcript) = (second.manifest.to_bytes(), second.transcript.to_bytes());
    let replay_with = |previous: Option<&[u8]>| {
        let input = ReplayInput { round: RoundNumber(1), manifest: &manifest, transcript: &transcript, previous };
        replay(&input, &second.blobs, Pool::all_cores(), &mut |_| {}).expect("replayed")
    };
    assert!(matches!(replay_with(None), Replay::Identical(_)));
    assert!(matches!(replay_with(Some(&first.transcript.to_bytes())), Replay::Identical(_)));
    let mut other = first.transcript.body.clone();
    other.loss_after.0 += 1;
    let other = coordinator().sign(other).to_bytes();
    let Replay::Different(difference) = replay_with(Some(&other)) else { panic!("another past was accepted") };
    assert_eq!(difference.field, "opening.body.previous_transcript");
    // A first round that isn't the run's first.
    let unchained = play(&fixture, 1, &next, None);
    assert!(unchained.difference(unchained.transcript.body.clone()).contains("must name the transcript before it"));
    let elsewhere = play(&fixture, 0, &next, None);
    assert!(elsewhere.difference(elsewhere.transcript.body.clone()).starts_with("opening.body.checkpoint"));
}

#[test]
fn a_missing_or_wrong_blob_is_an_error_and_no_difference() {
    let fixture = Fixture::new();
    let mut round = play(&fixture, 0, &fixture.start, None);
    let payload = round.transcript.body.contributions[0].commitment.body.payload;
    round.blobs.insert(payload, b"other".to_vec());
    let bytes = round.transcript.to_bytes();
    assert!(matches!(round.replay_bytes(&bytes), Err(ReplayError::WrongBlob { hash, .. }) if hash == payload));
    round.blobs.remove(&payload);
    assert!(matches!(round.replay_bytes(&bytes), Err(ReplayError::Blob { hash, .. }) if hash == payload));
}
