//! The system calls that no box may make, as programs for the kernel. Owns nothing else.

use std::collections::BTreeMap;

use libc::c_long;
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule,
    TargetArch, sock_filter,
};

use super::{SandboxUnavailable, Tier};

/// Refused with EPERM: ways into the kernel that no honest program needs, other processes' memory, namespaces, mounts,
/// the clock. (An i386 program's calls end it: the filter of another architecture can't read their numbers.)
const FORBIDDEN: [c_long; 50] = [
    libc::SYS_acct,
    libc::SYS_add_key,
    libc::SYS_adjtimex,
    libc::SYS_bpf,
    libc::SYS_chroot,
    libc::SYS_clock_adjtime,
    libc::SYS_clock_settime,
    libc::SYS_delete_module,
    libc::SYS_fanotify_init,
    libc::SYS_finit_module,
    libc::SYS_fsconfig,
    libc::SYS_fsmount,
    libc::SYS_fsopen,
    libc::SYS_fspick,
    libc::SYS_init_module,
    libc::SYS_io_uring_enter,
    libc::SYS_io_uring_register,
    libc::SYS_io_uring_setup,
    libc::SYS_kcmp,
    libc::SYS_kexec_file_load,
    libc::SYS_kexec_load,
    libc::SYS_keyctl,
    libc::SYS_lookup_dcookie,
    libc::SYS_memfd_secret,
    libc::SYS_mount,
    libc::SYS_mount_setattr,
    libc::SYS_move_mount,
    libc::SYS_name_to_handle_at,
    libc::SYS_open_by_handle_at,
    libc::SYS_open_tree,
    libc::SYS_perf_event_open,
    libc::SYS_personality,
    libc::SYS_pidfd_getfd,
    libc::SYS_pivot_root,
    libc::SYS_process_madvise,
    libc::SYS_process_vm_readv,
    libc::SYS_process_vm_writev,
    libc::SYS_ptrace,
    libc::SYS_quotactl,
    libc::SYS_quotactl_fd,
    libc::SYS_reboot,
    libc::SYS_request_key,
    libc::SYS_setns,
    libc::SYS_settimeofday,
    libc::SYS_swapoff,
    libc::SYS_swapon,
    libc::SYS_syslog,
    libc::SYS_umount2,
    libc::SYS_unshare,
    libc::SYS_userfaultfd,
];

/// Memory that belongs to no process: only a control group counts it, so without one there is none.
const UNCOUNTED: [c_long; 4] = [libc::SYS_memfd_create, libc::SYS_msgget, libc::SYS_semget, libc::SYS_shmget];

/// Refused with ENOSYS, so that programs use another way: clone3 hides its flags behind a pointer, where no filter can
/// look; a lock on a file that two boxes can read is a message from one to the other, and so is that it was opened.
#[cfg(target_arch = "x86_64")]
const MISSING: [c_long; 4] = [libc::SYS_clone3, libc::SYS_flock, libc::SYS_inotify_init, libc::SYS_inotify_init1];
#[cfg(not(target_arch = "x86_64"))]
const MISSING: [c_long; 3] = [libc::SYS_clone3, libc::SYS_flock, libc::SYS_inotify_init1];

/// What fcntl does that two boxes with one file could notice of each other: who has a lock, locks that /proc/locks shows
/// everybody, and being told that somebody opens it. A process's own locks remain: nobody else sees them.
const NOTICES: [libc::c_int; 6] =
    [libc::F_GETLK, libc::F_NOTIFY, libc::F_OFD_GETLK, libc::F_OFD_SETLK, libc::F_OFD_SETLKW, libc::F_SETLEASE];

/// Namespaces that clone could make.
const NAMESPACES: [libc::c_int; 7] = [
    libc::CLONE_NEWCGROUP,
    libc::CLONE_NEWIPC,
    libc::CLONE_NEWNET,
    libc::CLONE_NEWNS,
    libc::CLONE_NEWPID,
    libc::CLONE_NEWUSER,
    libc::CLONE_NEWUTS,
];

/// Typing into the terminal of whoever started the program.
const TERMINAL_INPUT: [u64; 2] = [libc::TIOCSTI, TIOCLINUX];
const TIOCLINUX: u64 = 0x541c;

