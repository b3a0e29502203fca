//! Live progress of the demo, and the figures that the processes report on the way.

use std::collections::BTreeMap;

use serde_json::Value;

use super::summary::{PeerReport, Reports, number};
use crate::cmd::judge_pool::nats_per_token;
use crate::protocol::verdict::Score;
use crate::ui::{Progress, Ui, Unit};

/// Watches the processes' events.
#[derive(Debug)]
pub(super) struct Watch {
    ui: Ui,
    rounds: Progress,
    reports: Reports,
    steps: BTreeMap<String, (u64, u64)>,
}

impl Watch {
    pub(super) fn new(ui: &Ui, rounds: u32) -> Self {
        Self {
            ui: ui.clone(),
            rounds: ui.progress("rounds", u64::from(rounds), Unit::Count),
            reports: Reports::default(),
            steps: BTreeMap::new(),
        }
    }

    /// Takes in what a process said.
    pub(super) fn event(&mut self, name: &str, event: &Value) {
        let round = number(event, "round");
        match event.get("event").and_then(Value::as_str).unwrap_or_default() {
            "registered" => {
                let channel_ms = number(event, "channel_ms");
                self.ui.say(format!("{name}: wallet and channel ready after {channel_ms} ms"));
                if let Some(peer) = event.get("peer").and_then(Value::as_str).and_then(|text| text.parse().ok()) {
                    self.reports.names.insert(peer, name.to_owned());
                    self.reports.first_outbound_msat.insert(name.to_owned(), number(event, "outbound_msat"));
                }
            }
            "step" => {
                self.steps.insert(name.to_owned(), (number(event, "step"), number(event, "steps")));
                let steps: Vec<String> =
                    self.steps.iter().map(|(name, (step, steps))| format!("{name} {step}/{steps}")).collect();
                self.rounds.set(round, &steps.join(", "));
            }
            "settled" => {
                let report = PeerReport {
                    train_ms: number(event, "train_ms"),
                    lock_ms: event.get("lock_ms").and_then(Value::as_u64),
                    settle_ms: event
                        .get("settle_ms")
                        .and_then(Value::as_array)
                        .map(|list| list.iter().filter_map(Value::as_u64).collect())
                        .unwrap_or_default(),
                };
                self.reports.settled.insert((name.to_owned(), round), report);
            }
            "round_closed" => {
                self.reports.closed_ms.insert(round, number(event, "closed_ms"));
                self.steps.clear();
                self.rounds.set(round + 1, "");
                let contributions = event.get("contributions").and_then(Value::as_array).map_or(0, Vec::len);
                self.ui.say(format!(
                    "round {round} is closed: held-out loss {} nats/token, {contributions} contributions",
                    losses(event)
                ));
            }
            "round_missed" => {
                let reason = event.get("reason").and_then(Value::as_str).unwrap_or("no reason given");
                self.ui.say(format!("{name}: missed round {round}: {reason}"));
            }
            "finished" => {
                self.reports.finished.insert(name.to_owned(), event.clone());
            }
            _ => {}
        }
    }

    /// Takes in how much memory the processes hold together.
    pub(super) fn memory(&mut self, bytes: u64) {
        self.reports.peak_memory_bytes = self.reports.peak_memory_bytes.max(bytes);
    }

    pub(super) fn into_reports(self) -> Reports {
        self.reports
    }
}

fn losses(event: &Value) -> String {
    let tokens = number(event, "predicted_tokens");
    let nats = |name: &str| nats_per_token(Score(event.get(name).and_then(Value::as_i64).unwrap_or(0)), tokens);
    format!("{:.4} → {:.4}", nats("loss_before"), nats("loss_after"))
}
