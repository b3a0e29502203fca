//! bubblewrap's arguments for a box. Pure, but for a look at how this machine's /usr is laid out.

use std::fs;
use std::os::fd::RawFd;
use std::path::PathBuf;

use super::spec::{BoxSpec, SCRATCH, fixed_environment};

/// Who the command is in its box, whoever it is outside.
const NOBODY: &str = "65534";

/// What bubblewrap is handed, by number.
#[derive(Debug)]
pub(super) struct Handed {
    /// Programs for seccomp.
    pub(super) filters: Vec<RawFd>,
    /// Where it tells how the box does.
    pub(super) status: RawFd,
    /// Where it waits for a byte once the box is ready, and what it then closes.
    pub(super) ready: RawFd,
}

/// A file or folder on this machine, and where it is mounted.
pub(super) type Mounts = Vec<(PathBuf, String)>;

/// The arguments, each ended by a NUL, as `--args` reads them.
pub(super) fn arguments(spec: &BoxSpec, mounts: &Mounts, handed: &Handed) -> Vec<u8> {
    let mut list = List(Vec::new());
    list.add(["--unshare-all", "--unshare-user", "--disable-userns", "--uid", NOBODY, "--gid", NOBODY]);
    list.add(["--die-with-parent", "--new-session", "--cap-drop", "ALL", "--clearenv", "--hostname", "box"]);
    for (name, value) in fixed_environment() {
        list.add(["--setenv", name, value]);
    }
    for (name, value) in &spec.environment {
        list.add(["--setenv", name, value]);
    }
    system(&mut list);
    let (scratch, tmp) = (spec.limits.scratch_bytes.to_string(), spec.limits.tmp_bytes.to_string());
    list.add(["--proc", "/proc", "--dev", "/dev"]);
    list.add(["--size", &tmp, "--tmpfs", "/dev/shm", "--remount-ro", "/dev"]);
    list.add(["--size", &tmp, "--tmpfs", "/tmp", "--size", &scratch, "--tmpfs", SCRATCH]);
    for (host, inside) in mounts {
        list.0.extend_from_slice(b"--ro-bind\0");
        list.0.extend_from_slice(std::os::unix::ffi::OsStrExt::as_bytes(host.as_os_str()));
        list.0.push(0);
        list.add([inside]);
    }
    // Last: bubblewrap makes what is mounted on, in this folder, itself.
    list.add(["--remount-ro", "/", "--chdir", SCRATCH]);
    for filter in &handed.filters {
        list.add(["--add-seccomp-fd", &filter.to_string()]);
    }
    list.add(["--json-status-fd", &handed.status.to_string(), "--block-fd", &handed.ready.to_string()]);
    list.0
}

/// Programs and libraries. Of /etc only what these need to be found.
fn system(list: &mut List) {
    list.add(["--ro-bind", "/usr", "/usr"]);
    for folder in ["/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32"] {
        match fs::read_link(folder) {
            Ok(target) => list.add(["--symlink", &target.to_string_lossy(), folder]),
            Err(_) => list.add(["--ro-bind-try", folder, folder]),
        }
    }
    for file in ["/etc/alternatives", "/etc/ld.so.cache"] {
        list.add(["--ro-bind-try", file, file]);
    }
}

struct List(Vec<u8>);

impl List {
    fn add<const N: usize>(&mut self, words: [&str; N]) {
        for word in words {
            self.0.extend_from_slice(word.as_bytes());
            self.0.push(0);
        }
    }
}
