//! How much memory a piece of work takes at its peak.

const STATUS: &str = "/proc/self/status";
/// Writing 5 here sets the peak back to what is resident now.
const CLEAR: &str = "/proc/self/clear_refs";

/// The most bytes that `work` had resident beyond what was before it. `None` where the system doesn't say (not Linux).
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
