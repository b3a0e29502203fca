//! Machines where the sandbox can't be made, or would not hold: nothing is run there, and the cause is named.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use l402t::bounty::sandbox::{Sandbox, SandboxSettings, SandboxUnavailable, Tier, TierChoice};

use super::{is_root, sandbox};

fn unavailable(settings: SandboxSettings) -> SandboxUnavailable {
    Sandbox::detect(settings).expect_err("no sandbox")
}

/// A program in place of bubblewrap.
fn instead(folder: &Path, program: &str) -> SandboxSettings {
    let path = folder.join("bwrap");
    fs::write(&path, program).expect("written");
    for place in [folder, &path] {
        fs::set_permissions(place, fs::Permissions::from_mode(0o755)).expect("set");
    }
    SandboxSettings { bubblewrap: path.display().to_string(), ..SandboxSettings::default() }
}

#[test]
fn without_bubblewrap_there_is_none() {
    let settings = SandboxSettings { bubblewrap: "/nonexistent/bwrap".to_owned(), ..SandboxSettings::default() };
    let error = unavailable(settings);
    assert!(error.cause.starts_with("/nonexistent/bwrap can't be run"), "{error}");
    assert!(error.fix.contains("apt-get install bubblewrap"), "{error}");
}

#[test]
fn an_old_bubblewrap_is_refused() {
    let folder = tempfile::tempdir().expect("a folder");
    let error = unavailable(instead(folder.path(), "#!/bin/sh\necho bubblewrap 0.7.9\n"));
    assert!(error.cause.contains("0.7.9"), "{error}");
}

#[test]
fn a_bubblewrap_that_is_not_allowed_to_makes_none() {
    let folder = tempfile::tempdir().expect("a folder");
    let blocked = "#!/bin/sh\n[ \"$1\" = --version ] && exec echo bubblewrap 0.8.0\n\
                   echo 'bwrap: setting up uid map: Permission denied' >&2; exit 1\n";
    let error = unavailable(instead(folder.path(), blocked));
    assert!(error.cause.contains("setting up uid map: Permission denied"), "{error}");
    assert!(!error.fix.is_empty());
}

/// Does all that is asked of it but the protecting.
const LEAKY: &str = r#"import json, os, sys
if sys.argv[1] == '--version': print('bubblewrap 9.9.9'); sys.exit()
words = open(int(sys.argv[2]), 'rb').read().decode().split('\0')
fd = lambda name: int(words[words.index(name) + 1])
status, block = fd('--json-status-fd'), fd('--block-fd')
child = os.fork()
if child == 0:
    os.read(block, 1); os.close(block); os.close(status)
    os.execvp(sys.argv[4], sys.argv[4:])
os.close(block)
os.write(status, json.dumps({'child-pid': child}).encode() + b'\n')
code = os.waitstatus_to_exitcode(os.wait()[1])
os.write(status, json.dumps({'exit-code': code}).encode() + b'\n')
"#;

#[test]
fn a_box_that_does_not_hold_is_found_out() {
    let folder = tempfile::tempdir().expect("a folder");
    let python = ["/usr/bin/python3", "/usr/local/bin/python3"].into_iter().find(|path| Path::new(path).exists());
    let error = unavailable(instead(folder.path(), &format!("#!{}\n{LEAKY}", python.expect("python3"))));
    for leak in ["see a file outside", "gain privileges", "go without system call filters", "open a network socket"] {
        assert!(error.cause.contains(leak), "{leak}: {error}");
    }
}

#[test]
fn a_tier_that_is_asked_for_is_had_or_nothing_is() {
    let best = sandbox().tier();
    for tier in [Tier::CgroupV1, Tier::CgroupV2] {
        let settings = SandboxSettings { tier: TierChoice::AtLeast(tier), ..SandboxSettings::default() };
        match Sandbox::detect(settings) {
            Ok(found) => assert!(found.tier() >= tier && best >= tier),
            Err(error) => assert!(best < tier && error.cause.contains("cgroup_v2"), "{error}"),
        }
    }
}

#[test]
fn a_box_never_runs_as_root_or_as_one_of_the_systems_users() {
    for first_uid in [0, 999, u32::MAX] {
        // Whoever isn't root has one id, and keeps it.
        if is_root() {
            let error = unavailable(SandboxSettings { first_uid, ..SandboxSettings::default() });
            assert!(error.cause.contains("can't run under"), "{error}");
        }
    }
}

#[test]
fn a_folder_that_others_can_change_is_not_used() {
    let folder = tempfile::tempdir().expect("a folder");
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o777)).expect("set");
    let settings = SandboxSettings { folder: folder.path().to_owned(), ..SandboxSettings::default() };
    // Only root needs one.
    if is_root() {
        let error = unavailable(settings);
        assert!(error.cause.contains("somebody else can change it"), "{error}");
    } else {
        Sandbox::detect(settings).expect("a sandbox");
    }
}
