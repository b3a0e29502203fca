//! The few operating system calls that need `unsafe`. Nothing else in this crate may use it.

use std::io;
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
