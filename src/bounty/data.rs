//! What candidates are run on: items and their labels, one a line, and those of them that are canaries.

use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};

use super::tree::{File, TreeError, inside};
use crate::protocol::bounty::canary::{self, Canary};
use crate::protocol::bounty::held_out::{DuplicateName, HeldOutFile, commitment};

/// The file with the items.
pub const INPUTS: &str = "inputs";
/// The file with their labels; there may be none.
pub const LABELS: &str = "labels";

/// Largest file of a part.
const MOST_BYTES: u64 = 64 << 20;
/// Most items.
const MOST_ITEMS: usize = 1_000_000;

/// A part that can't be used.
#[derive(Debug, thiserror::Error)]
pub enum DataError {
    /// A file isn't there, can't be read, or is none.
    #[error(transparent)]
    File(#[from] TreeError),
    /// Too large, or not text.
    #[error("{}: {what}", path.display())]
    Unusable {
        /// Which one.
        path: PathBuf,
        /// What is wrong.
        what: String,
    },
}

/// Items in the order of their file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Part {
    /// One a line.
    pub inputs: Vec<String>,
    /// As many, where there are any.
    pub labels: Option<Vec<String>>,
}

impl Part {
    /// Reads a folder's `inputs` and `labels`.
    pub fn read(folder: &Path) -> Result<Self, DataError> {
        let path = inside(folder, INPUTS)?;
        let inputs = read_lines(&path)?;
        let unusable = |path: &Path, what: String| DataError::Unusable { path: path.to_owned(), what };
        if inputs.is_empty() || inputs.len() > MOST_ITEMS {
            return Err(unusable(&path, format!("{} items, one a line; 1 to {MOST_ITEMS} are needed", inputs.len())));
        }
        let path = match inside(folder, LABELS) {
            Err(TreeError::Unreadable { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
                return Ok(Self { inputs, labels: None });
            }
            found => found?,
        };
        let labels = read_lines(&path)?;
        if labels.len() != inputs.len() {
            let what = format!("{} labels for {} items: one a line is needed", labels.len(), inputs.len());
            return Err(unusable(&path, what));
        }
        Ok(Self { inputs, labels: Some(labels) })
    }

    /// Some of the items, by their places.
    pub fn select(&self, places: &[usize]) -> Self {
        let pick = |lines: &Vec<String>| places.iter().map(|place| lines[*place].clone()).collect();
        Self { inputs: pick(&self.inputs), labels: self.labels.as_ref().map(pick) }
    }

    /// How many items of `self` are among those of `other`, too.
    pub fn shared_with(&self, other: &Part) -> usize {
        let others: BTreeSet<&str> = other.inputs.iter().map(String::as_str).collect();
        self.inputs.iter().filter(|item| others.contains(item.as_str())).count()
    }

    /// What commits to it.
    pub fn commitment(&self, salt: &[u8; 32]) -> Result<[u8; 32], DuplicateName> {
        let (inputs, labels) = (to_lines(&self.inputs), self.labels.as_deref().map(to_lines));
        let mut files = vec![HeldOutFile { name: INPUTS, content: &inputs }];
        files.extend(labels.as_ref().map(|labels| HeldOutFile { name: LABELS, content: labels }));
        commitment(salt, &files)
    }
}

fn read_lines(path: &Path) -> Result<Vec<String>, DataError> {
    let unusable = |what: String| DataError::Unusable { path: path.to_owned(), what };
    let file = File::read(path, MOST_BYTES)?;
    let file = file.ok_or_else(|| unusable(format!("more than the {MOST_BYTES} bytes that are taken")))?;
    let not_utf8 = |at: usize| unusable(format!("not UTF-8 from byte {at} on"));
    let text = String::from_utf8(file.content).map_err(|error| not_utf8(error.utf8_error().valid_up_to()))?;
    Ok(lines(&text).map(str::to_owned).collect())
}

/// Lines without their ends; the last one's may be missing.
pub(super) fn lines(text: &str) -> impl Iterator<Item = &str> {
    text.split_inclusive('\n').map(|line| line.strip_suffix('\n').unwrap_or(line))
}

/// Each with its end.
pub(super) fn to_lines<T: AsRef<str>>(lines: &[T]) -> Vec<u8> {
    let mut text = Vec::new();
    for line in lines {
        text.extend_from_slice(line.as_ref().as_bytes());
        text.push(b'\n');
    }
    text
}

/// A part as it is put to a candidate.
#[derive(Clone, Debug)]
pub struct Exam {
    /// Everything that is asked, canaries included.
    pub part: Part,
    /// Decides the order of the second run.
    pub salt: [u8; 32],
    /// The items that aren't scored.
    pub canaries: Vec<Canary>,
    /// What labels can be.
    pub classes: Vec<String>,
}

impl Exam {
    /// A held-out part, with canaries where it has enough items and classes.
    pub fn held_out(part: Part, salt: [u8; 32], classes: &[String]) -> Self {
        let canaries = match &part.labels {
            Some(_) => canary::draw(&salt, part.inputs.len(), classes.len()).unwrap_or_default(),
            None => Vec::new(),
        };
        Self { part, salt, canaries, classes: classes.to_vec() }
    }

