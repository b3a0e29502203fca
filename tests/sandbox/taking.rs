//! A folder out of a build box, and builds that cheat with what they leave there.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;

use l402t::bounty::sandbox::{Archive, ArchiveError, ArchiveLimits, BoxSpec, Ending, Limits};

use super::{run, shell};

fn taken(spec: &BoxSpec) -> Result<Archive, ArchiveError> {
    let outcome = run(&spec.clone().returning("/scratch/out"));
    assert_eq!(outcome.ending, Ending::Exited { code: 0 }, "{}", String::from_utf8_lossy(&outcome.stderr));
    Archive::read(outcome.stdout, ArchiveLimits { entries: 20, bytes: 100_000 })
}

#[test]
fn what_a_build_made_comes_out_and_goes_into_the_next_box() {
    let build = shell(
        "echo building; mkdir -p out/lib; cp /usr/bin/true out/tool; echo data >out/lib/data; ln out/lib/data out/lib/same",
    );
    let archive = taken(&build).expect("an archive");
    let paths: Vec<&str> = archive.files().map(|(path, _)| path).collect();
    assert_eq!(paths, ["lib/data", "lib/same", "tool"]);
    let folder = tempfile::tempdir().expect("a folder");
    let out = folder.path().join("out");
    archive.write_to(&out).expect("written");
    assert_eq!(fs::read(out.join("lib/same")).expect("there"), b"data\n");
    assert_eq!(fs::metadata(out.join("tool")).expect("there").permissions().mode() & 0o777, 0o755);
    assert_eq!(run(&BoxSpec::new(["/built/tool"]).reading(&out, "/built")).ending, Ending::Exited { code: 0 });
    assert!(archive.write_to(&out).is_err(), "nothing is written over");
}

#[test]
fn the_same_tree_is_the_same_archive() {
    let build = shell("mkdir out; echo b >out/b; echo a >out/a").returning("/scratch/out");
    assert_eq!(
        run(&build).stdout,
        run(&shell("mkdir out; echo a >out/a; echo b >out/b").returning("/scratch/out")).stdout
    );
}

#[test]
fn links_and_devices_do_not_come_out() {
    for (make, name) in [("ln -s /etc/shadow out/score", "./score"), ("mkfifo out/pipe", "./pipe")] {
        let found = taken(&shell(&format!("mkdir out; {make}")));
        assert_eq!(found, Err(ArchiveError::NotAFile { path: name.to_owned() }));
    }
    let found = run(&shell("ln -s /usr/bin out").returning("/scratch/out"));
    assert_ne!(Archive::read(found.stdout, ArchiveLimits { entries: 20, bytes: 1_000 }).map(|_| ()), Ok(()));
}

#[test]
fn a_build_that_fails_has_no_archive() {
    let outcome = run(&shell("mkdir out; exit 9").returning("/scratch/out"));
    assert_eq!((outcome.ending, outcome.stdout), (Ending::Exited { code: 9 }, Vec::new()));
    assert_eq!(
        run(&shell("true").returning("/scratch/out")).ending,
        Ending::Exited { code: 2 },
        "there is no such folder"
    );
}

#[test]
fn too_much_of_it_is_refused() {
    assert!(matches!(
        taken(&shell("mkdir out; head -c 200000 /dev/zero >out/big")),
        Err(ArchiveError::TooLarge { .. })
    ));
    assert!(matches!(taken(&shell("mkdir out; cd out; seq 30 | xargs touch")), Err(ArchiveError::TooLarge { .. })));
    let capped = shell("mkdir out; head -c 200000 /dev/zero >out/big")
        .limits(Limits { output_bytes: 9_000, ..Limits::default() });
    assert_eq!(run(&capped.returning("/scratch/out")).ending, Ending::OutputLimit);
}

#[test]
fn folders_in_folders_are_refused_before_they_are_too_deep_for_a_box() {
    let nested = |levels: u32| {
        let outcome = run(&shell(&format!("mkdir -p out/$(seq -s/ {levels})")).returning("/scratch/out"));
        Archive::read(outcome.stdout, ArchiveLimits::default())
    };
    let folder = tempfile::tempdir().expect("a folder");
    let out = folder.path().join("out");
    nested(32).expect("an archive").write_to(&out).expect("written");
    assert_eq!(run(&shell("ls /built").reading(&out, "/built")).ending, Ending::Exited { code: 0 });
    assert!(matches!(nested(33), Err(ArchiveError::BadPath { .. })));
}

/// What a build that writes the archive itself could try.
#[test]
fn forged_archives_are_refused() {
    let forge = |tar: &str| {
        let limits = Limits::default();
        let outcome = run(&shell(&format!("mkdir a; echo x >a/x; cd a; {tar}")).limits(limits));
        assert_eq!(outcome.ending, Ending::Exited { code: 0 }, "{}", String::from_utf8_lossy(&outcome.stderr));
        Archive::read(outcome.stdout, ArchiveLimits::default()).map(|_| ())
    };
    let bad = |path: &str| Err(ArchiveError::BadPath { path: path.to_owned() });
    assert_eq!(forge("tar --format=ustar -cf - ./x"), Ok(()));
    assert_eq!(forge("tar --format=ustar -Pcf - ./../a/x"), bad("./../a/x"));
    assert_eq!(forge("tar --format=ustar -Pcf - /scratch/a/x 2>&-"), bad("/scratch/a/x"));
    assert_eq!(forge("tar --format=ustar -cf - ./x ./x --hard-dereference"), bad("./x"));
    assert_eq!(forge("tar --format=ustar --transform=s,x,y/x, -cf - ./x"), bad("./y/x"));
    assert_eq!(forge("rm x; : >\"$(printf '\\377')\"; tar --format=ustar -cf - ./*"), bad("./\u{fffd}"));
    assert!(matches!(forge("tar --format=gnu -cf - ./x"), Err(ArchiveError::Damaged { .. })));
    assert!(matches!(forge("tar --format=ustar -cf - ./x | head -c 600"), Err(ArchiveError::Damaged { .. })));
    assert!(matches!(forge("tar --format=ustar -cf - ./x | tr x z"), Err(ArchiveError::Damaged { .. })));
    assert!(matches!(forge("echo all right"), Err(ArchiveError::Damaged { .. })));
    assert!(matches!(forge("true"), Err(ArchiveError::Damaged { .. })));
}
