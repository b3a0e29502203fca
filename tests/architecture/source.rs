//! Source files without their comments, texts and tests, and what their code mentions. Reads words, not syntax.

use std::fs;
use std::ops::Range;
use std::path::Path;

/// A file.
#[derive(Clone, Debug)]
pub(crate) struct SourceFile {
    /// Relative to the clone.
    pub(crate) path: String,
    /// Its module path: `src/http/server/mod.rs` is `http::server`, `src/main.rs` is `main`.
    pub(crate) module: Vec<String>,
    /// As it is.
    text: String,
    /// Line by line the same, with comments, texts and test modules blanked out.
    code: String,
}

/// The binary's sources, test modules aside.
pub(crate) fn product(root: &Path) -> Vec<SourceFile> {
    load(root, &["src"])
}

/// Every source of the clone, test modules aside.
pub(crate) fn all(root: &Path) -> Vec<SourceFile> {
    load(
        root,
        &[
            "src",
            "kernels/src",
            "xtask/src",
            "tests",
            "benches",
            "examples",
            "xtask/tests",
            "kernels/tests",
            "kernels/benches",
        ],
    )
}

fn load(root: &Path, folders: &[&str]) -> Vec<SourceFile> {
    let mut paths = Vec::new();
    for folder in folders {
        walk(&root.join(folder), &mut paths);
    }
    paths.sort();
    let relative = |path: &Path| path.strip_prefix(root).expect("found below the root").display().to_string();
    let files = paths
        .iter()
        .map(|path| SourceFile::new(&relative(path), &fs::read_to_string(path).expect("a source is UTF-8")));
    let files: Vec<SourceFile> = files.collect();
    // `#[cfg(test)] mod tests;` makes the whole of tests.rs a test.
    let tests: Vec<Vec<String>> = files.iter().flat_map(SourceFile::test_modules).collect();
    files.into_iter().filter(|file| !tests.iter().any(|test| file.module.starts_with(test))).collect()
}

