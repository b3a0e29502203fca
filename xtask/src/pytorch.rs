//! `./x pytorch`: the PyTorch that `train.step` is compared with, for whoever wants the comparison. 3 GB, so nothing else
//! ever fetches it.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::fail::Failure;
use crate::libtorch::cache;

/// The version whose libtorch this program trains with.
const NAME: &str = "pytorch-2.13.0";

/// Its Python, if it is there.
pub(crate) fn python() -> Option<PathBuf> {
    Some(cache().ok()?.join(NAME).join("bin/python3")).filter(|path| path.exists())
}

/// Fetches it into an environment of its own, once.
pub(crate) fn fetch() -> Result<(), Failure> {
    let cache = cache()?;
    let (folder, part) = (cache.join(NAME), cache.join(format!("{NAME}.part")));
    let failed = |what: &str, path: &Path, error: std::io::Error| {
        Failure::usage(format!("can't {what} {}: {error}. Set XDG_CACHE_HOME to a folder of yours", path.display()))
    };
    fs::create_dir_all(&cache).map_err(|error| failed("create", &cache, error))?;
    let lock_path = cache.join(format!("{NAME}.lock"));
    let lock = File::create(&lock_path).map_err(|error| failed("create", &lock_path, error))?;
    lock.lock().map_err(|error| failed("lock", &lock_path, error))?;
    if folder.exists() {
        eprintln!("x: {} is there already", folder.display());
        return Ok(());
    }
    if part.exists() {
        fs::remove_dir_all(&part).map_err(|error| failed("remove", &part, error))?;
    }
    eprintln!("x: fetching PyTorch 2.13.0 (once: about 3 GB, kept in {})", folder.display());
    must(Command::new("python3").args(["-m", "venv"]).arg(&part))?;
    let list = Path::new(env!("CARGO_MANIFEST_DIR")).join("pytorch.txt");
    let mut pip = Command::new(part.join("bin/python3"));
    pip.args(["-m", "pip", "install", "--only-binary=:all:", "--no-cache-dir", "--require-hashes", "--requirement"]);
    pip.arg(list).env("TMPDIR", &part).env("PIP_DISABLE_PIP_VERSION_CHECK", "1");
    must(&mut pip)?;
    fs::rename(&part, &folder).map_err(|error| failed("rename", &part, error))
}

fn must(command: &mut Command) -> Result<(), Failure> {
    if command.stdout(std::io::stderr()).status().is_ok_and(|status| status.success()) {
        return Ok(());
    }
    Err(Failure::remote(
        "PyTorch could not be installed; the reason is above. Needed: CPython 3.11 with its venv module".to_owned(),
    ))
}
