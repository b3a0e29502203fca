//! Real attacks in the real sandbox, with gcc and python3 from /usr. Where the sandbox can't be made,
//! each of them fails with the cause.

mod calls;
mod looking;
mod running;
mod taking;
mod unavailable;
mod using;
mod writing;

use std::sync::OnceLock;

use l402t::bounty::sandbox::{BoxOutcome, BoxSpec, Ending, Sandbox, SandboxSettings, Tier, TierChoice};

/// One for all tests of this process.
fn sandbox() -> &'static Sandbox {
    static SANDBOX: OnceLock<Sandbox> = OnceLock::new();
    SANDBOX.get_or_init(|| detect(TierChoice::Best))
}

/// As on a machine without control groups.
fn poor_sandbox() -> &'static Sandbox {
    static SANDBOX: OnceLock<Sandbox> = OnceLock::new();
    SANDBOX.get_or_init(|| detect(TierChoice::Exactly(Tier::Rlimits)))
}

fn detect(tier: TierChoice) -> Sandbox {
    let settings = SandboxSettings { tier, ..SandboxSettings::default() };
    Sandbox::detect(settings)
        .unwrap_or_else(|error| panic!("{}: {error}", l402t::bounty::sandbox::SandboxUnavailable::CODE))
}

/// Runs it in the best tier.
fn run(spec: &BoxSpec) -> BoxOutcome {
    sandbox().run(spec).unwrap_or_else(|error| panic!("{error}"))
}

/// Runs it in every tier that this machine has.
fn run_in_each_tier(spec: &BoxSpec) -> Vec<BoxOutcome> {
    let sandboxes = if sandbox().tier() == Tier::Rlimits { vec![sandbox()] } else { vec![sandbox(), poor_sandbox()] };
    sandboxes.into_iter().map(|sandbox| sandbox.run(spec).unwrap_or_else(|error| panic!("{error}"))).collect()
}

/// A shell's commands.
fn shell(script: &str) -> BoxSpec {
    BoxSpec::new(["/bin/sh", "-c", script])
}

/// A program in Python.
fn python(program: &str) -> BoxSpec {
    BoxSpec::new(["python3", "-c", program])
}

/// What it wrote on stdout.
fn text(outcome: &BoxOutcome) -> String {
    String::from_utf8_lossy(&outcome.stdout).into_owned()
}

/// What it wrote on stdout, after a good end.
fn answer(spec: &BoxSpec) -> String {
    let outcome = run(spec);
    assert_eq!(outcome.ending, Ending::Exited { code: 0 }, "{}", String::from_utf8_lossy(&outcome.stderr));
    text(&outcome)
}

/// Do boxes have ids of their own?
fn is_root() -> bool {
    std::os::unix::fs::MetadataExt::uid(&std::fs::metadata("/proc/self").expect("there")) == 0
}
