//! Diffs: a git unified diff is made from a workspace, and applied to the tree that it started from.
//!
//! What a diff says about itself is not believed: it is applied to a tree in memory, and then the trees are compared. Only
//! target files may differ, in content alone. Hunks go exactly where they say, never to somewhere similar.

use std::collections::BTreeSet;

use diffy::patch_set::{FileMode, FileOperation, FilePatch, ParseOptions, PatchSet};
use diffy::{DiffOptions, Line, Patch};

use super::tree::{Difference, File, Tree};

/// Why a diff is not looked at further: the verdict `rejected_static`.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StaticRejection {
    /// Nothing in it.
    #[error("the diff is empty: change a target file first")]
    Empty,
    /// More bytes than the bounty takes.
    #[error("the diff has {bytes} bytes, and at most {most} are taken")]
    TooLarge {
        /// Its length.
        bytes: u64,
        /// The most.
        most: u64,
    },
    /// Not text.
    #[error("the diff is not UTF-8 from byte {at} on: target files must be text")]
    NotUtf8 {
        /// The first wrong byte.
        at: usize,
    },
    /// A file of the workspace is not text.
    #[error("{path} is not UTF-8 text, so no diff can carry it")]
    NotText {
        /// Which one.
        path: String,
    },
    /// Not a unified diff.
    #[error("this is not a git unified diff: {why}")]
    Unreadable {
        /// What is wrong.
        why: String,
    },
    /// A binary patch.
    #[error("the diff of {path} is binary: target files must be text")]
    Binary {
        /// Which one.
        path: String,
    },
    /// A file that may not change.
    #[error("{path} may not be changed: the target files are {targets}")]
    NotATarget {
        /// Which one.
        path: String,
        /// All that may.
        targets: String,
    },
    /// A rename or a copy.
    #[error("{path} is renamed or copied: target files stay where they are")]
    Renamed {
        /// Which one.
        path: String,
    },
    /// A file is gone.
    #[error("{path} is deleted: target files have to stay")]
    Deleted {
        /// Which one.
        path: String,
    },
    /// Another mode, or something that isn't a regular file.
    #[error("{path} gets another mode: only contents may change")]
    ModeChanged {
        /// Which one.
        path: String,
    },
    /// Two diffs of one file.
    #[error("{path} is changed twice in one diff")]
    Twice {
        /// Which one.
        path: String,
    },
    /// It was made from something else.
    #[error(
        "hunk {hunk} of {path} does not fit the bounty's own file: make the diff from the workspace as it was claimed"
    )]
    DoesNotApply {
        /// Which file.
        path: String,
        /// From 1.
        hunk: usize,
    },
}

/// Makes the diff from `base` to what a workspace has in the target files, all of which are in `base`. `changed` may hold the
/// target files alone.
pub fn make(base: &Tree, changed: &Tree, targets: &[String]) -> Result<String, StaticRejection> {
    let mut text = String::new();
    for (path, old) in targets.iter().filter_map(|path| Some((path, base.get(path)?))) {
        let new = changed.get(path).ok_or_else(|| StaticRejection::Deleted { path: path.clone() })?;
        if old.mode != new.mode {
            return Err(StaticRejection::ModeChanged { path: path.clone() });
        }
        if old.content == new.content {
            continue;
        }
        let mut options = DiffOptions::new();
        options.set_original_filename(format!("a/{path}")).set_modified_filename(format!("b/{path}"));
        text.push_str(&format!("diff --git a/{path} b/{path}\n"));
        text.push_str(&options.create_patch(as_text(path, old)?, as_text(path, new)?).to_string());
    }
    if text.is_empty() { Err(StaticRejection::Empty) } else { Ok(text) }
}

fn as_text<'f>(path: &str, file: &'f File) -> Result<&'f str, StaticRejection> {
    std::str::from_utf8(&file.content).map_err(|_| StaticRejection::NotText { path: path.to_owned() })
}

