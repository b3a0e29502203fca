//! cargo-deny, built once into the cache: licences, sources and banned crates of the whole tree.

use std::path::Path;
use std::process::Command;

use crate::build::{cargo, must, succeeds};
use crate::fail::Failure;
use crate::libtorch;

const VERSION: &str = "0.20.2";

/// Checks the tree against deny.toml.
pub(crate) fn check(root: &Path) -> Result<(), Failure> {
    let folder = libtorch::cache()?.join(format!("cargo-deny-{VERSION}"));
    let binary = folder.join("bin/cargo-deny");
    if !binary.exists() {
        eprintln!("x: building cargo-deny {VERSION} (once, a few minutes)");
        let install = ["install", "cargo-deny", "--locked", "--version", VERSION, "--root"];
        if !succeeds(cargo(root).args(install).arg(&folder)) {
            return Err(Failure::remote("cargo-deny could not be built; cargo's message is above"));
        }
    }
    let deny = || {
        let mut deny = Command::new(&binary);
        deny.current_dir(root);
        deny
    };
    must(
        deny().args(["check", "--hide-inclusion-graph", "bans", "licenses", "sources"]),
        "a crate is not allowed here (deny.toml)",
    )?;
    // The database of advisories is a git repository elsewhere: its absence says nothing about this tree.
    if succeeds(deny().args(["fetch", "db"])) {
        return must(deny().args(["check", "--disable-fetch", "advisories"]), "a crate has an open advisory");
    }
    eprintln!("x: advisories NOT checked: their database could not be fetched (everything else was)");
    Ok(())
}