fn walk(folder: &Path, found: &mut Vec<std::path::PathBuf>) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() {
            walk(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
}

impl SourceFile {
    pub(crate) fn new(path: &str, text: &str) -> Self {
        let inner = path.split_once("src/").map_or(path, |(_, inner)| inner).trim_end_matches(".rs");
        let module = inner.split('/').filter(|part| *part != "mod").map(str::to_owned).collect();
        let plain = without_comments_and_texts(text);
        let code = blank(&plain, &test_blocks(&plain));
        Self { path: path.to_owned(), module, text: text.to_owned(), code }
    }

    /// Module paths below the crate that the code names: `use crate::a::b`, `crate::a::b()`, `super::super::a`.
    pub(crate) fn imports(&self) -> Vec<Vec<String>> {
        let mut found = Vec::new();
        for (at, word) in words(&self.code) {
            let before = self.code[..at].trim_end();
            match word {
                "crate" if self.code[at..].starts_with("crate::{") => {
                    expand_group(&self.code[at + "crate::".len()..], &[], &mut found);
                }
                "crate" if self.code[at..].starts_with("crate::") => {
                    expand(&self.code[at + "crate::".len()..], &[], &mut found);
                }
                "super" if !before.ends_with("::") => {
                    let rest = &self.code[at..];
                    let levels = rest.split("::").take_while(|part| *part == "super").count();
                    // A path that stays inside its room needs no arrow.
                    if levels >= self.module.len() {
                        expand(&rest[levels * "super::".len()..], &[], &mut found);
                    }
                }
                _ => {}
            }
        }
        found
    }

    /// Which of these crates the code names at the start of a path, sorted.
    pub(crate) fn crates(&self, dependencies: &[String]) -> Vec<String> {
        let mut used: Vec<String> = words(&self.code)
            .filter(|(at, word)| {
                self.code[at + word.len()..].starts_with("::")
                    && !self.code[..*at].ends_with("::")
                    && dependencies.iter().any(|name| name == word)
            })
            .map(|(_, word)| word.to_owned())
            .collect();
        used.sort();
        used.dedup();
        used
    }

    /// Where a word stands first: `path:line: word`.
    pub(crate) fn first(&self, wanted: &str) -> Option<String> {
        words(&self.code).find(|(_, word)| *word == wanted).map(|(at, _)| self.place(at, wanted))
    }

    /// Where the first float is.
    pub(crate) fn first_float(&self) -> Option<String> {
        self.first("f32").or_else(|| self.first("f64")).or_else(|| {
            let mut numbers = words(&self.code).filter(|(_, word)| word.starts_with(|c: char| c.is_ascii_digit()));
            let literal = numbers.find(|(at, word)| {
                let mut after = self.code[at + word.len()..].chars();
                // `x.0.1` is no number.
                !self.code[..*at].ends_with('.')
                    && after.next() == Some('.')
                    && after.next().is_some_and(|c| c.is_ascii_digit())
            });
            literal.map(|(at, _)| self.place(at, "a float literal"))
        })
    }

    /// Lines, test modules aside.
    pub(crate) fn lines(&self) -> usize {
        let plain = without_comments_and_texts(&self.text);
        let tests: usize = test_blocks(&plain).into_iter().map(|block| plain[block].lines().count()).sum();
        self.text.lines().count() - tests
    }

    /// Does it begin with `//!`?
    pub(crate) fn opens_with_its_purpose(&self) -> bool {
        self.text.starts_with("//!")
    }

    fn place(&self, at: usize, what: &str) -> String {
        format!("{}:{}: {what}", self.path, self.code[..at].matches('\n').count() + 1)
    }

    fn test_modules(&self) -> Vec<Vec<String>> {
        let after = self.code.split("#[cfg(test)]").skip(1);
        let names = after.filter_map(|rest| {
            let rest = rest.trim_start();
            let rest = rest.strip_prefix("pub(crate) ").unwrap_or(rest);
            rest.strip_prefix("mod ")?.split_once(';').map(|(name, _)| name)
        });
        let plain = names.filter(|name| name.chars().all(is_word));
        plain.map(|name| self.module.iter().cloned().chain([name.to_owned()]).collect()).collect()
    }
}

/// Reads the paths of `a::b::{c, d::e as f}` at the start of a text; returns how long it is.
fn expand(text: &str, prefix: &[String], found: &mut Vec<Vec<String>>) -> usize {
    let mut path = prefix.to_vec();
    let mut at = 0;
    loop {
        let word: String = text[at..].chars().take_while(|c| is_word(*c)).collect();
        at += word.len();
        if !word.is_empty() && word != "self" {
            path.push(word);
        }
        if !text[at..].starts_with("::") {
            found.push(path);
            return at;
        }
        at += 2;
        if text[at..].starts_with('{') {
            return at + expand_group(&text[at..], &path, found);
        }
    }
}

/// As [`expand`], for `{c, d::e as f}`.
fn expand_group(text: &str, prefix: &[String], found: &mut Vec<Vec<String>>) -> usize {
    let mut at = 1;
    loop {
        // To the next path, past an alias, commas and white space.
        at += text[at..].find(|c| is_word(c) || c == '}').unwrap_or(text.len() - at);
        if text[at..].starts_with("as ") {
            at += text[at..].find([',', '}']).unwrap_or(text.len() - at);
        } else if at == text.len() || text[at..].starts_with('}') {
            return (at + 1).min(text.len());
        } else {
            at += expand(&text[at..], prefix, found);
        }
    }
}

fn is_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

/// Words with their places.
fn words(text: &str) -> impl Iterator<Item = (usize, &str)> {
    let starts =
        text.char_indices().filter(|(at, c)| is_word(*c) && !text[..*at].chars().next_back().is_some_and(is_word));
    starts.map(|(at, _)| {
        let end = text[at..].find(|c| !is_word(c)).map_or(text.len(), |length| at + length);
        (at, &text[at..end])
    })
}

/// Where modules under `#[cfg(test)]` stand, attribute included.
fn test_blocks(code: &str) -> Vec<Range<usize>> {
    let mut blocks = Vec::new();
    let mut from = 0;
    while let Some(start) = code[from..].find("#[cfg(test)]").map(|at| from + at) {
        let rest = &code[start..];
        let (open, end) = (rest.find('{').unwrap_or(rest.len()), rest.find(';').unwrap_or(rest.len()));
        from = if end < open { start + end + 1 } else { start + open + matching_brace(&rest[open..]) };
        if open < end {
            blocks.push(start..from);
        }
    }
    blocks
}

/// The length of a text's first `{ … }`.
fn matching_brace(text: &str) -> usize {
    let mut depth = 0;
    for (at, c) in text.char_indices() {
        match c {
            '{' => depth += 1,
            '}' if depth == 1 => return at + 1,
            '}' => depth -= 1,
            _ => {}
        }
    }
    text.len()
}

/// The same text, with everything in comments, strings and character literals replaced by spaces.
fn without_comments_and_texts(text: &str) -> String {
    let mut ranges = Vec::new();
    let mut at = 0;
    while at < text.len() {
        let rest = &text[at..];
        let length = rest.chars().next().map_or(1, char::len_utf8);
        let skipped = if rest.starts_with("//") {
            rest.find('\n').unwrap_or(rest.len())
        } else if rest.starts_with("/*") {
            block_comment(rest)
        } else if rest.starts_with('"') {
            quoted(rest, '"')
        } else if rest.starts_with('r') && !text[..at].chars().next_back().is_some_and(|c| is_word(c) && c != 'b') {
            raw(rest)
        } else if rest.starts_with('\'') && is_character(rest) {
            quoted(rest, '\'')
        } else {
            0
        };
        if skipped > 0 {
            ranges.push(at..at + skipped);
        }
        at += skipped.max(length);
    }
    blank(text, &ranges)
}

/// Writes a space for each byte in the ranges, which are in ascending order; line breaks stay.
fn blank(text: &str, ranges: &[Range<usize>]) -> String {
    let mut out = String::with_capacity(text.len());
    let mut from = 0;
    for range in ranges {
        out.push_str(&text[from..range.start]);
        out.extend(text[range.clone()].bytes().map(|byte| if byte == b'\n' { '\n' } else { ' ' }));
        from = range.end;
    }
    out.push_str(&text[from..]);
    out
}

fn block_comment(text: &str) -> usize {
    let mut depth = 0;
    let mut at = 0;
    while at < text.len() {
        if text[at..].starts_with("/*") {
            depth += 1;
            at += 2;
        } else if text[at..].starts_with("*/") {
            depth -= 1;
            at += 2;
            if depth == 0 {
                return at;
            }
        } else {
            at += text[at..].chars().next().map_or(1, char::len_utf8);
        }
    }
    text.len()
}

fn quoted(text: &str, quote: char) -> usize {
    let mut escaped = false;
    for (at, c) in text.char_indices().skip(1) {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            c if c == quote => return at + 1,
            _ => {}
        }
    }
    text.len()
}

/// The length of `r"…"` or `r#"…"#`; 0 if it is neither.
fn raw(text: &str) -> usize {
    let hashes = text[1..].chars().take_while(|c| *c == '#').count();
    if !text[1 + hashes..].starts_with('"') {
        return 0;
    }
    let end = format!("\"{}", "#".repeat(hashes));
    let body = 2 + hashes;
    text[body..].find(&end).map_or(text.len(), |at| body + at + end.len())
}

/// `'a'` or `'\n'`, and not the lifetime `'a`.
fn is_character(text: &str) -> bool {
    let mut chars = text.chars().skip(1);
    match chars.next() {
        Some('\\') => true,
        Some(_) => chars.next() == Some('\''),
        None => false,
    }
}
