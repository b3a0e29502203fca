//! How much memory a piece of work takes at its peak: measured in a process of its own, where nothing else has been.

use std::process::Command;

/// The argument before the name of what a child is to do.
pub(crate) const CHILD: &str = "--peak-of";
const STATUS: &str = "/proc/self/status";
/// Writing 5 here sets the peak back to what is resident now.
const CLEAR: &str = "/proc/self/clear_refs";

/// The most bytes that `work` has resident beyond what was there before it, as [`peak_bytes`] measures it in another process.
/// `None` where the system doesn't say (not Linux).
pub(crate) fn peak_bytes_of(work: &[&str]) -> Option<u64> {
    let output = Command::new(std::env::current_exe().ok()?).arg(CHILD).args(work).output().ok()?;
    String::from_utf8(output.stdout).ok()?.trim().parse().ok()
}

/// The most bytes that `work` has resident beyond what was there before it, what others freed and the system kept not counted.
pub(crate) fn peak_bytes(work: impl FnOnce()) -> Option<u64> {
    std::fs::write(CLEAR, "5").ok()?;
    let before = resident("VmRSS:")?;
    work();
    Some(resident("VmHWM:")?.saturating_sub(before))
}

fn resident(key: &str) -> Option<u64> {
    let status = std::fs::read_to_string(STATUS).ok()?;
    let line = status.lines().find(|line| line.starts_with(key))?;
    line.split_whitespace().nth(1)?.parse::<u64>().ok().map(|kib| kib * 1024)
}
