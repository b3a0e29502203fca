//! What the demo found: read from the signed transcripts, the ledgers and the peers' own timings.

use std::collections::BTreeMap;

use serde::Serialize;
use serde_json::Value;

use crate::cmd::judge_pool::nats_per_token;
use crate::protocol::amount::Msat;
use crate::protocol::ids::PeerId;
use crate::protocol::transcript::{ContributionRecord, Transcript};
use crate::protocol::verdict::{Outcome, Rejection, Score};
use crate::ui::{Align, Table};

/// The last line of `l402t demo --json`. Fields are only ever added.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Summary {
    /// Rounds that were closed.
    pub rounds: u32,
    /// Weights of the model.
    pub parameters: u64,
    /// Held-out loss of the first checkpoint, in nats per token, on the first round's batch.
    pub loss_first_nats: f64,
    /// Held-out loss of the last checkpoint, in nats per token, on the last round's batch.
    pub loss_last_nats: f64,
    /// Contributions that were paid.
    pub accepted: u32,
    /// Contributions that were not.
    pub rejected: u32,
    /// Rewards that the peers received.
    pub reward_paid_msat: u64,
    /// Submission fees that the peers paid.
    pub fees_paid_msat: u64,
    /// Dense fp32 bytes ÷ bytes of an honest peer's sparse update, all-in.
    pub ratio_fp32: f64,
    /// Hold invoice sent → every tranche locked, median.
    pub lock_ms_p50: u64,
    /// Receipt → tranche settled, median.
    pub settle_ms_p50: u64,
    /// Receipt → tranche settled, 99th percentile.
    pub settle_ms_p99: u64,
    /// Part of a round's time in which a peer whose work was accepted was training, on average.
    pub compute_share: f64,
    /// Did an auditor get the same bits for every round?
    pub replay_identical: bool,
    /// Do coordinator's and peers' ledgers and channel balances agree to the millisatoshi?
    pub msat_conserved: bool,
    /// The Lightning implementation.
    pub lightning: String,
    /// Most memory of all processes together (proportional set size).
    pub peak_memory_mib: u64,
    /// From start to the end of the replay.
    pub wall_s: f64,
}

/// The p-th of a hundred of unsorted values; 0 if there are none.
fn percentile(values: &[u64], p: usize) -> u64 {
    let mut sorted = values.to_vec();
    sorted.sort_unstable();
    let index = (sorted.len() * p / 100).min(sorted.len().saturating_sub(1));
    sorted.get(index).copied().unwrap_or(0)
}

/// Why, in a few words.
fn reason(outcome: &Outcome) -> String {
    match outcome {
        Outcome::Accepted { .. } => "accepted".to_owned(),
        Outcome::Rejected { rejection } => match rejection {
            Rejection::NotUploaded => "not uploaded".to_owned(),
            Rejection::Malformed { code } => format!("malformed: {code}"),
            Rejection::NotFinite => "loss not finite".to_owned(),
            Rejection::Copy { overlap_ppm, .. } => format!("copy ({} % shared)", overlap_ppm.get() / 10_000),
            Rejection::LockLost => "lock lost".to_owned(),
            Rejection::GainTooSmall => "no gain".to_owned(),
        },
    }
}

/// What an honest or dishonest peer reported about one contribution.
#[derive(Clone, Debug, Default)]
pub(super) struct PeerReport {
    pub train_ms: u64,
    pub lock_ms: Option<u64>,
    pub settle_ms: Vec<u64>,
}

/// What the processes reported on the way.
#[derive(Clone, Debug, Default)]
pub(super) struct Reports {
    /// By the key that signs a peer's statements.
    pub names: BTreeMap<PeerId, String>,
    /// By name and round.
    pub settled: BTreeMap<(String, u64), PeerReport>,
    /// What each peer could send when its channel was new.
    pub first_outbound_msat: BTreeMap<String, u64>,
    /// Each peer's last words.
    pub finished: BTreeMap<String, Value>,
    /// When each round closed, in Unix ms.
    pub closed_ms: BTreeMap<u64, u64>,
    /// Most memory of all processes together.
    pub peak_memory_bytes: u64,
}

