use proptest::prelude::*;

use super::*;
use crate::bounty::tree::Mode;

const MOST: u64 = 64 << 10;

fn base() -> Tree {
    let mut tree = Tree::default();
    tree.insert("codec.py", File::plain("one\ntwo\nthree\nfour\nfive\nsix\nseven\neight\n"));
    tree.insert("run.sh", File { content: b"#!/bin/sh\necho\n".to_vec(), mode: Mode::Executable });
    tree.insert("README.md", File::plain("read me\n"));
    tree.insert("new/table file.txt", File::plain(""));
    tree
}

fn targets() -> Vec<String> {
    ["codec.py", "run.sh", "new/table file.txt"].map(str::to_owned).to_vec()
}

fn applied(diff: &str) -> Result<Tree, StaticRejection> {
    apply(&base(), diff.as_bytes(), &targets(), MOST)
}

fn changed(path: &str, content: &str) -> Tree {
    let mut tree = base();
    let mode = tree.get(path).map_or(Mode::Plain, |file| file.mode);
    tree.insert(path, File { content: content.into(), mode });
    tree
}

const CHANGE: &str =
    "diff --git a/codec.py b/codec.py\n--- a/codec.py\n+++ b/codec.py\n@@ -1,2 +1,2 @@\n-one\n+ONE\n two\n";

#[test]
fn what_is_made_from_a_workspace_applies_to_its_beginning() {
    for (path, content) in [
        ("codec.py", "one\n2\nthree\nfour\nfive\nsix\n7\neight"),
        ("codec.py", ""),
        ("codec.py", "ein\r\nzwei\r\n"),
        ("run.sh", "#!/bin/sh\nexit 3\n"),
        ("new/table file.txt", "a\nb\n"),
        ("new/table file.txt", "ünïcödé, no newline"),
    ] {
        let tree = changed(path, content);
        let diff = make(&base(), &tree, &targets()).expect("a change");
        assert_eq!(applied(&diff), Ok(tree), "{diff}");
    }
}

#[test]
fn a_diff_that_git_would_write_is_read() {
    let tree = applied(CHANGE).expect("applies");
    assert_eq!(tree.get("codec.py").map(|file| file.content.starts_with(b"ONE\ntwo\nthree")), Some(true));
    let with_index = CHANGE.replace("--- a", "index 83db48f..bf269f4 100644\n--- a");
    assert_eq!(applied(&with_index), Ok(tree));
}

#[test]
fn nothing_is_no_change() {
    for empty in ["", "\n\n", "   "] {
        assert_eq!(applied(empty), Err(StaticRejection::Empty));
    }
    assert_eq!(make(&base(), &base(), &targets()), Err(StaticRejection::Empty));
    let back_and_forth = CHANGE.replace("+ONE", "+one");
    assert_eq!(applied(&back_and_forth), Err(StaticRejection::Empty));
}

#[test]
fn huge_and_unreadable_diffs_are_refused() {
    let huge = vec![b'x'; 65_537];
    assert_eq!(apply(&base(), &huge, &targets(), MOST), Err(StaticRejection::TooLarge { bytes: 65_537, most: 65_536 }));
    let not_utf8 = [CHANGE.as_bytes(), b"\xff\xfe"].concat();
    assert_eq!(apply(&base(), &not_utf8, &targets(), MOST), Err(StaticRejection::NotUtf8 { at: CHANGE.len() }));
    for nonsense in ["hello", "@@ -1 +1 @@\n", "diff --git\n", "--- a\n+++ b\n@@ -1,9 +1,9 @@\n x\n"] {
        assert!(
            matches!(applied(nonsense), Err(StaticRejection::Unreadable { .. })),
            "{nonsense}: {:?}",
            applied(nonsense)
        );
    }
}

#[test]
fn binary_patches_and_files_are_refused() {
    let differ = "diff --git a/codec.py b/codec.py\nindex 1..2 100644\nBinary files a/codec.py and b/codec.py differ\n";
    assert_eq!(applied(differ), Err(StaticRejection::Binary { path: "codec.py".into() }));
    let mut tree = base();
    tree.insert("codec.py", File::plain([0, 159, 146, 150]));
    assert_eq!(make(&base(), &tree, &targets()), Err(StaticRejection::NotText { path: "codec.py".into() }));
}

#[test]
fn only_target_files_may_change() {
    for path in [
        "README.md",
        "other.py",
        ".gitattributes",
        ".git/hooks/post-checkout",
        "../secret",
        "/etc/passwd",
        "new/../codec.py",
        "codec.py/x",
        "./codec.py",
        "CODEC.PY",
    ] {
        let diff = format!(
            "diff --git a/{path} b/{path}\nnew file mode 100644\n--- /dev/null\n+++ b/{path}\n@@ -0,0 +1 @@\n+x\n"
        );
        let found = applied(&diff);
        if path == "README.md" {
            assert_eq!(found, Err(StaticRejection::DoesNotApply { path: path.into(), hunk: 1 }));
        } else {
            assert!(
                matches!(found, Err(StaticRejection::NotATarget { .. } | StaticRejection::Unreadable { .. })),
                "{path}: {found:?}"
            );
        }
    }
    let readme = CHANGE
        .replace("codec.py", "README.md")
        .replace("-1,2 +1,2", "-1 +1")
        .replace("-one\n+ONE\n two\n", "-read me\n+READ ME\n");
    assert!(matches!(applied(&readme), Err(StaticRejection::NotATarget { .. })));
    // Beside a good change, too.
    assert!(matches!(applied(&format!("{CHANGE}{readme}")), Err(StaticRejection::NotATarget { .. })));
    // An absolute name in the `+++` line alone.
    let absolute = CHANGE.replace("+++ b/codec.py", "+++ /etc/passwd");
    assert!(applied(&absolute).is_err());
}

