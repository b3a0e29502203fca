//! bounty.toml: what a sponsor writes. Reads and checks it; never looks at the disk.
//!
//! Everything wrong is reported at once, each with its line and what to do, so that a sponsor mends a file in one go.

mod reader;
mod values;

use std::fmt;

use serde::Serialize;
use toml::de::DeTable;

use super::wasm::FUEL_METER;
use crate::bounty::sandbox::Tier;
use crate::protocol::amount::Msat;
use crate::protocol::bounty::pay::Direction;
use crate::protocol::bounty::score::{Decimals, Score};
use crate::protocol::bounty::statements::MOST_SUBMISSIONS;
use crate::protocol::ids::UnixMs;
use reader::{Mistakes, Section};

/// The file's name in a bounty's folder.
pub const FILE: &str = "bounty.toml";

/// A module gets no more fuel than so much for each millisecond that it may take: fuel ends it at the same place everywhere,
/// time only where the machine is slow. What a machine gets through is measured by `./x bench --bench figures -- bounty.fuel`;
/// docs/bounties.md has figures, the least of them 3,700: of loads that each need the one before, in much memory.
const FUEL_A_MS: u64 = 1_000;

/// A larger one is refused unread.
pub const MOST_BYTES: u64 = 64 << 10;

/// Something wrong with a bounty.toml.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Problem {
    /// From 1.
    pub line: usize,
    /// What is wrong.
    pub message: String,
    /// What to do.
    pub fix: String,
}

/// Everything wrong with a bounty.toml, by line. Not empty.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, thiserror::Error)]
pub struct Problems(pub Vec<Problem>);

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (place, Problem { line, message, .. }) in self.0.iter().enumerate() {
            let separator = if place == 0 { "" } else { "; " };
            write!(f, "{separator}line {line}: {message}")?;
        }
        Ok(())
    }
}

/// A bounty as its sponsor describes it. Paths are relative to its folder, and stay inside.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Manifest {
    /// For people, one line.
    pub title: String,
    /// For people.
    pub description: String,
    /// Only to be tried out: its held-out part is no secret.
    pub demo_only: DemoOnly,
    /// The folder that agents start from.
    pub workspace: String,
    /// The files in it that a diff may change: all of them are there.
    pub targets: Vec<String>,
    /// Makes something of the changed files, once.
    pub build: Option<Vec<String>>,
    /// What answers the items.
    pub run: Runner,
    /// What it is run on.
    pub data: Data,
    /// The folder with the scorer.
    pub scorer: String,
    /// Prints the score.
    pub score: Vec<String>,
    /// What the score means.
    pub metric: Metric,
    /// All that is paid.
    pub budget: Msat,
    /// What a submission costs.
    pub fee: Msat,
    /// Submissions altogether.
    pub submission_cap: u32,
    /// No commitment is taken after this.
    pub deadline: UnixMs,
    /// Largest diff.
    pub max_diff_bytes: u64,
    /// What each box may use.
    pub limits: BoxLimits,
    /// How strong the boxes must be at least.
    pub tier: Tier,
}

/// What answers the items.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Runner {
    /// A command in a box.
    Command {
        /// Reads one item a line, answers one line an item.
        command: Vec<String>,
        /// Reads those answers in another box, and must give the items back.
        restore: Option<Vec<String>>,
    },
    /// A module of WebAssembly, whose fuel is counted: one of the targets.
    Wasm {
        /// The file.
        module: String,
    },
}

/// Is a bounty only to be tried out?
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum DemoOnly {
    /// It may be posted for money.
    No,
    /// It may not.
    Yes,
}

/// What candidates are run on: folders with `inputs`, and `labels` where there are any, one item a line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Data {
    /// In how many parts it comes.
    pub parts: Parts,
    /// All labels that there can be; without them there are no canaries.
    pub classes: Vec<String>,
}

/// In how many parts the data comes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Parts {
    /// One folder: a salted fifth of it is held out.
    Whole(String),
    /// Two.
    Split {
        /// What everybody gets.
        public: String,
        /// What is scored.
        held_out: String,
    },
}

