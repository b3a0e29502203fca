//! Fetches libtorch 2.13.0 with pip into a per-user cache that every clone shares, and links the clone to it.
//!
//! The folder appears under its name only when it is complete; its files are checked at each start. A `LIBTORCH` of the
//! user's own is left alone.

use std::env;
use std::fs::{self, File};
use std::io::IsTerminal;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::thread;
use std::time::{Duration, Instant};

use crate::fail::Failure;

/// What torch-sys 0.26 takes.
const VERSION: &str = "2.13.0";
/// The download (540 MB) and what is kept of it (490 MB), and some air.
pub(crate) const NEEDED_MB: u64 = 1300;
/// How the download is announced.
const DOWNLOAD_MB: u64 = 540;
/// How often progress is told where no terminal shows pip's bar.
const PROGRESS_EVERY: Duration = Duration::from_secs(10);

/// The libraries that end up in the process, relative to the fetched folder, with their sizes in bytes.
const LIBRARIES: [(&str, u64); 5] = [
    ("cpu/lib/libtorch.so", 438_418_417),
    ("cpu/lib/libc10.so", 1_623_185),
    ("cpu/lib/libgomp.so.1", 254_009),
    ("nvidia/cu13/lib/libcudart.so.13", 704_288),
    ("nvidia/cu13/lib/libcupti.so.13", 4_152_208),
];

/// Where a build's libtorch comes from.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Source {
    /// The user's environment names one.
    Own,
    /// It is in the cache.
    Cached,
    /// It has to be fetched.
    Missing,
}

/// Says where libtorch will come from.
pub(crate) fn source(root: &Path) -> Result<Source, Failure> {
    if env::var_os("LIBTORCH_USE_PYTORCH").is_some() {
        return Ok(Source::Own);
    }
    // Cargo gives this process the LIBTORCH of .cargo/config.toml: that one isn't the user's.
    let own = env::var_os("LIBTORCH").map(PathBuf::from).filter(|path| *path != root.join(".libtorch/cpu"));
    match own {
        Some(path) if path.join("lib/libtorch.so").exists() => Ok(Source::Own),
        Some(path) => Err(Failure::usage(format!(
            "LIBTORCH is {}, but there is no lib/libtorch.so in it. Set it to a folder with libtorch {VERSION}, or unset \
             it to have one fetched",
            path.display()
        ))),
        None if is_complete(&cache()?.join(name())) => Ok(Source::Cached),
        None => Ok(Source::Missing),
    }
}

/// Makes sure that the clone's `.libtorch` leads to a complete libtorch.
pub(crate) fn provide(root: &Path) -> Result<(), Failure> {
    match source(root)? {
        Source::Own => return Ok(()),
        Source::Cached => {}
        Source::Missing => fetch(&cache()?)?,
    }
    link(root, &cache()?.join(name()))
}

/// The per-user cache.
pub(crate) fn cache() -> Result<PathBuf, Failure> {
    let folder = |variable| env::var_os(variable).map(PathBuf::from).filter(|path| path.is_absolute());
    folder("XDG_CACHE_HOME")
        .or_else(|| folder("HOME").map(|home| home.join(".cache")))
        .map(|cache| cache.join("l402t"))
        .ok_or_else(|| Failure::usage("neither HOME nor XDG_CACHE_HOME is set: set one, libtorch is kept there"))
}

fn name() -> String {
    format!("libtorch-{VERSION}-cpu")
}

/// Are all libraries there in their full size, and the headers?
fn is_complete(folder: &Path) -> bool {
    let whole = |(path, size): &(&str, u64)| fs::metadata(folder.join(path)).is_ok_and(|file| file.len() == *size);
    LIBRARIES.iter().all(whole)
        && folder.join("cpu/include/torch/csrc/api/include/torch/torch.h").exists()
        && fs::read_to_string(folder.join("cpu/build-version")).is_ok_and(|version| version.trim() == VERSION)
}

fn fetch(cache: &Path) -> Result<(), Failure> {
    if env::consts::ARCH != "x86_64" {
        return Err(Failure::usage(format!(
            "libtorch {VERSION} can only be fetched for x86_64, this is {}. Set LIBTORCH to one of your own, or build the \
             auditor, which needs none: cargo build --release --no-default-features",
            env::consts::ARCH
        )));
    }
    let failed = |what: &str, path: &Path, error: std::io::Error| {
        Failure::usage(format!("can't {what} {}: {error}. Set XDG_CACHE_HOME to a folder of yours", path.display()))
    };
    fs::create_dir_all(cache).map_err(|error| failed("create", cache, error))?;
    // Two clones may start at once: the second waits, and finds it done.
    let lock_path = cache.join("libtorch.lock");
    let lock = File::create(&lock_path).map_err(|error| failed("create", &lock_path, error))?;
    lock.lock().map_err(|error| failed("lock", &lock_path, error))?;
    let folder = cache.join(name());
    if is_complete(&folder) {
        return Ok(());
    }

    // Wheels that arrived whole stay there when this is interrupted, so that the next try needn't fetch them again.
    let wheels = cache.join(format!("{}.wheels", name()));
    let part = cache.join(format!("{}.part", name()));
    fs::create_dir_all(&wheels).map_err(|error| failed("create", &wheels, error))?;
    for half in fs::read_dir(&wheels).into_iter().flatten().flatten().filter(|entry| entry.path().is_dir()) {
        remove(&half.path()).map_err(|error| failed("remove", &half.path(), error))?;
    }
    download(&wheels)?;
    remove(&part).map_err(|error| failed("remove", &part, error))?;
    unpack(&wheels, &part)?;
    arrange(&part).map_err(|error| failed("write to", &part, error))?;
    if !is_complete(&part) {
        return Err(Failure::remote(format!(
            "what pip fetched into {} is not libtorch {VERSION} as expected. Remove that folder and try again",
            wheels.display()
        )));
    }
    remove(&folder).map_err(|error| failed("remove", &folder, error))?;
    fs::rename(&part, &folder).map_err(|error| failed("rename", &part, error))?;
    remove(&wheels).map_err(|error| failed("remove", &wheels, error))
}

