//! Tries to break out of a box, with the real recipe: what should not be possible here is found before money depends on it.

use std::fs;

use serde::Serialize;

use super::{BoxError, BoxSpec, Ending, Limits, Sandbox, SandboxUnavailable};

/// One thing that was tried and failed, as it should.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Probe {
    /// What was tried.
    pub name: &'static str,
}

/// Each is a shell's command that succeeds, silently, if the box leaks.
const LEAKS: [(&str, &str); 10] = [
    ("open core_pattern for writing", ": >>/proc/sys/kernel/core_pattern"),
    // Every machine has it, and anybody can read it there.
    ("see a file outside", "[ -e /etc/passwd ]"),
    ("write to the system", ": >/usr/l402t-probe"),
    ("write to the root folder", ": >/l402t-probe"),
    ("have a capability", "grep -Eq '^Cap(Inh|Prm|Eff|Bnd|Amb):.*[1-9a-f]' /proc/self/status"),
    ("gain privileges", "! grep -q '^NoNewPrivs:.1$' /proc/self/status"),
    ("go without system call filters", "! grep -q '^Seccomp:.2$' /proc/self/status"),
    ("make a user namespace", "unshare --user true"),
    ("see a network interface", "grep -v lo: /proc/net/dev | grep :"),
    // bash's own sockets: over the loopback interface, datagrams need nobody to listen.
    ("open a network socket", "[ -x /usr/bin/bash ] && bash -c ': >/dev/udp/127.0.0.1/9'"),
];

/// Tries everything.
pub(super) fn probe(sandbox: &Sandbox) -> Result<Vec<Probe>, SandboxUnavailable> {
    let mut script = String::new();
    for (number, (_, leak)) in LEAKS.iter().enumerate() {
        script += &format!("if ( {leak} ) >/dev/null 2>&1; then echo {number}; fi\n");
    }
    script += "echo done\n";
    let limits = Limits {
        wall_ms: 20_000,
        memory_bytes: 64 << 20,
        scratch_bytes: 1 << 20,
        tmp_bytes: 1 << 20,
        ..Limits::default()
    };
    let spec = BoxSpec::new(["/bin/sh", "-c", &script]).limits(limits);
    let outcome = sandbox.run(&spec).map_err(|error| unavailable(&error))?;
    let said = String::from_utf8_lossy(&outcome.stdout);
    let mut lines = said.lines().rev();
    if outcome.ending != (Ending::Exited { code: 0 }) || lines.next() != Some("done") {
        let stderr = String::from_utf8_lossy(&outcome.stderr);
        return Err(SandboxUnavailable::new(
            format!("a shell in a box ended with {:?}: {}", outcome.ending, stderr.trim()),
            "Its message says what is missing; the box has this machine's /usr and nothing else",
        ));
    }
    let leaked: Vec<&str> = lines.filter_map(|line| Some(LEAKS.get(line.parse::<usize>().ok()?)?.0)).collect();
    if leaked.is_empty() {
        return Ok(LEAKS.iter().map(|(name, _)| Probe { name }).collect());
    }
    Err(SandboxUnavailable::new(
        format!("a box here does not hold: a command in it could {}", leaked.join(", ")),
        "Evaluate on another machine or kernel",
    ))
}

/// Why the first box could not be made, as far as this machine's settings tell.
fn unavailable(error: &BoxError) -> SandboxUnavailable {
    let setting = |path: &str| fs::read_to_string(path).map(|text| text.trim().to_owned()).unwrap_or_default();
    let fix = if setting("/proc/sys/user/max_user_namespaces") == "0" {
        "Allow user namespaces: sysctl user.max_user_namespaces=10000"
    } else if setting("/proc/sys/kernel/unprivileged_userns_clone") == "0" {
        "Allow user namespaces: sysctl kernel.unprivileged_userns_clone=1"
    } else if setting("/proc/sys/kernel/apparmor_restrict_unprivileged_userns") == "1" {
        "Give bwrap an AppArmor profile with userns, or: sysctl kernel.apparmor_restrict_unprivileged_userns=0"
    } else {
        "In a container, start it with --security-opt seccomp=unconfined --security-opt apparmor=unconfined \
         --security-opt systempaths=unconfined, or evaluate outside of it"
    };
    SandboxUnavailable::new(error.to_string(), fix)
}
