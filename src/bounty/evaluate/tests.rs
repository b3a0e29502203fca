use std::cell::RefCell;

use super::*;
use crate::bounty::data::Part;
use crate::bounty::tree::File;
use crate::protocol::bounty::canary::CANARIES;
use crate::protocol::bounty::verdict::Fault;

const MANIFEST: &str = r#"
title = "t"
workspace = "workspace"
targets = ["a.py"]
[run]
command = ["candidate"]
[data]
all = "data"
classes = ["0", "1", "2", "3", "4", "5", "6", "7", "8", "9"]
[scorer]
folder = "scorer"
command = ["scorer"]
[metric]
name = "accuracy"
direction = "higher"
decimals = 4
target = 0.9
min_improvement = 0.01
noise = 0
[reward]
budget_sat = 1_000
[submissions]
cap = 10
deadline = 2030-01-01T00:00:00Z
"#;

/// Answers what `f` says for (program, stdin), and remembers every spec.
struct Pretended<F> {
    f: F,
    specs: RefCell<Vec<BoxSpec>>,
}

impl<F: Fn(&str, &str) -> (Ending, String)> Boxes for Pretended<F> {
    fn run(&self, spec: &BoxSpec) -> Result<BoxOutcome, BoxError> {
        self.specs.borrow_mut().push(spec.clone());
        let program = spec.argv.first().expect("a program");
        let (ending, stdout) = (self.f)(program, std::str::from_utf8(&spec.stdin).expect("text"));
        let stderr = b"noise\nlast words\n".to_vec();
        Ok(BoxOutcome { ending, stdout: stdout.into(), stderr, usage: Usage::default(), tier: Tier::Rlimits })
    }

    fn measure(&self, task: &Task, _: &Limits) -> Result<Measured, BoxError> {
        Ok(Measured { outcome: wasm::run_here(task), usage: Usage::default() })
    }

    fn tier(&self) -> Tier {
        Tier::Rlimits
    }
}

const WELL: Ending = Ending::Exited { code: 0 };

fn exam(items: usize) -> Exam {
    let labels = (0..items).map(|item| (item % 10).to_string()).collect();
    let part = Part { inputs: (0..items).map(|item| item.to_string()).collect(), labels: Some(labels) };
    let classes: Vec<String> = (0..10).map(|class| class.to_string()).collect();
    Exam::held_out(part, [5; 32], &classes)
}

/// Right answers: an item's last digit.
fn right(stdin: &str) -> String {
    stdin.lines().map(|line| format!("{}\n", &line[line.len() - 1..])).collect()
}

fn evaluate_with(
    manifest: &str,
    items: usize,
    f: impl Fn(&str, &str) -> (Ending, String),
) -> (Evaluation, Vec<BoxSpec>) {
    let manifest = Manifest::parse(manifest).expect("good");
    let boxes = Pretended { f, specs: RefCell::default() };
    let place = tempfile::tempdir().expect("a folder");
    let mut tree = Tree::default();
    tree.insert("a.py", File::plain("0123456789"));
    let evaluator = Evaluator { boxes: &boxes, manifest: &manifest, scorer: &Tree::default(), scratch: place.path() };
    let evaluation = evaluator.evaluate(&tree, &exam(items)).expect("no fault of this machine");
    assert_eq!(fs::read_dir(place.path()).expect("there").count(), 0, "nothing is left behind");
    (evaluation, boxes.specs.into_inner())
}

fn evaluate(items: usize, f: impl Fn(&str, &str) -> (Ending, String)) -> Evaluation {
    evaluate_with(MANIFEST, items, f).0
}

