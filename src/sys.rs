//! The few operating system calls that need `unsafe`. Nothing else in this crate may use it.

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd as _, RawFd};
use std::process::Command;

/// Loads libtorch's CUDA half, so that ATen finds its CUDA kernels. Must run before the first ATen call. Does nothing
/// useful on a machine without that library: the error says so.
pub fn load_cuda() -> Result<(), String> {
    // SAFETY: the name is a NUL-terminated constant. Loading runs the library's initialisers, which is what we want;
    // the handle is never closed, so nothing that they register can dangle.
    let handle = unsafe { libc::dlopen(c"libtorch_cuda.so".as_ptr(), libc::RTLD_NOW | libc::RTLD_GLOBAL) };
    if handle.is_null() { Err(last_dl_error()) } else { Ok(()) }
}

fn last_dl_error() -> String {
    // SAFETY: dlerror returns NULL or a NUL-terminated string that lives until this thread's next dl call; it is copied
    // before anything else runs.
    unsafe {
        let text = libc::dlerror();
        if text.is_null() {
            "libtorch_cuda.so could not be loaded".to_owned()
        } else {
            std::ffi::CStr::from_ptr(text).to_string_lossy().into_owned()
        }
    }
}

/// The values of a tensor in the CPU's memory; `None` unless it is contiguous f32 there.
///
/// Other handles may share the memory: no operation of libtorch may write to it while the slice lives.
#[cfg(feature = "torch")]
pub(crate) fn tensor_floats(tensor: &tch::Tensor) -> Option<&[f32]> {
    let (start, count) = float_memory(tensor)?;
    // SAFETY: `float_memory` has shown that `count` initialised f32 values begin at `start`; the tensor's handle, which is
    // borrowed, keeps its memory; the only callers are in `train`, which runs nothing in libtorch meanwhile.
    Some(unsafe { std::slice::from_raw_parts(start, count) })
}

/// As [`tensor_floats`], to write to. No operation of libtorch may use the memory at all while the slice lives.
#[cfg(feature = "torch")]
pub(crate) fn tensor_floats_mut(tensor: &mut tch::Tensor) -> Option<&mut [f32]> {
    let (start, count) = float_memory(tensor)?;
    // SAFETY: as above, and the only callers hold no other slice of the same memory.
    Some(unsafe { std::slice::from_raw_parts_mut(start, count) })
}

/// Where a tensor's values are, and how many.
#[cfg(feature = "torch")]
fn float_memory(tensor: &tch::Tensor) -> Option<(*mut f32, usize)> {
    let plain = tensor.device() == tch::Device::Cpu
        && tensor.f_kind().ok()? == tch::Kind::Float
        && !tensor.is_sparse()
        && tensor.is_contiguous();
    let start = tensor.data_ptr().cast::<f32>();
    (plain && !start.is_null() && start.is_aligned()).then_some((start, tensor.numel()))
}

/// Lets this process open as many files as it may at most: many systems begin with 1,024, which a server's connections
/// alone use up. Returns how many that are.
pub fn raise_open_files() -> io::Result<u64> {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: getrlimit writes one rlimit to the place it is given, which is one.
    if unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit) } != 0 {
        return Err(io::Error::last_os_error());
    }
    limit.rlim_cur = limit.rlim_max;
    // SAFETY: setrlimit only reads the rlimit.
    if unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit) } != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(limit.rlim_cur)
}

/// Makes a child its own process group (so that Ctrl-C reaches only its parent, which stops it in order) and has the
/// kernel send it SIGTERM when the parent's thread that starts it ends, however that ends. Start children from a thread
/// that lives as long as they should: the main thread.
pub fn die_with_parent(command: &mut Command) {
    die_with_parent_by(command, StopSignal::Terminate);
}

/// As [`die_with_parent`], with a signal of choice: SIGKILL for a program that may not end on its own once what it
/// depends on has died too.
pub fn die_with_parent_by(command: &mut Command, signal: StopSignal) {
    use std::os::unix::process::CommandExt;
    command.process_group(0);
    let signal = signal.number();
    let parent = std::process::id();
    // SAFETY: the closure runs in the forked child before exec, where only async-signal-safe calls are allowed: prctl
    // and getppid are plain system calls, and nothing is allocated on the way to success.
    unsafe {
        command.pre_exec(move || {
            if libc::prctl(libc::PR_SET_PDEATHSIG, signal) != 0 {
                return Err(io::Error::last_os_error());
            }
            // The parent may have gone before the call above.
            if u32::try_from(libc::getppid()).ok() == Some(parent) {
                Ok(())
            } else {
                Err(io::Error::from_raw_os_error(libc::ESRCH))
            }
        });
    }
}

/// What a child that will become a box starts with.
#[derive(Debug)]
pub struct BoxChild {
    /// Files that it keeps, by number, beside its three standard ones. Everything else is closed.
    pub keep: Vec<RawFd>,
    /// Files into which it writes "0", to join a control group.
    pub join: Vec<File>,
    /// Its most of each resource, never more than this process's own.
    pub limits: Vec<(Resource, u64)>,
}

