//! The few operating system calls that need `unsafe`. Nothing else in this crate may use it.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::process::Command;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering, compiler_fence};

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

/// Most files that are mapped at once.
const MAX_MAPPED: usize = 512;

/// Where a mapped file lies, for the signal handler.
struct MappedRange {
    taken: AtomicBool,
    start: AtomicUsize,
    /// Past its last page; 0 while there is none.
    end: AtomicUsize,
    /// Was a page missing when it was read?
    torn: AtomicBool,
}

static MAPPED: [MappedRange; MAX_MAPPED] = [const {
    MappedRange {
        taken: AtomicBool::new(false),
        start: AtomicUsize::new(0),
        end: AtomicUsize::new(0),
        torn: AtomicBool::new(false),
    }
}; MAX_MAPPED];

/// The size of a page, and what SIGBUS did before.
static BEFORE: OnceLock<(usize, libc::sigaction)> = OnceLock::new();

/// A file's bytes, mapped for reading. They are only ever copied out: others may write to the file meanwhile, and a
/// reference into it could change. A file that is cut short while it is mapped gives an error, not the SIGBUS that would
/// end the process.
#[derive(Debug)]
pub struct MappedFile {
    range: &'static MappedRange,
    start: *const u8,
    length: usize,
}

impl std::fmt::Debug for MappedRange {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("MappedRange")
    }
}

// SAFETY: the memory belongs to the value alone, is never written, and may be read and unmapped from any thread.
unsafe impl Send for MappedFile {}

impl MappedFile {
    /// Maps all of a regular file that isn't empty.
    pub fn new(file: &File) -> io::Result<Self> {
        let length = file.metadata()?.len();
        let length = usize::try_from(length).map_err(|_| io::ErrorKind::FileTooLarge)?;
        if length == 0 {
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the file is empty"));
        }
        let (page, _) = catch_sigbus()?;
        let free = |range: &&MappedRange| !range.taken.swap(true, Ordering::AcqRel);
        let range = MAPPED.iter().find(free).ok_or_else(|| io::Error::other("too many files are mapped"))?;
        // SAFETY: a new mapping at an address of the kernel's choice touches no memory of ours; the descriptor is open.
        let start = unsafe {
            libc::mmap(std::ptr::null_mut(), length, libc::PROT_READ, libc::MAP_PRIVATE, file.as_raw_fd(), 0)
        };
        if start == libc::MAP_FAILED {
            let error = io::Error::last_os_error();
            range.taken.store(false, Ordering::Release);
            return Err(error);
        }
        range.torn.store(false, Ordering::Release);
        range.start.store(start as usize, Ordering::Release);
        range.end.store(start as usize + length.next_multiple_of(*page), Ordering::Release);
        Ok(Self { range, start: start.cast(), length })
    }

    /// Bytes in the file when it was mapped.
    pub fn length(&self) -> u64 {
        self.length as u64
    }

    /// Copies the bytes from `offset` on into all of `into`.
    ///
    /// # Errors
    /// `UnexpectedEof` where the file has no such bytes, or not any more.
    pub fn read_at(&self, offset: u64, into: &mut [u8]) -> io::Result<()> {
        let end = usize::try_from(offset).ok().and_then(|offset| offset.checked_add(into.len()));
        if end.is_none_or(|end| end > self.length) {
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the file is shorter than it should be"));
        }
        // SAFETY: both ranges are valid for so many bytes, as just checked, and `into` is ours alone, so they can't overlap.
        // What a writer of the file does meanwhile may mix old and new bytes in the copy; any bytes are valid u8s.
        unsafe { std::ptr::copy_nonoverlapping(self.start.add(offset as usize), into.as_mut_ptr(), into.len()) };
        // The handler runs in this thread, in the middle of the copy: its note is read after all of that.
        compiler_fence(Ordering::SeqCst);
        if self.range.torn.load(Ordering::Acquire) {
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the file was cut short while it was being read"));
        }
        Ok(())
    }
}

impl Drop for MappedFile {
    fn drop(&mut self) {
        self.range.end.store(0, Ordering::Release);
        // SAFETY: the mapping is this value's own, and nothing refers into it.
        unsafe { libc::munmap(self.start.cast_mut().cast(), self.length) };
        self.range.taken.store(false, Ordering::Release);
    }
}

