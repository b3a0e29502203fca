//! What answers give away about a held-out part (the Ladder of Blum and Hardt, 2015): an attacker whose labels are coin flips
//! knows nothing, so every right answer beyond a half, and every sat, comes from what it was told.
//!
//! Everything that answers is the product's: the diff that is applied, the book and its order, canaries, noise bound, claims.
//! Only the boxes are left out: a tree's answers are read from its one file.

use std::path::Path;

use l402t::bounty::data::Exam;
use l402t::bounty::diff;
use l402t::bounty::evaluate::{EvaluateError, Evaluation};
use l402t::bounty::judge::{Evaluate, Submission, Submitted, judge};
use l402t::bounty::lint::{Lint, rules};
use l402t::bounty::load::{Bounty, Extent};
use l402t::bounty::sandbox::Tier;
use l402t::bounty::tree::{File, Tree};
use l402t::protocol::bounty::book::Book;
use l402t::protocol::bounty::payload;
use l402t::protocol::bounty::score::Score;
use l402t::protocol::bounty::verdict::{Outcome, Rejection};
use l402t::protocol::held_out::uniform_below;
use l402t::protocol::ids::{Blake3Hash, RoundNumber, RunId, UnixMs};
use l402t::protocol::sign::IdentityKey;
use l402t::protocol::statements::Commitment;

use crate::report::Report;

const SEEDS: u64 = 20;
const QUERIES: u32 = 100;
/// Items that aren't scored, beside those that are.
const CANARIES: usize = 32;
const ANSWERS: &str = "answers.txt";
const BOUNTY_TOML: &str = include_str!("ladder.toml");

/// What an attacker is told after each submission.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Told {
    /// Its score: what no coordinator does.
    Score,
    /// Whether its claim was reached.
    OneBit,
}

/// How an attacker goes about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Attack {
    /// Asks about random answers, and lets all of them vote, each with what it was told about it.
    Vote,
    /// Changes a quarter of the best answers so far at random.
    Climb,
}

/// What came of one attacker.
#[derive(Clone, Copy, Debug)]
struct Loot {
    /// Of the scored labels, the part that its last answers have right.
    right: f64,
    /// Of the budget, what it was paid.
    paid: f64,
}

/// Scored items, what is told, how it is used, and bounty.toml's `min_improvement`: the noise bound is a larger step at first.
const EXPERIMENTS: [(&str, usize, Told, Attack, &str); 6] = [
    ("ladder.score_400_vote", 400, Told::Score, Attack::Vote, SMALL_STEP),
    ("ladder.bit_400_vote", 400, Told::OneBit, Attack::Vote, SMALL_STEP),
    ("ladder.bit_400_climb", 400, Told::OneBit, Attack::Climb, SMALL_STEP),
    ("ladder.bit_2000_vote", 2_000, Told::OneBit, Attack::Vote, SMALL_STEP),
    ("ladder.bit_2000_climb", 2_000, Told::OneBit, Attack::Climb, SMALL_STEP),
    // Twice the noise bound: four standard deviations.
    ("ladder.bit_2000_double_step", 2_000, Told::OneBit, Attack::Climb, "0.0448"),
];
const SMALL_STEP: &str = "0.0001";

pub(crate) fn measure(report: &mut Report) {
    for (name, items, told, attack, step) in EXPERIMENTS {
        let names = ["", "_worst", "_paid"].map(|suffix| format!("{name}{suffix}"));
        if !names.iter().any(|name| report.wants(name)) {
            continue;
        }
        let loot: Vec<Loot> = (0..SEEDS).map(|seed| Attacker::new(seed, items, told, step).run(attack)).collect();
        let mean = |of: fn(&Loot) -> f64| loot.iter().map(of).sum::<f64>() / SEEDS as f64;
        let worst = loot.iter().map(|loot| loot.right).fold(0.0, f64::max);
        for (name, (unit, value)) in names.iter().zip([
            ("% right", mean(|loot| loot.right)),
            ("% right", worst),
            ("% of budget", mean(|loot| loot.paid)),
        ]) {
            report.value(name, unit, 100.0 * value);
        }
    }
}