    /// A public part: everybody knows its labels, so none of them is a canary.
    pub fn public(part: Part, salt: [u8; 32]) -> Self {
        Self { part, salt, canaries: Vec::new(), classes: Vec::new() }
    }

    /// The places of the items that are scored.
    pub fn scored(&self) -> Vec<usize> {
        let is_canary = |place: &usize| self.canaries.binary_search_by_key(place, |canary| canary.item).is_ok();
        (0..self.part.inputs.len()).filter(|place| !is_canary(place)).collect()
    }

    /// Do these answers know what the canaries are labelled?
    pub fn is_tripped_by(&self, answers: &[String]) -> bool {
        let hit = |canary: &&Canary| answers.get(canary.item) == self.classes.get(canary.class);
        !self.canaries.is_empty() && canary::tripped(self.canaries.iter().filter(hit).count(), self.classes.len())
    }

    /// The labels as they are kept beside the held-out items: those of the canaries mean nothing.
    pub fn kept_labels(&self) -> Option<Vec<String>> {
        let mut labels = self.part.labels.clone()?;
        for canary in &self.canaries {
            labels[canary.item].clone_from(&self.classes[canary.class]);
        }
        Some(labels)
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn part(items: usize) -> Part {
        let labels = (0..items).map(|item| (item % 10).to_string()).collect();
        Part { inputs: (0..items).map(|item| format!("item {item}")).collect(), labels: Some(labels) }
    }

    fn digits() -> Vec<String> {
        (0..10).map(|digit| digit.to_string()).collect()
    }

    #[test]
    fn a_part_is_read_line_by_line() {
        let place = tempfile::tempdir().expect("a folder");
        fs::write(place.path().join(INPUTS), "a\n\nb c").expect("written");
        let read = Part::read(place.path()).expect("read");
        assert_eq!(read, Part { inputs: vec!["a".into(), String::new(), "b c".into()], labels: None });
        fs::write(place.path().join(LABELS), "1\n2\n").expect("written");
        let error = Part::read(place.path()).expect_err("too few labels").to_string();
        assert!(error.ends_with("labels: 2 labels for 3 items: one a line is needed"), "{error}");
        fs::write(place.path().join(INPUTS), b"ok\n\xff").expect("written");
        assert!(Part::read(place.path()).expect_err("not text").to_string().contains("not UTF-8 from byte 3 on"));
        fs::write(place.path().join(INPUTS), "").expect("written");
        assert!(Part::read(place.path()).expect_err("empty").to_string().contains("0 items"));
        assert!(matches!(
            Part::read(&place.path().join("nowhere")),
            Err(DataError::File(TreeError::Unreadable { .. }))
        ));
    }

    #[test]
    fn canaries_are_asked_but_not_scored() {
        let exam = Exam::held_out(part(400), [1; 32], &digits());
        assert_eq!((exam.canaries.len(), exam.scored().len()), (32, 368));
        assert!(exam.canaries.iter().all(|canary| !exam.scored().contains(&canary.item)));
        assert_eq!(Exam::held_out(part(60), [1; 32], &digits()).scored().len(), 60);
        assert_eq!(Exam::held_out(part(400), [1; 32], &[]).scored().len(), 400);
    }

    #[test]
    fn whoever_copies_the_kept_labels_trips_and_who_answers_right_does_not() {
        let exam = Exam::held_out(part(400), [1; 32], &digits());
        let stolen = exam.kept_labels().expect("labels");
        assert!(exam.is_tripped_by(&stolen));
        assert!(!exam.is_tripped_by(exam.part.labels.as_deref().expect("labels")));
        assert!(!exam.is_tripped_by(&[]));
        assert!(!Exam::public(part(400), [1; 32]).is_tripped_by(&stolen));
    }

    #[test]
    fn another_label_is_another_commitment() {
        let (one, mut other) = (part(5), part(5));
        other.labels = None;
        assert_ne!(one.commitment(&[1; 32]), other.commitment(&[1; 32]));
        assert_eq!(part(5).shared_with(&part(3)), 3);
    }
}
