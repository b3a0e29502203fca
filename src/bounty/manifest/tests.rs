use super::*;

const GOOD: &str = r#"title = "Tell digits apart"
description = "Images of 64 pixels."
workspace = "workspace"
targets = ["classify.py", "model/weights.txt"]

[build]
command = ["python3", "/task/train.py"]

[run]
command = ["python3", "/task/classify.py"]

[data]
public = "public"
held_out = "held-out"

[scorer]
folder = "scorer"
command = ["python3", "/scorer/score.py"]

[metric]
name = "accuracy"
direction = "higher"
decimals = 4
baseline = 0.872
target = 0.9860
min_improvement = 0.01
noise = "rate"

[reward]
budget_sat = 100_000
fee_sat = 10

[submissions]
cap = 100
deadline = 2030-01-31T12:00:00+02:00
max_diff_kb = 32

[limits]
cpu_s = 5
wall_s = 20
memory_mb = 256
output_kb = 100
processes = 8

[sandbox]
tier = "cgroup_v1"
"#;

/// What is wrong with GOOD once `from` is replaced by `to`: (line, message, fix).
fn problems(from: &str, to: &str) -> Vec<(usize, String, String)> {
    assert!(GOOD.contains(from), "{from}");
    let Problems(found) = Manifest::parse(&GOOD.replacen(from, to, 1)).expect_err("wrong");
    found.into_iter().map(|problem| (problem.line, problem.message, problem.fix)).collect()
}

/// The one thing that is wrong.
fn problem(from: &str, to: &str) -> (usize, String, String) {
    let found = problems(from, to);
    assert_eq!(found.len(), 1, "{found:?}");
    found.into_iter().next().expect("one")
}

fn score(units: i64) -> Score {
    Score::from_units(units).expect("in range")
}

#[test]
fn every_key_is_read() {
    let manifest = Manifest::parse(GOOD).expect("good");
    assert_eq!(manifest.title, "Tell digits apart");
    assert_eq!(manifest.targets, ["classify.py", "model/weights.txt"]);
    assert_eq!(manifest.build.as_deref(), Some(["python3".to_owned(), "/task/train.py".to_owned()].as_slice()));
    assert_eq!(manifest.data.parts, Parts::Split { public: "public".into(), held_out: "held-out".into() });
    assert!(manifest.data.classes.is_empty());
    assert_eq!((manifest.metric.baseline, manifest.metric.target), (Some(score(8_720)), score(9_860)));
    assert_eq!((manifest.metric.min_improvement, manifest.metric.noise), (100, Noise::Rate));
    assert_eq!((manifest.budget, manifest.fee), (Msat::new(100_000_000), Msat::new(10_000)));
    // 2030-01-31 10:00 UTC.
    assert_eq!(manifest.deadline, UnixMs(1_896_084_000_000));
    assert_eq!((manifest.submission_cap, manifest.max_diff_bytes), (100, 32_768));
    let BoxLimits { cpu_ms, wall_ms, memory_bytes, output_bytes, processes, fuel } = manifest.limits;
    assert_eq!((cpu_ms, wall_ms, memory_bytes, output_bytes, processes), (5_000, 20_000, 268_435_456, 102_400, 8));
    assert_eq!(fuel, 5_000_000);
    assert_eq!((manifest.tier, manifest.demo_only), (Tier::CgroupV1, DemoOnly::No));
    let command = vec!["python3".to_owned(), "/task/classify.py".to_owned()];
    assert_eq!(manifest.run, Runner::Command { command, restore: None });
}

