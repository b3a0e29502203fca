//! Starts bubblewrap and stays with it to the end: feeds it, reads it, holds it to its limits, says how it ended. One
//! thread, which must live as long as the box: the kernel ends the box when that thread ends.

use std::io::{self, Read, Write as _};
use std::os::fd::{AsFd as _, AsRawFd as _, BorrowedFd, OwnedFd};
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::process::{Child, Command, Stdio};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{MemfdFlags, OFlags};
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::{Pid, PidfdFlags, Signal, WaitId, WaitIdOptions, pidfd_open, pidfd_send_signal, waitid};

use super::cgroup::{Group, OWN_PROCESSES};
use super::outcome::{BoxOutcome, Ending, STDERR_BYTES, Tier, Usage};
use super::recipe::{self, Handed, Mounts};
use super::spec::{BoxSpec, Limits};
use super::{BoxError, processes};
use crate::clock::Stopwatch;
use crate::sys::{BoxChild, Resource, StopSignal, die_with_parent_by, start_as_box};

/// Longest time between two looks at what a box uses: how far it can pass a limit before it is stopped.
const GROUP_LOOK_MS: u64 = 5;
const TREE_LOOK_MS: u64 = 25;

/// A box that isn't ready by then isn't going to be; nor is one going to end that was killed so long ago.
const SETUP_LIMIT_MS: u64 = 30_000;
const DEATH_LIMIT_MS: u64 = 30_000;

/// Bytes read at one time.
const CHUNK: usize = 64 << 10;

/// bubblewrap's words about itself, at most.
const STATUS_BYTES: usize = 64 << 10;

/// Everything about one run.
#[derive(Debug)]
pub(super) struct Launch<'a> {
    pub(super) program: &'a str,
    pub(super) spec: &'a BoxSpec,
    pub(super) mounts: &'a Mounts,
    pub(super) filters: &'a [Vec<u8>],
    /// `None`: this process's own.
    pub(super) uid: Option<u32>,
    pub(super) group: Option<&'a Group>,
    pub(super) tier: Tier,
}

/// Runs it.
pub(super) fn run(launch: &Launch<'_>) -> Result<BoxOutcome, BoxError> {
    let mut watch = Watch::start(launch)?;
    let watched = watch.stay();
    if watched.is_err() {
        watch.kill();
        // Whatever went wrong is told; the thread's end takes the box along if this doesn't.
        let _ = watch.child.wait();
    }
    watched.and_then(|()| watch.outcome())
}

/// A box under way.
struct Watch<'a> {
    launch: &'a Launch<'a>,
    child: Child,
    /// bubblewrap itself.
    monitor: OwnedFd,
    /// The first process in the box: with it ends everything there. The command waits until it is known.
    init: Option<Init>,
    stdin: Option<(std::process::ChildStdin, usize)>,
    stdout: Stream<std::process::ChildStdout>,
    stderr: Stream<std::process::ChildStderr>,
    status: Stream<io::PipeReader>,
    /// This end of a pipe from which bubblewrap reads a byte, and which it closes, when the box is ready.
    ready: Option<OwnedFd>,
    since_start: Stopwatch,
    since_ready: Option<Stopwatch>,
    wall_ms: u64,
    since_look: Stopwatch,
    peak_memory_bytes: u64,
    cpu_ms: u64,
    /// Why it was stopped, and when.
    stopped: Option<(Ending, Stopwatch)>,
    /// Since bubblewrap has ended.
    ended: Option<Stopwatch>,
}

/// The first process in a box, as it is known outside.
struct Init {
    pid: u32,
    held: OwnedFd,
    gone: bool,
}

/// One of its pipes, and what has come so far.
struct Stream<R> {
    pipe: Option<R>,
    bytes: Vec<u8>,
    most: usize,
    /// More came than is kept.
    over: bool,
}

