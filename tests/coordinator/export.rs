//! `l402t export` on the folder of a run whose rounds were really judged: the model as it is after any of them.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use l402t::model::Pretrained;
use l402t::protocol::ids::Blake3Hash;

use crate::world::{World, read_manifest};

const DAMAGED: i32 = 3;
const USAGE: i32 = 2;

/// Runs `l402t export OUT --from DATA` in an environment of its own.
fn export(world: &World, out: &Path, more: &[&str]) -> Output {
    let home = world.data().with_file_name("home");
    std::fs::create_dir_all(&home).expect("made");
    let mut command = Command::new(env!("CARGO_BIN_EXE_l402t"));
    command.env_clear().env("HOME", &home).current_dir(&home).arg("--json").arg("export").arg(out);
    command.arg("--from").arg(world.data()).args(more).output().expect("it starts")
}

fn json(output: &Output) -> serde_json::Value {
    serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{output:?}"))
}

fn result(output: &Output) -> serde_json::Value {
    json(output)["result"].take()
}

/// The hash of the canonical checkpoint of a folder's weights.
fn exported(folder: &Path) -> Blake3Hash {
    Pretrained::read(folder).expect("a Hugging Face folder").checkpoint.hash()
}

fn blob_path(world: &World, hash: &Blake3Hash) -> PathBuf {
    world.data().join("blobs").join(hash.to_string())
}

pub(crate) fn check(world: &World) {
    let folder = |name: &str| world.data().with_file_name(name);
    let last = world.transcript(1).body.next_checkpoint;

    let whole = export(world, &folder("whole"), &[]);
    assert!(whole.status.success(), "{whole:?}");
    let report = result(&whole);
    assert_eq!((report["rounds"].as_u64(), report["checkpoint"].as_str()), (Some(2), Some(&*last.to_string())));
    assert_eq!(exported(&folder("whole")), last);

    for (rounds, checkpoint) in
        [("0", read_manifest(&world.data()).initial_checkpoint), ("1", world.transcript(0).body.next_checkpoint)]
    {
        let out = folder(&format!("after-{rounds}"));
        assert!(export(world, &out, &["--rounds", rounds]).status.success());
        assert_eq!(exported(&out), checkpoint, "after {rounds} rounds");
    }
    let halved = export(world, &folder("halved"), &["--dtype", "bf16"]);
    let bytes = |output: &Output| result(output)["bytes"].as_u64().expect("a number");
    assert!(bytes(&halved) < bytes(&whole) * 2 / 3, "{} of {}", bytes(&halved), bytes(&whole));

    // What is there already stays, and what isn't whole is not exported.
    let before = std::fs::read(folder("whole").join("model.safetensors")).expect("weights");
    let again = export(world, &folder("whole"), &["--rounds", "0"]);
    assert_eq!(again.status.code(), Some(USAGE), "{again:?}");
    assert_eq!(std::fs::read(folder("whole").join("model.safetensors")).expect("weights"), before);
    let never = export(world, &folder("never"), &["--rounds", "3"]);
    assert_eq!(never.status.code(), Some(USAGE), "{never:?}");

    let mut damaged = std::fs::read(blob_path(world, &last)).expect("a blob");
    *damaged.last_mut().expect("not empty") ^= 1;
    std::fs::write(blob_path(world, &last), damaged).expect("written");
    let refused = export(world, &folder("damaged"), &[]);
    assert_eq!(refused.status.code(), Some(DAMAGED), "{refused:?}");
    assert!(json(&refused)["error"]["message"].as_str().expect("a message").contains(&last.to_string()));
    assert!(!folder("damaged").exists() && !folder("never").exists());
}
