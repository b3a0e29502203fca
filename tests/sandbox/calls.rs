//! Attackers who call the kernel: each call that is forbidden, made in a way that would do something if it were not.

use l402t::bounty::sandbox::Ending;

use super::{answer, python, run, shell};

/// Prints which of these calls did not end as expected. `call` is by number: x86_64's, and others where they differ.
#[cfg(target_arch = "x86_64")]
const CALLS: &str = r#"
import ctypes, errno, os
libc = ctypes.CDLL(None, use_errno=True)
buffer = ctypes.create_string_buffer(4096)
def call(number, *arguments):
    ctypes.set_errno(0)
    result = libc.syscall(ctypes.c_long(number), *[ctypes.c_long(a) if isinstance(a, int) else a for a in arguments])
    return 0 if result >= 0 else ctypes.get_errno()
own = os.getpid()
iovec = (ctypes.c_long * 2)(ctypes.addressof(buffer), 8)
calls = {
    # name: (number, arguments...)
    'socket(AF_INET)': (41, 2, 1, 0), 'socket(AF_INET6)': (41, 10, 2, 0), 'socket(AF_NETLINK)': (41, 16, 3, 0),
    'socket(AF_PACKET)': (41, 17, 3, 0), 'socket(AF_VSOCK)': (41, 40, 1, 0), 'socket(AF_ALG)': (41, 38, 5, 0),
    'socketpair(AF_TIPC)': (53, 30, 1, 0, buffer),
    'keyctl': (250, 0, -3, 1), 'add_key': (248, b'user', b'l402t', b'x', 1, -3), 'request_key': (249, b'user', b'x', 0, -3),
    'io_uring_setup': (425, 1, buffer), 'io_uring_enter': (426, 99, 0, 0, 0), 'io_uring_register': (427, 99, 0, 0, 0),
    'bpf': (321, 0, buffer, 48), 'perf_event_open': (298, buffer, 0, -1, -1, 0), 'userfaultfd': (323, 1),
    'ptrace(TRACEME)': (101, 0, 0, 0, 0),
    'process_vm_readv': (310, own, iovec, 1, iovec, 1, 0), 'process_vm_writev': (311, own, iovec, 1, iovec, 1, 0),
    'mount': (165, b'none', b'/scratch', b'tmpfs', 0, 0), 'umount2': (166, b'/scratch', 2), 'pivot_root': (155, b'/scratch', b'/scratch'),
    'open_tree': (428, -100, b'/scratch', 1), 'move_mount': (429, -100, b'/scratch', -100, b'/tmp', 0), 'fsopen': (430, b'tmpfs', 0),
    'fsmount': (432, 99, 0, 0), 'fspick': (433, -100, b'/scratch', 0), 'fsconfig': (431, 99, 0, 0, 0, 0),
    'mount_setattr': (442, -100, b'/scratch', 0, buffer, 32),
    'unshare(NEWUSER)': (272, 0x10000000), 'unshare(NEWNS)': (272, 0x20000), 'unshare(FILES)': (272, 0x400),
    'setns': (308, 99, 0), 'clone(NEWUSER)': (56, 0x10000000 | 17, 0, 0, 0, 0), 'clone(NEWNET)': (56, 0x40000000 | 17, 0, 0, 0, 0),
    'open_by_handle_at': (304, -100, buffer, 0), 'name_to_handle_at': (303, -100, b'/scratch', buffer, buffer, 0),
    'pidfd_getfd': (438, 99, 0, 0), 'personality': (135, 0x0040000), 'kcmp': (312, own, own, 0, 0, 1), 'chroot': (161, b'/scratch'),
    'init_module': (175, buffer, 0, b''), 'finit_module': (313, 99, b'', 0), 'delete_module': (176, b'x', 0),
    'kexec_load': (246, 0, 0, 0, 0), 'kexec_file_load': (320, 99, 99, 0, b'', 0), 'reboot': (169, 0, 0, 0, 0),
    'clock_settime': (227, 0, buffer), 'settimeofday': (164, buffer, 0), 'adjtimex': (159, buffer), 'clock_adjtime': (305, 0, buffer),
    'swapon': (167, b'/scratch', 0), 'swapoff': (168, b'/scratch'), 'acct': (163, 0), 'syslog': (103, 10, 0, 0),
    'fanotify_init': (300, 0, 0), 'quotactl': (179, 0x80000100, 0, 0, 0), 'memfd_secret': (447, 0),
}
for name, (number, *arguments) in calls.items():
    if (error := call(number, *arguments)) != errno.EPERM: print(name, errno.errorcode.get(error, error))
