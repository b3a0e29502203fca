//! Packages: a tree of files in one blob, so that it has one hash and travels in one piece.
//!
//! `"l402t package 1\n"`, then for each file, sorted by path: u32 length of the path ‖ path ‖ mode (0 plain, 1 executable) ‖
//! u64 length of the content ‖ content; lengths little-endian. One tree has one encoding, and nothing else is read.

use std::path::{Path, PathBuf};
use std::{fs, io};

use super::data::{DataError, Exam, INPUTS, LABELS, Part, to_lines};
use super::load::{Bounty, Extent, LoadError};
use super::manifest::{FILE, Parts};
use super::tree::{File, MOST_DEPTH, Mode, Tree, TreeLimits};
use crate::protocol::bounty::statements::Posting;

const MAGIC: &[u8] = b"l402t package 1\n";
/// Longest path.
const MOST_PATH_BYTES: usize = 4_096;

/// Most bytes of a package.
pub const MOST_BYTES: u64 = 96 << 20;

/// Bytes that are no package.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PackageError {
    /// Another kind of file, or cut off.
    #[error("it is not a whole package")]
    Malformed,
    /// A path that would lead out of the folder, or isn't a file's.
    #[error("it has a file named {0:?}, which no folder can have")]
    BadPath(String),
    /// The same files in another order, or one of them twice.
    #[error("its files are not in order")]
    NotInOrder,
    /// Too many files, or too much in them.
    #[error("it holds more than {} files or {} bytes", .0.files, .0.bytes)]
    TooLarge(TreeLimits),
}

/// Packages that are not the bounty that was posted.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// This machine: it says nothing about the packages.
    #[error("{} can't be made anew: {source}", path.display())]
    Write {
        /// The folder.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// What agents get is no package.
    #[error(transparent)]
    Package(PackageError),
    /// What agents get is no bounty.
    #[error(transparent)]
    Bounty(#[from] LoadError),
    /// What they start from is something else.
    #[error("the workspace is not the one that the posting names")]
    OtherWorkspace,
    /// The held-out part is no package.
    #[error(transparent)]
    HeldOutPackage(PackageError),
    /// The held-out part is no data.
    #[error(transparent)]
    HeldOut(#[from] DataError),
    /// The held-out part is another one, or the salt.
    #[error("the held-out part is not the one that the posting commits to")]
    OtherHeldOut,
}

/// What agents get and the held-out part, unpacked in two folders of `folder` that are made anew, seen to be what was posted.
/// That their bytes have the hashes that somebody has signed is the caller's to know.
pub fn open(
    posting: &Posting,
    (package, held_out): (&[u8], &[u8]),
    salt: [u8; 32],
    folder: &Path,
) -> Result<(Bounty, Exam), OpenError> {
    let (public, private) = (folder.join("package"), folder.join("held-out"));
    write_anew(&decode(package).map_err(OpenError::Package)?, &public)?;
    write_anew(&decode(held_out).map_err(OpenError::HeldOutPackage)?, &private)?;
    let mut bounty = Bounty::load(&public, salt, Extent::Package)?;
    let part = Part::read(&private)?;
    if part.commitment(&salt).ok() != Some(posting.held_out) {
        return Err(OpenError::OtherHeldOut);
    }
    if bounty.workspace.digest() != posting.baseline_tree {
        return Err(OpenError::OtherWorkspace);
    }
    let exam = Exam::held_out(part.clone(), salt, &bounty.manifest.data.classes);
    bounty.held_out = Some(part);
    Ok((bounty, exam))
}

/// What an interrupted start left of the folder goes.
fn write_anew(tree: &Tree, folder: &Path) -> Result<(), OpenError> {
    let failed = |source| OpenError::Write { path: folder.to_owned(), source };
    match fs::remove_dir_all(folder) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed(error)),
        Ok(()) | Err(_) => {}
    }
    tree.write_to(folder).map_err(failed)
}

/// A tree as bytes.
pub fn encode(tree: &Tree) -> Vec<u8> {
    let mut bytes = MAGIC.to_vec();
    for (path, file) in tree.files() {
        // Paths are far shorter than 4 GiB.
        bytes.extend_from_slice(&(path.len() as u32).to_le_bytes());
        bytes.extend_from_slice(path.as_bytes());
        bytes.push(match file.mode {
            Mode::Plain => 0,
            Mode::Executable => 1,
        });
        bytes.extend_from_slice(&(file.content.len() as u64).to_le_bytes());
        bytes.extend_from_slice(&file.content);
    }
    bytes
}

/// The tree of a package. Every path stays inside the folder that it is written to.
pub fn decode(bytes: &[u8]) -> Result<Tree, PackageError> {
    let limits = TreeLimits { files: 3 * TreeLimits::default().files, bytes: MOST_BYTES };
    if bytes.len() as u64 > limits.bytes {
        return Err(PackageError::TooLarge(limits));
    }
    let mut rest = bytes.strip_prefix(MAGIC).ok_or(PackageError::Malformed)?;
    let mut tree = Tree::default();
    let mut files = 0;
    let mut before: Option<String> = None;
    while !rest.is_empty() {
        let length = u32::from_le_bytes(take(&mut rest)?) as usize;
        let path = rest.split_off(..length).ok_or(PackageError::Malformed)?;
        let path = std::str::from_utf8(path).map_err(|_| PackageError::Malformed)?;
        check_path(path, before.as_deref())?;
        let mode = match take::<1>(&mut rest)? {
            [0] => Mode::Plain,
            [1] => Mode::Executable,
            _ => return Err(PackageError::Malformed),
        };
        let length = usize::try_from(u64::from_le_bytes(take(&mut rest)?)).map_err(|_| PackageError::Malformed)?;
        let content = rest.split_off(..length).ok_or(PackageError::Malformed)?.to_vec();
        tree.insert(path, File { content, mode });
        files += 1;
        if files > limits.files {
            return Err(PackageError::TooLarge(limits));
        }
        before = Some(path.to_owned());
    }
    Ok(tree)
}

