//! `x` on machines that lack things: what it says, and that it changes nothing unasked. The machines are folders with
//! the few programs that their PATH shows.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// What every Debian has, as far as `x` uses it.
const BASICS: [&str; 8] = ["awk", "cat", "df", "dirname", "env", "id", "sed", "sh"];
const A_COMPILER: &str = "exit 0";
const ROOT: &str = "echo 0";
const NOT_ROOT: &str = "echo 1000";

struct Machine {
    home: PathBuf,
}

struct Answer {
    code: Option<i32>,
    stderr: String,
}

impl Machine {
    fn new(name: &str) -> Self {
        let home = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("bare-machine-{name}"));
        let _ = fs::remove_dir_all(&home);
        fs::create_dir_all(home.join("bin")).expect("the target folder is writable");
        for program in BASICS {
            let found = ["/usr/bin", "/bin"].map(|folder| Path::new(folder).join(program));
            let found = found.iter().find(|path| path.exists()).expect("a Unix machine has it");
            symlink(found, home.join("bin").join(program)).expect("the folder is new");
        }
        Self { home }.with("apt-get", "echo \"$@\" >> \"$HOME/apt-get.log\"").with("id", ROOT)
    }

    fn with(self, program: &str, script: &str) -> Self {
        let path = self.home.join("bin").join(program);
        let _ = fs::remove_file(&path);
        fs::write(&path, format!("#!/bin/sh\n{script}\n")).expect("the target folder is writable");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).expect("the file is ours");
        self
    }

    fn without(self, program: &str) -> Self {
        fs::remove_file(self.home.join("bin").join(program)).expect("the machine had it");
        self
    }

    /// Everything but Rust.
    fn with_all_but_rust(self) -> Self {
        ["cc", "c++", "python3", "bwrap"].iter().fold(self, |machine, program| machine.with(program, A_COMPILER))
    }

    fn run(&self, arguments: &[&str]) -> Answer {
        self.run_with(arguments, &[])
    }

    fn run_with(&self, arguments: &[&str], variables: &[(&str, &Path)]) -> Answer {
        let x = Path::new(env!("CARGO_MANIFEST_DIR")).join("../x");
        let mut command = Command::new("/bin/sh");
        command.arg(x).args(arguments).env_clear().env("HOME", &self.home).env("PATH", self.home.join("bin"));
        command.envs(variables.iter().copied());
        let output = command.stdin(Stdio::null()).output().expect("there is a /bin/sh");
        assert!(output.stdout.is_empty(), "stdout is for results");
        Answer { code: output.status.code(), stderr: String::from_utf8_lossy(&output.stderr).into_owned() }
    }

    fn apt_get_log(&self) -> String {
        fs::read_to_string(self.home.join("apt-get.log")).unwrap_or_default()
    }
}

#[test]
fn nothing_is_installed_unless_someone_agreed() {
    let machine = Machine::new("unasked");
    let answer = machine.run(&["test"]);
    assert_eq!(answer.code, Some(2));
    assert!(answer.stderr.contains("apt-get install g++"), "{}", answer.stderr);
    assert!(answer.stderr.contains("rustup, for Rust 1."), "{}", answer.stderr);
    assert!(answer.stderr.contains("./x --yes test"), "{}", answer.stderr);
    assert_eq!(machine.apt_get_log(), "");
}

#[test]
fn agreed_beforehand_apt_gets_what_is_missing_in_one_go() {
    let machine = Machine::new("agreed");
    let answer = machine.run(&["--yes", "test"]);
    let log = machine.apt_get_log();
    assert!(log.contains("install -qy --no-install-recommends g++") && log.contains("curl ca-certificates"), "{log}");
    // There was no network behind this apt-get, so Rust stays missing.
    assert_eq!(answer.code, Some(2));
}

#[test]
fn a_package_that_apt_can_not_get_is_named() {
    let answer = Machine::new("apt-fails").with("apt-get", "exit 100").run(&["--yes", "test"]);
    assert_eq!(answer.code, Some(2));
    assert!(answer.stderr.contains("apt-get could not install: g++"), "{}", answer.stderr);
}

#[test]
fn without_apt_or_root_the_user_learns_what_to_install() {
    let answer = Machine::new("no-apt").without("apt-get").run(&["test"]);
    assert!(answer.stderr.contains("missing: g++") && answer.stderr.contains("no apt-get"), "{}", answer.stderr);
    let answer = Machine::new("no-root").with("id", NOT_ROOT).run(&["--yes", "test"]);
    assert!(answer.stderr.contains("As root, run: apt-get install"), "{}", answer.stderr);
}

#[test]
fn an_unreachable_rustup_is_named_with_the_way_out() {
    let offline = Machine::new("no-rustup").with_all_but_rust().with("curl", "exit 6");
    let answer = offline.run(&["--yes", "test"]);
    assert_eq!(answer.code, Some(2));
    assert!(
        answer.stderr.contains("could not be installed") && answer.stderr.contains("https://rustup.rs"),
        "{}",
        answer.stderr
    );
    assert_eq!(offline.apt_get_log(), "");
}

#[test]
fn a_rust_that_is_too_old_counts_as_missing() {
    let old = Machine::new("old-rust").with_all_but_rust().with("rustc", "echo 'rustc 1.63.0'").with("cargo", "exit 0");
    let answer = old.with("curl", "exit 6").run(&["--yes", "test"]);
    assert_eq!(answer.code, Some(2));
    assert!(answer.stderr.contains("Rust 1.95 could not be installed"), "{}", answer.stderr);
}

#[test]
fn a_full_disk_is_named_before_rust_is_fetched() {
    let full = "printf 'h\\n/dev/sda 9 9 1000 99%% /home\\n'";
    let answer =
        Machine::new("full").with_all_but_rust().with("curl", "exit 6").with("df", full).run(&["--yes", "test"]);
    assert_eq!(answer.code, Some(2));
    assert!(answer.stderr.contains("Rust needs 2 GB"), "{}", answer.stderr);
}

#[test]
fn a_machine_that_has_everything_goes_straight_to_xtask() {
    let ready = Machine::new("ready").with_all_but_rust().with("rustc", "echo 'rustc 1.99.0'");
    let answer = ready.with("cargo", "echo \"$@\" >&2").run(&["--yes", "bench", "judge"]);
    assert_eq!(answer.code, Some(0));
    assert!(answer.stderr.ends_with("run --quiet --locked --package xtask -- bench judge\n"), "{}", answer.stderr);
}

#[test]
fn a_machine_without_a_network_is_told_so() {
    let target = Path::new(env!("CARGO_TARGET_TMPDIR")).join("never-built");
    let offline = Machine::new("offline").with_all_but_rust().with("rustc", "echo 'rustc 1.99.0'");
    let answer = offline.with("cargo", "exit 101").run_with(&["test"], &[("CARGO_TARGET_DIR", &target)]);
    assert_eq!(answer.code, Some(2));
    assert!(answer.stderr.contains("Is there a network?"), "{}", answer.stderr);
}