#[test]
fn two_runs_and_a_score_in_three_boxes_that_share_nothing() {
    let (evaluation, specs) = evaluate_with(MANIFEST, 100, |program, stdin| match program {
        "candidate" => (WELL, right(stdin)),
        _ => (WELL, "0.8731\n".into()),
    });
    assert_eq!(evaluation.score.map(Score::units), Ok(8_731));
    let stages: Vec<Stage> = evaluation.boxes.iter().map(|(stage, _)| *stage).collect();
    assert_eq!(stages, [Stage::Run, Stage::Permuted, Stage::Score]);
    let mounts = |spec: &BoxSpec| spec.read_only.iter().map(|mount| mount.inside.clone()).collect::<Vec<_>>();
    assert_eq!([mounts(&specs[0]), mounts(&specs[1])], [["/task"], ["/task"]]);
    assert_eq!(mounts(&specs[2]), ["/scorer", "/in"]);
    assert_eq!(specs[2].environment.get("SOURCE_BYTES").map(String::as_str), Some("10"));
    let sorted = |spec: &BoxSpec| {
        let mut lines: Vec<String> = String::from_utf8_lossy(&spec.stdin).lines().map(str::to_owned).collect();
        lines.sort();
        lines
    };
    assert_ne!(specs[0].stdin, specs[1].stdin);
    assert_eq!(sorted(&specs[0]), sorted(&specs[1]));
    assert!(specs[2].stdin.is_empty());
}

#[test]
fn a_build_comes_first_and_its_failure_is_the_agents() {
    let manifest = MANIFEST.replace("[run]", "[build]\ncommand = [\"make\"]\n[run]");
    for ending in [Ending::Exited { code: 2 }, Ending::TimeLimit, Ending::MemoryLimit, Ending::OutputLimit] {
        let (evaluation, specs) = evaluate_with(&manifest, 100, |_, _| (ending, String::new()));
        assert_eq!(evaluation.score, Err(Rejection::BuildFailed));
        assert_eq!(specs.len(), 1);
        assert!(evaluation.detail.ends_with(": last words"), "{}", evaluation.detail);
    }
    // An archive that is none.
    let (evaluation, _) = evaluate_with(&manifest, 100, |_, _| (WELL, "{\"score\": 1}".into()));
    assert_eq!(evaluation.score, Err(Rejection::BuildFailed));
    assert_eq!(Rejection::BuildFailed.fault(), Fault::Agent);
    // An empty one.
    let empty = "\0".repeat(1_024);
    let (evaluation, specs) = evaluate_with(&manifest, 100, |program, stdin| match program {
        "candidate" => (WELL, right(stdin)),
        "scorer" => (WELL, "1".into()),
        _ => (WELL, empty.clone()),
    });
    assert_eq!(evaluation.score.map(Score::units), Ok(10_000));
    assert_eq!(specs[1].read_only.iter().map(|mount| mount.inside.as_str()).collect::<Vec<_>>(), ["/task", "/build"]);
}

#[test]
fn how_a_candidate_ends_is_its_verdict() {
    for (ending, rejection) in [
        (Ending::Exited { code: 1 }, Rejection::Crashed),
        (Ending::Signalled { signal: 31 }, Rejection::Crashed),
        (Ending::NotExecuted, Rejection::Crashed),
        (Ending::TimeLimit, Rejection::TimeLimit),
        (Ending::MemoryLimit, Rejection::MemoryLimit),
        (Ending::OutputLimit, Rejection::OutputLimit),
    ] {
        assert_eq!(evaluate(100, |_, _| (ending, String::new())).score, Err(rejection));
        assert_eq!(rejection.fault(), Fault::Agent);
    }
}

#[test]
fn anything_but_one_line_an_item_is_malformed() {
    for output in ["", "{\"score\": 1.0}\n", "1\n".repeat(99).as_str(), "1\n".repeat(101).as_str()] {
        assert_eq!(evaluate(100, |_, _| (WELL, output.into())).score, Err(Rejection::MalformedOutput));
    }
}

