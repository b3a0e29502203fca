//! A process of this very program that may do nothing but compute: bytes in, bytes out. For work on what strangers wrote
//! by code of our own that is not to be trusted with it, in a process that has keys and money.
//!
//! It starts with nothing open but those two, and gives up every system call but those of memory, reading and writing
//! before it looks at a byte of them.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read as _, Seek as _, SeekFrom, Write as _};
use std::os::fd::AsFd as _;
use std::os::unix::process::ExitStatusExt as _;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};

use libc::c_long;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::MemfdFlags;
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule,
};

use super::outcome::{BoxOutcome, Ending, Tier, Usage};
use super::{BoxError, processes};
use crate::clock::Stopwatch;
use crate::sys::{BoxChild, Resource, StopSignal, die_with_parent_by, start_as_box};

/// Longest time between two looks at the clock.
const LOOK_MS: u64 = 25;
/// Bytes read at one time.
const CHUNK: usize = 64 << 10;
/// Time on processors after which the kernel ends what nobody did.
const UNSEEN_S: u64 = 2;

/// What to compute, and with how much: the program's own start included.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CellSpec<'a> {
    /// What the program is called with: it must call [`confine`] first of all.
    pub argument: &'a str,
    /// What it reads.
    pub input: &'a [u8],
    /// Time on processors, in milliseconds.
    pub cpu_ms: u64,
    /// Time on the wall, in milliseconds.
    pub wall_ms: u64,
    /// Memory, in bytes.
    pub memory_bytes: u64,
    /// What it may write, in bytes.
    pub output_bytes: u64,
}

/// Runs `program`, which is this one, to its end.
pub(super) fn run(program: &Path, spec: &CellSpec<'_>) -> Result<BoxOutcome, BoxError> {
    let failed = |error: io::Error| BoxError::NotStarted { message: error.to_string() };
    let mut command = Command::new(program);
    command.arg(spec.argument).env_clear().current_dir("/");
    command.stdin(memory_file(spec.input).map_err(failed)?).stdout(Stdio::piped()).stderr(Stdio::null());
    let limits = vec![
        (Resource::Core, 0),
        (Resource::Cpu, spec.cpu_ms.div_ceil(1_000) + UNSEEN_S),
        (Resource::Data, spec.memory_bytes),
        (Resource::FileSize, 0),
        (Resource::LockedMemory, 0),
        (Resource::OpenFiles, 64),
        (Resource::Stack, 8 << 20),
    ];
    die_with_parent_by(&mut command, StopSignal::Kill);
    start_as_box(&mut command, BoxChild { keep: Vec::new(), join: Vec::new(), limits });
    let since_start = Stopwatch::start();
    let mut child = command.spawn().map_err(failed)?;
    let read = read(&mut child, spec, &since_start);
    if !matches!(read, Ok((_, None))) {
        // It may have ended by itself meanwhile.
        let _ = child.kill();
    }
    // Its output ends with it alone, since it can't close it: it has ended, or has been killed. Until it is waited for,
    // what it used can be read.
    let cpu_ms = processes::cpu_ms(child.id());
    let status = child.wait().map_err(BoxError::os("wait for a process"))?;
    let (stdout, stopped) = read.map_err(BoxError::os("read from a process"))?;
    let ending = match stopped {
        Some(stopped) => stopped,
        None => by_itself(status, cpu_ms, spec.cpu_ms)?,
    };
    let usage = Usage { cpu_ms, wall_ms: since_start.elapsed_ms(), peak_memory_bytes: None };
    Ok(BoxOutcome { ending, stdout, stderr: Vec::new(), usage, tier: Tier::Rlimits })
}

/// How it ended when it wasn't stopped.
fn by_itself(status: ExitStatus, cpu_ms: u64, most_cpu_ms: u64) -> Result<Ending, BoxError> {
    if cpu_ms > most_cpu_ms {
        return Ok(Ending::TimeLimit);
    }
    match (status.code(), status.signal()) {
        (Some(code), _) => Ok(Ending::Exited { code: u8::try_from(code).unwrap_or(u8::MAX) }),
        (None, Some(signal)) if signal != libc::SIGKILL => {
            Ok(Ending::Signalled { signal: u8::try_from(signal).unwrap_or(u8::MAX) })
        }
        // Nothing in there sends it, and the kernel only for time: the machine is out of memory, or somebody ended it.
        (None, Some(_) | None) => {
            Err(BoxError::Lost { status: status.to_string(), message: "it was ended from outside".to_owned() })
        }
    }
}

