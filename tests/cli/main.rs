//! What a user sees: help, errors and their remedies, `--json`, exit codes.

mod catch_up;
mod corpus;
mod disk;
mod guard;
mod kill;
mod live;
mod wallet;
mod words;

use std::path::Path;
use std::process::{Command, Output};

/// The program, in an environment of its own.
fn l402t(home: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_l402t"));
    command.env_clear().env("HOME", home).current_dir(home);
    command
}

fn run(home: &Path, arguments: &[&str]) -> Output {
    l402t(home).args(arguments).output().expect("it starts")
}

fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).expect("text")
}

/// What a command that writes no events found.
fn result(output: &Output) -> serde_json::Value {
    let mut answer: serde_json::Value = serde_json::from_str(&stdout(output)).expect("one object");
    answer["result"].take()
}

fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).expect("text")
}

fn home() -> tempfile::TempDir {
    tempfile::tempdir().expect("a folder")
}
