//! Trees of files in memory: what agents start from, what a diff makes of it, and what is different between the two.
//!
//! Regular files and folders only. A link or anything else is refused where a tree is read, and can't come to be in one.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Read as _};
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use crate::protocol::ids::Blake3Hash;

const CONTEXT: &str = "l402t bounty tree v1";

/// Deepest folder.
pub(super) const MOST_DEPTH: usize = 32;

/// How much a tree may hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TreeLimits {
    /// Files.
    pub files: usize,
    /// Bytes in all of them.
    pub bytes: u64,
}

impl Default for TreeLimits {
    fn default() -> Self {
        Self { files: 10_000, bytes: 64 << 20 }
    }
}

/// A folder that is no tree.
#[derive(Debug, thiserror::Error)]
pub enum TreeError {
    /// It isn't there, or can't be read.
    #[error("{} can't be read: {source}", path.display())]
    Unreadable {
        /// Which file or folder.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// A link, a device, a socket.
    #[error("{} is neither a regular file nor a folder: put the file itself there", path.display())]
    NotAFile {
        /// Which one.
        path: PathBuf,
    },
    /// A name that isn't UTF-8, or would break a line.
    #[error("{} has a name that is not plain UTF-8: rename it", path.display())]
    BadName {
        /// Which one.
        path: PathBuf,
    },
    /// Too much of it.
    #[error("{} holds more than {} files, {} bytes or {MOST_DEPTH} levels of folders", path.display(), limits.files, limits.bytes)]
    TooLarge {
        /// The folder.
        path: PathBuf,
        /// What is allowed.
        limits: TreeLimits,
    },
}

/// May a file be executed?
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// 0644.
    Plain,
    /// 0755.
    Executable,
}

/// A regular file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct File {
    /// All of it.
    pub content: Vec<u8>,
    /// Its mode.
    pub mode: Mode,
}

/// Files by their path, relative and with `/`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tree {
    files: BTreeMap<String, File>,
}

/// What one tree has otherwise than another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Difference {
    /// Only the second has it.
    Added,
    /// Only the first has it.
    Removed,
    /// Another content.
    Changed,
    /// Another mode.
    ModeChanged,
}

impl Tree {
    /// Reads a folder.
    pub fn read(folder: &Path, limits: TreeLimits) -> Result<Self, TreeError> {
        let mut tree = Self::default();
        let mut left = limits.bytes;
        let mut folders = vec![(folder.to_owned(), String::new(), 0)];
        while let Some((at, prefix, depth)) = folders.pop() {
            let too_large = || TreeError::TooLarge { path: folder.to_owned(), limits };
            for entry in fs::read_dir(&at).map_err(unreadable(&at))? {
                let entry = entry.map_err(unreadable(&at))?;
                let path = entry.path();
                let name = entry.file_name();
                let name = name.to_str().filter(|name| !name.chars().any(|c| c.is_control() || c == '\\'));
                let name = name.ok_or_else(|| TreeError::BadName { path: path.clone() })?;
                let inside = format!("{prefix}{name}");
                let kind = entry.file_type().map_err(unreadable(&path))?;
                if kind.is_dir() {
                    if depth + 1 >= MOST_DEPTH {
                        return Err(too_large());
                    }
                    folders.push((path, format!("{inside}/"), depth + 1));
                } else {
                    let file = File::read(&path, left)?.ok_or_else(too_large)?;
                    left -= file.content.len() as u64;
                    tree.files.insert(inside, file);
                    if tree.files.len() > limits.files {
                        return Err(too_large());
                    }
                }
            }
        }
        Ok(tree)
    }

    /// Reads those of the named files of a folder that are there, and nothing else of it. Names are relative and plain.
    pub fn read_files(folder: &Path, names: &[String], limits: TreeLimits) -> Result<Self, TreeError> {
        let mut tree = Self::default();
        let mut left = limits.bytes;
        for name in names {
            let path = match inside(folder, name) {
                Err(TreeError::Unreadable { source, .. }) if source.kind() == io::ErrorKind::NotFound => continue,
                found => found?,
            };
            let too_large = TreeError::TooLarge { path: folder.to_owned(), limits };
            let file = File::read(&path, left)?.ok_or(too_large)?;
            left -= file.content.len() as u64;
            tree.files.insert(name.clone(), file);
        }
        Ok(tree)
    }

