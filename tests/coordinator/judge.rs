//! A judge that needs no model: payloads that begin with `good` are accepted, with equal shares.

use std::sync::atomic::{AtomicU32, Ordering};

use l402t::coordinator::judging::{Judge, JudgeRequest, Judgement};
use l402t::protocol::amount::Ppm;
use l402t::protocol::reward;
use l402t::protocol::verdict::{Outcome, Rejection, Score, VerdictRecord};

#[derive(Debug)]
pub(crate) struct FakeJudge;

impl Judge for FakeJudge {
    fn judge(&self, request: &JudgeRequest) -> Result<Judgement, String> {
        let params = &request.manifest.reward;
        let is_good = |payload: &Option<Vec<u8>>| payload.as_ref().is_some_and(|bytes| bytes.starts_with(b"good"));
        let good = request.submissions.iter().filter(|(_, payload)| is_good(payload)).count();
        let shares = reward::shares(params, &vec![Score(1); good]);
        let share = shares.first().copied().unwrap_or(Ppm::ZERO);
        let (tranches_paid, reward_msat) = reward::tranches_for(params, share);
        let mut next_checkpoint = request.start.clone();
        let verdict = |(contribution, payload): &(_, Option<Vec<u8>>)| {
            let outcome = match payload {
                None => Outcome::Rejected { rejection: Rejection::NotUploaded },
                Some(_) if is_good(payload) => Outcome::Accepted { share_ppm: share, reward_msat, tranches_paid },
                Some(_) => Outcome::Rejected { rejection: Rejection::GainTooSmall },
            };
            VerdictRecord { contribution: *contribution, loss_after: None, gain: None, clip: None, outcome }
        };
        let verdicts = request.submissions.iter().map(verdict).collect();
        let windows: u32 = request.held_out.iter().flatten().sum();
        next_checkpoint.extend_from_slice(&windows.to_le_bytes());
        Ok(Judgement {
            loss_before: Score(10),
            loss_after: Score(9),
            verdicts,
            next_checkpoint,
            aggregate: Some(b"aggregate".to_vec()),
        })
    }
}

/// A judge that is wrong before it is right: it can't answer, then pays more than the share, then pays for nothing.
#[derive(Debug, Default)]
pub(crate) struct WrongThenRight(AtomicU32);

impl Judge for WrongThenRight {
    fn judge(&self, request: &JudgeRequest) -> Result<Judgement, String> {
        let mut judgement = FakeJudge.judge(request)?;
        match self.0.fetch_add(1, Ordering::SeqCst) {
            0 => return Err("out of memory".into()),
            1 => {
                if let Outcome::Accepted { tranches_paid, .. } = &mut judgement.verdicts[0].outcome {
                    *tranches_paid ^= 1;
                }
            }
            2 => judgement.verdicts[1].outcome = judgement.verdicts[0].outcome.clone(),
            _ => {}
        }
        Ok(judgement)
    }
}

/// A judge whose aggregate couldn't be encoded.
#[derive(Debug)]
pub(crate) struct WithoutAggregate;

impl Judge for WithoutAggregate {
    fn judge(&self, request: &JudgeRequest) -> Result<Judgement, String> {
        Ok(Judgement { aggregate: None, ..FakeJudge.judge(request)? })
    }
}