/// The filters of a box, each as bubblewrap's `--add-seccomp-fd` reads it.
pub(super) fn filters(tier: Tier) -> Result<Vec<Vec<u8>>, SandboxUnavailable> {
    let built = || -> Result<Vec<BpfProgram>, seccompiler::BackendError> {
        let architecture = std::env::consts::ARCH.try_into()?;
        let mut programs = vec![
            program(forbidden(tier)?, libc::EPERM, architecture)?,
            program(MISSING.map(|call| (call, Vec::new())).into(), libc::ENOSYS, architecture)?,
        ];
        if architecture == TargetArch::x86_64 {
            programs.push(no_x32());
        }
        Ok(programs)
    };
    let programs = built().map_err(|error| {
        SandboxUnavailable::new(
            format!("no seccomp filter can be made for {}: {error}", std::env::consts::ARCH),
            "Evaluate on x86_64, aarch64 or riscv64",
        )
    })?;
    Ok(programs.iter().map(|program| program.iter().flat_map(bytes).collect()).collect())
}

type Rules = BTreeMap<c_long, Vec<SeccompRule>>;

fn forbidden(tier: Tier) -> Result<Rules, seccompiler::BackendError> {
    // No rule is every use of the call; several are any of them.
    let mut rules: Rules = FORBIDDEN.map(|call| (call, Vec::new())).into();
    match tier {
        Tier::Rlimits => rules.extend(UNCOUNTED.map(|call| (call, Vec::new()))),
        Tier::CgroupV1 | Tier::CgroupV2 => {}
    }
    let when = |argument, compare, value| {
        SeccompRule::new(vec![SeccompCondition::new(argument, SeccompCmpArgLen::Dword, compare, value)?])
    };
    for call in [libc::SYS_socket, libc::SYS_socketpair] {
        rules.insert(call, vec![when(0, SeccompCmpOp::Ne, u64::from(libc::AF_UNIX.unsigned_abs()))?]);
    }
    let mut clones = Vec::new();
    for flag in NAMESPACES.map(|flag| u64::from(flag.cast_unsigned())) {
        clones.push(when(0, SeccompCmpOp::MaskedEq(flag), flag)?);
    }
    rules.insert(libc::SYS_clone, clones);
    let with_any = |commands: &[u64]| -> Result<Vec<SeccompRule>, seccompiler::BackendError> {
        commands.iter().map(|command| when(1, SeccompCmpOp::Eq, *command)).collect()
    };
    rules.insert(libc::SYS_ioctl, with_any(&TERMINAL_INPUT)?);
    rules.insert(libc::SYS_fcntl, with_any(&NOTICES.map(|command| u64::from(command.cast_unsigned())))?);
    Ok(rules)
}

fn program(
    rules: Rules,
    errno: libc::c_int,
    architecture: TargetArch,
) -> Result<BpfProgram, seccompiler::BackendError> {
    SeccompFilter::new(rules, SeccompAction::Allow, SeccompAction::Errno(errno.unsigned_abs()), architecture)?
        .try_into()
}

/// x86_64 kernels may also take the x32 interface's calls, which are other numbers for the same things: each kills.
fn no_x32() -> BpfProgram {
    const LOAD_WORD: u16 = 0x20;
    const JUMP_IF_SET: u16 = 0x45;
    const RETURN: u16 = 0x06;
    const X32: u32 = 0x4000_0000;
    let instruction = |code, jt, jf, k| sock_filter { code, jt, jf, k };
    vec![
        instruction(LOAD_WORD, 0, 0, 0), // the call's number
        instruction(JUMP_IF_SET, 0, 1, X32),
        instruction(RETURN, 0, 0, libc::SECCOMP_RET_KILL_PROCESS),
        instruction(RETURN, 0, 0, libc::SECCOMP_RET_ALLOW),
    ]
}

/// As in the kernel's `struct sock_filter`.
fn bytes(instruction: &sock_filter) -> [u8; 8] {
    let ([c0, c1], [k0, k1, k2, k3]) = (instruction.code.to_ne_bytes(), instruction.k.to_ne_bytes());
    [c0, c1, instruction.jt, instruction.jf, k0, k1, k2, k3]
}
