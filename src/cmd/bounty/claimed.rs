//! A claimed bounty on disk: a folder with what the bounty gives its agents, the package that it came in, and `claim.json`.
//!
//! What agents change is compared with the package, never with the folder: the package has the hash that the sponsor signed.

use std::fs;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::super::Failure;
use super::{TRIAL_SALT, instructions, load_error};
use crate::bounty::diff;
use crate::bounty::load::{Bounty, Extent};
use crate::bounty::tree::{File, Tree, TreeError, TreeLimits, inside};
use crate::bounty::{orders, package};
use crate::protocol::bounty::statements::BountyManifest;
use crate::protocol::ids::{Blake3Hash, BountyId};
use crate::protocol::sign::Signed;

const NOTE: &str = "claim.json";
const PACKAGE: &str = "claim.package";
/// A manifest and its signatures are some kilobytes.
const MOST_NOTE_BYTES: u64 = 1 << 20;

/// `claim.json`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Note {
    /// The coordinator's URL.
    pub(super) coordinator: String,
    /// The bounty.
    pub(super) bounty: BountyId,
    /// Signed by the coordinator, and in it the posting, signed by the sponsor.
    pub(super) manifest: Signed<BountyManifest>,
}

/// A claimed bounty.
#[derive(Debug)]
pub(super) struct Claimed {
    /// Where it is from.
    pub(super) note: Note,
    /// As the sponsor posted it.
    pub(super) bounty: Bounty,
    /// Where its agent works.
    pub(super) workspace: PathBuf,
}

/// Is this a folder that [`write`] made?
pub(super) fn is_claimed(folder: &Path) -> bool {
    folder.join(NOTE).exists()
}

/// A folder that a bounty is claimed into doesn't exist, or is empty.
pub(super) fn must_be_free(folder: &Path) -> Result<(), Failure> {
    if fs::read_dir(folder).is_ok_and(|mut entries| entries.next().is_some()) || folder.is_file() {
        let message = format!("{} is there already, and not empty", folder.display());
        return Err(Failure::usage("folder_exists", message, "Name another folder with --into DIR"));
    }
    Ok(())
}

/// Writes a claimed bounty into a folder that doesn't exist, or is empty: all of it or nothing.
pub(super) fn write(folder: &Path, note: &Note, bytes: &[u8], scratch: &Path) -> Result<Claimed, Failure> {
    let tree = unpack(note, bytes)?;
    let failed = |path: &Path, error: std::io::Error| Failure::io("write", path, &error);
    must_be_free(folder)?;
    let mut unfinished = folder.as_os_str().to_owned();
    unfinished.push(".l402t-new");
    let unfinished = PathBuf::from(unfinished);
    if unfinished.exists() {
        // An interrupted claim's, and nobody's work.
        fs::remove_dir_all(&unfinished).map_err(|error| failed(&unfinished, error))?;
    }
    if let Some(parent) = folder.parent().filter(|parent| !parent.as_os_str().is_empty()) {
        fs::create_dir_all(parent).map_err(|error| failed(parent, error))?;
    }
    tree.write_to(&unfinished).map_err(|error| failed(&unfinished, error))?;
    let note_text = serde_json::to_vec_pretty(note).map_err(|error| Failure::bug(error.to_string()))?;
    let bounty = of_package(&tree, scratch)?;
    let told = instructions::text(&note.manifest.body.posting.body, &bounty.manifest)?;
    for (name, content) in [(PACKAGE, bytes), (instructions::FILE, told.as_bytes()), (NOTE, note_text.as_slice())] {
        let path = unfinished.join(name);
        let file = fs::OpenOptions::new().write(true).create_new(true).open(&path);
        let written = file.and_then(|mut file| std::io::Write::write_all(&mut file, content));
        written.map_err(|error| failed(&path, error))?;
    }
    fs::rename(&unfinished, folder).map_err(|error| failed(folder, error))?;
    let workspace = folder.join(&bounty.manifest.workspace);
    Ok(Claimed { note: note.clone(), bounty, workspace })
}

