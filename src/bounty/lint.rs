//! What has to be true of a bounty before anybody is asked to pay for it: read through, and run.

use serde::Serialize;

use super::data::Exam;
use super::evaluate::{EvaluateError, Evaluation, Evaluator};
use super::load::Bounty;
use super::manifest::{Manifest, Noise, Runner};
use super::tree::Tree;
use super::{orders, package};
use crate::protocol::amount::Msat;
use crate::protocol::bounty::canary::CANARIES;
use crate::protocol::bounty::pay::noise_of_rate;
use crate::protocol::bounty::score::Score;
use crate::protocol::bounty::statements::{Rules, RulesError};
use crate::protocol::ids::UnixMs;

/// With fewer items than this a rate takes large steps to be safe.
const GOOD_ITEMS: usize = 2_000;
/// Shorter labels are in many files by chance.
const LEAST_LEAK_BYTES: usize = 64;

/// How bad a finding is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Level {
    /// It can't be posted.
    Error,
    /// It can, and should be looked at.
    Warning,
}

/// Something that a sponsor should know.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// How bad.
    pub level: Level,
    /// Stable, snake_case.
    pub code: &'static str,
    /// What was found.
    pub message: String,
    /// What to do.
    pub fix: String,
}

/// What a lint found.
#[derive(Clone, Debug)]
pub struct Lint {
    /// Errors first.
    pub findings: Vec<Finding>,
    /// The rules as they would be posted; `None` where there are none.
    pub rules: Option<Rules>,
    /// Held-out items, those that are scored.
    pub scored_items: usize,
    /// Held-out items that aren't.
    pub canaries: usize,
}

impl Lint {
    /// May it be posted?
    pub fn is_postable(&self) -> bool {
        self.rules.is_some() && self.findings.iter().all(|finding| finding.level != Level::Error)
    }
}

/// The rules that a manifest comes to, with a measured baseline.
pub fn rules(manifest: &Manifest, baseline: Score, scored_items: usize) -> Rules {
    let noise_bound = match manifest.metric.noise {
        Noise::Units(units) => units,
        Noise::Rate => noise_of_rate(manifest.metric.decimals, scored_items as u64),
    };
    Rules {
        decimals: manifest.metric.decimals,
        direction: manifest.metric.direction,
        baseline,
        target: manifest.metric.target,
        budget_msat: manifest.budget,
        min_improvement: manifest.metric.min_improvement,
        noise_bound,
        submission_cap: manifest.submission_cap,
        fee_msat: manifest.fee,
        deadline_ms: manifest.deadline,
    }
}

/// Reads through a bounty and runs its baseline twice, and answers that nobody worked for once each.
pub fn lint(bounty: &Bounty, exam: &Exam, evaluator: &Evaluator<'_>, now: UnixMs) -> Result<Lint, EvaluateError> {
    let mut findings = Findings(Vec::new());
    let scored_items = exam.scored().len();
    findings.read_through(bounty, exam, now);
    let baseline = findings.baseline(bounty, exam, evaluator)?;
    let rules = baseline.map(|baseline| rules(&bounty.manifest, baseline, scored_items));
    if let Some(rules) = &rules {
        findings.check_rules(&bounty.manifest, rules, scored_items);
        findings.null_candidates(bounty, exam, evaluator, rules)?;
    }
    let mut findings = findings.0;
    findings.sort_by_key(|finding| finding.level);
    Ok(Lint { findings, rules, scored_items, canaries: exam.canaries.len() })
}

struct Findings(Vec<Finding>);

impl Findings {
    fn error(&mut self, code: &'static str, message: impl Into<String>, fix: impl Into<String>) {
        self.0.push(Finding { level: Level::Error, code, message: message.into(), fix: fix.into() });
    }

    fn warning(&mut self, code: &'static str, message: impl Into<String>, fix: impl Into<String>) {
        self.0.push(Finding { level: Level::Warning, code, message: message.into(), fix: fix.into() });
    }

