//! How long a box takes from asking to its end, doing nothing in between, one after another:
//! `cargo run --release --no-default-features --example sandbox_start -- 200`.

use std::io::Write as _;

use anyhow::{Context as _, ensure};
use l402t::bounty::sandbox::{BoxSpec, Sandbox, SandboxSettings};
use l402t::clock::Stopwatch;

fn main() -> anyhow::Result<()> {
    let starts: usize = std::env::args().nth(1).map_or(Ok(200), |count| count.parse()).context("how many starts?")?;
    ensure!(starts > 0, "at least one");
    let sandbox = Sandbox::detect(SandboxSettings::default())?;
    let spec = BoxSpec::new(["/usr/bin/true"]);
    let mut times_us = Vec::new();
    for _ in 0..starts {
        let since = Stopwatch::start();
        let outcome = sandbox.run(&spec)?;
        times_us.push(since.elapsed().as_micros());
        ensure!(outcome.ending.is_success(), "{:?}", outcome.ending);
    }
    times_us.sort_unstable();
    let (least, median, most) = (times_us[0], times_us[starts / 2], times_us[starts - 1]);
    let (tier, version) = (sandbox.tier(), sandbox.version());
    writeln!(
        std::io::stdout(),
        "{starts} boxes, bubblewrap {version}, {tier}: {least} µs least, {median} µs median, {most} µs most"
    )?;
    Ok(())
}