/// All that it writes, or what it was stopped for.
fn read(child: &mut Child, spec: &CellSpec<'_>, since_start: &Stopwatch) -> io::Result<(Vec<u8>, Option<Ending>)> {
    let mut bytes = Vec::new();
    let Some(mut pipe) = child.stdout.take() else { return Ok((bytes, None)) };
    let mut chunk = vec![0; CHUNK];
    loop {
        if since_start.elapsed_ms() > spec.wall_ms || processes::cpu_ms(child.id()) > spec.cpu_ms {
            return Ok((bytes, Some(Ending::TimeLimit)));
        }
        let timeout = Timespec { tv_sec: 0, tv_nsec: i64::try_from(LOOK_MS * 1_000_000).unwrap_or(i64::MAX) };
        let mut fds = [PollFd::from_borrowed_fd(pipe.as_fd(), PollFlags::IN)];
        match poll(&mut fds, Some(&timeout)) {
            Ok(0) | Err(rustix::io::Errno::INTR) => continue,
            Ok(_) => {}
            Err(error) => return Err(error.into()),
        }
        match pipe.read(&mut chunk) {
            Ok(0) => return Ok((bytes, None)),
            Ok(count) => bytes.extend_from_slice(&chunk[..count]),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
        if bytes.len() as u64 > spec.output_bytes {
            return Ok((bytes, Some(Ending::OutputLimit)));
        }
    }
}

/// A file in memory, at its beginning: unlike a pipe, nobody has to wait for it to be read.
fn memory_file(bytes: &[u8]) -> io::Result<File> {
    let mut file = File::from(rustix::fs::memfd_create("cell", MemfdFlags::CLOEXEC)?);
    file.write_all(bytes)?;
    file.seek(SeekFrom::Start(0))?;
    Ok(file)
}

/// Gives up every system call but those of memory, and of reading and writing what is open. For good, and for this thread:
/// call it where there is no other.
pub fn confine() -> io::Result<()> {
    let program = filter().map_err(io::Error::other)?;
    seccompiler::apply_filter(&program).map_err(io::Error::other)
}

fn filter() -> Result<BpfProgram, seccompiler::BackendError> {
    // No rule is every use of the call.
    let mut rules: BTreeMap<c_long, Vec<SeccompRule>> = ALLOWED.map(|call| (call, Vec::new())).into();
    let without = |flag: libc::c_int| {
        let flag = u64::from(flag.cast_unsigned());
        SeccompCondition::new(2, SeccompCmpArgLen::Dword, SeccompCmpOp::MaskedEq(flag), 0)
    };
    // Memory that can be executed is never made: code stays what was loaded.
    for call in [libc::SYS_mmap, libc::SYS_mprotect] {
        rules.insert(call, vec![SeccompRule::new(vec![without(libc::PROT_EXEC)?])?]);
    }
    let architecture = std::env::consts::ARCH.try_into()?;
    let refused = SeccompAction::Errno(libc::EPERM.unsigned_abs());
    SeccompFilter::new(rules, refused, SeccompAction::Allow, architecture)?.try_into()
}

/// What is left of the kernel. (Not close: the end of the output is the end of the process.)
const ALLOWED: [c_long; 16] = [
    libc::SYS_brk,
    libc::SYS_clock_gettime,
    libc::SYS_exit,
    libc::SYS_exit_group,
    libc::SYS_futex,
    libc::SYS_getrandom,
    libc::SYS_madvise,
    libc::SYS_mremap,
    libc::SYS_munmap,
    libc::SYS_read,
    libc::SYS_rt_sigprocmask,
    libc::SYS_rt_sigreturn,
    libc::SYS_sched_yield,
    libc::SYS_sigaltstack,
    libc::SYS_write,
    libc::SYS_writev,
];

#[cfg(test)]
mod tests {
    use super::*;

    fn spec<'a>(argument: &'a str, input: &'a [u8]) -> CellSpec<'a> {
        let output_bytes = 1 << 20;
        CellSpec { argument, input, cpu_ms: 10_000, wall_ms: 30_000, memory_bytes: 64 << 20, output_bytes }
    }

    fn ran(program: &str, spec: &CellSpec<'_>) -> (Ending, String) {
        let outcome = run(Path::new(program), spec).expect("started");
        (outcome.ending, String::from_utf8(outcome.stdout).expect("text"))
    }

    const WELL: Ending = Ending::Exited { code: 0 };

    #[test]
    fn it_gets_its_input_and_nothing_else() {
        let text = "a line\n".repeat(100_000);
        assert_eq!(ran("/bin/cat", &spec("-", text.as_bytes())), (WELL, text));
        assert_eq!(ran("/usr/bin/env", &spec("-0", b"")), (WELL, String::new()));
        // The fourth is the folder that is listed.
        assert_eq!(ran("/bin/ls", &spec("/proc/self/fd", b"")), (WELL, "0\n1\n2\n3\n".to_owned()));
        assert_eq!(ran("/bin/sh", &spec("-s", b"pwd")), (WELL, "/\n".to_owned()));
    }

    #[test]
    fn it_ends_with_the_thread_that_started_it() {
        // 2 is PR_GET_PDEATHSIG.
        let asks = "import ctypes; s = ctypes.c_int(); ctypes.CDLL(None).prctl(2, ctypes.byref(s)); print(s.value)";
        assert_eq!(ran("/usr/bin/python3", &spec("-", asks.as_bytes())), (WELL, format!("{}\n", libc::SIGKILL)));
    }

    #[test]
    fn its_end_is_told() {
        assert_eq!(ran("/bin/sh", &spec("-s", b"exit 3")), (Ending::Exited { code: 3 }, String::new()));
        assert_eq!(ran("/bin/sh", &spec("-s", b"kill -SEGV $$")).0, Ending::Signalled { signal: 11 });
        assert_eq!(ran("/usr/bin/yes", &spec("y", b"")).0, Ending::OutputLimit);
        let killed = run(Path::new("/bin/sh"), &spec("-s", b"kill -KILL $$"));
        assert!(matches!(killed, Err(BoxError::Lost { .. })), "{killed:?}");
        assert!(matches!(run(Path::new("/nowhere"), &spec("", b"")), Err(BoxError::NotStarted { .. })));
    }

    #[test]
    fn one_that_goes_on_computing_is_over_its_time_and_not_lost() {
        let spins = CellSpec { cpu_ms: 200, ..spec("-s", b"while :; do :; done") };
        assert_eq!(ran("/bin/sh", &spins).0, Ending::TimeLimit);
        // The kernel's own limit, for when nobody looks: soft and hard are one, so it kills.
        let killed = ExitStatus::from_raw(libc::SIGKILL);
        assert_eq!(by_itself(killed, 2_001, 2_000).expect("its own doing"), Ending::TimeLimit);
        assert!(matches!(by_itself(killed, 2_000, 2_000), Err(BoxError::Lost { .. })));
    }

    #[test]
    fn a_confined_thread_can_compute_and_nothing_else() {
        let confined = std::thread::spawn(|| {
            confine()?;
            let memory = vec![7_u8; 32 << 20].iter().map(|byte| u64::from(*byte)).sum::<u64>();
            let refused = [
                File::open("/dev/null").err(),
                std::net::TcpListener::bind("127.0.0.1:0").err(),
                Command::new("/bin/true").spawn().err(),
                std::thread::Builder::new().spawn(|| ()).err(),
                std::fs::read_dir("/proc/self/fd").err(),
                crate::sys::raise_open_files().err(),
                memory_file(b"").err(),
            ];
            Ok::<_, io::Error>((memory, refused.map(|error| error.map(|error| error.kind()))))
        });
        let (memory, refused) = confined.join().expect("it ends").expect("seccomp");
        assert_eq!(memory, 7 * (32 << 20));
        assert_eq!(refused, [Some(io::ErrorKind::PermissionDenied); 7]);
    }
}
