//! Attackers who write where they must not, or more than they may.

use l402t::bounty::sandbox::Limits;

use super::{answer, python, shell};

#[test]
fn nothing_outside_of_its_own_folders_can_be_written() {
    let script = "for file in / /usr /usr/bin /usr/local /etc /etc/alternatives /dev /proc /in /scratch/in; do\n\
                  if ( : >$file/attack ) 2>&-; then echo wrote $file; fi; done\n\
                  for file in /usr/bin/python3 /bin/sh /etc/ld.so.cache /in/data /proc/sys/kernel/core_pattern \
                  /proc/sysrq-trigger /proc/sys/vm/drop_caches; do\n\
                  if ( : >>$file ) 2>&-; then echo opened $file; fi; done\n\
                  for command in 'mknod disk b 8 0' 'mount -t tmpfs none /scratch' 'umount /proc' 'chmod 777 /usr' \
                  'ln /usr/bin/cat /scratch/cat' 'mv /in/data /in/moved' 'rm -f /in/data' 'chown 0 .' 'date -s 2020-01-01'; do\n\
                  if $command 2>&- >&2; then echo could $command; fi; done\n";
    let folder = tempfile::tempdir().expect("a folder");
    std::fs::write(folder.path().join("data"), "as it was").expect("written");
    let spec = shell(script).reading(folder.path(), "/in").reading(folder.path(), "/scratch/in");
    assert_eq!(answer(&spec), "");
    assert_eq!(std::fs::read(folder.path().join("data")).expect("there"), b"as it was");
}

#[test]
fn its_own_folders_have_a_size() {
    let fill = "import os\n\
        for folder in ['/scratch', '/tmp', '/dev/shm']:\n\
        \x20   size = 0\n\
        \x20   try:\n\
        \x20       for number in range(64):\n\
        \x20           with open(f'{folder}/{number}', 'wb', buffering=0) as file:\n\
        \x20               for _ in range(16): size += file.write(bytes(65536))\n\
        \x20   except OSError as error: print(folder, error.errno, size >> 20)\n";
    let limits = Limits { scratch_bytes: 8 << 20, tmp_bytes: 4 << 20, memory_bytes: 128 << 20, ..Limits::default() };
    // 28 is ENOSPC.
    assert_eq!(answer(&python(fill).limits(limits)), "/scratch 28 8\n/tmp 28 4\n/dev/shm 28 4\n");
}
