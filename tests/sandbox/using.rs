//! Attackers who use more than they may, in every tier that this machine has.

use std::fs;
use std::process::{Command, Stdio};

use l402t::bounty::sandbox::{BoxOutcome, BoxSpec, Ending, Limits, Tier};

use super::{python, run, run_in_each_tier, shell, text};

fn endings(spec: &BoxSpec) -> Vec<(Tier, Ending)> {
    run_in_each_tier(spec).into_iter().map(|outcome| (outcome.tier, outcome.ending)).collect()
}

fn all_end_by(spec: &BoxSpec, expected: Ending) {
    for (tier, ending) in endings(spec) {
        assert_eq!(ending, expected, "{tier}");
    }
}

/// Command lines of this machine's processes in which a word stands.
fn processes_with(word: &str) -> Vec<String> {
    let lines =
        fs::read_dir("/proc").expect("there").flatten().filter_map(|entry| fs::read(entry.path().join("cmdline")).ok());
    lines.map(|line| String::from_utf8_lossy(&line).into_owned()).filter(|line| line.contains(word)).collect()
}

#[test]
fn a_daemon_that_left_its_parent_is_gone_with_the_box() {
    let marker = format!("l402t-orphan-{}", std::process::id());
    let daemon = format!(
        "import os, sys, time\n\
         if os.fork() == 0:\n\
         \x20   os.setsid()\n\
         \x20   if os.fork() == 0:\n\
         \x20       for fd in (0, 1, 2): os.close(fd)\n\
         \x20       os.execvp('python3', ['python3', '-c', 'import time; time.sleep(60)', '{marker}'])\n\
         \x20   os._exit(0)\n\
         os.wait()\n\
         while not any(b'{marker}' in open(f'/proc/{{pid}}/cmdline', 'rb').read() for pid in os.listdir('/proc') if pid.isdigit() and int(pid) not in (1, os.getpid())): pass\n\
         print('left behind')\n"
    );
    for outcome in run_in_each_tier(&python(&daemon)) {
        assert_eq!((outcome.ending, text(&outcome).as_str()), (Ending::Exited { code: 0 }, "left behind\n"));
        assert_eq!(processes_with(&marker), [""; 0]);
    }
}

#[test]
fn a_fork_bomb_stays_in_its_box() {
    // Counts how far it gets (the kernel may refuse one now and then before the limit), then multiplies to its end.
    let bomb = "import os, signal\n\
        count = 0\n\
        for _ in range(300):\n\
        \x20   try:\n\
        \x20       if os.fork() == 0: signal.pause()\n\
        \x20       count += 1\n\
        \x20   except BlockingIOError: pass\n\
        print(count, flush=True)\n\
        while True:\n\
        \x20   try: os.fork()\n\
        \x20   except BlockingIOError: pass\n";
    let limits = Limits { processes: 20, cpu_ms: 1_500, ..Limits::default() };
    for outcome in run_in_each_tier(&python(bomb).limits(limits)) {
        assert_eq!(outcome.ending, Ending::TimeLimit, "{}", outcome.tier);
        let count: u32 = text(&outcome).trim().parse().expect("a number");
        // The kernel may count bubblewrap's own.
        assert!((17..=23).contains(&count), "{count} in {}", outcome.tier);
    }
}

#[test]
fn memory_is_counted_over_all_processes() {
    let eight = "import os, signal\n\
        for _ in range(8):\n\
        \x20   if os.fork() == 0:\n\
        \x20       block = bytearray(b'x') * (100 << 20)\n\
        \x20       signal.pause()\n\
        for _ in range(8): os.wait()\n";
    let limits = Limits { memory_bytes: 300 << 20, ..Limits::default() };
    all_end_by(&python(eight).limits(limits), Ending::MemoryLimit);
}

#[test]
fn memory_without_a_process_is_none_too() {
    let memfd = "import os\n\
        fds = []\n\
        for _ in range(8):\n\
        \x20   fds.append(os.memfd_create('hidden'))\n\
        \x20   for _ in range(60): os.write(fds[-1], bytes(1 << 20))\n\
        print('kept')\n";
    let limits = Limits { memory_bytes: 128 << 20, ..Limits::default() };
    for outcome in run_in_each_tier(&python(memfd).limits(limits)) {
        assert_eq!(text(&outcome), "");
        match outcome.tier {
            Tier::CgroupV2 | Tier::CgroupV1 => assert_eq!(outcome.ending, Ending::MemoryLimit),
            // Nothing could count it, so there is none.
            Tier::Rlimits => {
                assert_eq!(outcome.ending, Ending::Exited { code: 1 });
                assert!(String::from_utf8_lossy(&outcome.stderr).contains("PermissionError"), "{outcome:?}");
            }
        }
    }
}

