//! A bounty's folder: bounty.toml and the files that it names. What is missing is named.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::data::{DataError, Exam, Part};
use super::manifest::{FILE, MOST_BYTES, Manifest, Parts, Problems};
use super::tree::{Tree, TreeError, TreeLimits};
use crate::protocol::bounty::split::split;

/// A folder that is no bounty.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// No bounty.toml.
    #[error("{} can't be read: {source}", path.display())]
    Unreadable {
        /// Where it should be.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
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
            Tree::read(&folder.join(name), TreeLimits::default()).map_err(|source| LoadError::Tree { key, source })
        };
        let workspace = tree("workspace", &manifest.workspace)?;
        if let Some(missing) = manifest.targets.iter().find(|target| workspace.get(target).is_none()) {
            return Err(LoadError::NoTarget(missing.clone()));
        }
        let scorer = tree("scorer.folder", &manifest.scorer)?;
        let part = |key, name: &str| Part::read(&folder.join(name)).map_err(|source| LoadError::Data { key, source });
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
    let unreadable = |source| LoadError::Unreadable { path: path.to_owned(), source };
    if fs::metadata(path).map_err(unreadable)?.len() > MOST_BYTES {
        return Err(LoadError::NotText(path.to_owned()));
    }
    let text = String::from_utf8(fs::read(path).map_err(unreadable)?);
    let text = text.map_err(|_| LoadError::NotText(path.to_owned()))?;
    Manifest::parse(&text).map_err(|problems| LoadError::Manifest { path: path.to_owned(), problems })
}
