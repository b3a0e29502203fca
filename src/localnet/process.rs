//! One child process: it ends with this process, at the latest.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Sender, SyncSender, channel, sync_channel};
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::Duration;

use super::LocalnetError;
use crate::sys::{StopSignal, die_with_parent_by, signal_group};

/// How often a process that was asked to end is looked at.
const POLL: Duration = Duration::from_millis(20);

/// How much of a log is shown when its program ended.
const TAIL_LINES: usize = 4;

/// A running program. Dropping it kills the program at once.
#[derive(Debug)]
pub(super) struct Process {
    program: &'static str,
    child: Child,
    log: PathBuf,
}

impl Process {
    /// Starts `command`; its output is appended to `log`. `last_signal` is what it gets if this process just dies.
    pub(super) fn start(
        program: &'static str,
        mut command: Command,
        log: &Path,
        last_signal: StopSignal,
    ) -> Result<Self, LocalnetError> {
        let open = || File::options().create(true).append(true).open(log);
        let output = open().map_err(LocalnetError::disk("write", log))?;
        let errors = output.try_clone().map_err(LocalnetError::disk("write", log))?;
        command.stdin(Stdio::null()).stdout(output).stderr(errors);
        die_with_parent_by(&mut command, last_signal);
        let path = PathBuf::from(command.get_program());
        let child = spawn(command).map_err(|source| LocalnetError::Start { program: path, source })?;
        Ok(Self { program, child, log: log.to_owned() })
    }

    pub(super) fn pid(&self) -> u32 {
        self.child.id()
    }

    pub(super) fn log(&self) -> &Path {
        &self.log
    }

    /// Has the program ended?
    pub(super) fn has_ended(&mut self) -> bool {
        !matches!(self.child.try_wait(), Ok(None))
    }

    /// An error if the program has ended.
    pub(super) fn check(&mut self) -> Result<(), LocalnetError> {
        if !self.has_ended() {
            return Ok(());
        }
        let text = std::fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        let tail = lines[lines.len().saturating_sub(TAIL_LINES)..].join(" / ");
        Err(LocalnetError::Ended { program: self.program, log: self.log.clone(), tail })
    }

    /// Asks the program to end, and kills it if it hasn't after `grace`. Blocks until it is gone.
    pub(super) fn stop(&mut self, grace: Duration) {
        self.signal(StopSignal::Terminate);
        for _ in 0..grace.as_millis() / POLL.as_millis() {
            if self.has_ended() {
                return;
            }
            std::thread::sleep(POLL);
        }
        tracing::warn!(program = self.program, "did not end when asked to; killing it");
        self.kill();
    }

    /// Kills the program (SIGKILL) and waits until it is gone.
    pub(super) fn kill(&mut self) {
        self.signal(StopSignal::Kill);
        self.child.wait().ok();
    }

    fn signal(&mut self, signal: StopSignal) {
        // Asked first: a child that has been waited for has given its id back.
        if let Ok(None) = self.child.try_wait()
            && let Err(error) = signal_group(self.child.id(), signal)
        {
            tracing::warn!(%error, program = self.program, "could not be signalled");
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}

type Order = (Command, SyncSender<std::io::Result<Child>>);

/// Starts a child from a thread that lives as long as this process: the kernel's promise to end the child is bound to the
/// thread that started it, and a thread of a pool may end long before.
fn spawn(command: Command) -> std::io::Result<Child> {
    static STARTER: OnceLock<Mutex<Option<Sender<Order>>>> = OnceLock::new();
    let starter = STARTER.get_or_init(|| Mutex::new(start_starter().ok()));
    let gone = || std::io::Error::other("the thread that starts processes is gone");
    let (answer, answered) = sync_channel(1);
    {
        let starter = starter.lock().unwrap_or_else(PoisonError::into_inner);
        starter.as_ref().ok_or_else(gone)?.send((command, answer)).map_err(|_| gone())?;
    }
    answered.recv().map_err(|_| gone())?
}

fn start_starter() -> std::io::Result<Sender<Order>> {
    let (sender, orders) = channel::<Order>();
    std::thread::Builder::new().name("starter".into()).spawn(move || {
        for (mut command, answer) in orders {
            // Nobody waits for an answer to a caller that panicked; its child dies with the handle.
            answer.send(command.spawn()).ok();
        }
    })?;
    Ok(sender)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sleep(log: &Path) -> Process {
        let mut command = Command::new("sleep");
        command.arg("60");
        Process::start("sleep", command, log, StopSignal::Kill).expect("started")
    }

    fn is_running(pid: u32) -> bool {
        Path::new(&format!("/proc/{pid}")).exists()
    }

    #[test]
    fn a_process_outlives_the_thread_that_asked_for_it_and_not_its_handle() {
        let folder = tempfile::tempdir().expect("a folder");
        let log = folder.path().join("log");
        let mut process = std::thread::spawn(move || sleep(&log)).join().expect("no panic");
        std::thread::sleep(Duration::from_millis(50));
        process.check().expect("still running");
        let pid = process.pid();
        drop(process);
        assert!(!is_running(pid));
    }

    #[test]
    fn a_program_that_ended_is_named_with_the_end_of_its_log() {
        let folder = tempfile::tempdir().expect("a folder");
        let mut command = Command::new("sh");
        command.args(["-c", "echo no such luck"]);
        let mut process = Process::start("sh", command, &folder.path().join("log"), StopSignal::Kill).expect("started");
        process.child.wait().expect("ended");
        let error = process.check().expect_err("it has ended").to_string();
        assert!(error.contains("no such luck"), "{error}");
    }
}
