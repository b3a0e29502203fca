//! The rules of ARCHITECTURE.md, checked: who may import whom, where certain crates and `unsafe` may appear, where no
//! float may, and how long a file may be. The tables are read from that document, so it can't fall behind the code.

mod source;
mod tables;

use std::path::Path;

use source::SourceFile;
use tables::Tables;

/// Lines of a file, its tests aside.
const MOST_LINES: usize = 600;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn read(path: &str) -> String {
    std::fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

fn tables() -> Tables {
    Tables::parse(&read("ARCHITECTURE.md"))
}

fn no_findings(findings: &[String]) {
    assert!(findings.is_empty(), "\n{}\n", findings.join("\n"));
}

#[test]
fn rooms_import_only_what_the_table_allows() {
    let tables = tables();
    let mut findings = Vec::new();
    for file in source::product(root()) {
        let Some(from) = tables.room_of(&file.module) else {
            findings.push(format!(
                "{}: `{}` is not a room of ARCHITECTURE.md's table",
                file.path,
                file.module.join("::")
            ));
            continue;
        };
        for import in file.imports() {
            if !tables.allows(from, &import) {
                findings.push(format!("{}: {} may not import crate::{}", file.path, from.name, import.join("::")));
            }
        }
    }
    no_findings(&findings);
}

#[test]
fn crates_with_an_owner_stay_with_it() {
    let tables = tables();
    let mut findings = Vec::new();
    for file in source::product(root()) {
        let Some(room) = tables.room_of(&file.module) else { continue };
        for used in file.crates(&tables.dependencies(&read("Cargo.toml"))) {
            if !tables.may_use(room, &used) {
                findings.push(format!("{}: {} may not use the crate {used}", file.path, room.name));
            }
        }
    }
    no_findings(&findings);
}

#[test]
fn unsafe_stays_in_the_kernels_and_sys() {
    let files = source::product(root()).into_iter().filter(|file| file.path != "src/sys.rs");
    no_findings(&files.filter_map(|file| file.first("unsafe")).collect::<Vec<_>>());
}

#[test]
fn the_protocol_has_no_floats() {
    let protocol = source::product(root()).into_iter().filter(|file| file.path.starts_with("src/protocol/"));
    no_findings(&protocol.filter_map(|file| file.first_float()).collect::<Vec<_>>());
}

#[test]
fn no_file_is_too_long() {
    let long = source::all(root()).into_iter().filter(|file| file.lines() > MOST_LINES);
    no_findings(
        &long
            .map(|file| format!("{}: {} lines without tests, {MOST_LINES} at most", file.path, file.lines()))
            .collect::<Vec<_>>(),
    );
}

#[test]
fn every_module_says_what_it_owns() {
    let silent = source::all(root()).into_iter().filter(|file| !file.opens_with_its_purpose());
    no_findings(&silent.map(|file| format!("{}: does not open with //!", file.path)).collect::<Vec<_>>());
}

/// The checks themselves, on code that breaks the rules.
mod rules {
    use super::*;

    const DOCUMENT: &str = "
| room | may import |
|---|---|
| `protocol` | |
| `ln` | `protocol` |
| `ln::embedded` | `protocol` |
| `peer` | `protocol`, `ln`, `http::client` |
| `http::client` | `protocol` |
| `http::server` | `protocol` |
| `cmd` | everything |

| crate | may be used by |
|---|---|
| `tch` | `train` |
| everything in `protocol` | `serde`, `blake3` |
";

    fn file(path: &str, text: &str) -> SourceFile {
        SourceFile::new(path, text)
    }

    fn refused(path: &str, text: &str) -> Vec<String> {
        let tables = Tables::parse(DOCUMENT);
        let file = file(path, text);
        let room = tables.room_of(&file.module).expect("a room").clone();
        file.imports()
            .into_iter()
            .filter(|import| !tables.allows(&room, import))
            .map(|import| import.join("::"))
            .collect()
    }

    #[test]
    fn an_arrow_that_is_not_in_the_table_is_found() {
        assert_eq!(refused("src/protocol/ids.rs", "use crate::peer::State;"), ["peer::State"]);
        assert_eq!(refused("src/peer/mod.rs", "use crate::{protocol::ids as i, cmd::main};"), ["cmd::main"]);
        assert_eq!(
            refused("src/peer/mod.rs", "use crate::{\n    http::{client, server},\n    ln::Lightning,\n};"),
            ["http::server"]
        );
        assert_eq!(refused("src/peer/mod.rs", "fn f() -> crate::cmd::X { crate::protocol::y() }"), ["cmd::X"]);
        assert_eq!(refused("src/peer/state.rs", "use super::super::cmd;"), ["cmd"]);
        assert_eq!(refused("src/cmd/peer.rs", "use crate::peer; use crate::ln::embedded;"), [""; 0]);
    }

    #[test]
    fn a_room_inside_another_needs_its_own_arrow() {
        assert_eq!(
            refused("src/peer/mod.rs", "use crate::ln::Lightning; use crate::ln::embedded::Node;"),
            ["ln::embedded::Node"]
        );
        assert_eq!(refused("src/http/server/mod.rs", "use crate::http::client::Client;"), ["http::client::Client"]);
        assert_eq!(refused("src/ln/embedded/node.rs", "use crate::ln::LnError; use super::super::Lightning;"), [""; 0]);
        assert_eq!(refused("src/ln/mod.rs", "pub use self::embedded::Node; use crate::ln::embedded::Node;"), [""; 0]);
    }

    #[test]
    fn comments_texts_and_tests_do_not_count() {
        let text = "// use crate::cmd;\n/* crate::cmd /* nested */ crate::cmd */\nconst A: &str = \"crate::cmd \\\" crate::cmd\";\n\
                    const B: &str = r#\"crate::cmd \" crate::cmd\"#; const C: char = '\"'; fn f<'a>(x: &'a str) {}\n\
                    #[cfg(test)]\nmod tests {\n    use crate::cmd;\n}\nuse crate::peer;\n";
        assert_eq!(refused("src/protocol/ids.rs", text), ["peer"]);
    }

    #[test]
    fn unsafe_and_floats_are_found_as_words_only() {
        let code = file("src/protocol/a.rs", "#![allow(unsafe_code)]\nfn buff32() {}\nlet x = y.0.1 + 1..2;\n");
        assert_eq!((code.first("unsafe"), code.first_float()), (None, None));
        assert_eq!(file("src/a.rs", "\nunsafe { }").first("unsafe"), Some("src/a.rs:2: unsafe".to_owned()));
        assert_eq!(file("src/a.rs", "let x: f32;").first_float(), Some("src/a.rs:1: f32".to_owned()));
        assert_eq!(file("src/a.rs", "\n\nlet x = 0.5;").first_float(), Some("src/a.rs:3: a float literal".to_owned()));
    }

    #[test]
    fn a_crate_outside_its_room_is_found() {
        let tables = Tables::parse(DOCUMENT);
        let dependencies = tables.dependencies("[dependencies]\ntch = '1'\nserde = '1'\nfutures-util = '1'\n");
        assert_eq!(dependencies, ["futures_util", "serde", "tch"]);
        let peer = file("src/peer/mod.rs", "use tch::Tensor; fn f() { serde::x(); my_tch::y() }");
        assert_eq!(peer.crates(&dependencies), ["serde", "tch"]);
        let room = |name: &str| tables.room_of(&[name.to_owned()]).expect("a room").clone();
        assert!(!tables.may_use(&room("peer"), "tch") && tables.may_use(&room("peer"), "futures_util"));
        assert!(tables.may_use(&room("protocol"), "serde") && !tables.may_use(&room("protocol"), "futures_util"));
    }

    #[test]
    fn tests_are_left_out_of_a_files_length() {
        let code = file("src/a.rs", "//! A.\nfn a() {}\n#[cfg(test)]\nmod tests {\n    fn b() {}\n}\n");
        assert_eq!(code.lines(), 2);
        assert!(code.opens_with_its_purpose());
        assert!(!file("src/a.rs", "// A.\n").opens_with_its_purpose());
    }
}
