//! Reads TOML table by table and collects everything that is wrong with it, each with its line and what to do.

use std::collections::BTreeSet;
use std::ops::Range;

use toml::de::{DeTable, DeValue};

use super::{Problem, Problems};

/// How different a known key may be from an unknown one to be what was meant.
const MOST_EDITS: usize = 3;

/// What was found wrong so far.
#[derive(Debug)]
pub(super) struct Mistakes<'i> {
    text: &'i str,
    found: Vec<Problem>,
}

impl<'i> Mistakes<'i> {
    pub(super) fn new(text: &'i str) -> Self {
        Self { text, found: Vec::new() }
    }

    pub(super) fn add(&mut self, at: usize, message: impl Into<String>, fix: impl Into<String>) {
        let line = self.line(at);
        self.found.push(Problem { line, message: message.into(), fix: fix.into() });
    }

    /// From 1.
    pub(super) fn line(&self, at: usize) -> usize {
        1 + self.text.as_bytes().iter().take(at).filter(|byte| **byte == b'\n').count()
    }

    /// The problems by line, or `value` where there are none.
    pub(super) fn into_result<T>(mut self, value: Option<T>) -> Result<T, Problems> {
        self.found.sort_by_key(|problem| problem.line);
        match value {
            Some(value) if self.found.is_empty() => Ok(value),
            Some(_) | None => Err(Problems(self.found)),
        }
    }
}

/// A value and where it is.
#[derive(Clone, Debug)]
pub(super) struct Located<T> {
    pub(super) value: T,
    pub(super) at: usize,
}

/// A table of the document, whose keys are asked for one by one.
#[derive(Debug)]
pub(super) struct Section<'t, 'i> {
    /// As in `[name]`; empty for the whole document.
    name: &'static str,
    at: usize,
    table: Option<&'t DeTable<'i>>,
    asked: BTreeSet<&'static str>,
}

impl<'t, 'i> Section<'t, 'i> {
    pub(super) fn root(table: &'t DeTable<'i>) -> Self {
        Self { name: "", at: 0, table: Some(table), asked: BTreeSet::new() }
    }

    /// A table in this one, which must be there.
    pub(super) fn section(&mut self, name: &'static str, mistakes: &mut Mistakes<'i>) -> Section<'t, 'i> {
        let section = self.optional_section(name, mistakes);
        if section.table.is_none() {
            mistakes.add(0, format!("there is no [{name}]"), format!("Add a table [{name}]"));
        }
        section
    }

    /// A table in this one; an empty one where there is none.
    pub(super) fn optional_section(&mut self, name: &'static str, mistakes: &mut Mistakes<'i>) -> Section<'t, 'i> {
        let found = self.get(name);
        let table = found.and_then(|(value, at)| {
            let table = value.as_table();
            if table.is_none() {
                mistakes.add(
                    at,
                    format!("{name} is not a table"),
                    format!("Write it as [{name}], with its keys below"),
                );
            }
            table
        });
        Section { name, at: found.map_or(0, |(_, at)| at), table, asked: BTreeSet::new() }
    }

    pub(super) fn is_there(&self) -> bool {
        self.table.is_some()
    }

    pub(super) fn at(&self) -> usize {
        self.at
    }

    fn key(&self, key: &str) -> String {
        if self.name.is_empty() { key.to_owned() } else { format!("{}.{key}", self.name) }
    }

    fn get(&mut self, key: &'static str) -> Option<(&'t DeValue<'i>, usize)> {
        self.asked.insert(key);
        let table = self.table?;
        let (_, value) = table.iter().find(|(name, _)| name.get_ref().as_ref() == key)?;
        let Range { start, .. } = value.span();
        Some((value.get_ref(), start))
    }

    /// A value that must be there, and be what `read` takes; `example` shows one.
    pub(super) fn need<T>(
        &mut self,
        key: &'static str,
        example: &str,
        mistakes: &mut Mistakes<'i>,
        read: impl FnOnce(&'t DeValue<'i>) -> Result<T, String>,
    ) -> Option<Located<T>> {
        if self.is_there() && self.get(key).is_none() {
            mistakes.add(self.at, format!("{} is missing", self.key(key)), format!("Add {key} = {example}"));
            return None;
        }
        self.may(key, example, mistakes, read)
    }

    /// A value that may be missing.
    pub(super) fn may<T>(
        &mut self,
        key: &'static str,
        example: &str,
        mistakes: &mut Mistakes<'i>,
        read: impl FnOnce(&'t DeValue<'i>) -> Result<T, String>,
    ) -> Option<Located<T>> {
        let (value, at) = self.get(key)?;
        match read(value) {
            Ok(value) => Some(Located { value, at }),
            Err(what) => {
                mistakes.add(at, format!("{}: {what}", self.key(key)), format!("Write for example {key} = {example}"));
                None
            }
        }
    }

    /// Says which keys nobody asked for.
    pub(super) fn finish(self, mistakes: &mut Mistakes<'i>) {
        for (name, _) in self.table.into_iter().flat_map(|table| table.iter()) {
            let found = name.get_ref().as_ref();
            if self.asked.contains(found) {
                continue;
            }
            let nearest = self.asked.iter().map(|known| (edits(found, known), *known)).min();
            let fix = match nearest {
                Some((edits, known)) if edits <= MOST_EDITS.min(known.len() / 2) => format!("Did you mean {known}?"),
                Some(_) | None => {
                    let known: Vec<&str> = self.asked.iter().copied().collect();
                    format!("Remove it; known here are {}", known.join(", "))
                }
            };
            mistakes.add(name.span().start, format!("{} is not a key", self.key(found)), fix);
        }
    }
}

/// Insertions, deletions and replacements that make one word of the other.
fn edits(from: &str, to: &str) -> usize {
    let to: Vec<char> = to.chars().collect();
    let mut row: Vec<usize> = (0..=to.len()).collect();
    for (i, a) in from.chars().take(64).enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, b) in to.iter().enumerate() {
            let replaced = diagonal + usize::from(a != *b);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[to.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_as_far_apart_as_they_look() {
        assert_eq!(edits("traget", "target"), 2);
        assert_eq!(edits("budget", "budget_sat"), 4);
        assert_eq!(edits("", "abc"), 3);
        assert_eq!(edits("kitten", "sitting"), 3);
    }
}