fn download(wheels: &Path) -> Result<(), Failure> {
    eprintln!(
        "x: fetching libtorch {VERSION} (once: {DOWNLOAD_MB} MB, kept in {})",
        wheels.with_extension("").display()
    );
    let list = Path::new(env!("CARGO_MANIFEST_DIR")).join("libtorch-cpu.txt");
    let mut pip = Command::new("python3");
    pip.args(["-m", "pip", "download", "--no-deps", "--only-binary=:all:", "--no-cache-dir", "--require-hashes"]);
    // The tags are named, so any Python's pip will do.
    pip.args(["--python-version", "3.12", "--implementation", "cp", "--abi", "cp312", "--abi", "none"]);
    for tag in
        ["manylinux_2_28", "manylinux_2_27", "manylinux_2_25", "manylinux_2_18", "manylinux_2_17", "manylinux2014"]
    {
        pip.args(["--platform", &format!("{tag}_x86_64")]);
    }
    pip.arg("--dest").arg(wheels).arg("--requirement").arg(list);
    // pip would gather the download in /tmp, which may be small; stdout is kept for results.
    pip.env("TMPDIR", wheels).env("PIP_DISABLE_PIP_VERSION_CHECK", "1").stdout(std::io::stderr());
    let child = pip.spawn().map_err(|error| Failure::usage(format!("can't start python3: {error}")))?;
    if wait(child, wheels) {
        return Ok(());
    }
    Err(Failure::remote(format!(
        "pip could not fetch libtorch {VERSION}; its message is above. Without a network: set LIBTORCH to one of your own, \
         or build the auditor, which needs none (cargo build --release --no-default-features). Behind a proxy: set \
         HTTPS_PROXY, and pip's index in its own configuration. Then run this again"
    )))
}

/// Waits for pip, telling how much has arrived where its own bar isn't shown. True if it succeeded.
fn wait(mut pip: Child, wheels: &Path) -> bool {
    let mut told = Instant::now();
    loop {
        match pip.try_wait() {
            Ok(Some(status)) => return status.success(),
            Ok(None) => thread::sleep(Duration::from_millis(100)),
            Err(_) => return false,
        }
        if told.elapsed() >= PROGRESS_EVERY && !std::io::stderr().is_terminal() {
            // pip copies each finished wheel, so for a moment there is more.
            let arrived_mb = (size_bytes(wheels) / 1_000_000).min(DOWNLOAD_MB);
            eprintln!("x: libtorch: {arrived_mb} of {DOWNLOAD_MB} MB");
            told = Instant::now();
        }
    }
}

/// The size of all files below a folder; what vanishes meanwhile counts nothing.
fn size_bytes(folder: &Path) -> u64 {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    entries
        .map(|entry| match entry.metadata() {
            Ok(data) if data.is_dir() => size_bytes(&entry.path()),
            Ok(data) => data.len(),
            Err(_) => 0,
        })
        .sum()
}

fn unpack(wheels: &Path, part: &Path) -> Result<(), Failure> {
    eprintln!("x: unpacking libtorch");
    let files = fs::read_dir(wheels).into_iter().flatten().flatten().map(|entry| entry.path());
    let files = files.filter(|path| path.extension().is_some_and(|extension| extension == "whl"));
    let status = Command::new("python3").arg("-c").arg(include_str!("unpack.py")).arg(part).args(files).status();
    if status.is_ok_and(|status| status.success()) {
        return Ok(());
    }
    Err(Failure::usage(format!("libtorch could not be unpacked into {}; the reason is above", part.display())))
}

/// Gives the wheel's files the shape that torch-sys expects. With no libtorch_cuda beside it, it links the CPU part only.
fn arrange(folder: &Path) -> std::io::Result<()> {
    let libraries = folder.join("cpu/lib");
    fs::create_dir_all(&libraries)?;
    symlink("../torch/include", folder.join("cpu/include"))?;
    for library in ["libtorch_cpu.so", "libc10.so", "libgomp.so.1"] {
        symlink(format!("../../torch/lib/{library}"), libraries.join(library))?;
    }
    symlink("libtorch_cpu.so", libraries.join("libtorch.so"))?;
    fs::write(folder.join("cpu/build-version"), format!("{VERSION}\n"))
}

fn remove(folder: &Path) -> std::io::Result<()> {
    match fs::remove_dir_all(folder) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

/// Points the clone's `.libtorch`, which .cargo/config.toml names, to the fetched folder.
fn link(root: &Path, folder: &Path) -> Result<(), Failure> {
    let link = root.join(".libtorch");
    if fs::read_link(&link).is_ok_and(|target| target == folder) {
        return Ok(());
    }
    if fs::symlink_metadata(&link).is_ok_and(|data| data.is_symlink()) {
        // It leads to another cache, or to one that is gone.
        let _ = fs::remove_file(&link);
    }
    symlink(folder, &link)
        .map_err(|error| Failure::usage(format!("can't create the link {}: {error}. Move it away", link.display())))
}