/// Installs [`on_sigbus`] once a process.
fn catch_sigbus() -> io::Result<&'static (usize, libc::sigaction)> {
    if let Some(before) = BEFORE.get() {
        return Ok(before);
    }
    // SAFETY: plain system calls on values of ours; a zeroed sigaction is a valid one. The handler is installed only after
    // what it reads is in place; if two threads come here at once, both installed the same handler, and the first one's
    // `before`, read ahead of either, is kept.
    unsafe {
        let page = libc::sysconf(libc::_SC_PAGESIZE);
        let page = usize::try_from(page).ok().filter(|page| *page > 0).ok_or(io::ErrorKind::Unsupported)?;
        let mut before: libc::sigaction = std::mem::zeroed();
        if libc::sigaction(libc::SIGBUS, std::ptr::null(), &mut before) != 0 {
            return Err(io::Error::last_os_error());
        }
        let kept = BEFORE.get_or_init(|| (page, before));
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = on_sigbus as *const () as usize;
        action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK;
        if libc::sigaction(libc::SIGBUS, &action, std::ptr::null_mut()) != 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(kept)
    }
}

/// A page of a mapped file is not there any more: puts zeros in its place and in that of all after it, and notes it. Any
/// other SIGBUS does what it did before.
extern "C" fn on_sigbus(_signal: libc::c_int, info: *mut libc::siginfo_t, _context: *mut libc::c_void) {
    let Some((page, before)) = BEFORE.get() else { return };
    // SAFETY: the kernel hands a handler with SA_SIGINFO a valid siginfo. Only atomics are read, and only system calls that
    // are safe in a handler are made; errno, which the interrupted code may be about to read, is put back. The new pages
    // replace pages of a mapping that is in use (its reader is what was interrupted, or another thread of the same mapping).
    unsafe {
        let address = (*info).si_addr() as usize;
        let errno = *libc::__errno_location();
        for range in &MAPPED {
            let (start, end) = (range.start.load(Ordering::Acquire), range.end.load(Ordering::Acquire));
            if !(start..end).contains(&address) {
                continue;
            }
            range.torn.store(true, Ordering::Release);
            let missing = address / page * page;
            let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_FIXED;
            let zeros = libc::mmap(missing as *mut libc::c_void, end - missing, libc::PROT_READ, flags, -1, 0);
            *libc::__errno_location() = errno;
            if zeros != libc::MAP_FAILED {
                return;
            }
        }
        // The instruction runs again and faults again, this time as if there were no handler here.
        libc::sigaction(libc::SIGBUS, before, std::ptr::null_mut());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mapped_file_that_is_cut_short_gives_an_error_and_the_process_lives() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("file");
        std::fs::write(&path, vec![7; 100_000]).expect("written");
        let mapped = MappedFile::new(&File::open(&path).expect("opened")).expect("mapped");
        let other = MappedFile::new(&File::open(&path).expect("opened")).expect("mapped");
        let byte = |file: &MappedFile, offset: u64| {
            let mut byte = [0];
            // A byte that nobody looks at need not be read.
            file.read_at(offset, std::hint::black_box(&mut byte)).map(|()| byte[0])
        };
        assert_eq!((byte(&mapped, 99_999).expect("read"), mapped.length()), (7, 100_000));
        byte(&mapped, 100_000).expect_err("past the end");
        byte(&mapped, u64::MAX).expect_err("past the end");
        let writer = std::fs::OpenOptions::new().write(true).open(&path).expect("opened");
        writer.set_len(5_000).expect("cut short");
        let error = byte(&mapped, 60_000).expect_err("gone").to_string();
        assert!(error.contains("cut short"), "{error}");
        // Once torn, nothing of it is believed any more; another mapping is not concerned until it meets the hole.
        byte(&mapped, 0).expect_err("torn");
        byte(&other, 0).expect("still there");
        byte(&other, 99_999).expect_err("gone");
        drop(mapped);
        let again = MappedFile::new(&File::open(&path).expect("opened")).expect("mapped");
        byte(&again, 4_999).expect("a new mapping of what is left");
    }

    #[test]
    fn an_empty_file_is_refused() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("file");
        std::fs::write(&path, []).expect("written");
        MappedFile::new(&File::open(&path).expect("opened")).expect_err("empty");
    }

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