#[test]
fn what_is_in_its_folders_is_memory() {
    let limits = Limits { memory_bytes: 48 << 20, scratch_bytes: 40 << 20, tmp_bytes: 40 << 20, ..Limits::default() };
    let fill = shell("head -c 39m /dev/zero >/tmp/a; head -c 39m /dev/zero >/scratch/b; echo kept").limits(limits);
    for outcome in run_in_each_tier(&fill) {
        match outcome.tier {
            Tier::CgroupV2 | Tier::CgroupV1 => assert_eq!(outcome.ending, Ending::MemoryLimit),
            // Here the sizes of the folders alone bound it.
            Tier::Rlimits => assert_eq!(outcome.ending, Ending::Exited { code: 0 }),
        }
    }
}

#[test]
fn a_flood_on_stdout_is_cut() {
    let flood = BoxSpec::new(["yes"]).limits(Limits { output_bytes: 1_000, ..Limits::default() });
    for outcome in run_in_each_tier(&flood) {
        assert_eq!((outcome.ending, outcome.stdout.len()), (Ending::OutputLimit, 1_000));
    }
    let exactly = shell("head -c 1000 /dev/zero").limits(Limits { output_bytes: 1_000, ..Limits::default() });
    let more = shell("head -c 1001 /dev/zero").limits(Limits { output_bytes: 1_000, ..Limits::default() });
    all_end_by(&exactly, Ending::Exited { code: 0 });
    all_end_by(&more, Ending::OutputLimit);
}

#[test]
fn a_flood_on_stderr_is_forgotten() {
    let outcome: Vec<BoxOutcome> = run_in_each_tier(&shell("head -c 20m /dev/zero >&2; echo done"));
    for outcome in outcome {
        assert_eq!((text(&outcome).as_str(), outcome.stderr.len()), ("done\n", l402t::bounty::sandbox::STDERR_BYTES));
    }
}

#[test]
fn spinning_and_sleeping_through_signals_ends_in_time() {
    let deaf = "import signal\nfor s in range(1, 65):\n  try: signal.signal(s, signal.SIG_IGN)\n  except (OSError, ValueError): pass\n";
    let spin = format!("{deaf}while True: pass");
    all_end_by(&python(&spin).limits(Limits { cpu_ms: 300, ..Limits::default() }), Ending::TimeLimit);
    let sleep = format!("{deaf}import time\nwhile True: time.sleep(100)");
    all_end_by(&python(&sleep).limits(Limits { wall_ms: 500, ..Limits::default() }), Ending::TimeLimit);
}

#[test]
fn time_on_processors_is_counted_over_all_processes() {
    // Each of them is far from the limit.
    let relay = "import os, time\n\
        while True:\n\
        \x20   if os.fork() == 0:\n\
        \x20       end = time.process_time() + 0.05\n\
        \x20       while time.process_time() < end: pass\n\
        \x20       os._exit(0)\n\
        \x20   os.wait()\n";
    for outcome in run_in_each_tier(&python(relay).limits(Limits { cpu_ms: 600, ..Limits::default() })) {
        assert_eq!(outcome.ending, Ending::TimeLimit, "{}", outcome.tier);
        // The limit on the wall is far more.
        assert!((601..6_000).contains(&outcome.usage.cpu_ms), "{:?}", outcome.usage);
    }
}

/// A part of the next test, in a process of its own: a box that would go on for a minute.
#[test]
#[ignore = "it is killed by the test that starts it"]
fn a_box_that_is_left_alone() {
    run(&BoxSpec::new(["sleep", "60.0402"]));
}

#[test]
fn a_box_ends_with_the_process_that_started_it_and_the_next_one_starts() {
    let own = std::env::current_exe().expect("known");
    let mut command = Command::new(own);
    command.args(["--exact", "using::a_box_that_is_left_alone", "--ignored"]).stdout(Stdio::null());
    let mut child = command.spawn().expect("started");
    while !processes_with("60.0402").iter().any(|line| line.starts_with("sleep")) {
        assert!(child.try_wait().expect("its state").is_none(), "it ended by itself");
    }
    child.kill().expect("killed");
    child.wait().expect("waited for");
    // The kernel ends the box: this waits for it, or for ever.
    while !processes_with("60.0402").is_empty() {}
    // Its id, folder and control group are taken over.
    all_end_by(&shell("true"), Ending::Exited { code: 0 });
}
