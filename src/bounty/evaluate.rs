//! Evaluation: builds a tree, runs it twice, and has a scorer look at its answers, each in a box of its own.
//!
//! Boxes share nothing: the candidate's sees items on stdin and answers on stdout, the scorer's gets items, labels and those
//! answers. Whose fault an end is, is decided here; what this machine is to blame for is an error, never a verdict.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::data::{Exam, INPUTS, LABELS, lines, to_lines};
use super::manifest::{Manifest, Runner};
use super::sandbox::{Archive, ArchiveLimits, BoxError, BoxOutcome, BoxSpec, Ending, Limits, Sandbox, Tier, Usage};
use super::scratch::Scratch;
use super::tree::Tree;
use super::wasm::{self, Measured, ModuleLimits, Outcome, Task};
use crate::protocol::bounty::order::permutation;
use crate::protocol::bounty::score::Score;
use crate::protocol::bounty::verdict::Rejection;

/// Where a candidate finds its tree.
const TASK: &str = "/task";
/// Where a candidate finds what its build left.
const BUILT: &str = "/build";
/// Where a build leaves it.
const BUILD_OUTPUT: &str = super::sandbox::SCRATCH;
/// Where a scorer finds itself, and what it is to score.
const SCORER: &str = "/scorer";
const SCORED: &str = "/in";
/// The file with the answers there.
const ANSWERS: &str = "answers";
/// Tells the scorer how many bytes the target files have.
const SOURCE_BYTES: &str = "SOURCE_BYTES";
/// Tells the scorer how much fuel a module took for all items.
const FUEL: &str = "FUEL";
/// A scorer prints one number: this is plenty.
const MOST_SCORE_BYTES: u64 = 4_096;
/// An archive's headers and padding, beside its contents.
const ARCHIVE_OVERHEAD_BYTES: u64 = 16 << 20;
/// Of a box's memory, what it may keep in files: at most so much, and at most the half.
const MOST_SCRATCH_BYTES: u64 = 256 << 20;
const MOST_TMP_BYTES: u64 = 16 << 20;

/// Runs commands in boxes: the sandbox, or a test's idea of one.
pub trait Boxes {
    /// As [`Sandbox::run`].
    fn run(&self, spec: &BoxSpec) -> Result<BoxOutcome, BoxError>;

    /// As [`wasm::measure`].
    fn measure(&self, task: &Task, limits: &Limits) -> Result<Measured, BoxError>;

    /// How strong they are.
    fn tier(&self) -> Tier;
}

impl Boxes for Sandbox {
    fn run(&self, spec: &BoxSpec) -> Result<BoxOutcome, BoxError> {
        Sandbox::run(self, spec)
    }

    fn measure(&self, task: &Task, limits: &Limits) -> Result<Measured, BoxError> {
        wasm::measure(self, task, limits)
    }

    fn tier(&self) -> Tier {
        Sandbox::tier(self)
    }
}

/// An evaluation that came to nothing by this machine's fault: nobody is judged by it.
#[derive(Debug, thiserror::Error)]
pub enum EvaluateError {
    /// A box.
    #[error(transparent)]
    Box(#[from] BoxError),
    /// A disk.
    #[error("an evaluation could not write its files: {0}. Free some space, then evaluate again")]
    Io(#[from] io::Error),
}

/// What a box was for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Stage {
    /// The build.
    Build,
    /// The items in their order.
    Run,
    /// The items in another order.
    Permuted,
    /// The answers back to items.
    Restore,
    /// The score.
    Score,
}

/// What came of an evaluation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Evaluation {
    /// The score, or why there is none.
    pub score: Result<Score, Rejection>,
    /// In words, for whoever may see it: may quote what a box wrote to stderr.
    pub detail: String,
    /// What a module took for all items, canaries included, as [`wasm::FUEL_METER`] counts.
    pub fuel: Option<u64>,
    /// What each box used, in order.
    pub boxes: Vec<(Stage, Usage)>,
}

/// Evaluates trees for one bounty.
#[derive(Clone, Copy)]
pub struct Evaluator<'a> {
    /// Makes boxes.
    pub boxes: &'a dyn Boxes,
    /// The bounty.
    pub manifest: &'a Manifest,
    /// Its scorer.
    pub scorer: &'a Tree,
    /// Where scratch folders may be made.
    pub scratch: &'a Path,
}

