//! A folder out of a box, as an archive on its stdout, read without believing any of it: regular files and folders only.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Write as _};
use std::ops::Range;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use super::BoxSpec;

/// tar's unit.
const BLOCK: usize = 512;

/// Deepest folder, far less than what a box may be given.
const MOST_DEPTH: usize = 32;

/// What an archive may hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ArchiveLimits {
    /// Files and folders.
    pub entries: usize,
    /// Bytes in all files.
    pub bytes: u64,
}

impl Default for ArchiveLimits {
    fn default() -> Self {
        Self { entries: 10_000, bytes: 64 << 20 }
    }
}

/// Why what a box wrote is no archive to be used. All of it is the doing of what ran there.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ArchiveError {
    /// Not tar's format, or cut off.
    #[error("the archive is damaged at byte {at}: {what}")]
    Damaged {
        /// Where.
        at: usize,
        /// What is wrong.
        what: &'static str,
    },
    /// A link, a device or something else.
    #[error("{path:?} is neither a regular file nor a folder")]
    NotAFile {
        /// Which one.
        path: String,
    },
    /// A name that doesn't stay inside, isn't UTF-8, is there twice, or is too deep.
    #[error("{path:?} is no usable path")]
    BadPath {
        /// Which one.
        path: String,
    },
    /// Too much of it.
    #[error("more than {} files and folders or {} bytes", limits.entries, limits.bytes)]
    TooLarge {
        /// What is allowed.
        limits: ArchiveLimits,
    },
}

/// A tree of files that was checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Archive {
    bytes: Vec<u8>,
    /// By path, relative and with `/`; parents come before what is in them.
    entries: BTreeMap<String, Entry>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Entry {
    Folder,
    File { content: Range<usize>, executable: bool },
}

impl BoxSpec {
    /// Has the box write a folder of its own to stdout, for [`Archive::read`], once the command has ended well. What the
    /// command itself writes to stdout goes to stderr. `folder` is absolute, in the box.
    #[must_use]
    pub fn returning(mut self, folder: &str) -> Self {
        const SCRIPT: &str = "folder=$1; shift; \"$@\" >&2 || exit\n\
            exec tar --create --format=ustar --sort=name --owner=0 --group=0 --numeric-owner --mtime=@0 --hard-dereference \
            --directory=\"$folder\" --file=- .";
        let command = std::mem::take(&mut self.argv);
        // Without a command there is nothing to wrap, and the check says so.
        if !command.is_empty() {
            self.argv = ["/bin/sh", "-c", SCRIPT, "sh", folder].into_iter().map(str::to_owned).chain(command).collect();
        }
        self
    }
}

impl Archive {
    /// Reads and checks what a box wrote.
    pub fn read(bytes: Vec<u8>, limits: ArchiveLimits) -> Result<Self, ArchiveError> {
        let mut entries = BTreeMap::new();
        let (mut at, mut total) = (0, 0_u64);
        loop {
            let damaged = |what| ArchiveError::Damaged { at, what };
            let header: &[u8; BLOCK] =
                bytes.get(at..).and_then(<[u8]>::first_chunk).ok_or(damaged("it ends without an end"))?;
            if header.iter().all(|byte| *byte == 0) {
                break;
            }
            let header = Header(header);
            if !header.is_whole() {
                return Err(damaged("a header's sum is wrong"));
            }
            let path = header.path();
            let size = header.octal(124..136).ok_or(damaged("a size is no number"))?;
            let start = at + BLOCK;
            let (entry, length) = match header.0[156] {
                b'0' => {
                    let length = usize::try_from(size).ok().filter(|size| *size <= bytes.len() - start);
                    let length = length.ok_or(damaged("a file is cut off"))?;
                    let mode = header.octal(100..108).ok_or(damaged("a mode is no number"))?;
                    (Entry::File { content: start..start + length, executable: mode & 0o100 != 0 }, length)
                }
                b'5' if size == 0 => (Entry::Folder, 0),
                _ => return Err(ArchiveError::NotAFile { path: String::from_utf8_lossy(&path).into_owned() }),
            };
            total += length as u64;
            if entries.len() >= limits.entries || total > limits.bytes {
                return Err(ArchiveError::TooLarge { limits });
            }
            add(&mut entries, &path, entry)?;
            at = start + length.next_multiple_of(BLOCK);
        }
        Ok(Self { bytes, entries })
    }

