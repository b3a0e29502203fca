//! `l402t wallet` as a process: beside a running node, killed, on an old copy, and on the way out.
#![cfg(feature = "embedded")]

use std::path::Path;
use std::process::{Child, Stdio};
use std::time::Duration;

use serde_json::Value;

use crate::live::{garbage_peer, serving};
use crate::{home, l402t, result, run, stderr, stdout};

/// Of each kind, at moments that are further and further into the command.
const KILLS: u64 = 12;
/// Somebody else's.
const ELSEWHERE: &str = "bcrt1qqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqdku202";

fn wallet(home: &Path, arguments: &[&str]) -> Value {
    let output = run(home, &[&["wallet", "--json"], arguments].concat());
    assert_eq!(output.status.code(), Some(0), "{arguments:?}: {}{}", stdout(&output), stderr(&output));
    result(&output)
}

/// The error's code.
fn refused(home: &Path, arguments: &[&str]) -> String {
    let output = run(home, &[arguments, &["--json"]].concat());
    let text = stdout(&output);
    assert_eq!(output.status.code(), Some(2), "{arguments:?}: {text}");
    let last: Value = serde_json::from_str(text.lines().last().expect("a line")).expect("JSON");
    last["error"]["code"].as_str().expect("a code").to_owned()
}

/// What the doctor says of the peer's node and wallet: its exit code, and a check's level, code and message.
fn examined(home: &Path, check: &str) -> (Option<i32>, String, String, String) {
    examined_as(home, &["peer", "--data", "p"], check)
}

fn examined_as(home: &Path, whom: &[&str], check: &str) -> (Option<i32>, String, String, String) {
    let output = run(home, &[&["doctor", "--json"], whom].concat());
    let report = result(&output);
    let found = report["checks"].as_array().expect("a list").iter().find(|one| one["name"] == *check);
    let text = |key: &str| found.and_then(|found| found[key].as_str()).unwrap_or_default().to_owned();
    (output.status.code(), text("level"), text("code"), text("message"))
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).expect("made");
    for entry in std::fs::read_dir(from).expect("readable") {
        let entry = entry.expect("readable");
        let target = to.join(entry.file_name());
        match entry.file_type().expect("known").is_dir() {
            true => copy(&entry.path(), &target),
            false => drop(std::fs::copy(entry.path(), target).expect("copied")),
        }
    }
}

fn kill_after(mut child: Child, pause: Duration) {
    std::thread::sleep(pause);
    child.kill().expect("killed");
    child.wait().expect("gone");
}

#[test]
fn an_old_copy_of_a_peer_is_refused_and_the_money_comes_out_of_it() {
    let home = home();
    let home = home.path();
    let (service, url) = serving(home);
    let mut peer = garbage_peer(home, &url, "1");
    // Beside the running node.
    peer.wait_for("locked");
    let (code, level, _, message) =
        examined_as(home, &["coordinate", "--config", "c.toml", "--data", "c"], "lightning");
    assert_eq!((code, level.as_str()), (Some(0), "ok"), "{message}");
    assert!(message.contains("runs now"), "{message}");
    assert_eq!(examined(home, "backup").2, "no_backup");
    wallet(home, &["backup", "backup", "--data", "p"]);
    peer.wait_for("finished");
    peer.child.wait().expect("it ends");
    let (_, level, _, message) = examined(home, "lightning");
    assert!(level == "ok" && message.contains("does not run now"), "{message}");
    assert!(examined(home, "wallet").3.contains("in 1 channels"));
    let (_, level, _, message) = examined(home, "backup");
    assert!(level == "ok" && message.contains("channel states behind"), "{message}");
    copy(&home.join("p"), &home.join("old"));
    let mut peer = garbage_peer(home, &url, "1");
    peer.wait_for("finished");
    peer.child.wait().expect("it ends");
    let newest = wallet(home, &["show", "--data", "p"]);
    assert!(newest["in_channels_sat"].as_u64() > Some(0), "{newest}");

    std::fs::remove_dir_all(home.join("p")).expect("removed");
    std::fs::rename(home.join("old"), home.join("p")).expect("put back");
    let starts = ["peer", "--data", "p", "--behaviour", "garbage", "--coordinator", &url, "--rounds", "1"];
    let (code, level, in_the_way, message) = examined(home, "lightning");
    assert_eq!((code, level.as_str(), in_the_way.as_str()), (Some(1), "fail", "wallet_is_old"), "{message}");
    assert_eq!(refused(home, &starts), "wallet_is_old");
    // As on another machine: here the coordinator's node proves it, and the process ends by itself.
    let (state, hidden) = (home.join(".local/state/l402t"), home.join("hidden"));
    std::fs::rename(&state, &hidden).expect("hidden");
    assert_eq!(refused(home, &starts), "wallet_is_old");
    assert_eq!(refused(home, &starts), "wallet_is_old", "and it remembers that");
    std::fs::remove_dir_all(&state).expect("there");
    std::fs::rename(&hidden, &state).expect("back");
    assert_eq!(refused(home, &["wallet", "restore", "backup", "--data", "p"]), "not_empty");
    // The backup is older still, and as good for this.
    wallet(home, &["restore", "backup", "--data", "r"]);
    assert_eq!(refused(home, &["wallet", "send", ELSEWHERE, "all", "--data", "r"]), "wallet_is_old");
    let restored = wallet(home, &["restore", "--seed-only", "--data", "r"]);
    assert_eq!((&restored["recovered"], &restored["node_id"]), (&Value::Bool(true), &newest["node_id"]));
    wallet(home, &["send", ELSEWHERE, "all", "--data", "r"]);
    let left = wallet(home, &["show", "--data", "r"]);
    assert_eq!(
        (left["channels"].as_array().map(Vec::len), left["on_chain_sat"].as_u64()),
        (Some(0), Some(0)),
        "{left}"
    );
    assert_eq!(refused(home, &["wallet", "send", ELSEWHERE, "1000", "--data", "p"]), "wallet_is_old");
    assert_eq!(service.interrupt(), Some(130));
}

