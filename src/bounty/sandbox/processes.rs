//! What a tree of processes uses, added up from /proc: for machines without control groups. What ended unseen is missing.

use std::collections::HashMap;
use std::fs;

/// At one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct TreeUsage {
    /// Processes.
    pub(super) processes: u64,
    /// Time on processors, of the living and of those that they waited for.
    pub(super) cpu_ms: u64,
    /// Memory in RAM; what is shared counts for each.
    pub(super) memory_bytes: u64,
}

struct Process {
    parent: u32,
    cpu_ticks: u64,
    pages: u64,
}

/// Adds up `top` and everything below it.
pub(super) fn usage(top: u32) -> TreeUsage {
    let mut processes = HashMap::new();
    for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse::<u32>().ok()) else { continue };
        if let Some(process) = fs::read_to_string(entry.path().join("stat")).ok().as_deref().and_then(parse) {
            processes.insert(pid, process);
        }
    }
    let page_bytes = rustix::param::page_size() as u64;
    let mut usage = TreeUsage::default();
    for pid in processes.keys().filter(|pid| is_below(**pid, top, &processes)) {
        let process = &processes[pid];
        usage.processes += 1;
        usage.cpu_ms += ticks_as_ms(process.cpu_ticks);
        usage.memory_bytes += process.pages * page_bytes;
    }
    usage
}

/// Time on processors of one process, even of one that has ended and wasn't waited for; 0 if there is none.
pub(super) fn cpu_ms(pid: u32) -> u64 {
    let process = fs::read_to_string(format!("/proc/{pid}/stat")).ok().as_deref().and_then(parse);
    process.map_or(0, |process| ticks_as_ms(process.cpu_ticks))
}

fn ticks_as_ms(ticks: u64) -> u64 {
    ticks * 1_000 / rustix::param::clock_ticks_per_second().max(1)
}

/// Who a process's parent is.
pub(super) fn parent(pid: u32) -> Option<u32> {
    parse(&fs::read_to_string(format!("/proc/{pid}/stat")).ok()?).map(|process| process.parent)
}

/// How many processes and threads a user has.
pub(super) fn tasks_of(uid: u32) -> u64 {
    use std::os::unix::fs::MetadataExt as _;
    let processes = fs::read_dir("/proc").into_iter().flatten().flatten();
    let own = processes.filter(|entry| entry.metadata().is_ok_and(|found| found.uid() == uid));
    own.map(|entry| fs::read_dir(entry.path().join("task")).map_or(0, |tasks| tasks.count() as u64)).sum()
}

fn is_below(pid: u32, top: u32, processes: &HashMap<u32, Process>) -> bool {
    let mut at = pid;
    // A snapshot of what changes meanwhile may have a circle.
    for _ in 0..processes.len() {
        if at == top {
            return true;
        }
        match processes.get(&at) {
            Some(process) if process.parent != 0 => at = process.parent,
            Some(_) | None => return false,
        }
    }
    false
}

/// Reads /proc/PID/stat. The name, in parentheses, may hold anything.
fn parse(stat: &str) -> Option<Process> {
    let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
    let field = |number: usize| fields.get(number - 3)?.parse::<u64>().ok();
    let cpu_ticks = [14, 15, 16, 17].into_iter().map(field).sum::<Option<u64>>()?;
    Some(Process { parent: u32::try_from(field(4)?).ok()?, cpu_ticks, pages: field(24)? })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_can_not_shift_the_fields() {
        let stat = "7 (a) R 1 (b) S 3 7 7 0 -1 4 1 2 3 4 10 20 30 40 20 0 1 0 5 4096 9 0";
        let process = parse(stat).expect("parsed");
        assert_eq!((process.parent, process.cpu_ticks, process.pages), (3, 100, 9));
    }

    #[test]
    fn this_process_and_its_child_are_a_tree() {
        let own = std::process::id();
        let mut child = std::process::Command::new("sleep").arg("60").spawn().expect("started");
        assert_eq!(parent(child.id()), Some(own));
        let found = usage(own);
        assert!(found.processes >= 2 && found.memory_bytes > 1 << 20, "{found:?}");
        assert_eq!(usage(child.id()).processes, 1);
        child.kill().expect("killed");
        child.wait().expect("waited for");
    }
}
