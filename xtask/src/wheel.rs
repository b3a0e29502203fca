//! Small tools that come as a Python wheel: fetched with pip, checked by hash, unpacked into the per-user cache once.
//!
//! A tool's folder appears under its name only when it is complete, so there is nothing to check in it later.

use std::env;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::fail::Failure;
use crate::libtorch::cache;

/// A tool.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Wheel {
    /// The folder in the cache, with the version in it.
    pub(crate) name: &'static str,
    /// pip's requirements file in this package: the version and the hashes of its wheels.
    pub(crate) list: &'static str,
    /// What has to be in the wheel, relative to the folder, and is made executable.
    pub(crate) programs: &'static [&'static str],
    /// A Python script that is given the unpacked folder, before that gets its name.
    pub(crate) finish: Option<&'static str>,
    /// What to do where it can't be fetched.
    pub(crate) otherwise: &'static str,
}

impl Wheel {
    /// The tool's folder; fetched first if it isn't there.
    pub(crate) fn provide(&self) -> Result<PathBuf, Failure> {
        let folder = cache()?.join(self.name);
        if !folder.exists() {
            self.fetch(&folder)?;
        }
        Ok(folder)
    }

    fn fetch(&self, folder: &Path) -> Result<(), Failure> {
        let failed = |what: &str, path: &Path, error: std::io::Error| {
            Failure::usage(format!("can't {what} {}: {error}. Set XDG_CACHE_HOME to a folder of yours", path.display()))
        };
        let beside = |suffix: &str| cache().map(|cache| cache.join(format!("{}.{suffix}", self.name)));
        let (wheels, part, lock_path) = (beside("wheels")?, beside("part")?, beside("lock")?);
        fs::create_dir_all(&wheels).map_err(|error| failed("create", &wheels, error))?;
        // Two clones may start at once: the second waits, and finds it done.
        let lock = File::create(&lock_path).map_err(|error| failed("create", &lock_path, error))?;
        lock.lock().map_err(|error| failed("lock", &lock_path, error))?;
        if folder.exists() {
            return Ok(());
        }
        eprintln!("x: fetching {} (once, kept in {})", self.name, folder.display());
        let mut pip = Command::new("python3");
        pip.args(["-m", "pip", "download", "--no-deps", "--only-binary=:all:", "--no-cache-dir", "--require-hashes"]);
        pip.arg("--dest").arg(&wheels).arg("--requirement").arg(Path::new(env!("CARGO_MANIFEST_DIR")).join(self.list));
        pip.env("TMPDIR", &wheels).env("PIP_DISABLE_PIP_VERSION_CHECK", "1").stdout(std::io::stderr());
        if !pip.status().is_ok_and(|status| status.success()) {
            return Err(Failure::remote(format!(
                "pip could not fetch {}; its message is above. {}",
                self.name, self.otherwise
            )));
        }
        remove(&part).map_err(|error| failed("remove", &part, error))?;
        let files = fs::read_dir(&wheels).map_err(|error| failed("read", &wheels, error))?;
        for file in files.flatten().filter(|file| file.path().extension().is_some_and(|extension| extension == "whl")) {
            let unpacked = Command::new("python3").args(["-m", "zipfile", "-e"]).arg(file.path()).arg(&part).status();
            if !unpacked.is_ok_and(|status| status.success()) {
                return Err(Failure::usage(format!("{} could not be unpacked; the reason is above", self.name)));
            }
        }
        for program in self.programs {
            let path = part.join(program);
            make_executable(&path).map_err(|error| failed("make executable", &path, error))?;
        }
        if let Some(script) = self.finish {
            let finished = Command::new("python3").arg("-c").arg(script).arg(&part).status();
            if !finished.is_ok_and(|status| status.success()) {
                return Err(Failure::usage(format!("{} could not be made ready; the reason is above", self.name)));
            }
        }
        fs::rename(&part, folder).map_err(|error| failed("rename", &part, error))?;
        remove(&wheels).map_err(|error| failed("remove", &wheels, error))
    }
}

/// A zip archive read by Python carries no modes.
fn make_executable(path: &Path) -> std::io::Result<()> {
    use std::os::unix::fs::PermissionsExt;
    fs::set_permissions(path, fs::Permissions::from_mode(0o755))
}

/// A program on the PATH.
pub(crate) fn on_path(program: &str) -> Option<PathBuf> {
    env::split_paths(&env::var_os("PATH")?).map(|folder| folder.join(program)).find(|path| path.is_file())
}

fn remove(folder: &Path) -> std::io::Result<()> {
    match fs::remove_dir_all(folder) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}