#[test]
fn links_modes_renames_and_deletions_are_refused() {
    let link = "diff --git a/codec.py b/codec.py\ndeleted file mode 100644\n--- a/codec.py\n+++ /dev/null\n@@ -1 +0,0 @@\n-one\n\
                diff --git a/codec.py b/codec.py\nnew file mode 120000\n--- /dev/null\n+++ b/codec.py\n@@ -0,0 +1 @@\n+/in/labels\n";
    assert_eq!(applied(link), Err(StaticRejection::Deleted { path: "codec.py".into() }));
    let new_link = "diff --git a/new/table file.txt b/new/table file.txt\nnew file mode 120000\n--- /dev/null\n+++ b/new/table file.txt\n@@ -0,0 +1 @@\n+/in/labels\n";
    assert_eq!(applied(new_link), Err(StaticRejection::ModeChanged { path: "new/table file.txt".into() }));
    let module = new_link.replace("120000", "160000");
    assert_eq!(applied(&module), Err(StaticRejection::ModeChanged { path: "new/table file.txt".into() }));
    let executable = new_link.replace("120000", "100755");
    assert_eq!(applied(&executable), Err(StaticRejection::DoesNotApply { path: "new/table file.txt".into(), hunk: 1 }));
    let mode = CHANGE.replace("--- a", "old mode 100644\nnew mode 100755\n--- a");
    assert_eq!(applied(&mode), Err(StaticRejection::ModeChanged { path: "codec.py".into() }));
    let rename =
        "diff --git a/README.md b/codec.py\nsimilarity index 100%\nrename from README.md\nrename to codec.py\n";
    assert_eq!(applied(rename), Err(StaticRejection::Renamed { path: "codec.py".into() }));
    let copy = rename.replace("rename", "copy");
    assert_eq!(applied(&copy), Err(StaticRejection::Renamed { path: "codec.py".into() }));
    let moved = CHANGE.replace("--- a/codec.py", "--- a/README.md");
    assert!(applied(&moved).is_err());
    let mut tree = Tree::default();
    assert_eq!(make(&base(), &tree, &targets()), Err(StaticRejection::Deleted { path: "codec.py".into() }));
    tree = base();
    tree.insert("codec.py", File { content: b"x".to_vec(), mode: Mode::Executable });
    assert_eq!(make(&base(), &tree, &targets()), Err(StaticRejection::ModeChanged { path: "codec.py".into() }));
}

#[test]
fn a_hunk_goes_exactly_where_it_says() {
    let hunk = |header: &str| CHANGE.replace("@@ -1,2 +1,2 @@", header);
    for header in ["@@ -2,2 +2,2 @@", "@@ -0,2 +0,2 @@", "@@ -7,2 +7,2 @@", "@@ -9000,2 +9000,2 @@"] {
        assert!(applied(&hunk(header)).is_err(), "{header}");
    }
    let far = hunk("@@ -18446744073709551615,2 +18446744073709551615,2 @@");
    assert!(applied(&far).is_err());
    let twice = format!("{CHANGE}{CHANGE}");
    assert_eq!(applied(&twice), Err(StaticRejection::Twice { path: "codec.py".into() }));
    let backwards = format!("{CHANGE}@@ -1,1 +1,1 @@\n-one\n+uno\n");
    assert!(applied(&backwards).is_err());
    let other = CHANGE.replace("-one", "-eins");
    assert_eq!(applied(&other), Err(StaticRejection::DoesNotApply { path: "codec.py".into(), hunk: 1 }));
}

proptest! {
    #[test]
    fn any_change_of_a_target_survives_its_diff(lines in proptest::collection::vec("[a-c+@ -]{0,3}", 0..12), end in any::<bool>()) {
        let mut content = lines.join("\n");
        if end {
            content.push('\n');
        }
        let tree = changed("codec.py", &content);
        let diff = make(&base(), &tree, &targets()).expect("another content");
        prop_assert_eq!(applied(&diff), Ok(tree));
    }

    #[test]
    fn no_bytes_panic_or_touch_another_file(at in 0usize..400, with in proptest::collection::vec(any::<u8>(), 0..6)) {
        let mut diff = format!("{CHANGE}{}", CHANGE.replace("codec.py", "run.sh")).into_bytes();
        let at = at % diff.len();
        let until = (at + with.len()).min(diff.len());
        diff.splice(at..until, with);
        if let Ok(tree) = apply(&base(), &diff, &targets(), MOST) {
            let base = base();
            let paths: Vec<_> = base.differences(&tree).into_keys().collect();
            prop_assert!(paths.iter().all(|path| targets().iter().any(|target| target == path)));
        }
    }
}