impl std::fmt::Debug for Evaluator<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Evaluator").field("manifest", self.manifest).finish_non_exhaustive()
    }
}

/// Why an evaluation ends early.
enum Stop {
    Rejected(Rejection, String),
    Error(EvaluateError),
}

impl<E: Into<EvaluateError>> From<E> for Stop {
    fn from(error: E) -> Self {
        Stop::Error(error.into())
    }
}

fn reject<T>(rejection: Rejection, detail: impl Into<String>) -> Result<T, Stop> {
    Err(Stop::Rejected(rejection, detail.into()))
}

impl Evaluator<'_> {
    /// Evaluates one tree. Blocks until the last box is gone.
    pub fn evaluate(&self, tree: &Tree, exam: &Exam) -> Result<Evaluation, EvaluateError> {
        let scratch = Scratch::new(self.scratch)?;
        let mut attempt = Attempt::new(self, scratch.path());
        let ended = attempt.evaluate(tree, exam);
        attempt.end(ended)
    }

    /// Scores answers that nobody computed, as a lint does: they take no fuel.
    pub fn score_answers(&self, tree: &Tree, exam: &Exam, answers: &[String]) -> Result<Evaluation, EvaluateError> {
        let scratch = Scratch::new(self.scratch)?;
        let mut attempt = Attempt::new(self, scratch.path());
        attempt.fuel = match self.manifest.run {
            Runner::Command { .. } => None,
            Runner::Wasm { .. } => Some(0),
        };
        let ended = attempt.score(tree, exam, answers);
        attempt.end(ended)
    }
}

/// One evaluation.
struct Attempt<'r> {
    evaluator: &'r Evaluator<'r>,
    scratch: &'r Path,
    fuel: Option<u64>,
    boxes: Vec<(Stage, Usage)>,
}

impl<'r> Attempt<'r> {
    fn new(evaluator: &'r Evaluator<'r>, scratch: &'r Path) -> Self {
        Self { evaluator, scratch, fuel: None, boxes: Vec::new() }
    }

    fn end(self, ended: Result<Score, Stop>) -> Result<Evaluation, EvaluateError> {
        let Self { fuel, boxes, .. } = self;
        match ended {
            Ok(score) => {
                let detail = format!("scored {}", score.shown(self.evaluator.manifest.metric.decimals));
                Ok(Evaluation { score: Ok(score), detail, fuel, boxes })
            }
            Err(Stop::Rejected(rejection, detail)) => Ok(Evaluation { score: Err(rejection), detail, fuel, boxes }),
            Err(Stop::Error(error)) => Err(error),
        }
    }

    fn evaluate(&mut self, tree: &Tree, exam: &Exam) -> Result<Score, Stop> {
        let answers = match &self.evaluator.manifest.run {
            Runner::Command { command, restore } => self.answer(tree, exam, command, restore.as_deref())?,
            Runner::Wasm { module } => self.measure(tree, exam, module)?,
        };
        self.score(tree, exam, &answers)
    }

    /// A command's answers.
    fn answer(
        &mut self,
        tree: &Tree,
        exam: &Exam,
        command: &[String],
        restore: Option<&[String]>,
    ) -> Result<Vec<String>, Stop> {
        let task = self.scratch.join("task");
        tree.write_to(&task)?;
        let built = self.build(&task)?;
        let (items, limits) = (&exam.part.inputs, self.limits());
        let candidate = |command: &[String], stdin: Vec<u8>| {
            let spec = BoxSpec::new(command.iter().cloned()).stdin(stdin).reading(&task, TASK).limits(limits);
            built.iter().fold(spec, |spec, built| spec.reading(built, BUILT))
        };
        let first = candidate(command, to_lines(items));
        let order = permutation(&exam.salt, items.len());
        let permuted: Vec<&String> = order.iter().map(|item| &items[*item]).collect();
        let second = candidate(command, to_lines(&permuted));
        let answers = self.answers(Stage::Run, &first, items.len())?;
        let again = self.answers(Stage::Permuted, &second, items.len())?;
        if let Some(place) = (0..items.len()).find(|place| again[*place] != answers[order[*place]]) {
            let item = order[place] + 1;
            return reject(
                Rejection::Nondeterministic,
                format!("item {item} has another answer in another order and box"),
            );
        }
        no_canary(exam, &answers)?;
        if let Some(command) = restore {
            let restored = self.answers(Stage::Restore, &candidate(command, to_lines(&answers)), items.len())?;
            if let Some(place) = (0..items.len()).find(|place| restored[*place] != items[*place]) {
                return reject(Rejection::MalformedOutput, format!("item {} does not come back as it was", place + 1));
            }
        }
        Ok(answers)
    }