/// Reads a claimed bounty back. Whoever works in the folder may have put links or anything else there: none is followed.
pub(super) fn read(folder: &Path, scratch: &Path) -> Result<Claimed, Failure> {
    let path = folder.join(NOTE);
    let fix = "Name the folder that `l402t bounty claim` made, or claim the bounty again into another one";
    let text = content(&path, MOST_NOTE_BYTES)
        .map_err(|problem| Failure::usage("no_claim", format!("{} can't be read: {problem}", path.display()), fix))?;
    let note: Note = serde_json::from_slice(&text).map_err(|error| {
        // Only where: what is there may be anything.
        let place = format!("line {}, column {}", error.line(), error.column());
        Failure::usage("bad_claim", format!("{} is damaged at {place}", path.display()), fix)
    })?;
    let path = folder.join(PACKAGE);
    let bytes = content(&path, package::MOST_BYTES)
        .map_err(|problem| Failure::usage("bad_claim", format!("{} can't be read: {problem}", path.display()), fix))?;
    let bounty = of_package(&unpack(&note, &bytes)?, scratch)?;
    let workspace = match inside(folder, &bounty.manifest.workspace) {
        Ok(workspace) => workspace,
        // Another one may have been named in its place.
        Err(TreeError::Unreadable { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => {
            folder.join(&bounty.manifest.workspace)
        }
        Err(error) => return Err(Failure::usage("workspace", error, "Put a folder there, or claim the bounty again")),
    };
    Ok(Claimed { note, bounty, workspace })
}

fn content(path: &Path, most: u64) -> Result<Vec<u8>, String> {
    let file = File::read(path, most).map_err(|error| error.to_string())?;
    file.map(|file| file.content).ok_or_else(|| format!("it has more than {most} bytes"))
}

/// A package, with its hash checked down to the sponsor's signature.
fn unpack(note: &Note, bytes: &[u8]) -> Result<Tree, Failure> {
    let fix = "Claim the bounty again, into another folder";
    let posting = &note.manifest.body.posting;
    let is_signed = note.manifest.verify(&posting.body.coordinator).is_ok()
        && posting.verify(&posting.body.sponsor).is_ok()
        && posting.body.bounty_id() == note.bounty;
    if !is_signed || Blake3Hash::of(bytes) != posting.body.package {
        return Err(Failure::usage("bad_claim", "the package is not the one that the sponsor has signed", fix));
    }
    let tree =
        package::decode(bytes).map_err(|error| Failure::remote("bad_package", error, "Choose another bounty"))?;
    if let Some((path, _)) = tree.files().find(|(path, _)| orders::are_given_by(path)) {
        let message = format!("the package has a file {path:?}: tools would take orders from it by themselves");
        return Err(Failure::remote("bad_package", message, "Choose another bounty"));
    }
    Ok(tree)
}

fn of_package(tree: &Tree, scratch: &Path) -> Result<Bounty, Failure> {
    let folder = scratch.join("package");
    if !folder.exists() {
        tree.write_to(&folder).map_err(|error| Failure::io("write", &folder, &error))?;
    }
    Bounty::load(&folder, TRIAL_SALT, Extent::Package).map_err(load_error)
}

/// A workspace's change, and the tree that it comes to: what the coordinator will see.
#[derive(Debug)]
pub(super) struct Change {
    pub(super) tree: Tree,
    pub(super) diff: String,
}

/// Compares a workspace with a bounty's own, as the coordinator will.
pub(super) fn change(bounty: &Bounty, workspace: &Path) -> Result<Result<Change, diff::StaticRejection>, Failure> {
    let targets = &bounty.manifest.targets;
    let found = Tree::read_files(workspace, targets, TreeLimits::default())
        .map_err(|error| Failure::usage("workspace", error, "Name a changed copy of the bounty's workspace"))?;
    Ok(diff::make(&bounty.workspace, &found, targets).and_then(|text| {
        let tree = diff::apply(&bounty.workspace, text.as_bytes(), targets, bounty.manifest.max_diff_bytes)?;
        Ok(Change { tree, diff: text })
    }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::testing::bounties::{bounty_view, posting, sponsor_key};
    use crate::http::testing::coordinator_key;
    use crate::protocol::bounty::statements::Posting;

    const TOML: &str = include_str!("../../../examples/bounties/logs/bounty.toml");

    fn files() -> Tree {
        let mut tree = Tree::default();
        for (path, content) in [
            ("bounty.toml", TOML),
            ("workspace/codec.py", "pass\n"),
            ("scorer/score.py", "print(1)\n"),
            ("public/inputs", "a\n"),
        ] {
            tree.insert(path, File::plain(content));
        }
        tree
    }

    fn note(bytes: &[u8]) -> Note {
        let posting = Posting { package: Blake3Hash::of(bytes), ..posting().body };
        let bounty = posting.bounty_id();
        let manifest = BountyManifest { posting: sponsor_key().sign(posting), ..bounty_view().manifest.body };
        Note { coordinator: "http://x".into(), bounty, manifest: coordinator_key().sign(manifest) }
    }

    #[test]
    fn a_claimed_bounty_is_compared_with_its_package_whatever_becomes_of_the_folder() {
        let place = tempfile::tempdir().expect("a folder");
        let (folder, scratch) = (place.path().join("mine"), tempfile::tempdir().expect("a folder"));
        let bytes = package::encode(&files());
        let claimed = write(&folder, &note(&bytes), &bytes, scratch.path()).expect("written");
        assert_eq!(claimed.workspace, folder.join("workspace"));
        assert!(fs::read_to_string(folder.join("AGENTS.md")).expect("there").contains("\"workspace/codec.py\""));
        assert!(matches!(change(&claimed.bounty, &claimed.workspace), Ok(Err(diff::StaticRejection::Empty))));

        fs::write(folder.join("workspace/codec.py"), "changed\n").expect("written");
        fs::write(folder.join("workspace/other.py"), "ignored\n").expect("written");
        fs::remove_dir_all(folder.join("scorer")).expect("removed");
        let again = tempfile::tempdir().expect("a folder");
        let claimed = read(&folder, again.path()).expect("read");
        let change = change(&claimed.bounty, &claimed.workspace).expect("read").expect("a change");
        assert!(change.diff.contains("+changed") && !change.diff.contains("other.py"), "{}", change.diff);
    }

    #[test]
    fn what_is_there_already_is_never_touched() {
        let place = tempfile::tempdir().expect("a folder");
        let scratch = tempfile::tempdir().expect("a folder");
        fs::write(place.path().join("work"), "mine").expect("written");
        let bytes = package::encode(&files());
        let refused = write(place.path(), &note(&bytes), &bytes, scratch.path()).expect_err("refused");
        assert_eq!(refused.code, "folder_exists");
        assert_eq!(fs::read_to_string(place.path().join("work")).expect("there"), "mine");
    }

    #[test]
    fn a_package_that_nobody_signed_or_that_gives_tools_orders_is_refused() {
        let place = tempfile::tempdir().expect("a folder");
        let folder = place.path().join("mine");
        let scratch = tempfile::tempdir().expect("a folder");
        let bytes = package::encode(&files());
        let mut other = note(&bytes);
        other.manifest.body.posting.body.title = "other".into();
        assert_eq!(write(&folder, &other, &bytes, scratch.path()).expect_err("refused").code, "bad_claim");
        let mut tree = files();
        tree.insert("public/labels", File::plain("b\n"));
        let refused = write(&folder, &note(&bytes), &package::encode(&tree), scratch.path());
        assert_eq!(refused.expect_err("refused").code, "bad_claim");
        for path in ["workspace/.git/config", "workspace/AGENTS.md"] {
            let mut tree = files();
            tree.insert(path, File::plain("[core]\n"));
            let bytes = package::encode(&tree);
            let refused = write(&folder, &note(&bytes), &bytes, scratch.path()).expect_err("refused");
            assert_eq!(refused.code, "bad_package", "{path}");
        }
        assert!(!folder.exists());
    }
}