/// Everything that the summary is made from.
#[derive(Clone, Debug)]
pub(super) struct Books {
    reports: Reports,
    coordinator: Value,
    peers: BTreeMap<String, Value>,
    replays: Vec<bool>,
}

impl Books {
    pub(super) fn new(reports: Reports) -> Self {
        Self { reports, coordinator: Value::Null, peers: BTreeMap::new(), replays: Vec::new() }
    }

    /// Notes how the audit of the next round ended.
    pub(super) fn replayed(&mut self, identical: bool) {
        self.replays.push(identical);
    }

    /// Notes to the msat what a peer could send at the end: LND tells the peer's channels in whole sat.
    pub(super) fn exact_outbound(&mut self, name: &str, msat: u64) {
        if let Some(finished) = self.reports.finished.get_mut(name) {
            finished["outbound_msat"] = msat.into();
        }
    }

    /// Notes what the coordinator's ledger says.
    pub(super) fn coordinator_ledger(&mut self, ledger: Value) {
        self.coordinator = ledger;
    }

    /// Notes what a peer's ledger says.
    pub(super) fn peer_ledger(&mut self, name: &str, ledger: Value) {
        self.peers.insert(name.to_owned(), ledger);
    }

    /// The table: one line a contribution.
    pub(super) fn table(&self, run: &RunFacts, transcripts: &[Transcript]) -> Table {
        let mut table = Table::new(&[
            ("round", Align::Right),
            ("held-out loss", Align::Left),
            ("peer", Align::Left),
            ("verdict", Align::Left),
            ("gain", Align::Right),
            ("paid", Align::Right),
            ("bytes", Align::Right),
            ("ratio", Align::Right),
            ("lock ms", Align::Right),
            ("settle ms", Align::Right),
            ("computing", Align::Right),
        ]);
        for transcript in transcripts {
            let tokens = run.predicted_tokens(transcript);
            let before = nats_per_token(transcript.loss_before, tokens);
            let after = nats_per_token(transcript.loss_after, tokens);
            let mut heading = [transcript.round.to_string(), format!("{before:.4} → {after:.4}")];
            for record in &transcript.contributions {
                let commitment = &record.commitment.body;
                let name = self.name(&commitment.peer);
                let report = self.reports.settled.get(&(name.clone(), u64::from(transcript.round.0)));
                let [round, losses] = std::mem::take(&mut heading);
                let bytes = commitment.payload_bytes;
                table.row([
                    round,
                    losses,
                    name,
                    reason(&record.verdict.outcome),
                    record.verdict.gain.map_or_else(dash, |gain| format!("{:+.4}", nats_per_token(gain, tokens))),
                    match &record.verdict.outcome {
                        Outcome::Accepted { reward_msat, .. } => reward_msat.to_string(),
                        Outcome::Rejected { .. } => dash(),
                    },
                    bytes.to_string(),
                    format!("{:.0}×", run.dense_bytes as f64 / bytes.max(1) as f64),
                    report.and_then(|report| report.lock_ms).map_or_else(dash, |ms| ms.to_string()),
                    report
                        .filter(|report| !report.settle_ms.is_empty())
                        .map_or_else(dash, |report| percentile(&report.settle_ms, 50).to_string()),
                    report
                        .filter(|report| report.train_ms > 0)
                        .and_then(|report| self.share_of_round(transcript, report.train_ms))
                        .map_or_else(dash, |share| format!("{:.0} %", 100.0 * share)),
                ]);
            }
        }
        table
    }

