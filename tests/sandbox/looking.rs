//! Attackers who look for what they must not know: the labels, other boxes, this machine's files and open files.

use std::fs::{self, File};
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::PermissionsExt as _;

use l402t::bounty::sandbox::Ending;

use super::{answer, python, run, sandbox, shell, text};

/// Something that is looked for, in a file that every process of this machine may read.
fn labels() -> (tempfile::TempDir, String) {
    let folder = tempfile::tempdir().expect("a folder");
    // Not as one word in this program, which may be among the places that are searched.
    let label = format!("held-out-{}", std::process::id());
    fs::write(folder.path().join("labels"), &label).expect("written");
    let open = fs::Permissions::from_mode(0o755);
    fs::set_permissions(folder.path(), open).expect("set");
    (folder, label)
}

#[test]
fn labels_are_not_found_anywhere_on_disk() {
    let (folder, label) = labels();
    let path = folder.path().join("labels").display().to_string();
    let hunt = format!(
        "cat {path}; cat /proc/1/root{path}; cat /proc/*/cwd/labels; find / -xdev -name labels -not -path '/usr/*' -exec cat {{}} +; \
         ls /root /home /var /run /opt /srv /media /mnt /etc/passwd; \
         grep -rsl {label} /scratch /tmp /dev/shm /etc /proc/self/environ /proc/*/cmdline /proc/*/environ; true"
    );
    // The last search meets its own command line.
    let outcome = run(&shell(&format!("({}) | grep -v '^/proc/[0-9a-z-]*/cmdline$'; true", hunt)));
    assert_eq!(outcome.ending, Ending::Exited { code: 0 });
    assert_eq!(text(&outcome), "");
    // It would have been found.
    assert_eq!(answer(&shell("cat /in/labels").reading(folder.path(), "/in")), label);
}

#[test]
fn labels_can_not_be_included_at_build_time() {
    let (folder, _) = labels();
    let source = format!("#include \"{}\"\nint main(void) {{}}\n", folder.path().join("labels").display());
    let outcome = run(&shell("gcc -xc -o it -").stdin(source));
    assert_eq!(outcome.ending, Ending::Exited { code: 1 });
    assert!(String::from_utf8_lossy(&outcome.stderr).contains("No such file"), "{outcome:?}");
}

#[test]
fn another_box_at_the_same_time_is_not_to_be_seen() {
    let (_, label) = labels();
    std::thread::scope(|scope| {
        let scorer = scope.spawn(|| {
            let keeps = "import sys, time; open('/scratch/labels', 'w').write(sys.argv[1]); open('/dev/shm/labels', 'w').write(sys.argv[1]); time.sleep(1.5)";
            let mut spec = python(keeps).variable("LABEL", &*label);
            spec.argv.push(label.clone());
            run(&spec)
        });
        let hunt = "import glob, os, time\n\
            end = time.time() + 1\n\
            while time.time() < end:\n\
            \x20   for path in glob.glob('/proc/[0-9]*/cmdline') + glob.glob('/proc/[0-9]*/environ') + glob.glob('/proc/[0-9]*/cwd/*') + glob.glob('/tmp/*') + glob.glob('/dev/shm/*'):\n\
            \x20       try:\n\
            \x20           if b'held-' + b'out' in open(path, 'rb').read(): print(path)\n\
            \x20       except OSError: pass\n\
            print(sorted({int(pid) for pid in os.listdir('/proc') if pid.isdigit()}))\n";
        let found = answer(&python(hunt));
        assert_eq!(found, "[1, 2]\n", "it sees bubblewrap's first process and itself");
        assert_eq!(scorer.join().expect("no panic").ending, Ending::Exited { code: 0 });
    });
}

#[test]
fn two_boxes_can_not_talk_over_a_file_that_both_may_read() {
    // Locks that can be asked for or show in /proc/locks, leases, and three ways to be told that somebody opens a file.
    let talk = "import ctypes, fcntl, os, struct\n\
        libc = ctypes.CDLL(None, use_errno=True)\n\
        file, folder = os.open('/usr/bin/env', os.O_RDONLY), os.open('/usr/bin', os.O_RDONLY)\n\
        lock = struct.pack('hhqqi4x', fcntl.F_RDLCK, 0, 0, 0, 0)\n\
        fcntl.fcntl(file, fcntl.F_SETLK, lock)\n\
        for fd, command, argument in [(file, 5, lock), (file, 36, lock), (file, 37, lock), (file, 38, lock), \
        (file, 1024, fcntl.F_RDLCK), (folder, 1026, 1)]:\n\
        \x20   try: fcntl.fcntl(fd, command, argument); print('talks', command)\n\
        \x20   except OSError as error: print(command, error.errno)\n\
        for init in (libc.inotify_init, libc.inotify_init1): print(init(0), ctypes.get_errno())\n";
    assert_eq!(answer(&python(talk)), "5 1\n36 1\n37 1\n38 1\n1024 1\n1026 1\n-1 38\n-1 38\n");
}

#[test]
fn open_files_of_this_process_are_not_inherited() {
    let (folder, _) = labels();
    let file = File::open(folder.path().join("labels")).expect("opened");
    // As a library might leave it.
    rustix::io::fcntl_setfd(&file, rustix::io::FdFlags::empty()).expect("set");
    let outcome = answer(&python(
        "import os\nfor fd in sorted(os.listdir('/proc/self/fd'), key=int):\n  try: print(fd, os.readlink(f'/proc/self/fd/{fd}').split(':')[0])\n  except OSError: pass",
    ));
    let fds: Vec<&str> = outcome.lines().collect();
    assert_eq!(fds, ["0 pipe", "1 pipe", "2 pipe"], "{} is open here", file.as_raw_fd());
}

#[test]
fn nothing_of_what_ran_before_is_left() {
    let leave = shell("echo left >/tmp/left; echo left >/scratch/left; echo left >/dev/shm/left");
    for _ in 0..sandbox().slots().get() {
        assert_eq!(run(&leave).ending, Ending::Exited { code: 0 });
    }
    assert_eq!(answer(&shell("ls -A /tmp /scratch /dev/shm")), "/dev/shm:\n\n/scratch:\n\n/tmp:\n");
}
