//! How a box ended, and what it used.

use serde::{Deserialize, Serialize};

/// What came of a command that was run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BoxOutcome {
    /// How it ended.
    pub ending: Ending,
    /// What it wrote on stdout, up to the limit. The only thing in a box that may be believed to be its answer.
    pub stdout: Vec<u8>,
    /// The first [`STDERR_BYTES`] of stderr: for whoever looks for a mistake, never a part of the answer. What is shown
    /// of a box that read something secret may hold the secret.
    pub stderr: Vec<u8>,
    /// What it used.
    pub usage: Usage,
    /// What held it to its limits.
    pub tier: Tier,
}

/// So much of stderr is kept.
pub const STDERR_BYTES: usize = 16 << 10;

/// How a command ended. Each of these is its own doing; what this machine is to blame for is a
/// [`BoxError`](super::BoxError).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "kind")]
pub enum Ending {
    /// It ended by itself, with a code below 128.
    Exited {
        /// 0 is success.
        code: u8,
    },
    /// A signal ended it (or it ended with 128 + `signal`, which looks the same): 31 is SIGSYS, a forbidden call.
    Signalled {
        /// The signal's number.
        signal: u8,
    },
    /// Its program does not exist in the box, or is none.
    NotExecuted,
    /// It passed its time on processors or on the wall.
    TimeLimit,
    /// It wanted more memory than it may have.
    MemoryLimit,
    /// It wrote more on stdout than it may.
    OutputLimit,
}

impl Ending {
    /// Did the command end by itself, and well?
    pub fn is_success(self) -> bool {
        self == Ending::Exited { code: 0 }
    }
}

/// What a box used, all its processes together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Usage {
    /// Time on processors, in milliseconds. An estimate from below under [`Tier::Rlimits`].
    pub cpu_ms: u64,
    /// Time on the wall from when the command started, in milliseconds.
    pub wall_ms: u64,
    /// The most memory at one time, in bytes; `None` if the kernel doesn't say.
    pub peak_memory_bytes: Option<u64>,
}

/// What holds a box to its limits of memory, processes and time on processors. Better ones are greater. A part of every
/// receipt: what a box may do without being noticed depends on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Tier {
    /// Limits of each process, and a watchdog that adds up the tree some times a second: memory can pass the limit for
    /// that long, and time on processors can be hidden (then the limit on the wall ends it).
    Rlimits,
    /// A version 1 control group: the kernel counts the tree.
    CgroupV1,
    /// A version 2 control group.
    CgroupV2,
}

impl Tier {
    /// All of them, the better ones behind.
    pub const ALL: [Tier; 3] = [Tier::Rlimits, Tier::CgroupV1, Tier::CgroupV2];

    /// As in receipts and bounty.toml.
    pub const fn name(self) -> &'static str {
        match self {
            Tier::Rlimits => "rlimits",
            Tier::CgroupV1 => "cgroup_v1",
            Tier::CgroupV2 => "cgroup_v2",
        }
    }
}

impl std::fmt::Display for Tier {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}