impl<'a> Watch<'a> {
    fn start(launch: &'a Launch<'a>) -> Result<Self, BoxError> {
        let failed = |error: io::Error| BoxError::NotStarted { message: error.to_string() };
        let files = launch.filters.iter().map(|filter| memory_file(filter)).collect::<io::Result<Vec<_>>>();
        let files = files.map_err(failed)?;
        let (status, status_out) = io::pipe().map_err(failed)?;
        let (ready_in, ready) = pipe_with(PipeFlags::CLOEXEC).map_err(|error| failed(error.into()))?;
        let handed = Handed {
            filters: files.iter().map(|file| file.as_raw_fd()).collect(),
            status: status_out.as_raw_fd(),
            ready: ready_in.as_raw_fd(),
        };
        let arguments = memory_file(&recipe::arguments(launch.spec, launch.mounts, &handed)).map_err(failed)?;

        let mut command = Command::new(launch.program);
        command.arg("--args").arg(arguments.as_raw_fd().to_string()).arg("--").args(&launch.spec.argv);
        command.env_clear().current_dir("/");
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        if let Some(uid) = launch.uid {
            // The standard library gives up every other group, too.
            command.uid(uid).gid(uid);
        }
        let join = launch.group.map_or(Ok(Vec::new()), Group::doors).map_err(BoxError::os("open a control group"))?;
        let keep = [handed.filters, vec![handed.status, handed.ready, arguments.as_raw_fd()]].concat();
        // bubblewrap asks for this itself, but only once it runs.
        die_with_parent_by(&mut command, StopSignal::Kill);
        start_as_box(&mut command, BoxChild { keep, join, limits: resources(launch) });
        let mut child = command.spawn().map_err(failed)?;
        let monitor = match process(child.id()) {
            Ok(monitor) => monitor,
            Err(error) => {
                // Not waited for yet, so this is still the child.
                let _ = child.kill().and_then(|()| child.wait());
                return Err(failed(error));
            }
        };
        let stdin = child.stdin.take().map(|pipe| (pipe, 0));
        let output_bytes = usize::try_from(launch.spec.limits.output_bytes).unwrap_or(usize::MAX);
        let stdout = Stream::new(child.stdout.take(), output_bytes);
        let stderr = Stream::new(child.stderr.take(), STDERR_BYTES);
        let watch = Self {
            launch,
            child,
            monitor,
            init: None,
            stdin,
            stdout,
            stderr,
            status: Stream::new(Some(status), STATUS_BYTES),
            ready: Some(ready),
            since_start: Stopwatch::start(),
            since_ready: None,
            wall_ms: 0,
            since_look: Stopwatch::start(),
            peak_memory_bytes: 0,
            cpu_ms: 0,
            stopped: None,
            ended: None,
        };
        if let Some((pipe, _)) = &watch.stdin {
            rustix::fs::fcntl_setfl(pipe, OFlags::NONBLOCK).map_err(|error| failed(error.into()))?;
        }
        Ok(watch)
    }

    fn stay(&mut self) -> Result<(), BoxError> {
        while !self.is_over() {
            self.turn().map_err(BoxError::os("watch a box"))?;
            self.hold()?;
        }
        if let Some(group) = self.launch.group {
            self.cpu_ms = group.cpu_ms().map_err(BoxError::os("read a control group"))?;
        }
        Ok(())
    }

    fn is_over(&self) -> bool {
        let gone = self.init.as_ref().is_none_or(|init| init.gone);
        self.ended.is_some()
            && gone
            && self.status.pipe.is_none()
            && self.stdout.pipe.is_none()
            && self.stderr.pipe.is_none()
    }

