//! Real attacks in the real sandbox. Each needs what its file says to be on the machine (gcc, python3 in /usr); where the
//! sandbox can't be made, every one of them fails with the cause.

mod running;

use std::sync::OnceLock;

use l402t::bounty::sandbox::{BoxOutcome, BoxSpec, Sandbox, SandboxSettings};

/// One for all tests of this process.
fn sandbox() -> &'static Sandbox {
    static SANDBOX: OnceLock<Sandbox> = OnceLock::new();
    SANDBOX.get_or_init(|| Sandbox::detect(SandboxSettings::default()).unwrap_or_else(|error| panic!("{error}")))
}

/// Runs it in the best tier.
fn run(spec: &BoxSpec) -> BoxOutcome {
    sandbox().run(spec).unwrap_or_else(|error| panic!("{error}"))
}

/// A shell's commands.
fn shell(script: &str) -> BoxSpec {
    BoxSpec::new(["/bin/sh", "-c", script])
}

/// What it wrote on stdout.
fn text(outcome: &BoxOutcome) -> String {
    String::from_utf8_lossy(&outcome.stdout).into_owned()
}