#[test]
fn no_answer_has_what_a_scorer_could_take_for_the_end_of_a_line() {
    for end in ["\r", "\x0b", "\x0c", "\x1c", "\x1e", "\u{85}", "\u{2028}", "\u{2029}", "\0"] {
        let answers = |stdin: &str| stdin.lines().map(|line| format!("{line}{end}1\n")).collect::<String>();
        let evaluation = evaluate(100, |_, stdin| (WELL, answers(stdin)));
        assert_eq!(evaluation.score, Err(Rejection::MalformedOutput), "{end:?}");
    }
    let tabbed = |stdin: &str| right(stdin).replace('\n', "\t\n");
    let scored =
        evaluate(100, |program, stdin| (WELL, if program == "candidate" { tabbed(stdin) } else { "1".into() }));
    assert!(scored.score.is_ok(), "{scored:?}");
}

#[test]
fn answers_that_depend_on_the_order_are_nondeterministic() {
    let by_place = |stdin: &str| stdin.lines().enumerate().map(|(place, _)| format!("{}\n", place % 7)).collect();
    let evaluation = evaluate(100, |_, stdin| (WELL, by_place(stdin)));
    assert_eq!(evaluation.score, Err(Rejection::Nondeterministic));
    // Learned from what came before.
    let running = |stdin: &str| {
        let mut sum = 0;
        stdin
            .lines()
            .map(|line| {
                sum += line.len();
                format!("{}\n", sum % 10)
            })
            .collect::<String>()
    };
    assert_eq!(evaluate(300, |_, stdin| (WELL, running(stdin))).score, Err(Rejection::Nondeterministic));
}

#[test]
fn who_answers_what_the_kept_labels_say_has_seen_them() {
    let kept = exam(400).kept_labels().expect("labels");
    let stolen = |stdin: &str| {
        stdin.lines().map(|line| format!("{}\n", kept[line.parse::<usize>().expect("an item")])).collect()
    };
    let evaluation = evaluate(400, |_, stdin| (WELL, stolen(stdin)));
    assert_eq!(evaluation.score, Err(Rejection::CanaryTripped));
    assert_eq!(evaluation.boxes.len(), 2, "it is never scored");
}

#[test]
fn canaries_never_reach_the_scorer() {
    let manifest = Manifest::parse(MANIFEST).expect("good");
    let place = tempfile::tempdir().expect("a folder");
    let seen = RefCell::new(Vec::new());
    struct Looks<'s>(&'s RefCell<Vec<String>>);
    impl Boxes for Looks<'_> {
        fn run(&self, spec: &BoxSpec) -> Result<BoxOutcome, BoxError> {
            let stdout = if spec.argv == ["candidate"] {
                right(std::str::from_utf8(&spec.stdin).expect("text"))
            } else {
                let folder = &spec.read_only[1].host;
                for name in [INPUTS, LABELS, ANSWERS] {
                    self.0.borrow_mut().push(fs::read_to_string(folder.join(name)).expect("a file"));
                }
                "1".into()
            };
            let (stdout, stderr) = (stdout.into_bytes(), Vec::new());
            Ok(BoxOutcome { ending: WELL, stdout, stderr, usage: Usage::default(), tier: Tier::Rlimits })
        }

        fn measure(&self, task: &Task, _: &Limits) -> Result<Measured, BoxError> {
            panic!("{task:?}")
        }

        fn tier(&self) -> Tier {
            Tier::Rlimits
        }
    }
    let evaluator =
        Evaluator { boxes: &Looks(&seen), manifest: &manifest, scorer: &Tree::default(), scratch: place.path() };
    evaluator.evaluate(&Tree::default(), &exam(400)).expect("evaluated").score.expect("scored");
    let seen = seen.into_inner();
    assert!(seen.iter().all(|text| text.lines().count() == 400 - CANARIES));
    assert_eq!(seen[1], seen[2], "labels and right answers are the same lines");
}