/// Applies a diff to `base` and checks what came of it.
pub fn apply(base: &Tree, diff: &[u8], targets: &[String], most_bytes: u64) -> Result<Tree, StaticRejection> {
    let bytes = diff.len() as u64;
    if bytes > most_bytes {
        return Err(StaticRejection::TooLarge { bytes, most: most_bytes });
    }
    let text = std::str::from_utf8(diff).map_err(|error| StaticRejection::NotUtf8 { at: error.valid_up_to() })?;
    if text.trim().is_empty() {
        return Err(StaticRejection::Empty);
    }
    let mut changed = base.clone();
    let mut seen = BTreeSet::new();
    for patch in PatchSet::parse(text, ParseOptions::gitdiff()) {
        let patch = patch.map_err(|error| StaticRejection::Unreadable { why: error.to_string() })?;
        let path = path_of(&patch)?;
        if !seen.insert(path.clone()) {
            return Err(StaticRejection::Twice { path });
        }
        let hunks = patch.patch().as_text().ok_or_else(|| StaticRejection::Binary { path: path.clone() })?;
        let does_not_apply = |hunk| StaticRejection::DoesNotApply { path: path.clone(), hunk };
        let old = base.get(&path).ok_or_else(|| not_a_target(&path, targets))?;
        if patch.operation().is_create() {
            return Err(does_not_apply(1));
        }
        let new = apply_hunks(as_text(&path, old)?, hunks).map_err(does_not_apply)?;
        changed.insert(path, File { content: new.into_bytes(), mode: old.mode });
    }
    compare(base, &changed, targets)?;
    Ok(changed)
}

/// Only target files, only their contents.
fn compare(base: &Tree, changed: &Tree, targets: &[String]) -> Result<(), StaticRejection> {
    let differences = base.differences(changed);
    for (path, difference) in &differences {
        let path = (*path).to_owned();
        if !targets.contains(&path) {
            return Err(not_a_target(&path, targets));
        }
        match difference {
            Difference::Added | Difference::Changed => {}
            Difference::Removed => return Err(StaticRejection::Deleted { path }),
            Difference::ModeChanged => return Err(StaticRejection::ModeChanged { path }),
        }
    }
    if differences.is_empty() { Err(StaticRejection::Empty) } else { Ok(()) }
}

fn not_a_target(path: &str, targets: &[String]) -> StaticRejection {
    StaticRejection::NotATarget { path: path.to_owned(), targets: targets.join(", ") }
}

/// The one file that a patch is about, if it does nothing but change its content.
fn path_of(patch: &FilePatch<'_, str>) -> Result<String, StaticRejection> {
    let path = |path: &str| path.split_once('/').map_or(path, |(_, path)| path).to_owned();
    let name = match patch.operation() {
        FileOperation::Create(new) => path(new),
        FileOperation::Modify { original, modified } if path(original) == path(modified) => path(modified),
        FileOperation::Modify { modified, .. } => {
            return Err(StaticRejection::Renamed { path: path(modified) });
        }
        FileOperation::Rename { to, .. } | FileOperation::Copy { to, .. } => {
            return Err(StaticRejection::Renamed { path: path(to) });
        }
        FileOperation::Delete(old) => return Err(StaticRejection::Deleted { path: path(old) }),
    };
    let changes_mode = patch.old_mode() != patch.new_mode() && !patch.operation().is_create();
    let strange = |mode: Option<&FileMode>| match mode {
        None | Some(FileMode::Regular | FileMode::Executable) => false,
        Some(FileMode::Symlink | FileMode::Gitlink) => true,
    };
    if changes_mode || strange(patch.old_mode()) || strange(patch.new_mode()) {
        return Err(StaticRejection::ModeChanged { path: name });
    }
    Ok(name)
}

/// Every hunk at its own line; the number of the first that doesn't fit, from 1.
fn apply_hunks(old: &str, patch: &Patch<'_, str>) -> Result<String, usize> {
    let lines: Vec<&str> = old.split_inclusive('\n').collect();
    let mut new = String::with_capacity(old.len());
    let mut at = 0;
    for (place, hunk) in patch.hunks().iter().enumerate() {
        let wrong = || place + 1;
        let range = hunk.old_range();
        // Of no lines, a range names the line before; of some, the first of them.
        let start = if range.is_empty() { range.start() } else { range.start().checked_sub(1).ok_or_else(wrong)? };
        let untouched = (at <= start).then(|| lines.get(at..start)).flatten().ok_or_else(wrong)?;
        new.extend(untouched.iter().copied());
        at = start;
        for line in hunk.lines() {
            match line {
                Line::Insert(inserted) => new.push_str(inserted),
                Line::Context(expected) | Line::Delete(expected) => {
                    let found = lines.get(at).filter(|found| *found == expected).ok_or_else(wrong)?;
                    at += 1;
                    if matches!(line, Line::Context(_)) {
                        new.push_str(found);
                    }
                }
            }
        }
    }
    new.extend(lines[at..].iter().copied());
    Ok(new)
}

#[cfg(test)]
mod tests;
