//! The sandbox: runs one command that strangers wrote, in a box of its own, and says how it ended. bubblewrap makes the
//! box (namespaces, mounts), seccomp takes system calls away, control groups or resource limits bound what it uses.
//!
//! Fails closed: what can't be protected is not run ([`SandboxUnavailable`]). What this machine is to blame for is a
//! [`BoxError`], never an [`Ending`]. No box has a file in common with another that either can write to, and nothing
//! comes out of one but stdout: who scores must never share a box with who is scored.

mod archive;
mod cell;
mod cgroup;
mod error;
mod outcome;
mod probe;
mod processes;
mod recipe;
mod seccomp;
mod slots;
mod spec;
mod stage;
mod supervise;

use std::num::NonZero;
use std::path::PathBuf;
use std::process::Command;

pub use archive::{Archive, ArchiveError, ArchiveLimits};
pub use cell::{CellSpec, confine};
pub use error::{BoxError, SandboxUnavailable};
pub use outcome::{BoxOutcome, Ending, STDERR_BYTES, Tier, Usage};
pub use probe::Probe;
pub use spec::{BoxSpec, Limits, ReadOnly, SCRATCH};

use cgroup::Cgroups;
use slots::Slots;

/// The least bubblewrap that can do all that the recipe asks for.
const LEAST_VERSION: (u32, u32) = (0, 8);

/// How to make boxes here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SandboxSettings {
    /// bubblewrap: a path, or a name on the PATH.
    pub bubblewrap: String,
    /// Boxes at one time, of this process; more wait.
    pub slots: NonZero<u32>,
    /// For root: each box runs under a user and group id that no other box of this machine has, one of 64 from here on.
    /// Nobody else may have these.
    pub first_uid: u32,
    /// For root: where locks and copies for boxes are, in folders that only root can write to. Processes that use the same
    /// `first_uid` must use the same folder.
    pub folder: PathBuf,
    /// Which tier to use.
    pub tier: TierChoice,
    /// What [`Sandbox::compute`] starts: this program.
    pub program: PathBuf,
}

impl Default for SandboxSettings {
    fn default() -> Self {
        Self {
            bubblewrap: "bwrap".to_owned(),
            slots: NonZero::<u32>::MIN.saturating_add(1),
            // Between Debian's own ids and those that useradd lends to users' containers.
            first_uid: 77_000,
            folder: PathBuf::from("/var/lib/l402t-boxes"),
            tier: TierChoice::Best,
            // Even where it was replaced by another version meanwhile.
            program: PathBuf::from("/proc/self/exe"),
        }
    }
}

/// Which [`Tier`] to use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TierChoice {
    /// The best that there is.
    Best,
    /// The best that there is, and none if that is less.
    AtLeast(Tier),
    /// This one.
    Exactly(Tier),
}

impl TierChoice {
    fn allows(self, tier: Tier) -> bool {
        match self {
            TierChoice::Best => true,
            TierChoice::AtLeast(least) => tier >= least,
            TierChoice::Exactly(only) => tier == only,
        }
    }
}

/// A sandbox that has been seen to hold.
#[derive(Debug)]
pub struct Sandbox {
    settings: SandboxSettings,
    version: String,
    tier: Tier,
    cgroups: Option<Cgroups>,
    filters: Vec<Vec<u8>>,
    slots: Slots,
    probes: Vec<Probe>,
}

impl Sandbox {
    /// Finds out what this machine can do, makes a box with the real recipe, and tries to break out of it in the ways that
    /// [`Sandbox::probes`] lists. Blocks for some hundred milliseconds. With control groups of version 2 this process may
    /// move itself in its own.
    pub fn detect(settings: SandboxSettings) -> Result<Self, SandboxUnavailable> {
        let version = version(&settings.bubblewrap)?;
        let (tier, cgroups) = tier(settings.tier)?;
        let filters = seccomp::filters(tier)?;
        let slots = Slots::new(settings.slots, settings.first_uid, &settings.folder)?;
        let mut sandbox = Self { settings, version, tier, cgroups, filters, slots, probes: Vec::new() };
        sandbox.probes = probe::probe(&sandbox)?;
        Ok(sandbox)
    }

    /// Runs a command to its end, and returns once every process of it is gone. Waits for a free slot first, and blocks:
    /// call it from a thread that does nothing else meanwhile (`offload`).
    pub fn run(&self, spec: &BoxSpec) -> Result<BoxOutcome, BoxError> {
        spec.check()?;
        let slot = self.slots.take()?;
        let mounts = stage::stage(spec, slot.folder())?;
        let group = match &self.cgroups {
            Some(cgroups) => {
                Some(cgroups.make(&slot.name(), &spec.limits).map_err(BoxError::os("make a control group"))?)
            }
            None => None,
        };
        supervise::run(&supervise::Launch {
            program: &self.settings.bubblewrap,
            spec,
            mounts: &mounts,
            filters: &self.filters,
            uid: slot.uid(),
            group: group.as_ref(),
            tier: self.tier,
        })
    }

    /// Has this program compute something in a process that can do nothing else, and returns once it is gone. Waits and
    /// blocks as [`Sandbox::run`] does.
    pub fn compute(&self, spec: &CellSpec<'_>) -> Result<BoxOutcome, BoxError> {
        let _slot = self.slots.take()?;
        cell::run(&self.settings.program, spec)
    }

    /// What holds boxes to their limits.
    pub fn tier(&self) -> Tier {
        self.tier
    }

    /// Boxes at one time.
    pub fn slots(&self) -> NonZero<u32> {
        self.settings.slots
    }

    /// bubblewrap's version, such as `0.8.0`.
    pub fn version(&self) -> &str {
        &self.version
    }

    /// What [`Sandbox::detect`] tried. All of it held.
    pub fn probes(&self) -> &[Probe] {
        &self.probes
    }
}

fn version(bubblewrap: &str) -> Result<String, SandboxUnavailable> {
    const FIX: &str = "Install bubblewrap 0.8 or newer (on Debian 12 or Ubuntu 24.04: apt-get install bubblewrap)";
    let output = Command::new(bubblewrap).arg("--version").env_clear().output();
    let output = output.map_err(|error| SandboxUnavailable::new(format!("{bubblewrap} can't be run: {error}"), FIX))?;
    let text = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    let number = text.strip_prefix("bubblewrap ").filter(|_| output.status.success());
    let parsed = number.and_then(|number| {
        let mut parts = number.split('.').map(str::parse::<u32>);
        Some((parts.next()?.ok()?, parts.next()?.ok()?))
    });
    match (number, parsed) {
        (Some(number), Some(found)) if found >= LEAST_VERSION => Ok(number.to_owned()),
        _ => Err(SandboxUnavailable::new(format!("{bubblewrap} --version says {text:?}"), FIX)),
    }
}

fn tier(choice: TierChoice) -> Result<(Tier, Option<Cgroups>), SandboxUnavailable> {
    let mut causes = Vec::new();
    for tier in [Tier::CgroupV2, Tier::CgroupV1].into_iter().filter(|tier| choice.allows(*tier)) {
        match Cgroups::find(tier) {
            Ok(cgroups) => return Ok((tier, Some(cgroups))),
            Err(cause) => causes.push(format!("{tier}: {cause}")),
        }
    }
    if choice.allows(Tier::Rlimits) {
        return Ok((Tier::Rlimits, None));
    }
    let fix = "Start l402t where it has a control group of its own (systemd-run --user --scope -p Delegate=yes l402t …, or \
               Delegate=yes in its unit), or allow a lesser tier";
    Err(SandboxUnavailable::new(causes.join("; "), fix))
}