    /// Waits for something to happen, at most until the next look.
    fn turn(&mut self) -> io::Result<()> {
        let look_ms = match self.launch.tier {
            Tier::Rlimits => TREE_LOOK_MS,
            Tier::CgroupV1 | Tier::CgroupV2 => GROUP_LOOK_MS,
        };
        let timeout = Timespec { tv_sec: 0, tv_nsec: i64::try_from(look_ms * 1_000_000).unwrap_or(i64::MAX) };
        let mut fds: Vec<PollFd<'_>> = Vec::new();
        let at_monitor = wait_for(&mut fds, self.ended.is_none().then(|| self.monitor.as_fd()), PollFlags::IN);
        let at_init = wait_for(
            &mut fds,
            self.init.as_ref().filter(|init| !init.gone).map(|init| init.held.as_fd()),
            PollFlags::IN,
        );
        let at_ready = wait_for(&mut fds, self.ready.as_ref().map(|fd| fd.as_fd()), PollFlags::empty());
        let at_stdin = wait_for(&mut fds, self.stdin.as_ref().map(|(pipe, _)| pipe.as_fd()), PollFlags::OUT);
        let at_stdout = wait_for(&mut fds, self.stdout.pipe.as_ref().map(|pipe| pipe.as_fd()), PollFlags::IN);
        let at_stderr = wait_for(&mut fds, self.stderr.pipe.as_ref().map(|pipe| pipe.as_fd()), PollFlags::IN);
        let at_status = wait_for(&mut fds, self.status.pipe.as_ref().map(|pipe| pipe.as_fd()), PollFlags::IN);
        match poll(&mut fds, Some(&timeout)) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        let happened = |at: Option<usize>| at.is_some_and(|at| !fds[at].revents().is_empty());
        let [monitor, init, ready, stdin, stdout, stderr, status] =
            [at_monitor, at_init, at_ready, at_stdin, at_stdout, at_stderr, at_status].map(happened);
        drop(fds);

        if ready && let Some(ready) = self.ready.take() {
            // Closed with the byte still in it, it was closed by bubblewrap's end.
            let taken = self.init.is_some() && rustix::io::ioctl_fionread(&ready)? == 0;
            self.since_ready = taken.then(Stopwatch::start);
        }
        if status {
            self.status.read()?;
            self.meet_init();
        }
        if stdout {
            self.stdout.read()?;
        }
        if stderr {
            self.stderr.read()?;
        }
        if stdin {
            self.feed();
        }
        if init && let Some(init) = &mut self.init {
            init.gone = true;
        }
        if monitor {
            self.ended = Some(Stopwatch::start());
            self.wall_ms = self.since_ready.map_or(0, |since| since.elapsed_ms());
            // What the command left behind.
            self.kill();
        }
        Ok(())
    }

    fn feed(&mut self) {
        let Some((pipe, written)) = &mut self.stdin else { return };
        match pipe.write(&self.launch.spec.stdin[*written..]) {
            Ok(bytes) => *written += bytes,
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => return,
            // It doesn't want to read all of it.
            Err(_) => *written = self.launch.spec.stdin.len(),
        }
        if *written == self.launch.spec.stdin.len() {
            self.stdin = None;
        }
    }

    /// Takes hold of the first process in the box once bubblewrap has told which it is, and lets the command start.
    fn meet_init(&mut self) {
        let (None, Some(ready)) = (&self.init, &self.ready) else { return };
        let Some(pid) = self.told("child-pid").and_then(|pid| u32::try_from(pid).ok()) else { return };
        // Its number belongs to it only as long as it is bubblewrap's child: held first, looked at then.
        if let Ok(held) = process(pid)
            && processes::parent(pid) == Some(self.child.id())
        {
            self.init = Some(Init { pid, held, gone: false });
            // A pipe takes one byte at once. If bubblewrap has gone meanwhile, that is seen elsewhere.
            let _ = rustix::io::write(ready, b"!");
        }
    }

    /// A number in bubblewrap's status, one JSON object a line.
    fn told(&self, name: &str) -> Option<i64> {
        let complete = self.status.bytes.split_inclusive(|byte| *byte == b'\n').filter(|line| line.ends_with(b"\n"));
        let mut objects = complete.filter_map(|line| serde_json::from_slice::<serde_json::Value>(line).ok());
        objects.find_map(|object| object.get(name)?.as_i64())
    }