    /// What shows without running anything.
    fn read_through(&mut self, bounty: &Bounty, exam: &Exam, now: UnixMs) {
        if bounty.manifest.deadline <= now {
            self.error("deadline_past", "submissions.deadline is over", "Choose a later one");
        }
        let shared = exam.part.shared_with(&bounty.public);
        if shared > 0 {
            let message =
                format!("{shared} held-out items are in the public part, too: whoever looks knows their labels");
            self.error("items_leak", message, "Take them out of one of the two");
        }
        if let Some(labels) = &exam.part.labels {
            let classes = &bounty.manifest.data.classes;
            if let Some(unknown) = labels.iter().find(|label| !classes.is_empty() && !classes.contains(label)) {
                let message = format!("a held-out label is {unknown:?}, which data.classes doesn't name");
                self.error("unknown_label", message, "Name every label there, each just as it is in the file");
            }
            let text = super::data::to_lines(labels);
            let leaks = |tree: &Tree| {
                let holds = |content: &[u8]| {
                    text.len() >= LEAST_LEAK_BYTES && content.windows(text.len()).any(|window| window == text)
                };
                tree.files().find(|(_, file)| holds(&file.content)).map(|(path, _)| path.to_owned())
            };
            if let Some(path) = leaks(&bounty.workspace) {
                let message = format!("the held-out labels are in the workspace's {path}");
                self.error("labels_leak", message, "Take them out: agents get that folder");
            }
            if let Some(path) = leaks(&bounty.scorer) {
                let message = format!("the held-out labels are in the scorer's {path}");
                self.error(
                    "labels_leak",
                    message,
                    "Take them out: the scorer gets labels in /in, and is public itself",
                );
            }
        }
        let package = package::of_bounty(bounty, b"");
        if let Some((path, _)) = package.files().find(|(path, _)| orders::are_given_by(path)) {
            let message = format!("tools would take orders from {path:?} by themselves: nobody would claim the bounty");
            self.error("gives_orders", message, "Rename it, or take it out");
        }
        if exam.canaries.is_empty() {
            let labels = exam.part.labels.is_some();
            if labels && bounty.manifest.data.classes.is_empty() {
                let fix = "List every possible label as data.classes, if they are classes";
                self.warning("no_canaries", "there are labels, but no classes: leaked labels can't be noticed", fix);
            } else if labels {
                let message = format!("fewer than {} held-out items: leaked labels can't be noticed", 2 * CANARIES);
                self.warning("no_canaries", message, "Hold out more items");
            }
        }
    }

    /// What the workspace scores, where it does so twice alike.
    fn baseline(
        &mut self,
        bounty: &Bounty,
        exam: &Exam,
        evaluator: &Evaluator<'_>,
    ) -> Result<Option<Score>, EvaluateError> {
        let decimals = bounty.manifest.metric.decimals;
        let mut scores = Vec::new();
        for _ in 0..2 {
            let Evaluation { score, detail, .. } = evaluator.evaluate(&bounty.workspace, exam)?;
            match score {
                Ok(score) => scores.push(score),
                Err(rejection) => {
                    let message = format!("the workspace as it is comes to no score ({rejection}): {detail}");
                    self.error("baseline_fails", message, "Mend the commands, the limits or the files");
                    return Ok(None);
                }
            }
        }
        let (first, second) = (scores[0], scores[1]);
        if first != second {
            let message = format!("the baseline scores {} and then {}", first.shown(decimals), second.shown(decimals));
            self.error("baseline_unstable", message, "Make the scorer give the same score for the same answers");
            return Ok(None);
        }
        if let Some(declared) = bounty.manifest.metric.baseline
            && declared != first
        {
            let message =
                format!("metric.baseline is {}, but {} is measured", declared.shown(decimals), first.shown(decimals));
            self.error("baseline_differs", message, "Write what is measured, or leave metric.baseline out");
        }
        Ok(Some(first))
    }

