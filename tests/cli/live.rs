//! A coordinator and a peer as processes: events, restarts, signals, ports in use, the ledger. Real Lightning, no training:
//! the peer contributes garbage.
#![cfg(feature = "embedded")]

use std::io::{BufRead, BufReader};
use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Stdio};

use serde_json::Value;

use crate::{home, l402t, result, run, stderr};

/// A process whose stdout is JSON lines. Killed when dropped.
pub(crate) struct Live {
    pub(crate) child: Child,
    lines: BufReader<ChildStdout>,
}

impl Live {
    pub(crate) fn start(command: &mut Command) -> Self {
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().expect("it starts");
        let lines = BufReader::new(child.stdout.take().expect("piped"));
        Self { child, lines }
    }

    /// Reads on until an event of that name.
    pub(crate) fn wait_for(&mut self, event: &str) -> Value {
        let mut seen = String::new();
        loop {
            let mut line = String::new();
            assert_ne!(self.lines.read_line(&mut line).expect("read"), 0, "ended before {event}:\n{seen}");
            let value: Value = serde_json::from_str(&line).expect("a JSON line");
            if value["event"] == event {
                return value;
            }
            seen.push_str(&line);
        }
    }

    pub(crate) fn interrupt(mut self) -> Option<i32> {
        let pid = self.child.id().to_string();
        assert!(Command::new("kill").args(["-INT", &pid]).status().expect("kill runs").success());
        self.child.wait().expect("it ends").code()
    }

    pub(crate) fn kill(mut self) {
        self.child.kill().expect("killed");
        self.child.wait().expect("it ends");
    }
}

impl Drop for Live {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

const MODEL: &str = include_str!("../small-model.json");

const RUN: &str = include_str!("../small-run.toml");

const RULES: &str = r#"
[run.judge]
# One nat a token: no garbage gains that by chance.
min_gain_per_token = 4294967295
[run.timing]
commit_ms = 60000
upload_ms = 90000
close_at_contributions = 1
"#;

pub(crate) fn prepare(home: &Path) {
    std::fs::write(home.join("model.json"), MODEL).expect("written");
    std::fs::write(home.join("corpus.txt"), "All happy families are alike. ".repeat(400)).expect("written");
    std::fs::write(home.join("c.toml"), format!("{RUN}{RULES}")).expect("written");
}

pub(crate) fn coordinator(home: &Path, listen: &str) -> Live {
    let mut command = l402t(home);
    command.args(["coordinate", "--config", "c.toml", "--data", "c", "--json", "--threads", "1", "--listen", listen]);
    Live::start(&mut command)
}

/// A coordinator in a home of its own making, and where it is.
pub(crate) fn serving(home: &Path) -> (Live, String) {
    prepare(home);
    let mut service = coordinator(home, "127.0.0.1:0");
    let url = service.wait_for("listening")["url"].as_str().expect("a URL").to_owned();
    (service, url)
}

pub(crate) fn garbage_peer(home: &Path, url: &str, rounds: &str) -> Live {
    let mut command = l402t(home);
    command.args(["peer", "--data", "p", "--json", "--behaviour", "garbage", "--coordinator", url, "--rounds", rounds]);
    Live::start(&mut command)
}

pub(crate) fn ledger(home: &Path, data: &str) -> Value {
    let output = run(home, &["ledger", "--data", data, "--json"]);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    result(&output)
}

#[test]
fn a_run_goes_on_through_restarts_of_both_sides_and_the_books_agree() {
    let home = home();
    let home = home.path();
    prepare(home);
    let mut first = coordinator(home, "127.0.0.1:0");
    let listening = first.wait_for("listening");
    let url = listening["url"].as_str().expect("a URL").to_owned();
    let address = url.strip_prefix("http://").expect("http").to_owned();

    let mut peer = garbage_peer(home, &url, "9");
    // Killed with its fee paid and its reward locked.
    peer.wait_for("locked");
    peer.kill();
    // Then the coordinator too.
    first.kill();
    let mut second = coordinator(home, &address);
    assert_eq!(second.wait_for("listening")["run"], listening["run"]);

    let mut peer = garbage_peer(home, &url, "2");
    let verdict = peer.wait_for("verdict");
    assert_eq!((verdict["outcome"].as_str(), verdict["round"].as_u64()), (Some("rejected"), Some(0)), "{verdict}");
    let finished = peer.wait_for("finished");
    assert_eq!(
        (finished["rejected"].as_u64(), finished["reward_ever_msat"].as_u64()),
        (Some(2), Some(0)),
        "{finished}"
    );
    assert_eq!(finished["fee_ever_msat"].as_u64(), Some(2_000), "one fee for each contribution");
    assert_eq!(peer.child.wait().expect("it ends").code(), Some(0));

    second.wait_for("round_closed");
    let (theirs, ours) = (ledger(home, "c"), ledger(home, "p"));
    assert_eq!(theirs["totals"]["fees_received_msat"], ours["totals"]["fees_msat"]);
    assert_eq!(theirs["totals"]["rewards_settled_msat"].as_u64(), Some(0));
    assert_eq!(second.interrupt(), Some(130));
}

#[test]
fn a_port_in_use_is_named_with_what_to_do() {
    let home = home();
    prepare(home.path());
    let taken = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = taken.local_addr().expect("bound").to_string();
    let output = run(home.path(), &["coordinate", "--config", "c.toml", "--data", "c", "--listen", &address]);
    let text = stderr(&output);
    assert_eq!(output.status.code(), Some(2), "{text}");
    assert!(text.contains(&format!("error: can't listen on {address}: port")), "{text}");
    assert!(text.contains("fix: Choose another address with --listen"), "{text}");
}

#[test]
fn a_run_without_a_model_says_which_setting_is_missing() {
    let home = home();
    let output = run(home.path(), &["coordinate", "--data", "c", "--listen", "127.0.0.1:0"]);
    let text = stderr(&output);
    assert_eq!(output.status.code(), Some(2), "{text}");
    assert!(text.contains("error: the setting model is missing"), "{text}");
}
