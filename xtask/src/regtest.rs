//! `./x regtest` and the demo on LND: btcd and LND built, then handed to l402t.

use std::path::{Path, PathBuf};

use crate::build;
use crate::fail::Failure;
use crate::go;

const PACKAGES: [&str; 4] = [
    "github.com/btcsuite/btcd",
    "github.com/btcsuite/btcd/cmd/btcctl",
    "github.com/lightningnetwork/lnd/cmd/lnd",
    "github.com/lightningnetwork/lnd/cmd/lncli",
];

/// Where the tests look for the programs.
const TOOLS_VARIABLE: &str = "REGTEST_TOOLS";

/// The folder with btcd and LND; built first if it isn't there.
pub(crate) fn tools(root: &Path) -> Result<PathBuf, Failure> {
    go::build(&root.join("tools/regtest"), &PACKAGES, "regtest")
}

/// `./x regtest <what>`.
pub(crate) fn run(root: &Path, arguments: &[String]) -> Result<(), Failure> {
    let what = arguments.first().map_or("", String::as_str);
    match what {
        "build" => {
            let folder = tools(root)?;
            eprintln!("x: btcd, btcctl, lnd and lncli are in {}", folder.display());
            Ok(())
        }
        "test" => test(root, &arguments[1..]),
        "up" => {
            let folder = tools(root)?.display().to_string();
            build::become_l402t(root, [&["regtest".to_owned()], arguments, &["--tools".to_owned(), folder]].concat())
        }
        _ => build::become_l402t(root, [&["regtest".to_owned()], arguments].concat()),
    }
}

/// The tests that need real nodes. Plain `./x test` lists them as ignored.
fn test(root: &Path, arguments: &[String]) -> Result<(), Failure> {
    let folder = tools(root)?;
    build::prepare(root)?;
    // Of the others only those over LND: other ignored ones are measurements.
    for (target, filter) in [("localnet", None), ("lightning", Some("lnd")), ("demo", Some("lnd"))] {
        let mut cargo = build::cargo(root);
        cargo.args(["test", "--release", "--locked", "--test", target]).args(arguments).args(["--", "--ignored"]);
        // One at a time: each starts a chain and nodes of its own. Neither measurements nor what the tests start themselves.
        cargo.args(["--test-threads=1", "--skip", "lock_and_settle", "--skip", "lnd_child"]);
        cargo.args(filter).env(TOOLS_VARIABLE, &folder);
        build::must(&mut cargo, "tests on real nodes failed")?;
    }
    Ok(())
}
