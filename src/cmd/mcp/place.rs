//! Where a client may have files: in one folder, and nowhere else.
//!
//! Whoever works in the folder can swap a part of a path for a link between the look here and the use: keep others out of it.

use std::path::{Component, Path, PathBuf};

use crate::cmd::Failure;

/// The folder that claimed bounties lie in.
#[derive(Clone, Debug)]
pub(super) struct Place(PathBuf);

impl Place {
    /// The configured folder, or the one that this process was started in. What is in the data folder is not a client's to see.
    pub(super) fn find(configured: Option<&Path>, data: &Path) -> Result<Self, Failure> {
        let folder = configured.unwrap_or(Path::new("."));
        let found =
            folder.canonicalize().map_err(|error| Failure::io("open the folder [mcp] folder", folder, &error))?;
        let data = data.canonicalize().map_err(|error| Failure::io("open", data, &error))?;
        if data.starts_with(&found) || found.starts_with(&data) {
            let message = format!("{} is not apart from the data folder, {}", found.display(), data.display());
            return Err(Failure::usage("mcp_folder", message, "Set [mcp] folder to a folder for bounties alone"));
        }
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
        if !real.starts_with(&self.0) {
            return Err(outside());
        }
        // Joined with nothing it would end in a slash.
        Ok(if rest.as_os_str().is_empty() { real } else { real.join(rest) })
    }

    /// The same, and not the folder itself.
    pub(super) fn below(&self, path: &Path) -> Result<PathBuf, Failure> {
        let found = self.inside(path)?;
        if found == self.0 {
            let message = format!("{} is the folder that all bounties lie in", path.display());
            return Err(Failure::usage("folder_exists", message, "Name a folder in it that is not there yet"));
        }
        Ok(found)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    #[test]
    fn no_path_and_no_link_leads_out_of_the_folder() {
        let (home, other) = (tempfile::tempdir().expect("a folder"), tempfile::tempdir().expect("a folder"));
        let data = tempfile::tempdir().expect("a folder");
        let place = Place::find(Some(home.path()), data.path()).expect("there");
        for (folder, data) in [(home.path(), home.path().join("claimed")), (data.path(), data.path().to_owned())] {
            std::fs::create_dir_all(&data).expect("made");
            assert_eq!(Place::find(Some(folder), &data).expect_err("not apart").code, "mcp_folder");
        }
        symlink(other.path(), home.path().join("link")).expect("made");
        symlink(home.path().join("nowhere"), home.path().join("dangling")).expect("made");
        let inside = |path: &str| place.inside(Path::new(path));
        let root = place.root();
        assert_eq!(inside("claimed"), Ok(root.join("claimed")));
        assert_eq!(
            inside("claimed/").expect("there").as_os_str(),
            root.join("claimed").as_os_str(),
            "no slash at its end"
        );
        assert_eq!(place.below(Path::new(".")).expect_err("all of it").code, "folder_exists");
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