    /// The figures.
    pub(super) fn summary(&self, run: &RunFacts, transcripts: &[Transcript], wall: std::time::Duration) -> Summary {
        let records = || transcripts.iter().flat_map(|transcript| &transcript.contributions);
        let loss = |transcript: Option<&Transcript>, score: fn(&Transcript) -> Score| {
            transcript.map_or(f64::NAN, |t| nats_per_token(score(t), run.predicted_tokens(t)))
        };
        let payloads: Vec<u64> =
            records().filter(is_accepted).map(|record| record.commitment.body.payload_bytes).collect();
        let reports = || self.reports.settled.values();
        let settle_ms: Vec<u64> = reports().flat_map(|report| report.settle_ms.iter().copied()).collect();
        let lock_ms: Vec<u64> = reports().filter_map(|report| report.lock_ms).collect();
        let shares = self.compute_shares(transcripts);
        Summary {
            rounds: transcripts.len() as u32,
            parameters: run.dense_bytes / 4,
            loss_first_nats: loss(transcripts.first(), |t| t.loss_before),
            loss_last_nats: loss(transcripts.last(), |t| t.loss_after),
            accepted: records().filter(is_accepted).count() as u32,
            rejected: records().filter(|record| !is_accepted(record)).count() as u32,
            reward_paid_msat: self.peers.values().map(received).sum(),
            fees_paid_msat: self.peers.values().map(spent).sum(),
            ratio_fp32: (run.dense_bytes * payloads.len() as u64) as f64 / payloads.iter().sum::<u64>().max(1) as f64,
            lock_ms_p50: percentile(&lock_ms, 50),
            settle_ms_p50: percentile(&settle_ms, 50),
            settle_ms_p99: percentile(&settle_ms, 99),
            compute_share: shares.iter().sum::<f64>() / shares.len().max(1) as f64,
            replay_identical: self.replays.len() == transcripts.len()
                && self.replays.iter().all(|identical| *identical),
            msat_conserved: self.conserved(transcripts),
            lightning: run.lightning.clone(),
            peak_memory_mib: self.reports.peak_memory_bytes >> 20,
            wall_s: wall.as_secs_f64(),
        }
    }

    fn name(&self, peer: &PeerId) -> String {
        self.reports.names.get(peer).cloned().unwrap_or_else(|| peer.to_string()[..8].to_owned())
    }

    fn share_of_round(&self, transcript: &Transcript, train_ms: u64) -> Option<f64> {
        let closed = *self.reports.closed_ms.get(&u64::from(transcript.round.0))?;
        let round_ms = closed.checked_sub(transcript.opening.body.opened_ms.0).filter(|ms| *ms > 0)?;
        Some(train_ms as f64 / round_ms as f64)
    }

    fn compute_shares(&self, transcripts: &[Transcript]) -> Vec<f64> {
        let mut shares = Vec::new();
        for transcript in transcripts {
            for record in transcript.contributions.iter().filter(is_accepted) {
                let key = (self.name(&record.commitment.body.peer), u64::from(transcript.round.0));
                let report = self.reports.settled.get(&key).filter(|report| report.train_ms > 0);
                shares.extend(report.and_then(|report| self.share_of_round(transcript, report.train_ms)));
            }
        }
        shares
    }

    /// Three views of the same money must agree: what the transcripts award, what the ledgers say on both sides, and
    /// what moved in the channels.
    fn conserved(&self, transcripts: &[Transcript]) -> bool {
        let awarded: u64 = transcripts
            .iter()
            .flat_map(|transcript| &transcript.contributions)
            .map(|record| match &record.verdict.outcome {
                Outcome::Accepted { reward_msat, .. } => reward_msat.msat(),
                Outcome::Rejected { .. } => 0,
            })
            .sum();
        let rewards: u64 = self.peers.values().map(received).sum();
        let fees: u64 = self.peers.values().map(spent).sum();
        let books = rewards == awarded
            && total(&self.coordinator, "rewards_settled_msat") == rewards
            && total(&self.coordinator, "fees_received_msat") == fees
            && total(&self.coordinator, "rewards_locked_msat") == 0
            && total(&self.coordinator, "routing_fees_msat") == 0;
        let channels = self.peers.iter().all(|(name, ledger)| {
            let first = self.reports.first_outbound_msat.get(name).copied();
            let last = self.reports.finished.get(name).and_then(|event| event.get("outbound_msat")?.as_u64());
            tracing::info!(name, first, last, received = received(ledger), spent = spent(ledger), "a peer's channel");
            match (first, last) {
                (Some(first), Some(last)) => first + received(ledger) == last + spent(ledger),
                (None, _) | (_, None) => false,
            }
        });
        tracing::info!(awarded, rewards, fees, books, channels, "the demo's money");
        books && channels
    }
}