    /// A module's answers. Once is enough: it has no clock, nothing to import, and each item an instance of its own.
    fn measure(&mut self, tree: &Tree, exam: &Exam, module: &str) -> Result<Vec<String>, Stop> {
        let manifest = &self.evaluator.manifest.limits;
        let Some(file) = tree.get(module) else {
            return reject(Rejection::BuildFailed, format!("{module} is not there"));
        };
        let limits = ModuleLimits {
            fuel: manifest.fuel,
            memory_bytes: manifest.memory_bytes,
            output_bytes: manifest.output_bytes,
        };
        let task = Task { module: file.content.clone(), items: exam.part.inputs.clone(), limits };
        let Measured { outcome, usage } =
            self.evaluator.boxes.measure(&task, &self.limits()).map_err(EvaluateError::from)?;
        self.boxes.push((Stage::Run, usage));
        match outcome {
            Outcome::Answered { answers, fuel } => {
                check_lines(&answers)?;
                no_canary(exam, &answers)?;
                self.fuel = Some(fuel);
                Ok(answers)
            }
            Outcome::Failed { failure, detail } => reject(failure.rejection(), detail),
        }
    }

    /// What the build leaves, in a folder.
    fn build(&mut self, task: &Path) -> Result<Option<PathBuf>, Stop> {
        let Some(command) = &self.evaluator.manifest.build else { return Ok(None) };
        let archive = ArchiveLimits::default();
        let limits = Limits { output_bytes: archive.bytes + ARCHIVE_OVERHEAD_BYTES, ..self.limits() };
        let spec = BoxSpec::new(command.iter().cloned()).reading(task, TASK).limits(limits).returning(BUILD_OUTPUT);
        let outcome = self.run(Stage::Build, &spec)?;
        if !outcome.ending.is_success() {
            return reject(Rejection::BuildFailed, said("the build", &outcome));
        }
        match Archive::read(outcome.stdout, archive) {
            Ok(archive) => {
                let folder = self.scratch.join("built");
                archive.write_to(&folder)?;
                Ok(Some(folder))
            }
            Err(error) => reject(Rejection::BuildFailed, format!("what the build left can't be used: {error}")),
        }
    }

    /// One line an item.
    fn answers(&mut self, stage: Stage, spec: &BoxSpec, items: usize) -> Result<Vec<String>, Stop> {
        let outcome = self.run(stage, spec)?;
        let rejection = match outcome.ending {
            Ending::Exited { code: 0 } => None,
            Ending::Exited { .. } | Ending::Signalled { .. } | Ending::NotExecuted => Some(Rejection::Crashed),
            Ending::TimeLimit => Some(Rejection::TimeLimit),
            Ending::MemoryLimit => Some(Rejection::MemoryLimit),
            Ending::OutputLimit => Some(Rejection::OutputLimit),
        };
        if let Some(rejection) = rejection {
            return reject(rejection, said("the candidate", &outcome));
        }
        let Ok(text) = String::from_utf8(outcome.stdout) else {
            return reject(Rejection::MalformedOutput, "the answers are not UTF-8");
        };
        let answers: Vec<String> = lines(&text).map(str::to_owned).collect();
        if answers.len() != items {
            return reject(Rejection::MalformedOutput, format!("{} lines of answers for {items} items", answers.len()));
        }
        // Restored items may hold anything, and no scorer reads those.
        if stage != Stage::Restore {
            check_lines(&answers)?;
        }
        Ok(answers)
    }