#[test]
fn a_baseline_that_only_a_salt_decides_can_not_be_declared() {
    const ALL: &str = "all = \"data\"";
    const PARTS: &str = "public = \"public\"\nheld_out = \"held-out\"";
    const CLASSES: &str = "held_out = \"held-out\"\nclasses = [\"0\", \"1\"]";
    for (from, to, line) in [(PARTS, ALL, 23), ("held_out = \"held-out\"", CLASSES, 25)] {
        let found = problem(from, to);
        assert!(found.0 == line && found.1.contains("which items are scored is drawn"), "{found:?}");
        let free = GOOD.replacen(from, to, 1).replace("baseline = 0.872\n", "");
        Manifest::parse(&free).expect("good without a baseline");
    }
    let free = GOOD.replacen("held_out = \"held-out\"", CLASSES, 1).replace("baseline = 0.872\n", "");
    assert_eq!(Manifest::parse(&free).expect("good").data.classes, ["0", "1"]);
}

#[test]
fn a_command_fits_into_a_box() {
    let words = |count: usize| format!("[{}]", vec![format!("\"{}\"", "x".repeat(4_096)); count].join(", "));
    let command = "[\"python3\", \"/task/classify.py\"]";
    Manifest::parse(&GOOD.replacen(command, &words(16), 1)).expect("64 KiB");
    let found = problem(command, &words(17));
    assert_eq!((found.0, found.1.as_str()), (10, "run.command: its words have 69632 bytes together, and 65536 may be"));
}

#[test]
fn what_may_be_left_out_has_a_default() {
    let limits = GOOD.find("[limits]").expect("there");
    let text = GOOD[..limits].replace("fee_sat = 10\n", "").replace("max_diff_kb = 32\n", "");
    let text =
        text.replace("baseline = 0.872\n", "").replace("[build]\ncommand = [\"python3\", \"/task/train.py\"]\n", "");
    let manifest = Manifest::parse(&text).expect("good");
    assert_eq!((manifest.fee, manifest.max_diff_bytes), (Msat::ZERO, 65_536));
    assert_eq!((manifest.metric.baseline, manifest.build), (None, None));
    assert_eq!((manifest.limits.cpu_ms, manifest.tier), (10_000, Tier::Rlimits));
}

#[test]
fn an_unknown_key_is_refused_with_the_known_one_that_it_resembles() {
    let found = problem("direction = \"higher\"", "direction = \"higher\"\ndecimal = 3");
    assert_eq!(found, (23, "metric.decimal is not a key".into(), "Did you mean decimals?".into()));
    let found = problem("cap = 100", "cap = 100\ncolour = 1");
    assert_eq!(found.2, "Remove it; known here are cap, deadline, max_diff_kb");
    let found = problem("[sandbox]", "[sanbox]\ntier = \"rlimits\"\n[sandbox]");
    assert_eq!((found.0, found.2.as_str()), (45, "Did you mean sandbox?"));
}

#[test]
fn a_missing_key_is_named_at_its_table() {
    let found = problem("budget_sat = 100_000\n", "");
    assert_eq!(found, (29, "reward.budget_sat is missing".into(), "Add budget_sat = 100_000".into()));
    assert_eq!(problem("title = \"Tell digits apart\"\n", "").1, "title is missing");
    let (line, message, fix) =
        problem("[scorer]\nfolder = \"scorer\"\ncommand = [\"python3\", \"/scorer/score.py\"]\n", "");
    assert_eq!((line, message.as_str(), fix.as_str()), (1, "there is no [scorer]", "Add a table [scorer]"));
}

#[test]
fn everything_wrong_is_said_at_once_by_line() {
    let text =
        GOOD.replace("cap = 100", "cap = 0").replace("\"higher\"", "\"up\"").replace("cpu_s = 5", "cpu_s = \"5\"");
    let Problems(found) = Manifest::parse(&text).expect_err("wrong");
    let said: Vec<(usize, &str)> = found.iter().map(|problem| (problem.line, problem.message.as_str())).collect();
    assert_eq!(
        said,
        [
            (22, "metric.direction: \"up\" is neither \"higher\" nor \"lower\""),
            (34, "submissions.cap: 0 is not within 1 ..= 100000"),
            (39, "limits.cpu_s: an integer is needed, not a string"),
        ]
    );
}