    /// Writes it into a folder that doesn't exist yet.
    pub fn write_to(&self, folder: &Path) -> io::Result<()> {
        fs::create_dir(folder)?;
        for (path, file) in &self.files {
            let path = folder.join(path);
            if let Some(parent) = path.parent() {
                fs::create_dir_all(parent)?;
            }
            fs::write(&path, &file.content)?;
            let mode = match file.mode {
                Mode::Plain => 0o644,
                Mode::Executable => 0o755,
            };
            fs::set_permissions(&path, fs::Permissions::from_mode(mode))?;
        }
        Ok(())
    }

    /// A file.
    pub fn get(&self, path: &str) -> Option<&File> {
        self.files.get(path)
    }

    /// Adds or replaces a file.
    pub fn insert(&mut self, path: impl Into<String>, file: File) {
        self.files.insert(path.into(), file);
    }

    /// By path.
    pub fn files(&self) -> impl Iterator<Item = (&str, &File)> {
        self.files.iter().map(|(path, file)| (path.as_str(), file))
    }

    /// Bytes in the named files, as far as they are there.
    pub fn bytes_of(&self, names: &[String]) -> u64 {
        names.iter().filter_map(|name| self.get(name)).map(|file| file.content.len() as u64).sum()
    }

    /// One digest for one tree: path, mode and content of each file, by path.
    pub fn digest(&self) -> Blake3Hash {
        let mut bytes = Vec::new();
        for (path, file) in &self.files {
            bytes.extend_from_slice(&(path.len() as u64).to_le_bytes());
            bytes.extend_from_slice(path.as_bytes());
            bytes.push(match file.mode {
                Mode::Plain => 0,
                Mode::Executable => 1,
            });
            bytes.extend_from_slice(Blake3Hash::of(&file.content).as_bytes());
        }
        Blake3Hash::derive(CONTEXT, &bytes)
    }

    /// What `other` has otherwise, by path.
    pub fn differences<'t>(&'t self, other: &'t Tree) -> BTreeMap<&'t str, Difference> {
        let removed = self.files.keys().filter(|path| !other.files.contains_key(*path));
        let removed = removed.map(|path| (path.as_str(), Difference::Removed));
        let others = other.files().filter_map(|(path, file)| {
            let difference = match self.get(path) {
                None => Difference::Added,
                Some(own) if own.mode != file.mode => Difference::ModeChanged,
                Some(own) if own.content != file.content => Difference::Changed,
                Some(_) => return None,
            };
            Some((path, difference))
        });
        removed.chain(others).collect()
    }
}

impl File {
    /// A file that isn't executed.
    pub fn plain(content: impl Into<Vec<u8>>) -> Self {
        Self { content: content.into(), mode: Mode::Plain }
    }

    /// `None` if it has more than `most` bytes.
    pub fn read(path: &Path, most: u64) -> Result<Option<Self>, TreeError> {
        // A link is refused in the same call that opens, and opening a pipe that nobody writes to doesn't wait.
        let mut options = fs::OpenOptions::new();
        options.read(true).custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK | libc::O_CLOEXEC);
        let file = match options.open(path) {
            Ok(file) => file,
            Err(error) if matches!(error.raw_os_error(), Some(libc::ELOOP | libc::ENXIO)) => {
                return Err(TreeError::NotAFile { path: path.to_owned() });
            }
            Err(error) => return Err(unreadable(path)(error)),
        };
        let metadata = file.metadata().map_err(unreadable(path))?;
        if !metadata.is_file() {
            return Err(TreeError::NotAFile { path: path.to_owned() });
        }
        let mut content = Vec::new();
        file.take(most.saturating_add(1)).read_to_end(&mut content).map_err(unreadable(path))?;
        let mode = if metadata.permissions().mode() & 0o100 == 0 { Mode::Plain } else { Mode::Executable };
        Ok((content.len() as u64 <= most).then_some(Self { content, mode }))
    }
}

