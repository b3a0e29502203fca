//! The main job as a newcomer runs it: real processes, real training, real Lightning channels, a real audit.
#![cfg(all(feature = "torch", feature = "embedded"))]

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::Duration;

use serde_json::Value;

fn demo(folder: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_l402t"));
    command.args(["demo", "--json", "--data"]).arg(folder).args(arguments);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// Processes that were started with `folder` on their command line.
fn running_in(folder: &Path) -> Vec<String> {
    let folder = folder.display().to_string();
    let processes = std::fs::read_dir("/proc").expect("Linux has /proc").flatten();
    processes
        .filter_map(|process| std::fs::read(process.path().join("cmdline")).ok())
        .map(|line| String::from_utf8_lossy(&line).replace('\0', " "))
        .filter(|line| line.contains(&folder))
        .collect()
}

/// Tries for a minute.
fn until(what: &str, mut holds: impl FnMut() -> bool) {
    for _ in 0..600 {
        if holds() {
            return;
        }
        sleep(Duration::from_millis(100));
    }
    panic!("{what} did not happen within a minute");
}

fn signal(child: &Child, name: &str) {
    let sent = Command::new("kill").args([name, &child.id().to_string()]).status().expect("kill runs");
    assert!(sent.success());
}

/// A demo whose coordinator and five peers are all at work.
fn started(folder: &Path) -> Child {
    let child = demo(folder, &[]).stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("starts");
    until("the start of all seven processes", || running_in(folder).len() == 7);
    child
}

#[test]
fn honest_work_is_paid_cheats_are_not_and_an_auditor_gets_the_same_bits() {
    let root = tempfile::tempdir().expect("a folder");
    let folder = root.path().join("demo");
    let output = demo(&folder, &["--rounds", "2"]).output().expect("runs");
    let stdout = String::from_utf8(output.stdout).expect("UTF-8");
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{}: {stdout} {stderr}", output.status);
    let summary: Value = serde_json::from_str(stdout.lines().last().expect("a line")).expect("JSON");
    let number = |name: &str| summary[name].as_f64().unwrap_or_else(|| panic!("{name} is missing in {summary}"));
    assert!((number("rounds") - 2.0).abs() < 0.5);
    assert!((number("accepted") - 6.0).abs() < 0.5, "three honest peers, two rounds: {summary}");
    assert!((number("rejected") - 4.0).abs() < 0.5, "garbage and a copy, two rounds: {summary}");
    assert!(number("loss_last_nats") < number("loss_first_nats"));
    assert!(number("reward_paid_msat") > 0.0);
    assert_eq!(summary["fees_paid_msat"], 2 * 5 * 1_000);
    assert!(number("ratio_fp32") > 200.0);
    assert!((0.0..=1.0).contains(&number("compute_share")));
    for time in ["lock_ms_p50", "settle_ms_p50", "settle_ms_p99"] {
        assert!(number(time) >= 0.0);
    }
    assert_eq!(summary["replay_identical"], true);
    assert_eq!(summary["msat_conserved"], true);
    assert_eq!(summary["lightning"], "embedded LDK (regtest)");
    assert!(!folder.exists(), "the demo tidies up");
    assert_eq!(running_in(&folder), Vec::<String>::new());
}

/// Needs a sandbox: where there is none it fails with the cause.
#[test]
fn improvements_are_paid_five_cheats_are_not_and_an_auditor_gets_every_verdict_again() {
    let root = tempfile::tempdir().expect("a folder");
    let folder = root.path().join("demo");
    let output = demo(&folder, &["--bounties"]).output().expect("runs");
    let stdout = String::from_utf8(output.stdout).expect("UTF-8");
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{}: {stdout} {stderr}", output.status);
    let summary: Value = serde_json::from_str(stdout.lines().last().expect("a line")).expect("JSON");
    assert_eq!(
        (&summary["bounties"], &summary["submissions"], &summary["accepted"]),
        (&2.into(), &7.into(), &2.into())
    );
    let reasons = ["below_claim", "malformed_output", "no_improvement", "nondeterministic", "output_limit"];
    assert!(reasons.iter().all(|reason| summary["rejected"][reason] == 1), "{summary}");
    for held in ["msat_conserved", "replay_identical", "as_expected"] {
        assert_eq!(summary[held], true, "{held}: {summary}");
    }
    let msat = |name: &str| summary[name].as_u64().expect("an amount");
    assert!(msat("paid_msat") > 0);
    assert_eq!(msat("paid_msat") + msat("refunded_msat"), 80_000_000, "{summary}");
    assert!(!folder.exists(), "the demo tidies up");
}

#[test]
fn ctrl_c_leaves_nothing_running_and_the_next_demo_can_start() {
    let root = tempfile::tempdir().expect("a folder");
    let folder = root.path().join("demo");
    for _ in 0..2 {
        let mut child = started(&folder);
        signal(&child, "-INT");
        let status = child.wait().expect("ends");
        assert_eq!(status.code(), Some(130));
        assert_eq!(running_in(&folder), Vec::<String>::new());
    }
}

#[test]
fn a_demo_that_is_killed_takes_its_processes_with_it() {
    let root = tempfile::tempdir().expect("a folder");
    let folder = root.path().join("demo");
    let mut child = started(&folder);
    signal(&child, "-KILL");
    child.wait().expect("ends");
    until("the end of all processes", || running_in(&folder).is_empty());
}

/// On LND: `./x regtest test` builds it and runs these.
#[cfg(feature = "lnd")]
mod lnd {
    use super::*;

    #[allow(clippy::disallowed_methods, reason = "what `./x regtest test` built")]
    fn demo_on_lnd(folder: &Path, arguments: &[&str]) -> Command {
        let tools = std::env::var_os("REGTEST_TOOLS").expect("REGTEST_TOOLS names the folder of btcd and lnd");
        let mut command = demo(folder, &["--ln", "lnd", "--tools"]);
        command.arg(tools).args(arguments);
        command
    }

    #[test]
    #[ignore = "needs btcd and lnd: ./x regtest test"]
    fn honest_work_is_paid_by_an_lnd_to_lnds_and_all_msat_are_accounted_for() {
        let root = tempfile::tempdir().expect("a folder");
        let folder = root.path().join("demo");
        let output = demo_on_lnd(&folder, &["--rounds", "1"]).output().expect("runs");
        let stdout = String::from_utf8(output.stdout).expect("UTF-8");
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{}: {stdout} {stderr}", output.status);
        let summary: Value = serde_json::from_str(stdout.lines().last().expect("a line")).expect("JSON");
        assert_eq!((&summary["accepted"], &summary["rejected"]), (&3.into(), &2.into()), "{summary}");
        assert_eq!((&summary["msat_conserved"], &summary["replay_identical"]), (&true.into(), &true.into()));
        let lightning = summary["lightning"].as_str().expect("a text");
        assert!(lightning.starts_with("LND 0."), "{lightning}");
        assert!(lightning.ends_with("3 peers on LND, 2 on embedded LDK"), "{lightning}");
        assert_eq!(running_in(&folder), Vec::<String>::new());
    }

    #[test]
    #[ignore = "needs btcd and lnd: ./x regtest test"]
    fn ctrl_c_ends_btcd_and_every_lnd_too() {
        let root = tempfile::tempdir().expect("a folder");
        let folder = root.path().join("demo");
        let mut child = demo_on_lnd(&folder, &[]).stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("starts");
        // The demo, its six processes, btcd and four LNDs.
        until("the start of all twelve processes", || running_in(&folder).len() == 12);
        signal(&child, "-INT");
        assert_eq!(child.wait().expect("ends").code(), Some(130));
        assert_eq!(running_in(&folder), Vec::<String>::new());
        assert!(!folder.exists());
    }
}
