//! Copies what a box may read to where the box's user can read it, and nobody else can. Follows no link.

use std::fs::{self, DirBuilder, Permissions};
use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use super::recipe::Mounts;
use super::{BoxError, BoxSpec};

/// A mount holds at most this many files and folders.
const MOST_ENTRIES: usize = 100_000;

/// Folders in folders, at most.
const MOST_DEPTH: usize = 64;

/// What to mount where: copies in `folder`, or the originals if there is none.
pub(super) fn stage(spec: &BoxSpec, folder: Option<&Path>) -> Result<Mounts, BoxError> {
    let mut mounts = Vec::new();
    for (number, mount) in spec.read_only.iter().enumerate() {
        let original =
            fs::canonicalize(&mount.host).map_err(|error| BoxError::mount(&mount.host, error.to_string()))?;
        let place = match folder {
            None => original,
            Some(folder) => {
                let copy = folder.join(number.to_string());
                copy_tree(&original, &copy, &mut 0, 0)?;
                copy
            }
        };
        mounts.push((place, mount.inside.clone()));
    }
    Ok(mounts)
}

fn copy_tree(from: &Path, to: &Path, entries: &mut usize, depth: usize) -> Result<(), BoxError> {
    let failed = |error: std::io::Error| BoxError::mount(from, error.to_string());
    *entries += 1;
    if *entries > MOST_ENTRIES || depth > MOST_DEPTH {
        return Err(BoxError::mount(
            from,
            format!("more than {MOST_ENTRIES} files, or {MOST_DEPTH} folders in folders"),
        ));
    }
    let found = fs::symlink_metadata(from).map_err(failed)?;
    if found.is_dir() {
        DirBuilder::new().mode(0o755).create(to).map_err(failed)?;
        // Whatever this process's umask is.
        fs::set_permissions(to, Permissions::from_mode(0o755)).map_err(failed)?;
        for entry in fs::read_dir(from).map_err(failed)? {
            let entry: PathBuf = entry.map_err(failed)?.path();
            let name = entry.file_name().unwrap_or_default();
            copy_tree(&entry, &to.join(name), entries, depth + 1)?;
        }
        Ok(())
    } else if found.is_file() {
        fs::copy(from, to).map_err(failed)?;
        let mode = if found.permissions().mode() & 0o100 == 0 { 0o644 } else { 0o755 };
        fs::set_permissions(to, Permissions::from_mode(mode)).map_err(failed)
    } else {
        Err(BoxError::mount(from, "it is neither a regular file nor a folder"))
    }
}