    /// Stops what has passed a limit.
    fn hold(&mut self) -> Result<(), BoxError> {
        let dying = self.stopped.as_ref().map(|(_, since)| since).or(self.ended.as_ref());
        if let Some(since) = dying {
            if since.elapsed_ms() > DEATH_LIMIT_MS {
                return Err(BoxError::NotStarted { message: "a box that was killed did not end".to_owned() });
            }
            return Ok(());
        }
        if self.stdout.over {
            self.stop(Ending::OutputLimit);
            return Ok(());
        }
        let Some(since_ready) = &self.since_ready else {
            // How long this takes is this machine's doing.
            if self.since_start.elapsed_ms() > SETUP_LIMIT_MS {
                return Err(BoxError::NotStarted { message: format!("not ready after {SETUP_LIMIT_MS} ms") });
            }
            return Ok(());
        };
        if since_ready.elapsed_ms() > self.launch.spec.limits.wall_ms {
            self.stop(Ending::TimeLimit);
        } else if self.since_look.elapsed_ms() >= GROUP_LOOK_MS {
            self.since_look = Stopwatch::start();
            self.look()?;
        }
        Ok(())
    }

    fn look(&mut self) -> Result<(), BoxError> {
        let Limits { cpu_ms, memory_bytes, .. } = self.launch.spec.limits;
        let out_of_memory = if let Some(group) = self.launch.group {
            self.cpu_ms = group.cpu_ms().map_err(BoxError::os("read a control group"))?;
            group.is_out_of_memory().map_err(BoxError::os("read a control group"))?
        } else if let Some(init) = &self.init {
            let usage = processes::usage(init.pid);
            self.cpu_ms = self.cpu_ms.max(usage.cpu_ms);
            self.peak_memory_bytes = self.peak_memory_bytes.max(usage.memory_bytes);
            usage.memory_bytes > memory_bytes
        } else {
            false
        };
        if out_of_memory {
            self.stop(Ending::MemoryLimit);
        } else if self.cpu_ms > cpu_ms {
            self.stop(Ending::TimeLimit);
        }
        Ok(())
    }

    fn stop(&mut self, why: Ending) {
        self.kill();
        // It may write no more than it has.
        self.stdout.pipe = None;
        self.stopped = Some((why, Stopwatch::start()));
    }

    /// Ends the box with everything in it. bubblewrap then ends once all of that is gone.
    fn kill(&mut self) {
        // Both may have ended already, which is all that can be wrong.
        let _ = match &self.init {
            Some(init) => pidfd_send_signal(&init.held, Signal::KILL),
            None => pidfd_send_signal(&self.monitor, Signal::KILL),
        };
    }

    fn outcome(mut self) -> Result<BoxOutcome, BoxError> {
        let status = self.child.wait().map_err(BoxError::os("wait for bubblewrap"))?;
        if let Some(init) = &self.init {
            // bubblewrap doesn't wait for it. Whoever inherits it does; where that is this process (the first one in a
            // container), nobody else would. Otherwise there is nothing to wait for.
            let _ = waitid(WaitId::PidFd(init.held.as_fd()), WaitIdOptions::EXITED | WaitIdOptions::NOHANG);
        }
        let Limits { cpu_ms, wall_ms, .. } = self.launch.spec.limits;
        let group = self.launch.group;
        let out_of_memory =
            group.map_or(Ok(false), Group::is_out_of_memory).map_err(BoxError::os("read a control group"))?;
        let told = self.told("exit-code");
        let stderr = || String::from_utf8_lossy(&self.stderr.bytes).trim().to_owned();
        let ending = if let Some((why, _)) = self.stopped {
            why
        } else if out_of_memory {
            Ending::MemoryLimit
        } else if self.since_ready.is_none() && told.is_none() {
            return Err(BoxError::NotStarted { message: format!("{} ({status})", stderr()) });
        } else if self.stdout.over {
            Ending::OutputLimit
        } else if self.cpu_ms > cpu_ms || self.wall_ms > wall_ms {
            Ending::TimeLimit
        } else if let Some(code) = told {
            // bubblewrap tells 128 + the signal, as shells do.
            let code =
                u8::try_from(code).map_err(|_| BoxError::Lost { status: status.to_string(), message: stderr() })?;
            if code > 128 { Ending::Signalled { signal: code - 128 } } else { Ending::Exited { code } }
        } else if status.signal().is_none() && self.stderr.bytes.starts_with(b"bwrap: execvp ") {
            // Nothing else has run, so nothing else has written.
            Ending::NotExecuted
        } else {
            return Err(BoxError::Lost { status: status.to_string(), message: stderr() });
        };
        let usage = Usage {
            cpu_ms: self.cpu_ms,
            wall_ms: self.wall_ms,
            peak_memory_bytes: match group {
                Some(group) => group.peak_memory_bytes(),
                None => (self.peak_memory_bytes > 0).then_some(self.peak_memory_bytes),
            },
        };
        Ok(BoxOutcome { ending, stdout: self.stdout.bytes, stderr: self.stderr.bytes, usage, tier: self.launch.tier })
    }
}

