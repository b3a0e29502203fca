//! Control groups: the kernel counts and limits a whole tree. Owns only groups that it made; all are named `l402t-`.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::slots::own_name;
use super::{Limits, Tier};

/// Where this process moves itself in a version 2 group of its own, which may not have both members and limited groups.
const SELF: &str = "l402t-self";

/// bubblewrap's own two processes, and one while it starts.
pub(super) const OWN_PROCESSES: u32 = 3;

/// How often and how long to wait for a group to be empty.
const EMPTY_TRIES: u32 = 400;
const EMPTY_INTERVAL: Duration = Duration::from_millis(5);

/// Where groups can be made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Cgroups {
    /// In one folder.
    V2 { parent: PathBuf },
    /// In one folder for each controller.
    V1 { memory: PathBuf, pids: PathBuf, cpuacct: PathBuf },
}

/// One group, removed when it is dropped. Its processes must be gone by then.
#[derive(Debug)]
pub(super) enum Group {
    V2 { folder: PathBuf },
    V1 { memory: PathBuf, pids: PathBuf, cpuacct: PathBuf },
}

impl Cgroups {
    /// Where this process may make groups of a version, if anywhere. For version 2 it may move itself.
    pub(super) fn find(tier: Tier) -> Result<Self, String> {
        let read = |path: &str| fs::read_to_string(path).map_err(|error| format!("{path}: {error}"));
        let places = Places::read(&read("/proc/self/mountinfo")?, &read("/proc/self/cgroup")?);
        let found = match tier {
            Tier::CgroupV2 => v2(&places)?,
            Tier::CgroupV1 => {
                let of = |controller: &str| {
                    let place = places.v1.iter().find(|(name, _)| name == controller);
                    place.map(|(_, path)| path.clone()).ok_or(format!("there is no v1 controller {controller}"))
                };
                Cgroups::V1 { memory: of("memory")?, pids: of("pids")?, cpuacct: of("cpuacct")? }
            }
            Tier::Rlimits => return Err("this tier has none".to_owned()),
        };
        // Whether it may be done is known once it is done.
        found
            .make(&own_name("try"), &Limits::default())
            .map_err(|error| format!("no control group can be made: {error}"))?;
        Ok(found)
    }

    /// Makes a group with limits. One of that name that a killed process left is removed first.
    pub(super) fn make(&self, name: &str, limits: &Limits) -> io::Result<Group> {
        let group = match self {
            Cgroups::V2 { parent } => Group::V2 { folder: parent.join(name) },
            Cgroups::V1 { memory, pids, cpuacct } => {
                Group::V1 { memory: memory.join(name), pids: pids.join(name), cpuacct: cpuacct.join(name) }
            }
        };
        for folder in group.folders() {
            if folder.exists() {
                remove(folder)?;
            }
            fs::create_dir(folder).map_err(|error| named(folder, &error))?;
        }
        group.limit(limits)?;
        Ok(group)
    }
}

impl Group {
    fn folders(&self) -> Vec<&Path> {
        match self {
            Group::V2 { folder } => vec![folder],
            Group::V1 { memory, pids, cpuacct } => vec![memory, pids, cpuacct],
        }
    }

    fn limit(&self, limits: &Limits) -> io::Result<()> {
        let memory_bytes = limits.memory_bytes.to_string();
        let processes = (limits.processes + OWN_PROCESSES).to_string();
        match self {
            Group::V2 { folder } => {
                write(folder, "memory.max", &memory_bytes)?;
                write(folder, "pids.max", &processes)?;
                write(folder, "memory.oom.group", "1")?;
                write_if_there(folder, "memory.swap.max", "0")
            }
            Group::V1 { memory, pids, cpuacct: _ } => {
                write(memory, "memory.limit_in_bytes", &memory_bytes)?;
                write_if_there(memory, "memory.memsw.limit_in_bytes", &memory_bytes)?;
                write(pids, "pids.max", &processes)
            }
        }
    }

    /// Files into which a process writes "0" to join.
    pub(super) fn doors(&self) -> io::Result<Vec<File>> {
        let open = |folder: &Path| {
            let path = folder.join("cgroup.procs");
            File::options().write(true).open(&path).map_err(|error| named(&path, &error))
        };
        self.folders().into_iter().map(open).collect()
    }

    /// Time on processors so far, in milliseconds.
    pub(super) fn cpu_ms(&self) -> io::Result<u64> {
        match self {
            Group::V2 { folder } => {
                Ok(line(&read(folder, "cpu.stat")?, "usage_usec").ok_or(io::ErrorKind::InvalidData)? / 1_000)
            }
            Group::V1 { cpuacct, .. } => Ok(number(&read(cpuacct, "cpuacct.usage")?)? / 1_000_000),
        }
    }