#[test]
fn what_is_not_toml_is_named_by_its_line() {
    let (line, message, _) = problem("cap = 100", "cap = = 100");
    assert_eq!(line, 34);
    assert!(!message.is_empty());
    assert!(Manifest::parse("\u{0}").is_err());
    assert!(Manifest::parse("").is_err());
    let (line, ..) = problem("cap = 100", "cap = 100\ncap = 200");
    assert_eq!(line, 35);
}

#[test]
fn scores_are_taken_as_written_and_never_rounded() {
    assert_eq!(
        problem("target = 0.9860", "target = 0.98601").1,
        "metric.target: \"0.98601\" has more than the declared 4 decimals: print it with 4"
    );
    for wrong in ["nan", "inf", "1e-1", "\"much\"", "true", "0x10"] {
        let (line, message, _) = problem("target = 0.9860", &format!("target = {wrong}"));
        assert!(line == 25 && message.starts_with("metric.target: "), "{message}");
    }
    let text = GOOD.replace("baseline = 0.872", "baseline = \"0.8720\"");
    assert_eq!(Manifest::parse(&text).expect("good").metric.baseline, Some(score(8_720)));
}

#[test]
fn paths_stay_in_the_folder() {
    for wrong in ["../secret", "/etc", "a//b", "./a", "a/..", "", "a\\\\b", "a/"] {
        let (line, message, _) = problem("workspace = \"workspace\"", &format!("workspace = \"{wrong}\""));
        assert!(line == 3 && message.starts_with("workspace: "), "{message}");
        assert_eq!(problem("\"classify.py\"", &format!("\"{wrong}\"")).0, 4);
    }
    for obeyed in [".gitattributes", ".vscode/tasks.json", "AGENTS.md"] {
        assert!(problem("\"classify.py\"", &format!("{obeyed:?}")).1.contains("tools take orders from"), "{obeyed}");
    }
    assert!(problem("\"classify.py\"", "\"model/weights.txt\"").1.contains("named twice"));
    assert!(problem("[\"classify.py\", \"model/weights.txt\"]", "[]").1.contains("1 to 100 files"));
}

#[test]
fn data_comes_in_one_part_or_in_two() {
    let (line, message, _) = problem("held_out = \"held-out\"\n", "");
    assert_eq!((line, message.as_str()), (13, "[data] names neither one folder nor two"));
    assert_eq!(problem("[data]", "[data]\nall = \"data\"").1, "[data] names neither one folder nor two");
    let text = GOOD.replace("public = \"public\"\nheld_out = \"held-out\"", "all = \"data\"");
    let text = text.replace("baseline = 0.872\n", "");
    assert_eq!(Manifest::parse(&text).expect("good").data.parts, Parts::Whole("data".into()));
}

#[test]
fn a_target_on_the_wrong_side_is_refused() {
    assert_eq!(
        problem("\"higher\"", "\"lower\"").1,
        "metric.target is not below metric.baseline, though metric.direction asks for that"
    );
    assert_eq!(problem("0.9860", "0.8720").0, 25);
    assert_eq!(problem("min_improvement = 0.01", "min_improvement = 0.2").0, 26);
}

#[test]
fn a_deadline_needs_its_offset() {
    for wrong in ["2030-01-31", "2030-01-31T12:00:00", "12:00:00"] {
        assert!(problem("2030-01-31T12:00:00+02:00", wrong).1.contains("lacks its date"), "{wrong}");
    }
    assert!(problem("2030-01-31T12:00:00+02:00", "\"tomorrow\"").1.contains("a date is needed"));
    assert!(problem("2030-01-31T12:00:00+02:00", "1969-12-31T00:00:00Z").1.contains("before 1970"));
}