    /// Its files, by path: what is in them, and whether they may be executed.
    pub fn files(&self) -> impl Iterator<Item = (&str, &[u8])> {
        self.entries.iter().filter_map(|(path, entry)| match entry {
            Entry::Folder => None,
            Entry::File { content, .. } => Some((path.as_str(), &self.bytes[content.clone()])),
        })
    }

    /// Writes it to a folder that doesn't exist yet.
    pub fn write_to(&self, folder: &Path) -> io::Result<()> {
        fs::create_dir(folder)?;
        for (path, entry) in &self.entries {
            let path = folder.join(path);
            match entry {
                Entry::Folder => fs::create_dir(&path)?,
                Entry::File { content, executable } => {
                    let mode = if *executable { 0o755 } else { 0o644 };
                    let mut file: File = File::options().write(true).create_new(true).mode(mode).open(&path)?;
                    file.write_all(&self.bytes[content.clone()])?;
                }
            }
        }
        Ok(())
    }
}

/// Adds an entry under a path that stays inside, in a folder that is there.
fn add(entries: &mut BTreeMap<String, Entry>, path: &[u8], entry: Entry) -> Result<(), ArchiveError> {
    let bad = || ArchiveError::BadPath { path: String::from_utf8_lossy(path).into_owned() };
    let text = std::str::from_utf8(path).map_err(|_| bad())?;
    let plain = text.strip_prefix("./").ok_or_else(bad)?;
    let plain = if entry == Entry::Folder { plain.trim_end_matches('/') } else { plain };
    if plain.is_empty() && entry == Entry::Folder {
        return Ok(());
    }
    let usable = |part: &str| !matches!(part, "" | "." | "..") && !part.contains('\0');
    if !plain.split('/').all(usable) || plain.split('/').count() > MOST_DEPTH {
        return Err(bad());
    }
    let in_a_folder = plain.rsplit_once('/').is_none_or(|(parent, _)| entries.get(parent) == Some(&Entry::Folder));
    if !in_a_folder || entries.insert(plain.to_owned(), entry).is_some() {
        return Err(bad());
    }
    Ok(())
}

/// One file's or folder's header, in POSIX's ustar format.
struct Header<'a>(&'a [u8; BLOCK]);

impl Header<'_> {
    /// Is the sum over it right, and the format ustar's?
    fn is_whole(&self) -> bool {
        let sum: u64 = self
            .0
            .iter()
            .enumerate()
            .map(|(at, byte)| if (148..156).contains(&at) { 32 } else { u64::from(*byte) })
            .sum();
        self.octal(148..156) == Some(sum) && self.0[257..263] == *b"ustar\0"
    }

    fn path(&self) -> Vec<u8> {
        let (name, prefix) = (text(&self.0[..100]), text(&self.0[345..500]));
        if prefix.is_empty() { name.to_vec() } else { [prefix, b"/", name].concat() }
    }

    fn octal(&self, range: Range<usize>) -> Option<u64> {
        let digits = std::str::from_utf8(text(&self.0[range])).ok()?.trim_matches(' ');
        digits.bytes().all(|digit| digit.is_ascii_digit()).then(|| u64::from_str_radix(digits, 8).ok())?
    }
}

/// Up to the first NUL.
fn text(field: &[u8]) -> &[u8] {
    field.split(|byte| *byte == 0).next().unwrap_or_default()
}