/// What a score means.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Metric {
    /// For people: `accuracy`, `bytes`.
    pub name: String,
    /// Which way is better.
    pub direction: Direction,
    /// Of every score.
    pub decimals: Decimals,
    /// What the workspace scores; `None`: whatever it is measured to. Never there where a salt decides what is scored.
    pub baseline: Option<Score>,
    /// Pays all.
    pub target: Score,
    /// Smallest paid improvement, in units.
    pub min_improvement: u64,
    /// How much of an improvement may be chance.
    pub noise: Noise,
}

/// How much of an improvement may be chance.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Noise {
    /// The score is the part of the items that are right: 1/√items.
    Rate,
    /// So many units.
    Units(u64),
}

/// What each box may use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BoxLimits {
    /// Time on processors, in milliseconds.
    pub cpu_ms: u64,
    /// Time on the wall, in milliseconds.
    pub wall_ms: u64,
    /// Memory, in bytes.
    pub memory_bytes: u64,
    /// stdout, in bytes.
    pub output_bytes: u64,
    /// Processes and threads.
    pub processes: u32,
    /// Fuel of a module, for all items together.
    pub fuel: u64,
}

impl Runner {
    /// What counts fuel, where fuel is counted.
    pub fn fuel_meter(&self) -> Option<&'static str> {
        match self {
            Runner::Command { .. } => None,
            Runner::Wasm { .. } => Some(FUEL_METER),
        }
    }
}

impl Manifest {
    /// Reads and checks a bounty.toml.
    pub fn parse(text: &str) -> Result<Self, Problems> {
        let mut mistakes = Mistakes::new(text);
        let document = match DeTable::parse(text) {
            Ok(document) => document,
            Err(error) => {
                let at = error.span().map_or(0, |span| span.start);
                mistakes.add(
                    at,
                    error.message().replace('\n', ", "),
                    "Mend it: this line is not TOML (https://toml.io)",
                );
                return mistakes.into_result(None);
            }
        };
        let mut root = Section::root(document.get_ref());
        let manifest = read(&mut root, &mut mistakes);
        root.finish(&mut mistakes);
        if let Some(manifest) = &manifest {
            manifest.check(&document, &mut mistakes);
        }
        mistakes.into_result(manifest)
    }

    /// What no single key shows.
    fn check<'i>(&self, document: &toml::Spanned<DeTable<'i>>, mistakes: &mut Mistakes<'i>) {
        let at = |section: &str, key: &str| {
            let table = document.get_ref();
            let (_, section) = table.iter().find(|(name, _)| name.get_ref().as_ref() == section)?;
            let (_, value) = section.get_ref().as_table()?.iter().find(|(name, _)| name.get_ref().as_ref() == key)?;
            Some(value.span().start)
        };
        let metric = &self.metric;
        let is_drawn = !self.data.classes.is_empty() || matches!(self.data.parts, Parts::Whole(_));
        if let Some(baseline) = metric.baseline {
            if is_drawn {
                let message = "metric.baseline can't be known: which items are scored is drawn when the bounty is posted \
                               (data.all, data.classes)";
                mistakes.add(at("metric", "baseline").unwrap_or(0), message, "Remove it: it is measured then");
            }
            let span = metric.direction.improvement(baseline, metric.target);
            if span <= 0 {
                let better = match metric.direction {
                    Direction::Higher => "above",
                    Direction::Lower => "below",
                };
                let message =
                    format!("metric.target is not {better} metric.baseline, though metric.direction asks for that");
                mistakes.add(at("metric", "target").unwrap_or(0), message, "Mend target, baseline or direction");
            } else if metric.min_improvement > span.unsigned_abs() {
                let message = "metric.min_improvement is more than there is from baseline to target";
                mistakes.add(at("metric", "min_improvement").unwrap_or(0), message, "Lower it");
            }
        }
        if metric.noise == Noise::Rate && metric.decimals.get() < 2 {
            let message = "metric.noise = \"rate\" needs scores with at least 2 decimals";
            mistakes.add(at("metric", "noise").unwrap_or(0), message, "Raise metric.decimals, for example to 4");
        }
        let most = most_fuel(self.limits.cpu_ms, self.limits.wall_ms);
        if matches!(self.run, Runner::Wasm { .. }) && self.limits.fuel > most {
            let message = format!(
                "limits.fuel is {}, and a slow machine gets through {most} in limits.cpu_s and limits.wall_s",
                self.limits.fuel
            );
            mistakes.add(at("limits", "fuel").unwrap_or(0), message, "Lower it, or raise both of these");
        }
    }
}