#[test]
fn a_peer_that_leaves_closes_its_channel_and_takes_its_coins() {
    let home = home();
    let home = home.path();
    let (service, url) = serving(home);
    let mut peer = garbage_peer(home, &url, "1");
    peer.wait_for("finished");
    peer.child.wait().expect("it ends");
    let before = wallet(home, &["show", "--data", "p"]);
    let channel = before["channels"][0]["id"].as_str().expect("a channel").to_owned();
    let closed = wallet(home, &["close", &channel, "--data", "p"]);
    assert_eq!(closed["closed"], Value::Bool(true));
    let sent = wallet(home, &["send", ELSEWHERE, "50000", "--data", "p"]);
    assert_eq!(sent["txid"].as_str().map(str::len), Some(64));
    wallet(home, &["send", ELSEWHERE, "all", "--data", "p"]);
    let after = wallet(home, &["show", "--data", "p"]);
    let held = |shown: &Value| shown["on_chain_sat"].as_u64().expect("known");
    assert_eq!((held(&after), after["in_channels_sat"].as_u64()), (0, Some(0)), "{before} {after}");
    assert_eq!(service.interrupt(), Some(130));
}

#[test]
fn a_backup_and_a_restore_that_are_killed_at_any_moment_work_the_second_time() {
    let home = home();
    let home = home.path();
    let (service, _) = serving(home);
    let killed = |arguments: &[&str], number: u64| {
        let mut command = l402t(home);
        command.args(arguments).stdout(Stdio::null()).stderr(Stdio::null());
        kill_after(command.spawn().expect("it starts"), Duration::from_millis(number * 2));
    };
    let mut last = 0;
    for number in 0..KILLS {
        killed(&["wallet", "backup", "backup", "--data", "c"], number);
        let made = wallet(home, &["backup", "backup", "--data", "c"]);
        let state = made["channel_state"].as_u64().expect("numbered");
        assert!(state >= last);
        last = state;
    }
    for number in 0..KILLS {
        killed(&["wallet", "restore", "backup", "--data", "r"], number);
        if home.join("r/lightning").exists() {
            assert_eq!(refused(home, &["wallet", "restore", "backup", "--data", "r"]), "not_empty");
        } else {
            wallet(home, &["restore", "backup", "--data", "r"]);
        }
        let names: Vec<_> = std::fs::read_dir(home.join("r")).expect("there").collect();
        assert_eq!(names.len(), 1, "nothing is left behind: {names:?}");
        std::fs::remove_dir_all(home.join("r")).expect("removed");
    }
    let left = std::fs::read_dir(home).expect("readable").filter_map(Result::ok);
    let left: Vec<_> = left.filter(|entry| entry.file_name().to_string_lossy().starts_with(".backup")).collect();
    assert!(left.is_empty(), "{left:?}");
    assert_eq!(service.interrupt(), Some(130));
}

#[test]
fn the_words_are_shown_only_when_asked_for_and_bring_the_same_wallet_back() {
    let home = home();
    let home = home.path();
    let (service, _) = serving(home);
    let node_id = wallet(home, &["show", "--data", "c"])["node_id"].clone();
    assert_eq!(refused(home, &["wallet", "words", "--data", "c"]), "not_a_terminal");
    let shown = wallet(home, &["words", "--reveal", "--data", "c"]);
    let words = shown["words"].as_str().expect("words").to_owned();
    assert_eq!(service.interrupt(), Some(130));
    let mut command = l402t(home);
    command.args(["wallet", "restore", "--words", "--json", "--data", "w"]);
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("it starts");
    std::io::Write::write_all(&mut child.stdin.take().expect("piped"), words.as_bytes()).expect("written");
    let output = child.wait_with_output().expect("it ends");
    let restored = result(&output);
    assert_eq!(restored["node_id"], node_id);
    assert_eq!(refused(home, &["wallet", "show", "--data", "nowhere"]), "no_wallet");
    assert_eq!(refused(home, &["wallet", "restore", "--data", "x"]), "nothing_to_restore");
}
