//! The commands that build: each prepares the machine first, so that what can't work fails before the long part.

use std::env;
use std::io;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::deny;
use crate::disk::{self, Need};
use crate::fail::Failure;
use crate::libtorch::{self, Source};
use crate::protoc;
use crate::regtest;
use crate::transformers;

/// What the folder of a first build grows to with tests and lints.
const BUILD_MB: u64 = 4500;

/// Fetches what a build needs: room on the disk, the crates, protoc, libtorch.
pub(crate) fn prepare(root: &Path) -> Result<(), Failure> {
    let target = target(root);
    let cache = libtorch::cache()?;
    let mut needs = Vec::new();
    if !target.join("release/deps").exists() {
        needs.push(Need { what: "the build", folder: &target, size_mb: BUILD_MB });
    }
    if libtorch::source(root)? == Source::Missing {
        needs.push(Need { what: "libtorch", folder: &cache, size_mb: libtorch::NEEDED_MB });
    }
    disk::check(&needs)?;
    let host = format!("{}-unknown-linux-gnu", env::consts::ARCH);
    if !succeeds(cargo(root).args(["fetch", "--locked", "--target", &host])) {
        return Err(Failure::remote(
            "the crates could not be fetched; cargo's message is above. Is there a network? Behind a proxy: set HTTPS_PROXY. \
             Then run this again",
        ));
    }
    protoc::provide(root)?;
    libtorch::provide(root)
}

/// Builds the release binary and becomes `l402t demo`; with a demo on LND, builds that first.
pub(crate) fn demo(root: &Path, arguments: &[String]) -> Result<(), Failure> {
    let mut all = vec!["demo".to_owned()];
    all.extend_from_slice(arguments);
    if arguments.iter().any(|argument| ["lnd", "mixed", "--ln=lnd", "--ln=mixed"].contains(&argument.as_str())) {
        all.extend(["--tools".to_owned(), regtest::tools(root)?.display().to_string()]);
    }
    become_l402t(root, all)
}

/// Builds the release binary and becomes `l402t` with these arguments, so that Ctrl-C and the exit code are its own.
pub(crate) fn become_l402t(root: &Path, arguments: Vec<String>) -> Result<(), Failure> {
    prepare(root)?;
    must(cargo(root).args(["build", "--release", "--locked", "--bin", "l402t"]), "the build failed")?;
    let binary = target(root).join("release/l402t");
    let error = Command::new(&binary).args(arguments).exec();
    Err(Failure::usage(format!("can't start {}: {error}", binary.display())))
}

/// Runs every test of the workspace.
pub(crate) fn test(root: &Path, arguments: &[String]) -> Result<(), Failure> {
    prepare(root)?;
    must(cargo(root).args(["test", "--release", "--locked", "--workspace"]).args(arguments), "tests failed")
}

/// Runs the seeded simulator: `--seeds N`, `--from S`.
pub(crate) fn simulate(root: &Path, arguments: &[String]) -> Result<(), Failure> {
    let (seeds, from) = seeds(arguments)?;
    prepare(root)?;
    let mut run = cargo(root);
    run.args(["test", "--release", "--locked", "--test", "simulator", "--", "--nocapture", "whatever_happens"]);
    run.env("L402T_SIMULATE_SEEDS", seeds.to_string()).env("L402T_SIMULATE_FROM", from.to_string());
    must(&mut run, "a seed failed: it is named above, with the command that shows it again")
}

/// How many seeds, and the first.
fn seeds(arguments: &[String]) -> Result<(u64, u64), Failure> {
    let (mut seeds, mut from) = (1_000, 0);
    for pair in arguments.chunks(2) {
        let number = pair.get(1).and_then(|text| text.parse().ok());
        match (pair[0].as_str(), number) {
            ("--seeds", Some(number)) => seeds = number,
            ("--from", Some(number)) => from = number,
            _ => return Err(Failure::usage("./x simulate takes --seeds N and --from S, both numbers".to_owned())),
        }
    }
    Ok((seeds, from))
}

/// Runs the benchmarks; with `--json` only the figures, or those that the other arguments are a part of the name of.
pub(crate) fn bench(root: &Path, arguments: &[String]) -> Result<(), Failure> {
    prepare(root)?;
    let mut run = cargo(root);
    run.args(["bench", "--locked"]);
    if arguments.iter().any(|argument| argument == "--json") {
        run.args(["--quiet", "--bench", "figures", "--"]);
        // What train.step is compared with, where `./x transformers` has fetched it.
        run.args(transformers::fetched().map(|packages| format!("--pytorch={}", packages.display())));
    }
    must(run.args(arguments), "the benchmarks failed")
}

/// Checks what a reviewer shouldn't have to.
pub(crate) fn lint(root: &Path) -> Result<(), Failure> {
    prepare(root)?;
    must(cargo(root).args(["fmt", "--all", "--check"]), "not formatted: run `cargo fmt --all`")?;
    let clippy = ["clippy", "--release", "--locked", "--all-targets"];
    let strict = ["--", "-D", "warnings"];
    must(cargo(root).args(clippy).arg("--workspace").args(strict), "clippy found something")?;
    must(
        cargo(root).args(clippy).arg("--no-default-features").args(strict),
        "clippy found something in the slim auditor (--no-default-features)",
    )?;
    deny::check(root)
}

/// Where cargo builds.
fn target(root: &Path) -> PathBuf {
    env::var_os("CARGO_TARGET_DIR").map_or_else(|| root.join("target"), |folder| root.join(folder))
}

/// The cargo that runs this, at work in the clone. stdout is kept for results: only the binary's own reach it.
pub(crate) fn cargo(root: &Path) -> Command {
    let mut cargo = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.current_dir(root);
    // The cargo that started this told it about itself. Crates whose build looks at these would be built anew, with all that
    // depends on them, whenever `./x` and a plain `cargo` take turns.
    for (name, _) in env::vars_os() {
        if name.to_str().is_some_and(|name| name.starts_with("CARGO_PKG_") || name.starts_with("CARGO_MANIFEST_")) {
            cargo.env_remove(name);
        }
    }
    cargo
}

/// Runs a command that must succeed.
pub(crate) fn must(command: &mut Command, otherwise: &str) -> Result<(), Failure> {
    if succeeds(command) { Ok(()) } else { Err(Failure::negative(otherwise)) }
}

/// Runs a command; false too if it can't be started.
pub(crate) fn succeeds(command: &mut Command) -> bool {
    let status: io::Result<_> = command.status();
    status.is_ok_and(|status| status.success())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seeds_are_read_and_nonsense_is_refused() {
        let read = |text: &str| seeds(&text.split_whitespace().map(str::to_owned).collect::<Vec<_>>()).ok();
        assert_eq!(read("--seeds 5 --from 7"), Some((5, 7)));
        assert_eq!(read(""), Some((1_000, 0)));
        for wrong in ["--seeds", "--seeds x", "5", "--sees 5"] {
            assert_eq!(read(wrong), None, "{wrong}");
        }
    }
}