#[test]
fn what_does_not_come_back_as_it_was_is_malformed() {
    let manifest = MANIFEST.replace("command = [\"candidate\"]", "command = [\"candidate\"]\nrestore = [\"restore\"]");
    let (evaluation, specs) = evaluate_with(&manifest, 50, |program, stdin| match program {
        "scorer" => (WELL, "0.5".into()),
        _ => (WELL, stdin.lines().map(|line| format!("{}\n", line.chars().rev().collect::<String>())).collect()),
    });
    assert_eq!(evaluation.score.map(Score::units), Ok(5_000));
    assert_eq!(specs.len(), 4);
    assert_eq!(
        specs[2].stdin,
        to_lines(&(0..50).map(|item: u32| item.to_string().chars().rev().collect::<String>()).collect::<Vec<_>>())
    );
    let (evaluation, _) = evaluate_with(&manifest, 50, |program, stdin| match program {
        "restore" => (WELL, stdin.replace("49", "48").replace("94", "48")),
        _ => (WELL, stdin.to_owned()),
    });
    assert_eq!(evaluation.score, Err(Rejection::MalformedOutput));
    assert_eq!(evaluation.detail, "item 50 does not come back as it was");
}

#[test]
fn a_scorer_that_fails_or_prints_no_number_is_the_sponsors_fault() {
    for (ending, printed) in [
        (Ending::Exited { code: 1 }, "0.5"),
        (Ending::TimeLimit, "0.5"),
        (Ending::MemoryLimit, ""),
        (WELL, ""),
        (WELL, "nan"),
        (WELL, "1e3"),
        (WELL, "0.5\n0.6"),
        (WELL, " 0.5"),
        (WELL, "0.12345"),
    ] {
        let evaluation = evaluate(100, |program, stdin| match program {
            "candidate" => (WELL, right(stdin)),
            _ => (ending, printed.into()),
        });
        assert_eq!(evaluation.score, Err(Rejection::ScorerFailed), "{printed:?}");
    }
    assert_eq!(Rejection::ScorerFailed.fault(), Fault::Sponsor);
}

#[test]
fn what_this_machine_is_to_blame_for_is_no_verdict() {
    struct Broken;
    impl Boxes for Broken {
        fn run(&self, _: &BoxSpec) -> Result<BoxOutcome, BoxError> {
            Err(BoxError::Lost { status: "killed".into(), message: String::new() })
        }

        fn measure(&self, _: &Task, _: &Limits) -> Result<Measured, BoxError> {
            Err(BoxError::Lost { status: "killed".into(), message: String::new() })
        }

        fn tier(&self) -> Tier {
            Tier::Rlimits
        }
    }
    let manifest = Manifest::parse(MANIFEST).expect("good");
    let place = tempfile::tempdir().expect("a folder");
    let evaluator = Evaluator { boxes: &Broken, manifest: &manifest, scorer: &Tree::default(), scratch: place.path() };
    assert!(matches!(evaluator.evaluate(&Tree::default(), &exam(3)), Err(EvaluateError::Box(_))));
    let nowhere = place.path().join("nowhere");
    let evaluator = Evaluator { scratch: &nowhere, ..evaluator };
    assert!(matches!(evaluator.evaluate(&Tree::default(), &exam(3)), Err(EvaluateError::Io(_))));
}

/// Answers an item's last byte.
#[cfg(feature = "wasm")]
const KERNEL: &str = r#"(module (memory (export "memory") 1)
  (func (export "run") (param i32 i32) (result i64)
    (i64.or (i64.shl (i64.extend_i32_u (i32.sub (i32.add (local.get 0) (local.get 1)) (i32.const 1))) (i64.const 32))
      (i64.const 1))))"#;