for name, number in {'clone3': 435, 'flock': 73}.items():
    if (error := call(number, 1, 2)) != errno.ENOSYS: print(name, errno.errorcode.get(error, error))
"#;

#[cfg(target_arch = "x86_64")]
#[test]
fn calls_into_the_kernel_that_no_honest_program_needs_are_refused() {
    assert_eq!(answer(&python(CALLS)), "");
}

#[cfg(target_arch = "x86_64")]
#[test]
fn a_call_over_another_interface_of_the_kernel_kills() {
    const SIGSYS: u8 = 31;
    // x32's getpid.
    let x32 = "import ctypes; ctypes.CDLL(None).syscall(ctypes.c_long(0x40000000 | 39)); print('alive')";
    let outcome = run(&python(x32));
    assert_eq!((outcome.ending, outcome.stdout), (Ending::Signalled { signal: SIGSYS }, Vec::new()));
    // i386's getpid.
    let i386 =
        "int main(void) { int result; __asm__ volatile(\"int $0x80\" : \"=a\"(result) : \"a\"(20)); return 0; }\n";
    let outcome = run(&shell("gcc -xc -o it - && exec ./it").stdin(i386));
    assert_eq!(outcome.ending, Ending::Signalled { signal: SIGSYS });
}

#[test]
fn threads_and_processes_start_without_clone3() {
    let spec = python(
        "import threading, subprocess\nt = threading.Thread(target=print, args=('thread',)); t.start(); t.join()\nprint(subprocess.check_output(['echo', 'process'], text=True), end='')",
    );
    assert_eq!(answer(&spec), "thread\nprocess\n");
}

#[test]
fn nothing_can_be_typed_into_a_terminal() {
    // Its own terminal, which it controls: where the filter alone stands in the way.
    let script = "import fcntl, os, pty, termios\n\
        _, terminal = pty.openpty()\n\
        fcntl.ioctl(terminal, termios.TIOCSCTTY, 0)\n\
        for request in (termios.TIOCSTI, 0x541c):\n\
        \x20   try: fcntl.ioctl(terminal, request, b'x'); print('typed')\n\
        \x20   except OSError as error: print(error.errno)\n";
    let script = format!("import os\nif os.fork():\n    os.wait()\nelse:\n    os.setsid()\n{}", indented(script));
    assert_eq!(answer(&python(&script)), "1\n1\n");
}

fn indented(text: &str) -> String {
    text.lines().map(|line| format!("    {line}\n")).collect()
}

#[test]
fn there_is_no_privilege_to_be_had() {
    let status = answer(&shell("grep -E '^(Cap|NoNewPrivs|Seccomp:|Uid|Gid|Groups)' /proc/self/status | tr '\\t' ' '"));
    let none = "0000000000000000";
    let expected = format!(
        "Uid: 65534 65534 65534 65534\nGid: 65534 65534 65534 65534\nGroups:  \n\
         CapInh: {none}\nCapPrm: {none}\nCapEff: {none}\nCapBnd: {none}\nCapAmb: {none}\nNoNewPrivs: 1\nSeccomp: 2\n"
    );
    assert_eq!(status, expected);
    // Programs that make root of anybody don't.
    assert_eq!(
        answer(&shell("su -c true 2>&- </dev/null && echo root; setpriv --reuid 0 true 2>&- && echo root; true")),
        ""
    );
}