/// What is the same in all of a run's rounds.
#[derive(Clone, Debug)]
pub(super) struct RunFacts {
    /// The pseudo-gradient in fp32.
    pub dense_bytes: u64,
    /// Tokens that one held-out window predicts.
    pub predicted_per_window: u64,
    /// The coordinator's Lightning implementation.
    pub lightning: String,
}

impl RunFacts {
    fn predicted_tokens(&self, transcript: &Transcript) -> u64 {
        transcript.held_out.len() as u64 * self.predicted_per_window
    }
}

impl Summary {
    /// The honest work was paid, the loss fell, and every check held.
    pub(super) fn as_it_should_be(&self) -> bool {
        self.replay_identical
            && self.msat_conserved
            && self.reward_paid_msat > 0
            && self.loss_last_nats < self.loss_first_nats
    }

    /// For people.
    pub(super) fn lines(&self) -> Vec<String> {
        let yes_no = |held: bool, yes: &'static str, no: &'static str| if held { yes } else { no };
        vec![
            format!(
                "held-out loss   {:.4} → {:.4} nats/token in {} rounds ({} parameters)",
                self.loss_first_nats, self.loss_last_nats, self.rounds, self.parameters
            ),
            format!("contributions   {} accepted, {} rejected", self.accepted, self.rejected),
            format!(
                "payments        {} in rewards, {} in fees, over {}",
                Msat::new(self.reward_paid_msat),
                Msat::new(self.fees_paid_msat),
                self.lightning
            ),
            format!(
                "latency         lock {} ms, settle {} ms (median), {} ms (99th percentile)",
                self.lock_ms_p50, self.settle_ms_p50, self.settle_ms_p99
            ),
            format!(
                "on the wire     {:.0}× smaller than fp32; {:.0} % of a round is spent computing",
                self.ratio_fp32,
                100.0 * self.compute_share
            ),
            format!(
                "money           {}",
                yes_no(
                    self.msat_conserved,
                    "every msat accounted for: transcripts, ledgers and channels agree",
                    "DOES NOT ADD UP: transcripts, ledgers and channels disagree"
                )
            ),
            format!(
                "audit           {}",
                yes_no(
                    self.replay_identical,
                    "every bit of every round replayed identically",
                    "A ROUND DID NOT REPLAY"
                )
            ),
            format!("resources       {:.0} s, {} MiB in all processes", self.wall_s, self.peak_memory_mib),
        ]
    }
}

fn is_accepted(record: &&ContributionRecord) -> bool {
    matches!(record.verdict.outcome, Outcome::Accepted { .. })
}

fn total(ledger: &Value, name: &str) -> u64 {
    ledger.get("totals").map_or(0, |totals| number(totals, name))
}

fn received(ledger: &Value) -> u64 {
    total(ledger, "received_msat")
}

fn spent(ledger: &Value) -> u64 {
    total(ledger, "fees_msat") + total(ledger, "routing_msat")
}

fn dash() -> String {
    "–".to_owned()
}

/// An unsigned field of a JSON object; 0 where it is missing.
pub(super) fn number(object: &Value, name: &str) -> u64 {
    object.get(name).and_then(Value::as_u64).unwrap_or(0)
}