/// A resource of a child and of each process below it, except where noted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Resource {
    /// Address space, in bytes.
    AddressSpace,
    /// Size of a core dump, in bytes.
    Core,
    /// Time on processors, in seconds.
    Cpu,
    /// Memory of its own that can be written to, in bytes.
    Data,
    /// Size of a file that is written, in bytes.
    FileSize,
    /// Memory that is locked, in bytes.
    LockedMemory,
    /// Bytes in POSIX message queues, of the user.
    MessageQueues,
    /// Open files.
    OpenFiles,
    /// Processes and threads, of the user.
    Processes,
    /// Stack, in bytes.
    Stack,
}

impl Resource {
    const fn number(self) -> libc::__rlimit_resource_t {
        match self {
            Resource::AddressSpace => libc::RLIMIT_AS,
            Resource::Core => libc::RLIMIT_CORE,
            Resource::Cpu => libc::RLIMIT_CPU,
            Resource::Data => libc::RLIMIT_DATA,
            Resource::FileSize => libc::RLIMIT_FSIZE,
            Resource::LockedMemory => libc::RLIMIT_MEMLOCK,
            Resource::MessageQueues => libc::RLIMIT_MSGQUEUE,
            Resource::OpenFiles => libc::RLIMIT_NOFILE,
            Resource::Processes => libc::RLIMIT_NPROC,
            Resource::Stack => libc::RLIMIT_STACK,
        }
    }
}

/// Has a child start as [`BoxChild`] says; its start fails if any of it does. The user that [`CommandExt::uid`] sets is in
/// force by then.
///
/// [`CommandExt::uid`]: std::os::unix::process::CommandExt::uid
pub fn start_as_box(command: &mut Command, child: BoxChild) {
    use std::os::unix::process::CommandExt;
    // SAFETY: the closure runs in the forked child before exec, where only async-signal-safe calls are allowed: write,
    // getrlimit, setrlimit, close_range and fcntl are plain system calls on what the closure owns, and nothing is allocated
    // on the way to success.
    unsafe {
        command.pre_exec(move || {
            for door in &child.join {
                if libc::write(door.as_raw_fd(), c"0".as_ptr().cast(), 1) != 1 {
                    return Err(io::Error::last_os_error());
                }
            }
            for (resource, most) in &child.limits {
                let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
                if libc::getrlimit(resource.number(), &raw mut limit) != 0 {
                    return Err(io::Error::last_os_error());
                }
                limit.rlim_max = limit.rlim_max.min(*most);
                limit.rlim_cur = limit.rlim_max;
                if libc::setrlimit(resource.number(), &raw const limit) != 0 {
                    return Err(io::Error::last_os_error());
                }
            }
            // Closed by exec, not here: the pipe that tells the parent of a failure is among them.
            if libc::syscall(libc::SYS_close_range, 3_u32, u32::MAX, libc::CLOSE_RANGE_CLOEXEC) != 0 {
                return Err(io::Error::last_os_error());
            }
            for kept in &child.keep {
                if libc::fcntl(*kept, libc::F_SETFD, 0) != 0 {
                    return Err(io::Error::last_os_error());
                }
            }
            Ok(())
        });
    }
}

/// How a child is stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StopSignal {
    /// SIGTERM: finish cleanly.
    Terminate,
    /// SIGKILL: at once.
    Kill,
}

impl StopSignal {
    const fn number(self) -> libc::c_int {
        match self {
            StopSignal::Terminate => libc::SIGTERM,
            StopSignal::Kill => libc::SIGKILL,
        }
    }
}

/// Signals the process group that [`die_with_parent`] made for a child. A child that has ended already is no error.
/// Call only for a child that has not been waited for, or for a process that leads a group of its own and is known to run
/// (by a lock that it holds), so that the id can't belong to another process by now.
pub fn signal_group(child_pid: u32, signal: StopSignal) -> io::Result<()> {
    let signal = signal.number();
    let pid = i32::try_from(child_pid).ok().filter(|pid| *pid > 1).ok_or(io::ErrorKind::InvalidInput)?;
    // SAFETY: kill has no memory effects; a negative id above −1 names exactly the child's process group.
    let result = unsafe { libc::kill(-pid, signal) };
    if result == 0 {
        return Ok(());
    }
    let error = io::Error::last_os_error();
    if error.raw_os_error() == Some(libc::ESRCH) { Ok(()) } else { Err(error) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_child_in_its_own_group_ends_when_signalled() {
        let mut command = Command::new("sleep");
        command.arg("60");
        die_with_parent(&mut command);
        let mut child = command.spawn().expect("sleep starts");
        signal_group(child.id(), StopSignal::Terminate).expect("signalled");
        assert!(!child.wait().expect("ended").success());
    }

    #[test]
    fn the_soft_limit_on_open_files_is_raised_to_the_hard_one() {
        let most = raise_open_files().expect("allowed");
        let limits = std::fs::read_to_string("/proc/self/limits").expect("Linux");
        let line = limits.lines().find(|line| line.starts_with("Max open files")).expect("it is limited");
        let numbers: Vec<&str> = line.split_whitespace().skip(3).take(2).collect();
        assert_eq!(numbers, [most.to_string(), most.to_string()]);
    }

    #[test]
    fn ids_that_would_reach_other_processes_are_refused() {
        assert!(signal_group(0, StopSignal::Kill).is_err());
        assert!(signal_group(1, StopSignal::Kill).is_err());
    }
}
