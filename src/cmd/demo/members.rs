//! The demo's processes: started, watched, and stopped to the last one.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use serde_json::Value;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::Child;
use tokio::sync::mpsc;

use crate::cmd::Failure;
use crate::config::Environment;
use crate::sys::{StopSignal, die_with_parent, signal_group};

/// Events waiting to be looked at; a process that is faster waits.
const EVENT_QUEUE: usize = 1_024;

/// How long a process may take to end in order.
const STOP_GRACE: Duration = Duration::from_secs(10);

/// Which process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct MemberId(usize);

/// What a process did.
#[derive(Debug)]
pub(super) enum MemberEvent {
    /// It wrote a JSON line.
    Said(Value),
    /// It closed its stdout, which is how it ends.
    Ended,
}

#[derive(Debug)]
struct Member {
    name: String,
    child: Child,
    log: PathBuf,
}

/// All processes of a demo. Dropping it kills what is left.
#[derive(Debug)]
pub(super) struct Members {
    members: Vec<Member>,
    /// Processes that belong to the demo, but not to this.
    others: Vec<u32>,
    sender: mpsc::Sender<(MemberId, MemberEvent)>,
    receiver: mpsc::Receiver<(MemberId, MemberEvent)>,
}

impl Members {
    pub(super) fn new() -> Self {
        let (sender, receiver) = mpsc::channel(EVENT_QUEUE);
        Self { members: Vec::new(), others: Vec::new(), sender, receiver }
    }

    /// Starts this program with `arguments`; its log goes to `<folder>/<name>.log`. Call from the main thread: the
    /// process is told to end when the thread that started it does.
    pub(super) fn start(&mut self, name: &str, folder: &Path, arguments: &[String]) -> Result<MemberId, Failure> {
        let program = std::env::current_exe()
            .map_err(|error| Failure::bug(format_args!("this program's own path is unknown: {error}")))?;
        let log = folder.join(format!("{name}.log"));
        let stderr = File::create(&log).map_err(|error| Failure::io("write", &log, &error))?;
        let mut command = Command::new(&program);
        command.args(arguments).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(stderr);
        // A configuration of the user's own must not leak into the demo.
        for variable in Environment::of_process().names() {
            command.env_remove(variable);
        }
        // The demo's wallets are gone with its folder, and so is what is noted about them.
        command.env("L402T_LIGHTNING_STATE_FOLDER", folder.join("state"));
        die_with_parent(&mut command);
        let mut child =
            tokio::process::Command::from(command).spawn().map_err(|error| Failure::io("start", &program, &error))?;
        let id = MemberId(self.members.len());
        if let Some(stdout) = child.stdout.take() {
            let sender = self.sender.clone();
            tokio::spawn(async move {
                let mut lines = BufReader::new(stdout).lines();
                while let Ok(Some(line)) = lines.next_line().await {
                    let Ok(value) = serde_json::from_str(&line) else { continue };
                    if sender.send((id, MemberEvent::Said(value))).await.is_err() {
                        return;
                    }
                }
                let _ = sender.send((id, MemberEvent::Ended)).await;
            });
        }
        self.members.push(Member { name: name.to_owned(), child, log });
        Ok(id)
    }

    pub(super) fn name(&self, id: MemberId) -> &str {
        &self.members[id.0].name
    }

    /// The next thing that any process does.
    pub(super) async fn next(&mut self) -> Option<(MemberId, MemberEvent)> {
        self.receiver.recv().await
    }

    /// Waits for a process that has closed its stdout; an error if it failed, with the end of its log.
    pub(super) async fn ended_well(&mut self, id: MemberId) -> Result<(), Failure> {
        let member = &mut self.members[id.0];
        let status = tokio::time::timeout(STOP_GRACE, member.child.wait()).await;
        match status {
            Ok(Ok(status)) if status.success() => Ok(()),
            Ok(Ok(status)) => Err(self.failed(id, format_args!("ended with {status}"))),
            Ok(Err(error)) => Err(self.failed(id, format_args!("can't be waited for: {error}"))),
            Err(_) => Err(self.failed(id, format_args!("closed its output but goes on running"))),
        }
    }

    /// An error that says what a process did, with the end of its log.
    pub(super) fn failed(&self, id: MemberId, what: std::fmt::Arguments<'_>) -> Failure {
        let member = &self.members[id.0];
        let log = std::fs::read_to_string(&member.log).unwrap_or_default();
        let tail: Vec<&str> = log.lines().rev().take(5).collect();
        let tail: Vec<&str> = tail.into_iter().rev().collect();
        Failure::remote(
            "demo_process_failed",
            format_args!("{} {what}: {}", member.name, tail.join(" / ")),
            "Run `l402t demo --keep` again and read the log files in its folder",
        )
    }

    /// Memory of all processes together in bytes: proportional set sizes, so that a library that several of them have
    /// mapped counts once.
    pub(super) fn memory_bytes(&self) -> u64 {
        let own = self.members.iter().filter_map(|member| member.child.id());
        own.chain(self.others.iter().copied()).map(proportional_set_bytes).sum()
    }

    /// From now on counts the memory of these processes too.
    pub(super) fn count_memory_of(&mut self, others: Vec<u32>) {
        self.others = others;
    }

    /// Ends every process in order: asked first, killed if that takes too long.
    pub(super) async fn stop(&mut self) {
        for member in &self.members {
            signal(&member.child, StopSignal::Terminate);
        }
        let all = async {
            for member in &mut self.members {
                let _ = member.child.wait().await;
            }
        };
        if tokio::time::timeout(STOP_GRACE, all).await.is_err() {
            self.kill();
        }
    }

    /// Asks one process to end, and waits until it has.
    pub(super) async fn stop_one(&mut self, id: MemberId) {
        let member = &mut self.members[id.0];
        signal(&member.child, StopSignal::Terminate);
        if tokio::time::timeout(STOP_GRACE, member.child.wait()).await.is_err() {
            signal(&member.child, StopSignal::Kill);
        }
    }

    fn kill(&self) {
        for member in &self.members {
            signal(&member.child, StopSignal::Kill);
        }
    }
}

impl Drop for Members {
    fn drop(&mut self) {
        self.kill();
    }
}

/// `Child::id` is `None` once the child has been waited for, so the signal can't reach another process.
fn signal(child: &Child, signal: StopSignal) {
    if let Some(pid) = child.id()
        && let Err(error) = signal_group(pid, signal)
    {
        tracing::warn!(%error, pid, "a process of the demo could not be signalled");
    }
}

fn proportional_set_bytes(pid: u32) -> u64 {
    let text = std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap_or_default();
    text.lines()
        .find_map(|line| line.strip_prefix("Pss:"))
        .and_then(|rest| rest.trim().strip_suffix("kB"))
        .and_then(|kib| kib.trim().parse::<u64>().ok())
        .map_or(0, |kib| kib.saturating_mul(1_024))
}