    /// The most memory at one time, in bytes.
    pub(super) fn peak_memory_bytes(&self) -> Option<u64> {
        let text = match self {
            // Since Linux 5.19.
            Group::V2 { folder } => read(folder, "memory.peak"),
            Group::V1 { memory, .. } => read(memory, "memory.max_usage_in_bytes"),
        };
        number(&text.ok()?).ok()
    }

    /// Has the kernel killed one of its processes for memory?
    pub(super) fn is_out_of_memory(&self) -> io::Result<bool> {
        let text = match self {
            Group::V2 { folder } => read(folder, "memory.events")?,
            Group::V1 { memory, .. } => read(memory, "memory.oom_control")?,
        };
        Ok(line(&text, "oom_kill").ok_or(io::ErrorKind::InvalidData)? > 0)
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        for folder in self.folders() {
            if let Err(error) = remove(folder) {
                tracing::warn!(%error, "a control group stays behind until its name is used again");
            }
        }
    }
}

/// Where this process's groups are mounted.
#[derive(Debug, Default, PartialEq, Eq)]
struct Places {
    /// Controller and folder.
    v1: Vec<(String, PathBuf)>,
    /// This process's own group, and the mount's top.
    v2: Option<(PathBuf, PathBuf)>,
}

impl Places {
    /// From /proc/self/mountinfo and /proc/self/cgroup.
    fn read(mountinfo: &str, cgroup: &str) -> Self {
        let mut places = Self::default();
        for mount in mountinfo.lines().filter_map(|line| line.split_once(" - ")) {
            let (before, after) = (mount.0.split(' ').collect::<Vec<_>>(), mount.1.split(' ').collect::<Vec<_>>());
            let ([_, _, _, root, top, ..], [kind, _, options, ..]) = (&before[..], &after[..]) else { continue };
            let own = |wanted: &dyn Fn(&str) -> bool| {
                let line = cgroup.lines().find_map(|line| {
                    let (controllers, path) = line.split_once(':')?.1.split_once(':')?;
                    wanted(controllers).then_some(path)
                })?;
                // A mount may show a part of the tree only.
                let below = line.strip_prefix(root.trim_end_matches('/')).unwrap_or_default();
                Some(Path::new(top).join(below.trim_start_matches('/')))
            };
            match *kind {
                "cgroup" => {
                    for controller in options.split(',').filter(|name| ["memory", "pids", "cpuacct"].contains(name)) {
                        if let Some(path) = own(&|list: &str| list.split(',').any(|name| name == controller)) {
                            places.v1.push((controller.to_owned(), path));
                        }
                    }
                }
                "cgroup2" => places.v2 = own(&str::is_empty).map(|path| (path, PathBuf::from(top))),
                _ => {}
            }
        }
        places
    }
}

/// This process's own group if it was delegated (nobody else is in it, and it may be divided), else the mount's top.
fn v2(places: &Places) -> Result<Cgroups, String> {
    let (own, top) = places.v2.as_ref().ok_or("cgroup v2 is not mounted")?;
    let own = if own.ends_with(SELF) { own.parent().unwrap_or(own) } else { own };
    let has = |folder: &Path, file: &str| {
        let text = read(folder, file).unwrap_or_default();
        ["memory", "pids"].iter().all(|wanted| text.split_whitespace().any(|name| name == *wanted))
    };
    let divided = |folder: &Path| has(folder, "cgroup.subtree_control");
    if !divided(own) && own != top && has(own, "cgroup.controllers") {
        divide(own).map_err(|error| format!("this process's control group can't be divided: {error}"))?;
    }
    let parent = [own, top.as_path()].into_iter().find(|folder| divided(folder));
    let parent = parent.ok_or("cgroup v2 has no controllers memory and pids here, or they are not delegated")?;
    Ok(Cgroups::V2 { parent: parent.to_owned() })
}

fn divide(own: &Path) -> io::Result<()> {
    let inner = own.join(SELF);
    match fs::create_dir(&inner) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(named(&inner, &error)),
        Ok(()) | Err(_) => {}
    }
    let moved = write(&inner, "cgroup.procs", "0").and_then(|()| write(own, "cgroup.subtree_control", "+memory +pids"));
    if moved.is_err() {
        // Others are in it: this process goes back to them.
        write(own, "cgroup.procs", "0")?;
        remove(&inner)?;
    }
    moved
}