/// Somebody who has 100 submissions at a bounty, and nothing to go by.
struct Attacker {
    told: Told,
    bounty: Bounty,
    exam: Exam,
    book: Book,
    key: IdentityKey,
    dice: blake3::OutputReader,
    /// What each of its answers is worth, item by item: above 0 says 1.
    votes: Vec<f64>,
    /// The last answers that reached their claim; the workspace's at first.
    best: Vec<bool>,
    queries: u32,
}

impl Attacker {
    fn new(seed: u64, items: usize, told: Told, step: &str) -> Self {
        let mut dice =
            blake3::Hasher::new_derive_key("l402t ladder experiment").update(&seed.to_le_bytes()).finalize_xof();
        let items = items + CANARIES;
        let labels = flips(&mut dice, items);
        let folder = tempfile::tempdir().expect("a folder");
        write(folder.path(), &labels, step);
        let bounty = Bounty::load(folder.path(), [seed as u8; 32], Extent::Whole).expect("a bounty");
        let exam = bounty.held_out_exam().expect("the whole folder");
        let baseline = score_of(&bounty.workspace, &exam);
        let book = Book::open(rules(&bounty.manifest, baseline, exam.scored().len()), bounty.workspace.digest());
        let key = IdentityKey::from_secret_bytes(&[1; 32]).expect("a key");
        let (book, votes) = (book.expect("rules"), vec![0.0; items]);
        Self { told, bounty, exam, book, key, dice, votes, best: vec![false; items], queries: 0 }
    }

    fn run(mut self, attack: Attack) -> Loot {
        while self.queries + 1 < QUERIES {
            let answers = match attack {
                Attack::Vote => flips(&mut self.dice, self.votes.len()),
                Attack::Climb => {
                    let changed = flips(&mut self.dice, self.votes.len());
                    let places = flips(&mut self.dice, self.votes.len());
                    let old = self.best.iter().zip(changed).zip(places);
                    old.map(|((old, change), here)| if here { change } else { *old }).collect()
                }
            };
            self.ask(answers);
        }
        let last = match attack {
            Attack::Vote => self.votes.iter().map(|votes| *votes > 0.0).collect(),
            Attack::Climb => self.best.clone(),
        };
        let right = part_right(&self.exam, &last);
        // The vote is worth money, too, if it reaches a claim.
        self.ask(last);
        let budget_msat = self.bounty.manifest.budget.msat();
        Loot { right, paid: self.book.paid().msat() as f64 / budget_msat as f64 }
    }

    /// Submits answers with the least claim that pays, and weighs them by what that tells.
    fn ask(&mut self, answers: Vec<bool>) {
        self.queries += 1;
        let Some(claim) = self.book.least_claim() else { return };
        let mut changed = Tree::default();
        changed.insert(ANSWERS, File::plain(text(&answers)));
        // The very answers of the workspace are no change.
        let Ok(diff) = diff::make(&self.bounty.workspace, &changed, &self.bounty.manifest.targets) else { return };
        let payload = payload::encode(Blake3Hash::of(&self.queries.to_le_bytes()).as_bytes(), diff.as_bytes());
        let commitment = Commitment {
            run: RunId::from_bytes([0; 32]),
            round: RoundNumber(self.queries),
            opening: Blake3Hash::of(b"opening"),
            peer: self.key.id(),
            payload: Blake3Hash::of(&payload),
            payload_bytes: payload.len() as u64,
            claim: Some(claim),
        };
        self.book.take(&commitment).expect("the least claim is taken");
        let submission = Submission {
            contribution: commitment.contribution_id(),
            submitted: Submitted::Payload(payload),
            seal: Blake3Hash::of(b"seal"),
        };
        let judged = judge(&self.book, (&self.bounty, &self.exam), &[submission], (&Reader, "none")).expect("judged");
        self.book = judged.book;
        let reached = match judged.verdicts[0].outcome {
            Outcome::Reached { .. } => true,
            Outcome::Rejected { reason: Rejection::BelowClaim } => false,
            // Known answers again, or once in 30,000 by chance: neither says anything about what is scored.
            Outcome::Rejected { reason: Rejection::NoImprovement | Rejection::CanaryTripped } => return,
            other @ Outcome::Rejected { .. } => panic!("{other:?}"),
        };
        let weight = match self.told {
            Told::Score => self.deviations(judged.evaluations[0].score.expect("it scored")),
            Told::OneBit => tail_mean(self.deviations(claim), reached),
        };
        for (vote, answer) in self.votes.iter_mut().zip(&answers) {
            *vote += if *answer { weight } else { -weight };
        }
        if reached {
            self.best = answers;
        }
    }

