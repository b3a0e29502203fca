//! What evaluates in these tests: no boxes, and a score that is written in the answer.

use std::collections::BTreeSet;
use std::sync::Mutex;

use l402t::bounty::data::Exam;
use l402t::bounty::evaluate::{EvaluateError, Evaluation};
use l402t::bounty::judge::Evaluate;
use l402t::bounty::lint::{Lint, rules};
use l402t::bounty::load::Bounty;
use l402t::bounty::sandbox::Tier;
use l402t::bounty::tree::Tree;
use l402t::protocol::bounty::score::Score;
use l402t::protocol::bounty::verdict::Rejection;
use l402t::protocol::ids::UnixMs;

/// Scores the number in the answer; a word there is the scorer's failure.
#[derive(Debug)]
pub(super) struct Reader;

impl Evaluate for Reader {
    fn evaluate(&self, bounty: &Bounty, tree: &Tree, _: &Exam) -> Result<Evaluation, EvaluateError> {
        let text = String::from_utf8_lossy(&tree.get("answer.txt").expect("a target").content).into_owned();
        let score = Score::parse(&said(text.trim()), bounty.manifest.metric.decimals);
        let score = score.map_err(|_| Rejection::ScorerFailed);
        Ok(Evaluation { score, detail: String::new(), fuel: None, boxes: Vec::new() })
    }

    fn lint(&self, bounty: &Bounty, exam: &Exam, _: UnixMs) -> Result<Lint, EvaluateError> {
        let baseline = self.evaluate(bounty, &bounty.workspace, exam)?.score.ok();
        let rules = baseline.map(|baseline| rules(&bounty.manifest, baseline, exam.scored().len()));
        Ok(Lint { findings: Vec::new(), rules, scored_items: exam.scored().len(), canaries: 0 })
    }

    fn tier(&self) -> Tier {
        Tier::Rlimits
    }
}

/// The number in an answer; one that fades is 100 less from the second time on.
fn said(text: &str) -> String {
    static SEEN: Mutex<BTreeSet<String>> = Mutex::new(BTreeSet::new());
    match text.strip_suffix(" fades") {
        Some(number) if !SEEN.lock().expect("whole").insert(number.to_owned()) => {
            (number.parse::<i64>().expect("a number") - 100).to_string()
        }
        Some(number) => number.to_owned(),
        None => text.to_owned(),
    }
}