#[test]
fn every_value_of_another_type_is_an_error_with_its_line() {
    for (place, line) in GOOD.lines().enumerate().filter(|(_, line)| line.contains(" = ")) {
        let (key, _) = line.split_once(" = ").expect("a value");
        for wrong in ["{}", "[[1]]", "-1", "1.5e300", "\"\\u0000\"", "00:00:00"] {
            let changed: Vec<String> = GOOD
                .lines()
                .enumerate()
                .map(|(at, line)| if at == place { format!("{key} = {wrong}") } else { line.into() })
                .collect();
            if let Err(Problems(found)) = Manifest::parse(&changed.join("\n")) {
                assert!(found.iter().any(|problem| problem.line == place + 1), "{key} = {wrong}: {found:?}");
            } else {
                assert!(
                    matches!((key, wrong), ("description", "\"\\u0000\"") | ("baseline", "-1")),
                    "{key} = {wrong} was taken"
                );
            }
        }
    }
}

/// GOOD with a module in place of its commands.
#[cfg(feature = "wasm")]
fn with_module(run: &str) -> String {
    let text = GOOD.replace("[build]\ncommand = [\"python3\", \"/task/train.py\"]\n\n", "");
    text.replace("command = [\"python3\", \"/task/classify.py\"]", run).replace("classify.py", "kernel.wat")
}

#[cfg(feature = "wasm")]
#[test]
fn a_module_is_run_in_place_of_commands() {
    let manifest =
        Manifest::parse(&with_module("wasm = \"kernel.wat\"").replace("cpu_s = 5", "fuel = 7_000")).expect("good");
    assert_eq!(manifest.run, Runner::Wasm { module: "kernel.wat".into() });
    assert_eq!(manifest.limits.fuel, 7_000);
    let message = |run: &str| {
        let Problems(found) = Manifest::parse(&with_module(run)).expect_err("wrong");
        assert!(found.iter().all(|problem| (6..=9).contains(&problem.line)), "{found:?}");
        found.into_iter().map(|problem| problem.message).collect::<Vec<_>>()
    };
    assert_eq!(message("wasm = \"other.wat\""), ["run.wasm is not among targets"]);
    assert_eq!(message("wasm = \"kernel.wat\"\ncommand = [\"true\"]"), ["run.wasm and run.command are both there"]);
    let both = "run.wasm goes with neither run.restore nor [build]";
    assert_eq!(message("wasm = \"kernel.wat\"\nrestore = [\"true\"]"), [both]);
    assert!(message("wasm = \"kernel.wat\"\n[build]\ncommand = [\"make\"]").contains(&both.to_owned()));
    assert!(message("wasm = \"../kernel.wat\"").concat().contains("is not a plain path"));
}

#[cfg(feature = "wasm")]
#[test]
fn a_module_gets_no_more_fuel_than_the_slowest_machine_burns_in_its_time() {
    let with = |limits: &str| Manifest::parse(&with_module("wasm = \"kernel.wat\"").replace("cpu_s = 5", limits));
    assert_eq!(with("cpu_s = 7").expect("good").limits.fuel, 7_000_000);
    // wall_s is 20.
    assert_eq!(with("cpu_s = 60").expect("good").limits.fuel, 20_000_000);
    with("fuel = 10_000_000").expect("ten seconds, where none are given");
    let Problems(found) = with("cpu_s = 7\nfuel = 7_000_001").expect_err("too much");
    assert_eq!(found.len(), 1, "{found:?}");
    let line = with_module("").lines().position(|line| line == "cpu_s = 5").expect("there") + 2;
    let most = "limits.fuel is 7000001, and a slow machine gets through 7000000 in limits.cpu_s and limits.wall_s";
    assert_eq!((found[0].line, found[0].message.as_str()), (line, most));
    // A command takes none.
    Manifest::parse(&GOOD.replace("cpu_s = 5", "fuel = 1_000_000_000_000")).expect("not looked at");
}

#[cfg(not(feature = "wasm"))]
#[test]
fn a_build_without_the_feature_refuses_a_module_by_its_line() {
    let found = problems("command = [\"python3\", \"/task/classify.py\"]", "wasm = \"classify.py\"");
    let (line, message, fix) = &found[0];
    assert_eq!((*line, message.as_str()), (10, "run.wasm: this l402t was built without the feature wasm"));
    assert_eq!(fix, "Build it with --features wasm");
}
