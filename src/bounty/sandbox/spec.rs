//! What to run in a box, with what, and how much of everything. Checked here, so that the recipe can trust it.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use super::BoxError;

/// Where a box's command starts, and its `HOME`: empty, writable, gone with the box.
pub const SCRATCH: &str = "/scratch";

/// At most this many arguments and variables, and this many bytes in all of them.
const MOST_WORDS: usize = 1_000;
const MOST_WORD_BYTES: usize = 100_000;

/// At most this many mounts.
const MOST_MOUNTS: usize = 32;

/// Folders that belong to the box itself: nothing is mounted there, and nothing above them.
const OWN: [&str; 10] = ["/usr", "/bin", "/sbin", "/lib", "/lib64", "/etc", "/proc", "/dev", "/tmp", "/sys"];

/// A command and its box. Nothing of this machine is inside but /usr, what [`BoxSpec::read_only`] names, and an empty
/// [`SCRATCH`] and /tmp; there is no network. The command has no privilege and sees no other box.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BoxSpec {
    /// The program (absolute, or found in /usr/bin or /usr/local/bin) and its arguments. It starts in [`SCRATCH`].
    pub argv: Vec<String>,
    /// What it reads on stdin.
    pub stdin: Vec<u8>,
    /// Files and folders that it may read.
    pub read_only: Vec<ReadOnly>,
    /// Variables beside the fixed ones, the same in every box, which they may not change.
    pub environment: BTreeMap<String, String>,
    /// How much of everything.
    pub limits: Limits,
}

/// A file or folder that a box may read.
///
/// When this process is root, boxes run under other ids: each run copies it to where only that box's id can read it
/// (regular files and folders; a link or anything else in it is an error). Otherwise it is mounted as it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReadOnly {
    /// Where it is on this machine.
    pub host: PathBuf,
    /// Where it is in the box: absolute, such as `/in` or `/scratch/model.bin`.
    pub inside: String,
}

/// What a box may use. All of it is for the whole tree of processes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Time on processors, in milliseconds, set-up (a few milliseconds) included.
    pub cpu_ms: u64,
    /// Time on the wall, in milliseconds, from when the command starts.
    pub wall_ms: u64,
    /// Memory, in bytes, what is in [`SCRATCH`], /tmp and /dev/shm included. At least 16 MiB.
    pub memory_bytes: u64,
    /// Size of [`SCRATCH`], in bytes.
    pub scratch_bytes: u64,
    /// Size of /tmp and of /dev/shm, in bytes, each.
    pub tmp_bytes: u64,
    /// Most bytes on stdout.
    pub output_bytes: u64,
    /// Processes and threads at one time.
    pub processes: u32,
}

/// Less memory than this doesn't hold the box itself.
const LEAST_MEMORY_BYTES: u64 = 16 << 20;

impl Default for Limits {
    fn default() -> Self {
        Self {
            cpu_ms: 10_000,
            wall_ms: 30_000,
            memory_bytes: 512 << 20,
            scratch_bytes: 64 << 20,
            tmp_bytes: 16 << 20,
            output_bytes: 1 << 20,
            processes: 32,
        }
    }
}

impl BoxSpec {
    /// A command that reads nothing, with the default limits.
    pub fn new<S: Into<String>>(argv: impl IntoIterator<Item = S>) -> Self {
        Self {
            argv: argv.into_iter().map(Into::into).collect(),
            stdin: Vec::new(),
            read_only: Vec::new(),
            environment: BTreeMap::new(),
            limits: Limits::default(),
        }
    }

    /// With this on stdin.
    #[must_use]
    pub fn stdin(mut self, bytes: impl Into<Vec<u8>>) -> Self {
        self.stdin = bytes.into();
        self
    }

    /// With a file or folder to read.
    #[must_use]
    pub fn reading(mut self, host: impl Into<PathBuf>, inside: impl Into<String>) -> Self {
        self.read_only.push(ReadOnly { host: host.into(), inside: inside.into() });
        self
    }

    /// With other limits.
    #[must_use]
    pub fn limits(mut self, limits: Limits) -> Self {
        self.limits = limits;
        self
    }

    /// With one more variable.
    #[must_use]
    pub fn variable(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.environment.insert(name.into(), value.into());
        self
    }

    /// Is it something that can be run?
    pub(super) fn check(&self) -> Result<(), BoxError> {
        let bad = |what: String| Err(BoxError::Spec { what });
        if self.argv.first().is_none_or(String::is_empty) {
            return bad("there is no command".to_owned());
        }
        let words = || self.argv.iter().chain(self.environment.keys()).chain(self.environment.values());
        if words().any(|word| word.contains('\0')) {
            return bad("a NUL in an argument or a variable".to_owned());
        }
        let (count, bytes) = (words().count(), words().map(String::len).sum::<usize>());
        if count > MOST_WORDS || bytes > MOST_WORD_BYTES {
            return bad(format!(
                "{count} arguments and variables of {bytes} bytes ({MOST_WORDS} and {MOST_WORD_BYTES} at most)"
            ));
        }
        for name in self.environment.keys() {
            if name.is_empty() || name.contains('=') || fixed_environment().any(|(fixed, _)| fixed == name) {
                return bad(format!("a variable named {name:?}"));
            }
        }
        self.check_mounts()?;
        self.limits.check()
    }

