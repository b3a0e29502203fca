//! A bounty's folder: bounty.toml and the files that it names. What is missing is named.

use std::path::{Path, PathBuf};

use super::data::{DataError, Exam, Part};
use super::manifest::{FILE, MOST_BYTES, Manifest, Parts, Problems};
use super::tree::{File, Tree, TreeError, TreeLimits, inside};
use crate::protocol::bounty::split::split;

/// A folder that is no bounty.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// No bounty.toml.
    #[error(transparent)]
    Unreadable(TreeError),
    /// It is far too large, or not text.
    #[error("{} is not UTF-8 text of at most {MOST_BYTES} bytes", .0.display())]
    NotText(PathBuf),
    /// It has mistakes.
    #[error("{}: {problems}", path.display())]
    Manifest {
        /// Where it is.
        path: PathBuf,
        /// Them.
        problems: Problems,
    },
    /// A folder that it names.
    #[error("{key}: {source}")]
    Tree {
        /// The key that names it.
        key: &'static str,
        /// What is wrong.
        source: TreeError,
    },
    /// A part of the data.
    #[error("{key}: {source}")]
    Data {
        /// The key that names it.
        key: &'static str,
        /// What is wrong.
        source: DataError,
    },
    /// A target that isn't there.
    #[error("targets: the workspace has no {0}: name a file that is there (an empty one, if it is to be created)")]
    NoTarget(String),
    /// The data is too little to be split.
    #[error("data.all: {0} different items are too few to hold a fifth of them out")]
    TooFewItems(usize),
}

/// A bounty's folder, read.
#[derive(Clone, Debug)]
pub struct Bounty {
    /// bounty.toml.
    pub manifest: Manifest,
    /// What agents start from.
    pub workspace: Tree,
    /// What scores them.
    pub scorer: Tree,
    /// What everybody gets.
    pub public: Part,
    /// What is scored; `None` where it wasn't asked for.
    pub held_out: Option<Part>,
    /// Decides the split, the canaries and the order.
    pub salt: [u8; 32],
}

/// What of a bounty to read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Extent {
    /// All of it: the sponsor's own folder.
    Whole,
    /// Only what everybody gets.
    Public,
    /// A package: it holds only what everybody gets, so nothing of its data is held out.
    Package,
}

impl Bounty {
    /// Reads a folder. The salt decides which fifth of undivided data is held out.
    pub fn load(folder: &Path, salt: [u8; 32], extent: Extent) -> Result<Self, LoadError> {
        let manifest = read_manifest(&folder.join(FILE))?;
        let tree = |key, name: &str| {
            let found = inside(folder, name).and_then(|path| Tree::read(&path, TreeLimits::default()));
            found.map_err(|source| LoadError::Tree { key, source })
        };
        let workspace = tree("workspace", &manifest.workspace)?;
        if let Some(missing) = manifest.targets.iter().find(|target| workspace.get(target).is_none()) {
            return Err(LoadError::NoTarget(missing.clone()));
        }
        let scorer = tree("scorer.folder", &manifest.scorer)?;
        let part = |key, name: &str| {
            let found = inside(folder, name).map_err(DataError::from).and_then(|path| Part::read(&path));
            found.map_err(|source| LoadError::Data { key, source })
        };
        let (public, held_out) = match &manifest.data.parts {
            Parts::Split { public, held_out } => {
                let held_out = match extent {
                    Extent::Whole => Some(part("data.held_out", held_out)?),
                    Extent::Public | Extent::Package => None,
                };
                (part("data.public", public)?, held_out)
            }
            Parts::Whole(all) if extent == Extent::Package => (part("data.all", all)?, None),
            Parts::Whole(all) => {
                let all = part("data.all", all)?;
                let split = split(&salt, &all.inputs);
                if split.held_out.is_empty() {
                    return Err(LoadError::TooFewItems(all.inputs.len()));
                }
                let held_out = match extent {
                    Extent::Whole => Some(all.select(&split.held_out)),
                    Extent::Public | Extent::Package => None,
                };
                (all.select(&split.public), held_out)
            }
        };
        Ok(Self { manifest, workspace, scorer, public, held_out, salt })
    }

    /// What decides about money; `None` where only the public part was read.
    pub fn held_out_exam(&self) -> Option<Exam> {
        let part = self.held_out.clone()?;
        Some(Exam::held_out(part, self.salt, &self.manifest.data.classes))
    }

    /// What everybody can try.
    pub fn public_exam(&self) -> Exam {
        Exam::public(self.public.clone(), self.salt)
    }
}

fn read_manifest(path: &Path) -> Result<Manifest, LoadError> {
    let not_text = || LoadError::NotText(path.to_owned());
    let file = File::read(path, MOST_BYTES).map_err(LoadError::Unreadable)?.ok_or_else(not_text)?;
    let text = String::from_utf8(file.content).map_err(|_| not_text())?;
    Manifest::parse(&text).map_err(|problems| LoadError::Manifest { path: path.to_owned(), problems })
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use rustix::fs::{CWD, FileType, Mode, mknodat};

    use super::*;

    const MANIFEST: &str = include_str!("../../examples/bounties/logs/bounty.toml");

    fn folder() -> tempfile::TempDir {
        let place = tempfile::tempdir().expect("a folder");
        for (path, content) in [
            ("bounty.toml", MANIFEST),
            ("workspace/codec.py", "pass\n"),
            ("scorer/score.py", "print(1)\n"),
            ("public/inputs", "a\n"),
            ("held-out/inputs", "b\n"),
        ] {
            let path = place.path().join(path);
            fs::create_dir_all(path.parent().expect("a parent")).expect("made");
            fs::write(path, content).expect("written");
        }
        place
    }

    fn load(folder: &Path) -> Result<Bounty, LoadError> {
        Bounty::load(folder, [1; 32], Extent::Whole)
    }

    #[test]
    fn nothing_in_a_bountys_folder_may_be_a_link_or_a_pipe() {
        let place = folder();
        load(place.path()).expect("a bounty");
        let aside = place.path().join("aside");
        for name in
            ["bounty.toml", "workspace", "workspace/codec.py", "scorer", "public", "public/inputs", "held-out/inputs"]
        {
            let path = place.path().join(name);
            fs::rename(&path, &aside).expect("moved");
            symlink(&aside, &path).expect("linked");
            let error = load(place.path()).expect_err(name).to_string();
            assert!(error.contains("is neither a regular file nor a folder"), "{error}");
            fs::remove_file(&path).expect("removed");
            // Nobody ever writes to it: reading it would wait for ever.
            mknodat(CWD, &path, FileType::Fifo, Mode::RUSR, 0).expect("a pipe");
            let error = load(place.path()).expect_err(name).to_string();
            assert!(error.contains("is neither a regular file nor a folder"), "{error}");
            fs::remove_file(&path).expect("removed");
            fs::rename(&aside, &path).expect("moved back");
        }
        symlink("inputs", place.path().join("held-out/labels")).expect("linked");
        assert!(load(place.path()).is_err(), "labels may be missing, not elsewhere");
    }
}