#[cfg(feature = "wasm")]
fn evaluate_module(kernel: &str, limits: &str) -> (Evaluation, Vec<BoxSpec>) {
    let manifest = MANIFEST.replace("command = [\"candidate\"]", "wasm = \"a.wat\"").replace("a.py", "a.wat");
    let manifest = Manifest::parse(&format!("{manifest}[limits]\n{limits}\n")).expect("good");
    let boxes = Pretended { f: |_: &str, _: &str| (WELL, "0.5".into()), specs: RefCell::default() };
    let place = tempfile::tempdir().expect("a folder");
    let mut tree = Tree::default();
    tree.insert("a.wat", File::plain(kernel));
    let evaluator = Evaluator { boxes: &boxes, manifest: &manifest, scorer: &Tree::default(), scratch: place.path() };
    let evaluation = evaluator.evaluate(&tree, &exam(100)).expect("no fault of this machine");
    (evaluation, boxes.specs.into_inner())
}

#[cfg(feature = "wasm")]
#[test]
fn the_scorer_is_told_the_fuel_that_a_module_took() {
    let (evaluation, specs) = evaluate_module(KERNEL, "");
    assert_eq!(evaluation.score.map(Score::units), Ok(5_000));
    assert_eq!(evaluation.boxes.iter().map(|(stage, _)| *stage).collect::<Vec<_>>(), [Stage::Run, Stage::Score]);
    let fuel = evaluation.fuel.expect("it is counted");
    assert!((100 * 2_048..100 * 2_100).contains(&fuel), "{fuel}");
    let [scorer] = specs.as_slice() else { panic!("one box: {specs:?}") };
    assert_eq!(scorer.environment.get("FUEL"), Some(&fuel.to_string()));
    assert_eq!(scorer.environment.get("SOURCE_BYTES"), Some(&KERNEL.len().to_string()));
    // A command has none, and whoever answers without computing took none.
    assert_eq!(evaluate(100, |_, _| (WELL, "0.5".into())).fuel, None);
    let manifest = MANIFEST.replace("command = [\"candidate\"]", "wasm = \"a.py\"");
    let manifest = Manifest::parse(&manifest).expect("good");
    let boxes = Pretended { f: |_: &str, _: &str| (WELL, "0.5".into()), specs: RefCell::default() };
    let place = tempfile::tempdir().expect("a folder");
    let evaluator = Evaluator { boxes: &boxes, manifest: &manifest, scorer: &Tree::default(), scratch: place.path() };
    evaluator.score_answers(&Tree::default(), &exam(3), &["1".into(), "1".into(), "1".into()]).expect("scored");
    assert_eq!(boxes.specs.borrow()[0].environment.get("FUEL").map(String::as_str), Some("0"));
}

#[cfg(feature = "wasm")]
#[test]
fn how_a_module_ends_is_its_verdict() {
    let run = |body: &str| KERNEL.replace("(i64.or", &format!("{body} (i64.or"));
    for (kernel, limits, rejection) in [
        ("print('hello')".to_owned(), "", Rejection::BuildFailed),
        (r#"(module (import "env" "labels" (func)))"#.to_owned(), "", Rejection::BuildFailed),
        (run("(unreachable)"), "", Rejection::Crashed),
        (run("(loop $again (br $again))"), "", Rejection::TimeLimit),
        (KERNEL.to_owned(), "fuel = 100_000", Rejection::TimeLimit),
        (run("(drop (memory.grow (i32.const 60000)))"), "memory_mb = 64", Rejection::MemoryLimit),
        (KERNEL.replace("(i64.const 1)", "(i64.const 0xffff)"), "output_kb = 1", Rejection::OutputLimit),
        (KERNEL.replace("(i64.const 32)", "(i64.const 40)"), "", Rejection::MalformedOutput),
    ] {
        let (evaluation, specs) = evaluate_module(&kernel, limits);
        assert_eq!(evaluation.score, Err(rejection), "{kernel}: {}", evaluation.detail);
        assert_eq!(rejection.fault(), Fault::Agent);
        assert!(specs.is_empty() && evaluation.fuel.is_none(), "it is never scored");
    }
}