/// Where a file or folder in a folder is, by its plain, relative name: neither it nor what it is in is a link.
pub fn inside(folder: &Path, name: &str) -> Result<PathBuf, TreeError> {
    let mut path = folder.to_owned();
    let mut parts = name.split('/').peekable();
    while let Some(part) = parts.next() {
        path.push(part);
        let kind = fs::symlink_metadata(&path).map_err(unreadable(&path))?.file_type();
        if !kind.is_dir() && (parts.peek().is_some() || !kind.is_file()) {
            return Err(TreeError::NotAFile { path });
        }
    }
    Ok(path)
}

fn unreadable(path: &Path) -> impl FnOnce(io::Error) -> TreeError {
    let path = path.to_owned();
    move |source| TreeError::Unreadable { path, source }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tree() -> Tree {
        let mut tree = Tree::default();
        tree.insert("a.py", File::plain("a\n"));
        tree.insert("deep/er/run.sh", File { content: b"#!/bin/sh\n".to_vec(), mode: Mode::Executable });
        tree.insert("binary", File::plain([0, 255, 7]));
        tree
    }

    #[test]
    fn a_written_tree_is_read_back() {
        let place = tempfile::tempdir().expect("a folder");
        let folder = place.path().join("tree");
        tree().write_to(&folder).expect("written");
        let read = Tree::read(&folder, TreeLimits::default()).expect("read");
        assert_eq!(read, tree());
        assert_eq!(read.digest(), tree().digest());
        assert!(tree().write_to(&folder).is_err(), "what is there is left alone");
        let named = Tree::read_files(&folder, &["a.py".into(), "missing".into()], TreeLimits::default()).expect("read");
        assert_eq!(named.files().map(|(path, _)| path).collect::<Vec<_>>(), ["a.py"]);
    }

    #[test]
    fn links_pipes_and_too_much_are_refused() {
        let place = tempfile::tempdir().expect("a folder");
        let folder = place.path().join("tree");
        tree().write_to(&folder).expect("written");
        let read = |limits| Tree::read(&folder, limits);
        assert!(matches!(read(TreeLimits { files: 2, ..TreeLimits::default() }), Err(TreeError::TooLarge { .. })));
        assert!(matches!(read(TreeLimits { bytes: 14, ..TreeLimits::default() }), Err(TreeError::TooLarge { .. })));
        assert!(read(TreeLimits { files: 3, bytes: 15 }).is_ok());
        let link = folder.join("link");
        for target in ["/etc/passwd", "a.py", "deep", "nowhere"] {
            std::os::unix::fs::symlink(target, &link).expect("linked");
            assert!(matches!(read(TreeLimits::default()), Err(TreeError::NotAFile { .. })), "{target}");
            let named = Tree::read_files(&folder, &["link".into()], TreeLimits::default());
            assert!(matches!(named, Err(TreeError::NotAFile { .. })), "{target}");
            fs::remove_file(&link).expect("removed");
        }
        // By way of a folder that is a link, too.
        std::os::unix::fs::symlink("deep", &link).expect("linked");
        let named = Tree::read_files(&folder, &["link/er/run.sh".into()], TreeLimits::default());
        assert!(matches!(named, Err(TreeError::NotAFile { .. })), "{named:?}");
        fs::remove_file(&link).expect("removed");
        std::os::unix::net::UnixListener::bind(&link).expect("a socket");
        assert!(matches!(read(TreeLimits::default()), Err(TreeError::NotAFile { .. })));
        let nowhere = Tree::read(&place.path().join("nowhere"), TreeLimits::default());
        assert!(matches!(nowhere, Err(TreeError::Unreadable { .. })));
    }

    #[test]
    fn every_difference_shows_in_the_digest_too() {
        let base = tree();
        let mut other = tree();
        assert!(base.differences(&other).is_empty());
        other.insert("a.py", File::plain("b\n"));
        other.insert("new", File::plain(""));
        other.insert("binary", File { content: vec![0, 255, 7], mode: Mode::Executable });
        other.files.remove("deep/er/run.sh");
        let found: Vec<_> = base.differences(&other).into_iter().collect();
        assert_eq!(
            found,
            [
                ("a.py", Difference::Changed),
                ("binary", Difference::ModeChanged),
                ("deep/er/run.sh", Difference::Removed),
                ("new", Difference::Added),
            ]
        );
        assert_ne!(base.digest(), other.digest());
    }
}
