//! What people see of a peer at work. With `--json` every event is a line on stdout instead.

use std::sync::{Mutex, PoisonError};

use crate::peer::events::PeerEvent;
use crate::protocol::bounty;
use crate::protocol::verdict::{Outcome, Rejection};
use crate::ui::{Format, Progress, Ui, Unit};

/// Shows events.
#[derive(Debug)]
pub(super) struct PeerView {
    ui: Ui,
    /// Of the download or the training under way.
    progress: Mutex<Option<Progress>>,
}

impl PeerView {
    pub(super) fn new(ui: Ui) -> Self {
        Self { ui, progress: Mutex::new(None) }
    }

    pub(super) fn show(&self, event: &PeerEvent) {
        match self.ui.format() {
            Format::Json => self.ui.json(event),
            Format::Text | Format::Nothing => self.show_to_people(event),
        }
    }

    fn show_to_people(&self, event: &PeerEvent) {
        let mut progress = self.progress.lock().unwrap_or_else(PoisonError::into_inner);
        match event {
            PeerEvent::Download { doing, bytes, total_bytes } => {
                let bar = progress.get_or_insert_with(|| self.ui.progress(doing, *total_bytes, Unit::Bytes));
                bar.set(*bytes, "");
                if bytes == total_bytes {
                    *progress = None;
                }
            }
            PeerEvent::Step { round, step, steps, loss_nats, tokens_per_s } => {
                let label = format!("round {round}: step");
                let bar = progress.get_or_insert_with(|| self.ui.progress(&label, u64::from(*steps), Unit::Count));
                bar.set(u64::from(*step), &format!("loss {loss_nats:.3}, {tokens_per_s} tokens/s"));
                if step == steps {
                    *progress = None;
                }
            }
            other => {
                *progress = None;
                if let Some(line) = line(other) {
                    self.ui.say(line);
                }
            }
        }
    }
}

/// An event in one line; none for those that are shown as progress or at the end.
fn line(event: &PeerEvent) -> Option<String> {
    Some(match event {
        PeerEvent::Registered { network, inbound_msat, outbound_msat, .. } => {
            format!("channel on {network} is usable: can receive {inbound_msat}, can send {outbound_msat}")
        }
        PeerEvent::RoundStarted { round, commit_in_ms, .. } => {
            format!("round {round}: {} s left to commit", commit_in_ms / 1_000)
        }
        PeerEvent::CaughtUp { round, from_round, aggregate_bytes, checkpoint_bytes, .. } => format!(
            "round {round}: model brought up to date from round {from_round} by {aggregate_bytes} bytes instead of \
             {checkpoint_bytes}"
        ),
        PeerEvent::NotCaughtUp { round, reason } => {
            format!(
                "round {round}: downloading the whole model, an earlier one could not be brought up to date: {reason}"
            )
        }
        PeerEvent::Trained { round, train_ms, payload_bytes, dense_bytes } => format!(
            "round {round}: trained in {:.1} s; {payload_bytes} bytes, {} times smaller than fp32",
            *train_ms as f64 / 1e3,
            dense_bytes.checked_div(*payload_bytes).unwrap_or(0)
        ),
        PeerEvent::Ticket { round, fee_msat, reward_max_msat, .. } => {
            format!("round {round}: ticket bought for {fee_msat}; at most {reward_max_msat} to earn")
        }
        PeerEvent::Locked { round, locked_msat, tranches, lock_ms } => {
            format!("round {round}: {locked_msat} locked for us in {tranches} tranches after {lock_ms} ms")
        }
        PeerEvent::Uploaded { round, payload_bytes, upload_ms, .. } => {
            format!("round {round}: {payload_bytes} bytes uploaded in {upload_ms} ms")
        }
        PeerEvent::Verdict { round, outcome, .. } => match outcome {
            Outcome::Accepted { reward_msat, .. } => format!("round {round}: accepted, {reward_msat} earned"),
            Outcome::Rejected { rejection } => format!("round {round}: rejected, {}", reason(rejection)),
        },
        PeerEvent::BountyVerdict { outcome: bounty::verdict::Outcome::Reached { reward_msat }, .. } => {
            format!("claim reached: {reward_msat} earned")
        }
        PeerEvent::BountyVerdict { outcome: bounty::verdict::Outcome::Rejected { reason }, .. } => {
            format!("claim not reached: {reason}")
        }
        PeerEvent::Settled { round, reward_msat, lost_msat, .. } if lost_msat.msat() > 0 => {
            format!("round {round}: {reward_msat} received; {lost_msat} expired before they could be claimed")
        }
        PeerEvent::Settled { round, reward_msat, .. } => format!("round {round}: {reward_msat} received"),
        PeerEvent::GivenBack { round, amount_msat, height, .. } => {
            format!("round {round}: {amount_msat} given back at block {height}: no receipt came before the lock's end")
        }
        PeerEvent::Guarding(holding) => format!(
            "{} still held in {} tranches: guarding them until each is claimed or given back{}. Ctrl-C leaves them to the next \
             start",
            holding.amount_msat,
            holding.tranches,
            holding.first_expiry_height.map_or(String::new(), |height| format!(", before block {height}"))
        ),
        PeerEvent::RoundMissed { round, reason } => format!("round {round}: missed, {reason}"),
        PeerEvent::Waiting { doing, reason, left_ms } => {
            format!("could not {doing}: {reason}. Trying again for another {} s", left_ms / 1_000)
        }
        PeerEvent::Download { .. } | PeerEvent::Step { .. } | PeerEvent::Finished { .. } => return None,
    })
}

fn reason(rejection: &Rejection) -> String {
    match rejection {
        Rejection::NotUploaded => "no update arrived in time".to_owned(),
        Rejection::Malformed { code } => format!("the update can't be read ({code})"),
        Rejection::NotFinite => "the loss with it is not finite".to_owned(),
        Rejection::Copy { of, overlap_ppm } => {
            format!("it is a copy of contribution {of} ({} % the same)", overlap_ppm.get() / 10_000)
        }
        Rejection::LockLost => "the locked reward was about to expire, or came back, before the verdict".to_owned(),
        Rejection::GainTooSmall => "it does not lower the held-out loss enough".to_owned(),
    }
}