    fn check_mounts(&self) -> Result<(), BoxError> {
        if self.read_only.len() > MOST_MOUNTS {
            let what = format!("{} mounts ({MOST_MOUNTS} at most)", self.read_only.len());
            return Err(BoxError::Spec { what });
        }
        let mut seen = BTreeSet::new();
        for ReadOnly { inside, .. } in &self.read_only {
            let parts = inside.strip_prefix('/').unwrap_or_default().split('/');
            let plain = parts.clone().all(|part| !matches!(part, "" | "." | "..") && !part.contains('\0'));
            let own =
                OWN.iter().any(|own| inside == own || inside.starts_with(&format!("{own}/"))) || inside == SCRATCH;
            if !plain || own || !seen.insert(inside) {
                return Err(BoxError::Spec { what: format!("a mount at {inside:?}") });
            }
        }
        Ok(())
    }
}

impl Limits {
    fn check(&self) -> Result<(), BoxError> {
        let Limits { cpu_ms, wall_ms, memory_bytes, scratch_bytes, tmp_bytes, output_bytes: _, processes } = *self;
        let day_ms = 24 * 3_600 * 1_000;
        let what = if !(1..=day_ms).contains(&cpu_ms) || !(1..=day_ms).contains(&wall_ms) {
            format!("a time limit of {cpu_ms} ms on processors, {wall_ms} ms on the wall (1 ms to a day)")
        } else if !(LEAST_MEMORY_BYTES..=1 << 44).contains(&memory_bytes) {
            format!("a memory limit of {memory_bytes} bytes (at least {LEAST_MEMORY_BYTES})")
        } else if scratch_bytes == 0 || tmp_bytes == 0 || scratch_bytes > memory_bytes || tmp_bytes > memory_bytes {
            // Size 0 would mean no limit at all to tmpfs.
            format!("folders of {scratch_bytes} and {tmp_bytes} bytes in a memory of {memory_bytes}")
        } else if !(1..=10_000).contains(&processes) {
            format!("a limit of {processes} processes (1 to 10,000)")
        } else {
            return Ok(());
        };
        Err(BoxError::Spec { what })
    }
}

/// The variables of every box: the same on every machine.
pub(super) fn fixed_environment() -> impl Iterator<Item = (&'static str, &'static str)> {
    [
        ("PATH", "/usr/bin:/usr/local/bin"),
        ("HOME", SCRATCH),
        ("LANG", "C.UTF-8"),
        ("TZ", "UTC"),
        ("PYTHONHASHSEED", "0"),
    ]
    .into_iter()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(spec: &BoxSpec) -> String {
        match spec.check() {
            Err(BoxError::Spec { what }) => what,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn what_cannot_be_run_is_refused_by_name() {
        assert!(BoxSpec::new(["true"]).reading("/a", "/in").reading("/b", "/scratch/b").check().is_ok());
        assert_eq!(refused(&BoxSpec::new([""; 0])), "there is no command");
        assert_eq!(refused(&BoxSpec::new(["a\0b"])), "a NUL in an argument or a variable");
        assert_eq!(refused(&BoxSpec::new(["true"]).variable("PATH", "/scratch")), "a variable named \"PATH\"");
        assert_eq!(refused(&BoxSpec::new(["true"]).variable("A=B", "")), "a variable named \"A=B\"");
        for inside in ["", "in", "/", "/in/", "/in/../usr", "/usr", "/usr/bin/x", "/proc/1", "/scratch", "/in\0"] {
            assert_eq!(refused(&BoxSpec::new(["true"]).reading("/a", inside)), format!("a mount at {inside:?}"));
        }
        assert_eq!(refused(&BoxSpec::new(["true"]).reading("/a", "/in").reading("/b", "/in")), "a mount at \"/in\"");
        for limits in [
            Limits { cpu_ms: 0, ..Limits::default() },
            Limits { wall_ms: u64::MAX, ..Limits::default() },
            Limits { memory_bytes: 1, ..Limits::default() },
            Limits { scratch_bytes: 0, ..Limits::default() },
            Limits { tmp_bytes: 0, ..Limits::default() },
            Limits { processes: 0, ..Limits::default() },
        ] {
            assert!(BoxSpec::new(["true"]).limits(limits).check().is_err(), "{limits:?}");
        }
    }
}