    fn check_rules(&mut self, manifest: &Manifest, rules: &Rules, scored_items: usize) {
        if let Err(error) = rules.scale() {
            let fix = match error {
                RulesError::TargetNotBetter { .. } => "Set a target that the workspace doesn't reach already",
                RulesError::StepTooLarge { .. } => "Hold out more items, or set a farther target",
                RulesError::StepPaysNothing { .. } => "Raise the budget, or min_improvement",
                RulesError::Budget(_) | RulesError::SubmissionCap(_) => "Mend bounty.toml",
            };
            self.error("rules", error.to_string(), fix);
        }
        if manifest.metric.noise == Noise::Rate
            && scored_items < GOOD_ITEMS
            && let Some(step) = rules.least_improvement()
        {
            let message = format!(
                "{scored_items} held-out items are few: the smallest paid step is {}",
                step.shown(manifest.metric.decimals)
            );
            self.warning("few_items", message, format!("Hold out {GOOD_ITEMS} or more to pay for smaller ones"));
        }
        if manifest.metric.noise == Noise::Rate {
            self.check_luck(rules);
        }
    }

    /// Does a change that does nothing, and claims the smallest step, earn more on average than it costs?
    fn check_luck(&mut self, rules: &Rules) {
        let span = rules.direction.improvement(rules.baseline, rules.target).unsigned_abs();
        let step = rules.min_improvement.max(rules.noise_bound);
        let one_step = u128::from(rules.budget_msat.msat()) * u128::from(step) / u128::from(span.max(1));
        let chance_ppm = chance_ppm(step, rules.noise_bound);
        let earns = u64::try_from(one_step * u128::from(chance_ppm) / 1_000_000).unwrap_or(u64::MAX);
        if earns > rules.fee_msat.msat() {
            let message = format!(
                "a change that does nothing reaches the smallest paid step by luck once in {} submissions: on average that earns {}, \
                 for a fee of {}",
                1_000_000 / chance_ppm,
                Msat::new(earns),
                rules.fee_msat
            );
            self.warning(
                "luck_pays",
                message,
                "Raise reward.fee_sat or metric.min_improvement, or hold out more items",
            );
        }
    }

    /// Answers that took no work: nobody may be paid for them.
    fn null_candidates(
        &mut self,
        bounty: &Bounty,
        exam: &Exam,
        evaluator: &Evaluator<'_>,
        rules: &Rules,
    ) -> Result<(), EvaluateError> {
        // Where answers must give the items back, answers that took no work never reach the scorer.
        if matches!(bounty.manifest.run, Runner::Command { restore: Some(_), .. }) {
            return Ok(());
        }
        let constant = most_frequent(exam).unwrap_or("0");
        for (name, answer) in [("empty", ""), ("constant", constant)] {
            let answers = vec![answer.to_owned(); exam.part.inputs.len()];
            let Evaluation { score, detail, .. } = evaluator.score_answers(&bounty.workspace, exam, &answers)?;
            match score {
                Ok(score) => {
                    if rules.is_step(rules.baseline, score) {
                        let shown = score.shown(rules.decimals);
                        let message = format!("{name} answers score {shown}, and would be paid");
                        self.error("null_candidate_wins", message, "Mend the scorer, or start from a better workspace");
                    }
                }
                Err(_) => {
                    let message = format!("the scorer fails on {name} answers: {detail}");
                    let fix =
                        "Have it score them as badly as they are: an agent whom the scorer fails gets its fee back";
                    self.warning("scorer_fragile", message, fix);
                }
            }
        }
        Ok(())
    }
}

/// How often chance alone moves a rate by so much, in ppm: the tail of a normal distribution from 2, 3 or 4 standard deviations on, of
/// which the noise bound is two.
fn chance_ppm(step: u64, noise_bound: u64) -> u64 {
    let doubled = step.saturating_mul(2);
    if doubled < noise_bound.saturating_mul(3) {
        22_750
    } else if doubled < noise_bound.saturating_mul(4) {
        1_350
    } else {
        32
    }
}

/// The label that most items have.
fn most_frequent(exam: &Exam) -> Option<&str> {
    let labels = exam.part.labels.as_ref()?;
    let mut sorted: Vec<&str> = labels.iter().map(String::as_str).collect();
    sorted.sort_unstable();
    sorted.chunk_by(|a, b| a == b).max_by_key(|same| same.len()).and_then(|same| same.first()).copied()
}
