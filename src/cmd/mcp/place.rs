//! Where a client may have files: in one folder, and nowhere else.

use std::path::{Component, Path, PathBuf};

use crate::cmd::Failure;

/// The folder that claimed bounties lie in.
#[derive(Clone, Debug)]
pub(super) struct Place(PathBuf);

impl Place {
    /// The configured folder, or the one that this process was started in.
    pub(super) fn find(configured: Option<&Path>) -> Result<Self, Failure> {
        let folder = configured.unwrap_or(Path::new("."));
        let found =
            folder.canonicalize().map_err(|error| Failure::io("open the folder [mcp] folder", folder, &error))?;
        Ok(Self(found))
    }

    pub(super) fn root(&self) -> &Path {
        &self.0
    }

    /// A path in it, as a client names it: relative to the folder, or absolute. It need not exist; where it does, no link of it
    /// leads outside.
    pub(super) fn inside(&self, path: &Path) -> Result<PathBuf, Failure> {
        let outside = || {
            let message = format!("{} is not in {}", path.display(), self.0.display());
            Failure::usage("outside", message, "Name a path in that folder; [mcp] folder sets another one")
        };
        if path.components().any(|part| part == Component::ParentDir) {
            return Err(outside());
        }
        let full = self.0.join(path);
        let there = full.ancestors().find(|part| part.symlink_metadata().is_ok()).ok_or_else(outside)?;
        let real = there.canonicalize().map_err(|error| Failure::io("open", there, &error))?;
        let rest = full.strip_prefix(there).map_err(|_| outside())?;
        if real.starts_with(&self.0) { Ok(real.join(rest)) } else { Err(outside()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    #[test]
    fn no_path_and_no_link_leads_out_of_the_folder() {
        let (home, other) = (tempfile::tempdir().expect("a folder"), tempfile::tempdir().expect("a folder"));
        let place = Place::find(Some(home.path())).expect("there");
        std::fs::create_dir(home.path().join("claimed")).expect("made");
        symlink(other.path(), home.path().join("link")).expect("made");
        symlink(home.path().join("nowhere"), home.path().join("dangling")).expect("made");
        let inside = |path: &str| place.inside(Path::new(path));
        let root = place.root();
        assert_eq!(inside("claimed"), Ok(root.join("claimed")));
        assert_eq!(inside("claimed/new/folder"), Ok(root.join("claimed/new/folder")));
        assert_eq!(inside("."), Ok(root.to_path_buf()));
        assert_eq!(inside(root.join("claimed").to_str().expect("UTF-8")), Ok(root.join("claimed")));
        let absolute = other.path().to_str().expect("UTF-8").to_owned();
        for path in ["..", "claimed/../../etc", "link", "link/new", "/etc", "/", absolute.as_str()] {
            assert_eq!(inside(path).expect_err(path).code, "outside");
        }
        assert_eq!(inside("dangling").expect_err("nothing is there").code, "io");
    }
}