/// Kills what is left in a group, and removes it.
fn remove(folder: &Path) -> io::Result<()> {
    let mut last = None;
    for _ in 0..EMPTY_TRIES {
        match fs::remove_dir(folder) {
            Ok(()) => return Ok(()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(error) => last = Some(error),
        }
        for pid in read(folder, "cgroup.procs").unwrap_or_default().split_whitespace() {
            if let Some(pid) = pid.parse().ok().and_then(rustix::process::Pid::from_raw) {
                // It may have gone meanwhile.
                let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
            }
        }
        std::thread::sleep(EMPTY_INTERVAL);
    }
    Err(last.map_or_else(|| io::ErrorKind::TimedOut.into(), |error| named(folder, &error)))
}

fn read(folder: &Path, file: &str) -> io::Result<String> {
    let path = folder.join(file);
    fs::read_to_string(&path).map_err(|error| named(&path, &error))
}

fn write(folder: &Path, file: &str, value: &str) -> io::Result<()> {
    let path = folder.join(file);
    fs::write(&path, value).map_err(|error| named(&path, &error))
}

fn write_if_there(folder: &Path, file: &str, value: &str) -> io::Result<()> {
    if folder.join(file).exists() { write(folder, file, value) } else { Ok(()) }
}

fn number(text: &str) -> io::Result<u64> {
    text.trim().parse().map_err(|_| io::ErrorKind::InvalidData.into())
}

/// The number behind a name.
fn line(text: &str, name: &str) -> Option<u64> {
    let mut lines = text.lines().filter_map(|line| line.split_once(' '));
    lines.find(|(found, _)| *found == name)?.1.trim().parse().ok()
}

fn named(path: &Path, error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("{}: {error}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_are_looked_for_below_this_processs_own() {
        let mounts = "31 23 0:28 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw,mode=755\n\
                      33 31 0:30 /docker/ab /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct\n\
                      35 31 0:32 / /sys/fs/cgroup/memory rw shared:5 - cgroup cgroup rw,memory\n\
                      41 31 0:38 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw\n";
        let own = "4:memory:/a/b\n2:cpu,cpuacct:/docker/ab\n1:name=systemd:/x\n0::/user.slice/x\n";
        let place = |name: &str, path: &str| (name.to_owned(), PathBuf::from(path));
        let expected = Places {
            v1: vec![place("cpuacct", "/sys/fs/cgroup/cpu,cpuacct"), place("memory", "/sys/fs/cgroup/memory/a/b")],
            v2: Some((PathBuf::from("/sys/fs/cgroup/unified/user.slice/x"), PathBuf::from("/sys/fs/cgroup/unified"))),
        };
        assert_eq!(Places::read(mounts, own), expected);
    }

    #[test]
    fn a_version_2_group_is_taken_where_memory_and_processes_can_be_limited() {
        let top = tempfile::tempdir().expect("a folder");
        let own = top.path().join("own");
        fs::create_dir(&own).expect("made");
        let places = Places { v1: Vec::new(), v2: Some((own.clone(), top.path().to_owned())) };
        write(&own, "cgroup.controllers", "cpu\n").expect("written");
        assert!(v2(&places).is_err());
        write(top.path(), "cgroup.subtree_control", "cpu memory pids\n").expect("written");
        assert_eq!(v2(&places), Ok(Cgroups::V2 { parent: top.path().to_owned() }));
        write(&own, "cgroup.subtree_control", "memory pids\n").expect("written");
        assert_eq!(v2(&places), Ok(Cgroups::V2 { parent: own.clone() }));
        let inside = Places { v2: Some((own.join(SELF), top.path().to_owned())), v1: Vec::new() };
        assert_eq!(v2(&inside), Ok(Cgroups::V2 { parent: own }));
    }

    #[test]
    fn the_kernels_numbers_are_read_by_name() {
        let folder = tempfile::tempdir().expect("a folder");
        let group = std::mem::ManuallyDrop::new(Group::V2 { folder: folder.path().to_owned() });
        write(folder.path(), "memory.events", "low 0\noom 3\noom_kill 0\noom_group_kill 0\n").expect("written");
        write(folder.path(), "cpu.stat", "usage_usec 1234567\nuser_usec 1\n").expect("written");
        assert!(!group.is_out_of_memory().expect("read"));
        assert_eq!(group.cpu_ms().expect("read"), 1_234);
        assert_eq!(group.peak_memory_bytes(), None);
        write(folder.path(), "memory.peak", "4096\n").expect("written");
        write(folder.path(), "memory.events", "oom_kill 2\n").expect("written");
        assert!(group.is_out_of_memory().expect("read"));
        assert_eq!(group.peak_memory_bytes(), Some(4_096));
    }
}
