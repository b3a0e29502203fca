//! The program as a process, and the small run that it coordinates.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Output, Stdio};

use serde_json::Value;

const MODEL: &str = include_str!("../small-model.json");

const RUN: &str = include_str!("../small-run.toml");

/// A round stays open for the whole test.
const TIMING: &str = r#"
[run.timing]
commit_ms = 600000
upload_ms = 700000
"#;

/// Writes what a coordinator starts from: a model, a corpus and `name`, its configuration.
pub(crate) fn prepare(home: &Path, name: &str, corpus_bytes: usize, more: &str) {
    std::fs::write(home.join("model.json"), MODEL).expect("written");
    let text = "All happy families are alike. ";
    std::fs::write(home.join("corpus.txt"), text.repeat(corpus_bytes / text.len())).expect("written");
    std::fs::write(home.join(name), format!("{RUN}{TIMING}\n{more}")).expect("written");
}

/// The program, in an environment of its own.
pub(crate) fn l402t(home: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_l402t"));
    command.env_clear().env("HOME", home).current_dir(home);
    command
}

pub(crate) fn run(home: &Path, arguments: &[&str]) -> Output {
    l402t(home).args(arguments).output().expect("it starts")
}

/// A process whose stdout is JSON lines. Killed when dropped.
pub(crate) struct Live {
    pub(crate) child: Child,
    lines: BufReader<ChildStdout>,
}

impl Live {
    pub(crate) fn start(command: &mut Command) -> Self {
        let mut child = command.stdout(Stdio::piped()).spawn().expect("it starts");
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
}

impl Drop for Live {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