    fn score(&mut self, tree: &Tree, exam: &Exam, answers: &[String]) -> Result<Score, Stop> {
        let manifest = self.evaluator.manifest;
        let (scorer, folder) = (self.scratch.join("scorer"), self.scratch.join("scored"));
        self.evaluator.scorer.write_to(&scorer)?;
        fs::create_dir(&folder)?;
        let places = exam.scored();
        let part = exam.part.select(&places);
        let answers: Vec<&String> = places.iter().map(|place| &answers[*place]).collect();
        fs::write(folder.join(INPUTS), to_lines(&part.inputs))?;
        fs::write(folder.join(ANSWERS), to_lines(&answers))?;
        if let Some(labels) = &part.labels {
            fs::write(folder.join(LABELS), to_lines(labels))?;
        }
        let limits = Limits { output_bytes: MOST_SCORE_BYTES, ..self.limits() };
        let spec = BoxSpec::new(manifest.score.iter().cloned())
            .reading(&scorer, SCORER)
            .reading(&folder, SCORED)
            .variable(SOURCE_BYTES, tree.bytes_of(&manifest.targets).to_string())
            .limits(limits);
        let spec = self.fuel.iter().fold(spec, |spec, fuel| spec.variable(FUEL, fuel.to_string()));
        let outcome = self.run(Stage::Score, &spec)?;
        if !outcome.ending.is_success() {
            return reject(Rejection::ScorerFailed, said("the scorer", &outcome));
        }
        let text = String::from_utf8_lossy(&outcome.stdout);
        match Score::parse(text.trim_end_matches('\n'), manifest.metric.decimals) {
            Ok(score) => Ok(score),
            Err(error) => reject(Rejection::ScorerFailed, format!("the scorer printed no score: {error}")),
        }
    }

    fn run(&mut self, stage: Stage, spec: &BoxSpec) -> Result<BoxOutcome, EvaluateError> {
        let outcome = self.evaluator.boxes.run(spec)?;
        self.boxes.push((stage, outcome.usage));
        Ok(outcome)
    }

    fn limits(&self) -> Limits {
        let limits = &self.evaluator.manifest.limits;
        Limits {
            cpu_ms: limits.cpu_ms,
            wall_ms: limits.wall_ms,
            memory_bytes: limits.memory_bytes,
            scratch_bytes: MOST_SCRATCH_BYTES.min(limits.memory_bytes / 2),
            tmp_bytes: MOST_TMP_BYTES.min(limits.memory_bytes / 2),
            output_bytes: limits.output_bytes,
            processes: limits.processes,
        }
    }
}

fn check_lines(answers: &[String]) -> Result<(), Stop> {
    match answers.iter().position(|answer| answer.contains(breaks_lines)) {
        Some(place) => {
            let detail = format!("answer {} has a control character or a line break of another kind", place + 1);
            reject(Rejection::MalformedOutput, detail)
        }
        None => Ok(()),
    }
}

/// What some language's line reader takes for the end of a line: a scorer would see more answers than there are.
fn breaks_lines(c: char) -> bool {
    c.is_control() && c != '\t' || matches!(c, '\u{2028}' | '\u{2029}')
}

/// Who answers what the kept labels say has seen them.
fn no_canary(exam: &Exam, answers: &[String]) -> Result<(), Stop> {
    if exam.is_tripped_by(answers) {
        return reject(Rejection::CanaryTripped, "labels that mean nothing were answered");
    }
    Ok(())
}

/// How a box ended, and the last line that it wrote to stderr.
fn said(who: &str, outcome: &BoxOutcome) -> String {
    let how = match outcome.ending {
        Ending::Exited { code } => format!("ended with code {code}"),
        Ending::Signalled { signal } => format!("was ended by signal {signal}"),
        Ending::NotExecuted => "is not a program that the box has".to_owned(),
        Ending::TimeLimit => "took too long".to_owned(),
        Ending::MemoryLimit => "wanted too much memory".to_owned(),
        Ending::OutputLimit => "wrote too much to stdout".to_owned(),
    };
    let text = String::from_utf8_lossy(&outcome.stderr);
    let last = text.lines().map(str::trim).rfind(|line| !line.is_empty()).unwrap_or_default();
    let last: String = last.chars().filter(|c| !c.is_control()).take(200).collect();
    if last.is_empty() { format!("{who} {how}") } else { format!("{who} {how}: {last}") }
}

#[cfg(test)]
mod tests;
