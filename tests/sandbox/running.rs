//! Honest programs: what goes in, what comes out, and whose fault it is when they don't run.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink};

use l402t::bounty::sandbox::{BoxError, BoxSpec, Ending, Limits, SandboxSettings, Tier};

use super::{answer, is_root, python, run, run_in_each_tier, sandbox, shell, text};

#[test]
fn a_command_reads_stdin_and_answers_on_stdout() {
    for outcome in run_in_each_tier(&shell("tr a-z A-Z; echo aside >&2; exit 3").stdin("hello")) {
        assert_eq!(outcome.ending, Ending::Exited { code: 3 }, "{outcome:?}");
        assert_eq!((text(&outcome).as_str(), outcome.stderr.as_slice()), ("HELLO", "aside\n".as_bytes()));
        if outcome.tier != Tier::Rlimits {
            assert!(outcome.usage.peak_memory_bytes.expect("counted") > 4_096);
        }
    }
    assert_eq!(run(&shell("true")).tier, sandbox().tier());
}

#[test]
fn megabytes_pass_through_in_both_directions() {
    let bytes = vec![b'x'; 3 << 20];
    let limits = Limits { output_bytes: 3 << 20, ..Limits::default() };
    let outcome = run(&BoxSpec::new(["cat"]).stdin(bytes.clone()).limits(limits));
    assert_eq!(outcome.ending, Ending::Exited { code: 0 });
    assert!(outcome.stdout == bytes);
}

#[test]
fn a_command_that_does_not_want_its_input_ends_well() {
    assert_eq!(answer(&shell("exec <&-; echo done").stdin(vec![0; 1 << 20])), "done\n");
}

#[test]
fn the_environment_is_the_same_on_every_machine() {
    let spec = shell("env | sort; pwd; hostname").variable("SEED", "7").variable("EMPTY", "");
    let expected = "EMPTY=\nHOME=/scratch\nLANG=C.UTF-8\nPATH=/usr/bin:/usr/local/bin\nPWD=/scratch\nPYTHONHASHSEED=0\nSEED=7\nTZ=UTC\n/scratch\nbox\n";
    assert_eq!(answer(&spec), expected);
}

#[test]
fn a_compiler_works_in_a_box() {
    let source = "#include <stdio.h>\nint main(void) { puts(\"compiled\"); }\n";
    assert_eq!(answer(&shell("gcc -xc -o it - && ./it").stdin(source)), "compiled\n");
}

#[test]
fn what_a_box_may_read_needs_to_be_readable_by_this_process_only() {
    let folder = tempfile::tempdir().expect("a folder");
    let (data, tool) = (folder.path().join("data"), folder.path().join("data/tool"));
    fs::create_dir(&data).expect("made");
    fs::write(data.join("secret"), "the labels").expect("written");
    fs::write(&tool, "#!/bin/sh\necho ran\n").expect("written");
    fs::set_permissions(data.join("secret"), fs::Permissions::from_mode(0o600)).expect("set");
    fs::set_permissions(&tool, fs::Permissions::from_mode(0o700)).expect("set");
    let spec = shell("cat /in/secret /scratch/one; /in/tool; echo x 2>&- >/in/secret || echo read-only");
    let spec = spec.reading(&data, "/in").reading(data.join("secret"), "/scratch/one");
    assert_eq!(answer(&spec), "the labelsthe labelsran\nread-only\n");
}

#[test]
fn a_link_is_not_followed_out_of_what_a_box_may_read() {
    let folder = tempfile::tempdir().expect("a folder");
    symlink("/etc/shadow", folder.path().join("link")).expect("linked");
    let spec = shell("cat /in/link").reading(folder.path(), "/in");
    match sandbox().run(&spec) {
        // Root's boxes read copies.
        Err(BoxError::Mount { path, .. }) => assert!(path.ends_with("link")),
        Ok(outcome) if !is_root() => assert_ne!(outcome.ending, Ending::Exited { code: 0 }),
        other => panic!("{other:?}"),
    }
}

#[test]
fn what_is_not_the_commands_fault_is_never_an_ending() {
    let missing = shell("true").reading("/nonexistent/labels", "/in");
    assert!(matches!(sandbox().run(&missing), Err(BoxError::Mount { .. })));
    let wrong = shell("true").reading("/usr", "/usr/../proc");
    assert!(matches!(sandbox().run(&wrong), Err(BoxError::Spec { .. })));
    // bubblewrap can't put a folder into a file.
    let folder = tempfile::tempdir().expect("a folder");
    fs::write(folder.path().join("file"), "").expect("written");
    let impossible = shell("true").reading(folder.path().join("file"), "/in").reading(folder.path(), "/in/deeper");
    assert!(matches!(sandbox().run(&impossible), Err(BoxError::NotStarted { .. })), "{:?}", sandbox().run(&impossible));
}

#[test]
fn a_program_that_is_not_there_is_told_from_one_that_fails() {
    assert_eq!(run(&BoxSpec::new(["/scratch/not-built"])).ending, Ending::NotExecuted);
    assert_eq!(run(&shell("exit 127")).ending, Ending::Exited { code: 127 });
    assert_eq!(run(&shell("kill -SEGV $$")).ending, Ending::Signalled { signal: 11 });
    // The words alone prove nothing.
    let liar = shell("echo 'bwrap: execvp nothing: no' >&2; exit 1");
    assert_eq!(run(&liar).ending, Ending::Exited { code: 1 });
}

#[test]
fn boxes_run_side_by_side_up_to_a_limit_and_under_ids_of_their_own() {
    let marker = format!("l402t-side-{}", std::process::id());
    let mut sleeper = python("import time; time.sleep(0.5)");
    sleeper.argv.push(marker.clone());
    // Of those in a box, whoever sees them.
    let users = || -> BTreeSet<u32> {
        let processes = fs::read_dir("/proc").expect("there").flatten();
        let boxes = processes.filter(|entry| {
            fs::read_to_string(entry.path().join("cmdline"))
                .is_ok_and(|line| line.starts_with("python3") && line.contains(&marker))
        });
        boxes.filter_map(|entry| Some(entry.metadata().ok()?.uid())).collect()
    };
    let (mut seen, mut together) = (BTreeSet::new(), 0);
    std::thread::scope(|scope| {
        let boxes: Vec<_> = (0..5).map(|_| scope.spawn(|| run(&sleeper).ending)).collect();
        while boxes.iter().any(|each| !each.is_finished()) {
            let now = users();
            together = together.max(now.len());
            seen.extend(now);
        }
        for each in boxes {
            assert_eq!(each.join().expect("no panic"), Ending::Exited { code: 0 });
        }
    });
    if is_root() {
        let first = SandboxSettings::default().first_uid;
        assert!(seen.iter().all(|uid| (first..first + 64).contains(uid)), "{seen:?}");
        assert_eq!(together, 2, "as many as there are slots");
    }
}
