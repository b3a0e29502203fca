//! `l402t bounty check`: everything that must be true of a bounty before it can be posted.

use std::path::Path;

use serde::Serialize;

use super::super::{Answer, Context, Failure};
use super::shell::word;
use super::{load, not_evaluated, sandbox};
use crate::bounty::evaluate::Evaluator;
use crate::bounty::lint::{Finding, Level, lint};
use crate::bounty::load::{Bounty, Extent};
use crate::bounty::manifest::DemoOnly;
use crate::bounty::sandbox::Tier;
use crate::cli::BountyCheckArgs;
use crate::clock::{Clock, SystemClock};
use crate::protocol::amount::Msat;
use crate::protocol::bounty::score::Score;
use crate::protocol::bounty::statements::Rules;

/// What `--json` prints.
#[derive(Debug, Serialize)]
struct Report<'a> {
    postable: bool,
    title: &'a str,
    metric: &'a str,
    demo_only: DemoOnly,
    findings: &'a [Finding],
    /// Scores are decimal numbers in strings, so that no reader rounds them.
    baseline: Option<String>,
    target: String,
    /// The smallest improvement that is paid.
    least_improvement: Option<String>,
    scored_items: usize,
    canaries: usize,
    budget_msat: Msat,
    tier: Tier,
    /// What counts a module's fuel: a score made of it holds for this version alone.
    #[serde(skip_serializing_if = "Option::is_none")]
    fuel_meter: Option<&'static str>,
}

/// Runs the command.
pub(super) fn run(args: &BountyCheckArgs, context: &Context, scratch: &Path) -> Result<Answer, Failure> {
    context.log_to_stderr()?;
    let bounty = load(&args.folder, Extent::Whole)?;
    let checked = check(&bounty, context, scratch)?;
    let folder = word(&args.folder);
    Ok(match checked.rules {
        Some(_) => checked.answer.then(format!("l402t bounty post {folder}")),
        None => checked.answer.then(format!("l402t bounty check {folder}")),
    })
}

/// What a check came to.
pub(super) struct Checked {
    /// For whoever asked for the check.
    pub(super) answer: Answer,
    /// As they would be posted; `None` where the bounty can't be.
    pub(super) rules: Option<Rules>,
}

/// Checks a whole bounty in this machine's boxes, and tells people what was found.
pub(super) fn check(bounty: &Bounty, context: &Context, scratch: &Path) -> Result<Checked, Failure> {
    let boxes = sandbox(&bounty.manifest)?;
    let exam = bounty.held_out_exam().ok_or_else(|| Failure::bug("a whole bounty has no held-out part"))?;
    context.ui.say("running the baseline twice, and answers that nobody worked for");
    let evaluator = Evaluator { boxes: &boxes, manifest: &bounty.manifest, scorer: &bounty.scorer, scratch };
    let found = lint(bounty, &exam, &evaluator, SystemClock.now()).map_err(not_evaluated(scratch))?;
    let metric = &bounty.manifest.metric;
    let shown = |score: Score| score.shown(metric.decimals).to_string();
    let baseline = found.rules.map(|rules| shown(rules.baseline));
    let step = found.rules.and_then(|rules| rules.least_improvement()).map(shown);
    for Finding { level, message, fix, .. } in &found.findings {
        let level = match level {
            Level::Error => "error",
            Level::Warning => "warning",
        };
        context.ui.line(format!("{level}: {message}\n  fix: {fix}"));
    }
    if let (Some(baseline), Some(step)) = (&baseline, &step) {
        context.ui.line(format!("{:<9} {} items and {} canaries", "held out", found.scored_items, found.canaries));
        context.ui.line(format!("{:<9} {baseline} {}, twice", "baseline", metric.name));
        context.ui.line(format!("{:<9} {}, in steps of at least {step}", "target", shown(metric.target)));
        context.ui.line(format!("{:<9} {} in all, boxes: {}", "pays", bounty.manifest.budget, boxes.tier()));
    }
    let fuel_meter = bounty.manifest.run.fuel_meter();
    if let Some(meter) = fuel_meter {
        context.ui.line(format!("{:<9} {meter}", "meter"));
    }
    let postable = found.is_postable();
    context.ui.line(match (postable, bounty.manifest.demo_only) {
        (true, DemoOnly::No) => "this bounty can be posted",
        (true, DemoOnly::Yes) => "this bounty can be posted to try things out, not for money (demo_only)",
        (false, DemoOnly::No | DemoOnly::Yes) => "this bounty can't be posted yet",
    });
    let report = Report {
        postable,
        title: &bounty.manifest.title,
        metric: &metric.name,
        demo_only: bounty.manifest.demo_only,
        findings: &found.findings,
        baseline,
        target: shown(metric.target),
        least_improvement: step,
        scored_items: found.scored_items,
        canaries: found.canaries,
        budget_msat: bounty.manifest.budget,
        tier: boxes.tier(),
        fuel_meter,
    };
    let answer = if postable {
        Answer::yes(report)
    } else {
        let fix = "Mend what the findings name";
        Answer::no(report, Failure::negative("not_postable", "this bounty can't be posted yet", fix))
    };
    Ok(Checked { answer, rules: found.rules.filter(|_| postable) })
}