/// Adds a file to wait for, if there is one; returns where it stands.
fn wait_for<'a>(fds: &mut Vec<PollFd<'a>>, fd: Option<BorrowedFd<'a>>, flags: PollFlags) -> Option<usize> {
    fds.push(PollFd::from_borrowed_fd(fd?, flags));
    Some(fds.len() - 1)
}

impl<R: Read> Stream<R> {
    fn new(pipe: Option<R>, most: usize) -> Self {
        Self { pipe, bytes: Vec::new(), most, over: false }
    }

    /// Reads what there is, which is something: poll said so.
    fn read(&mut self) -> io::Result<()> {
        let Some(pipe) = &mut self.pipe else { return Ok(()) };
        let mut chunk = [0; CHUNK];
        match pipe.read(&mut chunk) {
            Ok(0) => self.pipe = None,
            Ok(count) => {
                let kept = count.min(self.most - self.bytes.len());
                self.over |= kept < count;
                self.bytes.extend_from_slice(&chunk[..kept]);
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
        Ok(())
    }
}

/// A process that is known to exist, held so that its number can't come to mean another.
fn process(pid: u32) -> io::Result<OwnedFd> {
    let pid = i32::try_from(pid).ok().and_then(Pid::from_raw).ok_or(io::ErrorKind::InvalidInput)?;
    Ok(pidfd_open(pid, PidfdFlags::empty())?)
}

/// A file in memory, at its beginning.
fn memory_file(bytes: &[u8]) -> io::Result<OwnedFd> {
    use std::io::{Seek as _, SeekFrom};
    let mut file = std::fs::File::from(rustix::fs::memfd_create("box", MemfdFlags::CLOEXEC)?);
    file.write_all(bytes)?;
    file.seek(SeekFrom::Start(0))?;
    Ok(file.into())
}

/// What the kernel holds each process to, in any tier.
fn resources(launch: &Launch<'_>) -> Vec<(Resource, u64)> {
    let limits = &launch.spec.limits;
    // The kernel counts by user: this process's own, or what earlier boxes left to be waited for by the machine's init.
    let uid = launch.uid.unwrap_or_else(|| rustix::process::getuid().as_raw());
    let others = processes::tasks_of(uid);
    let mut resources = vec![
        (Resource::Core, 0),
        (Resource::Cpu, limits.cpu_ms / 1_000 + 2),
        (Resource::FileSize, limits.scratch_bytes.max(limits.tmp_bytes)),
        (Resource::LockedMemory, 0),
        (Resource::MessageQueues, 0),
        (Resource::OpenFiles, 256),
        (Resource::Processes, others + u64::from(limits.processes + OWN_PROCESSES)),
        (Resource::Stack, 8 << 20),
    ];
    match launch.tier {
        Tier::Rlimits => resources.push((Resource::AddressSpace, limits.memory_bytes)),
        Tier::CgroupV1 | Tier::CgroupV2 => {}
    }
    resources
}
