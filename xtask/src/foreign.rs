//! `./x foreign`: the tests that pay, and are paid by, L402 software that others wrote: Aperture, Fewsats' client,
//! l402-requests, curl.

use std::path::Path;

use crate::build;
use crate::fail::Failure;
use crate::go;
use crate::regtest;
use crate::wheel::Wheel;

const APERTURE: [&str; 1] = ["github.com/lightninglabs/aperture/cmd/aperture"];

const CLIENTS: Wheel = Wheel {
    name: "foreign-l402-clients-1",
    list: "foreign.txt",
    programs: &[],
    finish: None,
    otherwise: "Is there a network? pip follows PIP_INDEX_URL. Then run this again",
};

/// Where the tests look for what was fetched and built.
const TOOLS_VARIABLE: &str = "REGTEST_TOOLS";
const APERTURE_VARIABLE: &str = "FOREIGN_APERTURE";
const CLIENTS_VARIABLE: &str = "FOREIGN_CLIENTS";

/// Fetches and builds the foreign software once, then runs the tests. Plain `./x test` lists them as ignored.
pub(crate) fn test(root: &Path, arguments: &[String]) -> Result<(), Failure> {
    let tools = regtest::tools(root)?;
    let aperture = go::build(&root.join("tools/aperture"), &APERTURE, "aperture")?;
    let clients = CLIENTS.provide()?;
    build::prepare(root)?;
    let mut cargo = build::cargo(root);
    cargo.args(["test", "--release", "--locked", "--test", "foreign", "--", "--ignored"]);
    // The measurement is for an idle machine, and only where it is asked for.
    match arguments.first().map(String::as_str) {
        Some("speed") => cargo.args(["--nocapture", "speed"]),
        _ => cargo.args(["--skip", "speed"]).args(arguments),
    };
    cargo.env(TOOLS_VARIABLE, tools).env(APERTURE_VARIABLE, aperture).env(CLIENTS_VARIABLE, clients);
    build::must(&mut cargo, "tests with foreign L402 software failed")
}