fn take<const N: usize>(rest: &mut &[u8]) -> Result<[u8; N], PackageError> {
    let taken = rest.split_off(..N).ok_or(PackageError::Malformed)?;
    taken.try_into().map_err(|_| PackageError::Malformed)
}

fn check_path(path: &str, before: Option<&str>) -> Result<(), PackageError> {
    let bad = || PackageError::BadPath(path.chars().take(80).collect());
    let is_name = |name: &str| !matches!(name, "" | "." | "..") && !name.chars().any(|c| c.is_control() || c == '\\');
    if path.len() > MOST_PATH_BYTES || path.split('/').count() > MOST_DEPTH + 2 || !path.split('/').all(is_name) {
        return Err(bad());
    }
    let Some(before) = before else { return Ok(()) };
    if before >= path {
        return Err(PackageError::NotInOrder);
    }
    // Between "a" and "a/b" others may be, such as "a-", so this looks at what is next to each other only; writing such a tree
    // fails, and nothing else happens.
    if path.strip_prefix(before).is_some_and(|rest| rest.starts_with('/')) { Err(bad()) } else { Ok(()) }
}

/// Everything that agents get of a bounty, as its folder has it. `bounty_toml` is the sponsor's own text.
pub fn of_bounty(bounty: &Bounty, bounty_toml: &[u8]) -> Tree {
    let mut tree = Tree::default();
    tree.insert(FILE, File::plain(bounty_toml));
    let manifest = &bounty.manifest;
    for (folder, files) in [(&manifest.workspace, &bounty.workspace), (&manifest.scorer, &bounty.scorer)] {
        for (path, file) in files.files() {
            tree.insert(format!("{folder}/{path}"), file.clone());
        }
    }
    let folder = match &manifest.data.parts {
        Parts::Whole(all) => all,
        Parts::Split { public, .. } => public,
    };
    put_part(&mut tree, &format!("{folder}/"), &bounty.public);
    tree
}

/// A part of the data alone, as its folder has it.
pub fn of_part(part: &Part) -> Tree {
    let mut tree = Tree::default();
    put_part(&mut tree, "", part);
    tree
}

fn put_part(tree: &mut Tree, prefix: &str, part: &Part) {
    tree.insert(format!("{prefix}{INPUTS}"), File::plain(to_lines(&part.inputs)));
    if let Some(labels) = &part.labels {
        tree.insert(format!("{prefix}{LABELS}"), File::plain(to_lines(labels)));
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn tree(paths: &[&str]) -> Tree {
        let mut tree = Tree::default();
        for path in paths {
            tree.insert(*path, File::plain(path.as_bytes()));
        }
        tree
    }

    #[test]
    fn a_tree_comes_back_as_it_was() {
        let mut made = tree(&["bounty.toml", "workspace/a.py", "scorer/score.py"]);
        made.insert("workspace/run", File { content: vec![0, 255], mode: Mode::Executable });
        assert_eq!(decode(&encode(&made)), Ok(made));
        assert_eq!(decode(&encode(&Tree::default())), Ok(Tree::default()));
    }

    #[test]
    fn no_path_leads_out_of_its_folder() {
        for path in ["../a", "/etc/passwd", "a//b", "a/./b", "a/..", "", "a\\b", "a\nb", "a/"] {
            assert!(matches!(decode(&encode(&tree(&[path]))), Err(PackageError::BadPath(_))), "{path:?}");
        }
        assert!(matches!(decode(&encode(&tree(&["a", "a/b"]))), Err(PackageError::BadPath(_))));
        let deep = vec!["d"; MOST_DEPTH + 3].join("/");
        assert!(matches!(decode(&encode(&tree(&[&deep]))), Err(PackageError::BadPath(_))));
    }

    #[test]
    fn one_tree_has_one_encoding() {
        let [a, b] = ["a", "b"].map(|path| encode(&tree(&[path]))[MAGIC.len()..].to_vec());
        assert_eq!(decode(&[MAGIC, &b, &a].concat()), Err(PackageError::NotInOrder));
        assert_eq!(decode(&[MAGIC, &a, &a].concat()), Err(PackageError::NotInOrder));
        let whole = encode(&tree(&["a", "b"]));
        for cut in 0..whole.len() {
            // Cut between two files it is a package of the first ones.
            let ends_a_file = cut == MAGIC.len() || cut == MAGIC.len() + a.len();
            assert_eq!(decode(&whole[..cut]).is_ok(), ends_a_file, "{cut}");
        }
    }

    proptest! {
        #[test]
        fn whatever_is_read_is_written_the_same(bytes in proptest::collection::vec(any::<u8>(), 0..60)) {
            let bytes = [MAGIC, &bytes].concat();
            if let Ok(tree) = decode(&bytes) {
                prop_assert_eq!(encode(&tree), bytes);
            }
        }
    }
}
