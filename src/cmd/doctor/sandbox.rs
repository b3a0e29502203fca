//! The sandbox that bounties are evaluated in: makes a box with the real recipe, and tries to break out of it.

use super::{Check, Level};
use crate::bounty::sandbox::{Sandbox, SandboxSettings, Tier};
use crate::cmd::{Context, Failure};

const NAME: &str = "sandbox";

/// Training needs none, so its absence only warns.
pub(super) async fn check(context: &Context) -> Result<Check, Failure> {
    let found = context.blocking(|| Ok(Sandbox::detect(SandboxSettings::default()))).await?;
    Ok(match found {
        Ok(sandbox) => held(&sandbox),
        Err(unavailable) => {
            let mut check = Check::failure(NAME, Failure::from(unavailable));
            check.level = Level::Warn;
            check.message = format!("no bounty can be evaluated here: {}", check.message);
            check
        }
    })
}

fn held(sandbox: &Sandbox) -> Check {
    let tried: Vec<&str> = sandbox.probes().iter().map(|probe| probe.name).collect();
    let message = format!(
        "bubblewrap {}, limits by {}, {} boxes at one time; from inside nobody could {}",
        sandbox.version(),
        sandbox.tier(),
        sandbox.slots(),
        tried.join(", ")
    );
    match sandbox.tier() {
        Tier::CgroupV2 | Tier::CgroupV1 => Check::ok(NAME, message),
        Tier::Rlimits => Check::warn(
            NAME,
            message,
            "For limits that the kernel counts, start l402t with a control group of its own: \
             systemd-run --user --scope -p Delegate=yes l402t …",
        ),
    }
}