    /// A score as standard deviations from what guessing scores.
    fn deviations(&self, score: Score) -> f64 {
        let one = self.bounty.manifest.metric.decimals.one() as f64;
        (score.units() as f64 / one - 0.5) * 2.0 * (self.exam.scored().len() as f64).sqrt()
    }
}

/// The mean of a normal variable of which only this is known: whether it reaches `least`.
fn tail_mean(least: f64, reached: bool) -> f64 {
    const STEPS: i32 = 4_000;
    const WIDTH: f64 = 0.004;
    let (mut sum, mut weight) = (0.0, 0.0);
    for step in -STEPS..STEPS {
        let at = f64::from(step) * WIDTH;
        if (at >= least) == reached {
            let density = (-at * at / 2.0).exp();
            (sum, weight) = (sum + at * density, weight + density);
        }
    }
    if weight > 0.0 { sum / weight } else { 0.0 }
}

/// Evaluates without a box.
#[derive(Debug)]
struct Reader;

impl Evaluate for Reader {
    fn evaluate(&self, _: &Bounty, tree: &Tree, exam: &Exam) -> Result<Evaluation, EvaluateError> {
        let score = match exam.is_tripped_by(&answers_of(tree)) {
            true => Err(Rejection::CanaryTripped),
            false => Ok(score_of(tree, exam)),
        };
        Ok(Evaluation { score, detail: String::new(), fuel: None, boxes: Vec::new() })
    }

    fn lint(&self, _: &Bounty, _: &Exam, _: UnixMs) -> Result<Lint, EvaluateError> {
        unreachable!("nothing is posted here")
    }

    fn tier(&self) -> Tier {
        Tier::Rlimits
    }
}

fn answers_of(tree: &Tree) -> Vec<String> {
    let text = String::from_utf8_lossy(&tree.get(ANSWERS).expect("the target").content).into_owned();
    text.lines().map(str::to_owned).collect()
}

fn score_of(tree: &Tree, exam: &Exam) -> Score {
    let answers: Vec<bool> = answers_of(tree).iter().map(|answer| answer == "1").collect();
    let one = 10_000.0;
    Score::from_units((part_right(exam, &answers) * one).round() as i64).expect("a rate")
}

/// Of the labels that are scored.
fn part_right(exam: &Exam, answers: &[bool]) -> f64 {
    let labels = exam.part.labels.as_ref().expect("there are labels");
    let scored = exam.scored();
    let right = scored.iter().filter(|place| answers[**place] == (labels[**place] == "1")).count();
    right as f64 / scored.len() as f64
}

fn flips(dice: &mut blake3::OutputReader, count: usize) -> Vec<bool> {
    (0..count).map(|_| uniform_below(dice, 2) == 1).collect()
}

/// One answer, or label, a line.
fn text(answers: &[bool]) -> String {
    answers.iter().map(|answer| if *answer { "1\n" } else { "0\n" }).collect()
}

fn write(folder: &Path, labels: &[bool], step: &str) {
    let put = |name: &str, text: &str| {
        let path = folder.join(name);
        std::fs::create_dir_all(path.parent().expect("a folder")).expect("made");
        std::fs::write(path, text).expect("written");
    };
    let items: String = (0..labels.len()).map(|item| format!("item {item}\n")).collect();
    put("bounty.toml", &BOUNTY_TOML.replace(SMALL_STEP, step));
    put("workspace/answers.txt", &text(&vec![false; labels.len()]));
    put("scorer/score.py", "");
    put("public/inputs", "an item\n");
    put("public/labels", "1\n");
    put("held-out/inputs", &items);
    put("held-out/labels", &text(labels));
}