/// What any machine gets through in that time.
fn most_fuel(cpu_ms: u64, wall_ms: u64) -> u64 {
    cpu_ms.min(wall_ms) * FUEL_A_MS
}

fn read<'i>(root: &mut Section<'_, 'i>, mistakes: &mut Mistakes<'i>) -> Option<Manifest> {
    let title = root.need("title", "\"Compress these logs\"", mistakes, values::line(120));
    let description = root.may("description", "\"…\"", mistakes, values::text(4_000));
    let demo_only = root.may("demo_only", "true", mistakes, values::boolean);
    let workspace = root.need("workspace", "\"workspace\"", mistakes, values::path);
    let targets = root.need("targets", "[\"codec.py\"]", mistakes, values::targets);
    let mut build = root.optional_section("build", mistakes);
    let build_command = match build.is_there() {
        true => build.need("command", "[\"make\"]", mistakes, values::command),
        false => None,
    };
    build.finish(mistakes);
    let run = runner(root, targets.as_ref().map(|found| found.value.as_slice()), &build_command, mistakes);
    let data = data(root, mistakes);
    let mut scorer = root.section("scorer", mistakes);
    let folder = scorer.need("folder", "\"scorer\"", mistakes, values::path);
    let score = scorer.need("command", "[\"python3\", \"/scorer/score.py\"]", mistakes, values::command);
    scorer.finish(mistakes);
    let metric = metric(root, mistakes);
    let mut reward = root.section("reward", mistakes);
    let budget = reward.need("budget_sat", "100_000", mistakes, values::sat(1..=2_100_000_000));
    let fee = reward.may("fee_sat", "10", mistakes, values::sat(0..=1_000_000));
    reward.finish(mistakes);
    let mut submissions = root.section("submissions", mistakes);
    let cap = submissions.need("cap", "100", mistakes, values::integer(1..=u64::from(MOST_SUBMISSIONS)));
    let deadline = submissions.need("deadline", "2030-01-31T12:00:00Z", mistakes, values::moment);
    let diff = submissions.may("max_diff_kb", "64", mistakes, values::integer(1..=4_096));
    submissions.finish(mistakes);
    let limits = limits(root, mistakes);
    let mut sandbox = root.optional_section("sandbox", mistakes);
    let tier = sandbox.may("tier", "\"rlimits\"", mistakes, values::tier);
    sandbox.finish(mistakes);
    Some(Manifest {
        title: title?.value,
        description: description.map(|found| found.value).unwrap_or_default(),
        demo_only: if demo_only.is_some_and(|found| found.value) { DemoOnly::Yes } else { DemoOnly::No },
        workspace: workspace?.value,
        targets: targets?.value,
        build: build_command.map(|found| found.value),
        run: run?,
        data: data?,
        scorer: folder?.value,
        score: score?.value,
        metric: metric?,
        budget: budget?.value,
        fee: fee.map_or(Msat::ZERO, |found| found.value),
        // At most MOST_SUBMISSIONS, which fits.
        submission_cap: cap?.value as u32,
        deadline: deadline?.value,
        max_diff_bytes: diff.map_or(64, |found| found.value) << 10,
        limits,
        tier: tier.map_or(Tier::Rlimits, |found| found.value),
    })
}

fn runner<'i>(
    root: &mut Section<'_, 'i>,
    targets: Option<&[String]>,
    build: &Option<reader::Located<Vec<String>>>,
    mistakes: &mut Mistakes<'i>,
) -> Option<Runner> {
    const COMMAND: &str = "[\"python3\", \"/task/codec.py\"]";
    let mut run = root.section("run", mistakes);
    let restore = run.may("restore", "[\"python3\", \"/task/codec.py\", \"-d\"]", mistakes, values::command);
    let module = run.may("wasm", "\"kernel.wat\"", mistakes, values::path);
    let runner = match module {
        None => run
            .need("command", COMMAND, mistakes, values::command)
            .map(|command| Runner::Command { command: command.value, restore: restore.map(|found| found.value) }),
        Some(module) => {
            let mut add = |message: &str, fix: &str| mistakes.add(module.at, message, fix);
            if cfg!(not(feature = "wasm")) {
                add("run.wasm: this l402t was built without the feature wasm", "Build it with --features wasm");
            }
            if targets.is_some_and(|targets| !targets.contains(&module.value)) {
                add("run.wasm is not among targets", "Name it there, too, so that a diff may change it");
            }
            if restore.is_some() || build.is_some() {
                add(
                    "run.wasm goes with neither run.restore nor [build]",
                    "Leave them out: nothing but the module is run",
                );
            }
            if run.may("command", COMMAND, mistakes, values::command).is_some() {
                let message = "run.wasm and run.command are both there";
                mistakes.add(module.at, message, "Choose one: a module whose fuel is counted, or a command in a box");
            }
            Some(Runner::Wasm { module: module.value })
        }
    };
    run.finish(mistakes);
    runner
}

