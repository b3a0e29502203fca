//! A disk that is really full, under the whole program: a small file system of its own, where the system lets us make one.
#![cfg(all(feature = "embedded", target_os = "linux"))]

use std::io::Write as _;
use std::path::Path;
use std::process::Command;

use serde_json::Value;

use crate::home;
use crate::live::{coordinator, prepare};

/// What the scripts share. In a mount namespace of its own, so that nothing is left of it.
const SCRIPT: &str = r#"
set -u
until_said() { until grep -q "\"$1\"" "$2"; do kill -0 $pid || exit 9; sleep 0.02; done; }
peer() { timeout 60 "$PROGRAM" peer --json --data p --behaviour garbage --coordinator $url "$@"; }
coordinator() { exec timeout -s INT 90 "$PROGRAM" coordinate --json --config c.toml --data c --threads 1 --listen "$@"; }
small() { mkdir -p $1 && mount -t tmpfs -o size=16m none $1; }
fill() { cat /dev/zero > $1/filler 2> fill.log || true; }
"#;

/// Runs a script, and returns what it printed; `None` where no file system can be made.
fn small_disk(home: &Path, url: &str, script: &str) -> Option<String> {
    let unshare = |script: &str| {
        let mut command = Command::new("unshare");
        command.args(["--user", "--map-root-user", "--mount", "sh", "-c", script]).current_dir(home).env_clear();
        command.env("HOME", home).env("PATH", "/usr/bin:/bin").env("url", url);
        command.env("PROGRAM", env!("CARGO_BIN_EXE_l402t")).output()
    };
    let able = unshare("mkdir -p x && mount -t tmpfs -o size=1m none x");
    if !able.is_ok_and(|output| output.status.success()) {
        let said = "SKIPPED: this machine lets nobody make a file system of their own (unshare --user --mount)\n";
        std::io::stderr().write_all(said.as_bytes()).expect("written");
        return None;
    }
    let output = unshare(&format!("{SCRIPT}{script}")).expect("it ran before");
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{said}\n{}", String::from_utf8_lossy(&output.stderr));
    Some(said)
}

/// The error that a process ended with.
fn error(home: &Path, lines: &str) -> Value {
    let text = std::fs::read_to_string(home.join(lines)).expect("written");
    let errors = text.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    errors.filter_map(|line| line.get("error").cloned()).next_back().unwrap_or_else(|| panic!("no error in {text}"))
}

/// What `ledger` wrote to a file.
fn ledger(home: &Path, file: &str) -> Value {
    let text = std::fs::read(home.join(file)).expect("there");
    serde_json::from_slice::<Value>(&text).expect("JSON")["result"].take()
}

#[test]
fn a_peer_on_a_full_disk_stops_with_what_to_do_and_goes_on_with_room() {
    let home = home();
    let home = home.path();
    prepare(home);
    let mut serving = coordinator(home, "127.0.0.1:0");
    let url = serving.wait_for("listening")["url"].as_str().expect("a URL").to_owned();
    let script = r#"
        small p
        peer --rounds 3 > first 2> first.log & pid=$!
        until_said locked first; fill p
        wait $pid; echo stopped $?
        rm p/filler
        peer --rounds 1 > second 2> second.log; echo again $?
        "$PROGRAM" ledger --json --data p > ledger; echo ledger $?
    "#;
    let Some(said) = small_disk(home, &url, script) else { return };
    assert_eq!(said, "stopped 2\nagain 0\nledger 0\n", "{}", error(home, "first"));
    let error = error(home, "first");
    assert!(["journal", "wallet_not_written", "io"].contains(&error["code"].as_str().expect("a code")), "{error}");
    let ledger = ledger(home, "ledger");
    let contributions = ledger["contributions"].as_array().expect("a list");
    let fees = ledger["totals"]["fees_msat"].as_u64();
    assert_eq!(fees, Some(1_000 * contributions.len() as u64), "one fee for each: {ledger}");
    serving.kill();
}

#[test]
fn a_coordinator_on_a_full_disk_stops_with_what_to_do_and_goes_on_with_room() {
    let home = home();
    let home = home.path();
    prepare(home);
    let script = r#"
        small c
        coordinator 127.0.0.1:0 > first 2> first.log & pid=$!
        until_said listening first
        url=$(grep -o 'http://[0-9.:]*' first | head -n 1)
        peer --rounds 2 > peer 2> peer.log & peer=$!
        until_said locked peer; fill c
        wait $pid; echo stopped $?
        rm c/filler
        coordinator ${url#http://} > second 2> second.log & pid=$!
        wait $peer; echo peer $?
        kill -INT $pid; wait $pid; echo interrupted $?
        "$PROGRAM" ledger --json --data c > theirs; "$PROGRAM" ledger --json --data p > ours
    "#;
    let Some(said) = small_disk(home, "", script) else { return };
    assert_eq!(said, "stopped 2\npeer 0\ninterrupted 130\n");
    let error = error(home, "first");
    assert_eq!(error["code"], "wallet_not_written", "{error}");
    let totals = |name: &str| ledger(home, name)["totals"].take();
    assert_eq!(totals("theirs")["fees_received_msat"], totals("ours")["fees_msat"]);
    assert_eq!(totals("theirs")["rewards_locked_msat"].as_u64(), Some(0), "nothing is left locked");
}