fn data<'i>(root: &mut Section<'_, 'i>, mistakes: &mut Mistakes<'i>) -> Option<Data> {
    let mut data = root.section("data", mistakes);
    let whole = data.may("all", "\"data\"", mistakes, values::path);
    let public = data.may("public", "\"public\"", mistakes, values::path);
    let held_out = data.may("held_out", "\"held-out\"", mistakes, values::path);
    let classes = data.may("classes", "[\"yes\", \"no\"]", mistakes, values::classes);
    let at = data.at();
    let there = data.is_there();
    data.finish(mistakes);
    let parts = match (whole, public, held_out) {
        (Some(whole), None, None) => Parts::Whole(whole.value),
        (None, Some(public), Some(held_out)) => Parts::Split { public: public.value, held_out: held_out.value },
        (whole, public, held_out) => {
            let at = [&whole, &public, &held_out].into_iter().flatten().map(|found| found.at).max().unwrap_or(at);
            if there {
                let message = "[data] names neither one folder nor two";
                let fix = "Give all, to have a fifth of it held out by chance, or both public and held_out";
                mistakes.add(at, message, fix);
            }
            return None;
        }
    };
    Some(Data { parts, classes: classes.map(|found| found.value).unwrap_or_default() })
}

fn metric<'i>(root: &mut Section<'_, 'i>, mistakes: &mut Mistakes<'i>) -> Option<Metric> {
    let mut metric = root.section("metric", mistakes);
    let name = metric.need("name", "\"accuracy\"", mistakes, values::line(40));
    let direction = metric.need("direction", "\"higher\"", mistakes, values::direction);
    let decimals = metric.may("decimals", "4", mistakes, values::integer(0..=u64::from(Decimals::MAX.get())));
    let decimals = decimals.and_then(|found| Decimals::new(found.value as u8)).unwrap_or_default();
    let baseline = metric.may("baseline", "0.872", mistakes, values::score(decimals));
    let target = metric.need("target", "0.986", mistakes, values::score(decimals));
    let min_improvement = metric.need("min_improvement", "0.01", mistakes, values::units(decimals));
    let noise = metric.need("noise", "\"rate\"", mistakes, values::noise(decimals));
    metric.finish(mistakes);
    Some(Metric {
        name: name?.value,
        direction: direction?.value,
        decimals,
        baseline: baseline.map(|found| found.value),
        target: target?.value,
        min_improvement: min_improvement?.value,
        noise: noise?.value,
    })
}

fn limits<'i>(root: &mut Section<'_, 'i>, mistakes: &mut Mistakes<'i>) -> BoxLimits {
    let mut limits = root.optional_section("limits", mistakes);
    let mut value = |key, example: &str, range, default| {
        limits.may(key, example, mistakes, values::integer(range)).map_or(default, |found| found.value)
    };
    let cpu_ms = value("cpu_s", "10", 1..=3_600, 10) * 1_000;
    let wall_ms = value("wall_s", "30", 1..=3_600, 30) * 1_000;
    let read = BoxLimits {
        cpu_ms,
        wall_ms,
        memory_bytes: value("memory_mb", "512", 32..=65_536, 512) << 20,
        output_bytes: value("output_kb", "1_024", 1..=262_144, 1_024) << 10,
        // At most 1,000.
        processes: value("processes", "32", 1..=1_000, 32) as u32,
        fuel: value("fuel", "100_000_000", 1..=1_000_000_000_000, most_fuel(cpu_ms, wall_ms)),
    };
    limits.finish(mistakes);
    read
}

#[cfg(test)]
mod tests;
