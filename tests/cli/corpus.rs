//! A run on a corpus that has to be made tokens first: killed in the middle, damaged, trained on, judged again by an auditor.
#![cfg(all(feature = "embedded", feature = "datasets"))]

use std::path::{Path, PathBuf};
use std::time::Duration;

use l402t::model::tokens::HEADER_BYTES;
use serde_json::Value;

use crate::live::{coordinator, garbage_peer, prepare};
use crate::{home, run, stderr, stdout};

/// "a" 0, "b" 1, "c" 2, anything else 3, <end> 4.
const WORDS: &str = include_str!("../words-tokenizer.json");
/// Two whole shards of bytes, and a part of one.
const LONG_TEXT_BYTES: usize = 40 << 20;

/// [`prepare`], with the folder `data` as the corpus.
fn prepare_folder(home: &Path) {
    prepare(home);
    let config = std::fs::read_to_string(home.join("c.toml")).expect("written");
    std::fs::write(home.join("c.toml"), config.replace("corpus.txt", "data")).expect("written");
    std::fs::create_dir(home.join("data")).expect("made");
}

/// The one folder of token shards beside the corpus, once there is one.
fn shards_folder(home: &Path) -> Option<PathBuf> {
    Some(std::fs::read_dir(home.join("data/.l402t-tokens")).ok()?.next()?.expect("an entry").path())
}

#[test]
fn a_corpus_goes_on_being_made_tokens_after_a_kill_and_a_damaged_shard_is_named() {
    let home = home();
    let home = home.path();
    prepare_folder(home);
    let mut text: String = (0..LONG_TEXT_BYTES / 20).map(|line| format!("line {line:014}\n")).collect();
    text.truncate(LONG_TEXT_BYTES);
    std::fs::write(home.join("data/long.txt"), &text).expect("written");

    let killed = coordinator(home, "127.0.0.1:0");
    // The note of what is done is written after the first shard.
    while !shards_folder(home).is_some_and(|folder| folder.join("progress.json").exists()) {
        std::thread::sleep(Duration::from_millis(1));
    }
    killed.kill();
    let first_shard = shards_folder(home).expect("there").join("shard-00000.tokens");
    let before = std::fs::metadata(&first_shard).expect("there").modified().expect("known");

    let mut service = coordinator(home, "127.0.0.1:0");
    service.wait_for("listening");
    assert_eq!(service.interrupt(), Some(130));
    assert_eq!(std::fs::metadata(&first_shard).expect("there").modified().expect("known"), before, "made twice");
    let mut names: Vec<PathBuf> = std::fs::read_dir(shards_folder(home).expect("there"))
        .expect("a folder")
        .map(|entry| entry.expect("an entry").path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "tokens"))
        .collect();
    names.sort();
    let tokens = names.iter().flat_map(|path| {
        let file = std::fs::read(path).expect("read");
        file[HEADER_BYTES..].to_vec()
    });
    assert_eq!(names.len(), 3);
    assert!(tokens.eq(text.bytes()), "the tokens are not the text");

    let mut shard = std::fs::read(&names[1]).expect("read");
    shard.pop();
    std::fs::write(&names[1], shard).expect("cut");
    let output = run(home, &["coordinate", "--config", "c.toml", "--data", "other", "--listen", "127.0.0.1:0"]);
    let said = stderr(&output);
    assert_eq!(output.status.code(), Some(2), "{said}");
    assert!(said.contains("shard-00001.tokens") && said.contains("made again"), "{said}");
}

#[test]
fn a_run_on_lines_of_json_by_a_tokenizer_is_replayed_by_an_auditor() {
    let home = home();
    let home = home.path();
    prepare_folder(home);
    let lines = (0..400).map(|i| format!("{{\"text\":\"a b {} c a\"}}\n", ["c", "x"][i % 2])).collect::<String>();
    std::fs::write(home.join("data/lines.jsonl"), lines).expect("written");
    std::fs::write(home.join("words.json"), WORDS).expect("written");
    let config = std::fs::read_to_string(home.join("c.toml")).expect("written");
    let config = config.replace("[run]\n", "[run]\ntokenizer = \"words.json\"\n");
    std::fs::write(home.join("c.toml"), config).expect("written");

    let mut service = coordinator(home, "127.0.0.1:0");
    let url = service.wait_for("listening")["url"].as_str().expect("a URL").to_owned();
    let mut peer = garbage_peer(home, &url, "1");
    peer.wait_for("finished");
    service.wait_for("round_closed");
    let output = run(home, &["replay", "0", "--from", &url]);
    assert_eq!(output.status.code(), Some(0), "{}{}", stdout(&output), stderr(&output));
    assert_eq!(service.interrupt(), Some(130));

    let manifest: Value =
        serde_json::from_slice(&std::fs::read(home.join("c/manifest.json")).expect("read")).expect("JSON");
    let data = &manifest["body"]["training_data"];
    assert_eq!(data["tokenizer"].as_str(), Some(blake3::hash(WORDS.as_bytes()).to_string().as_str()));
    // Five words a line; four blocks of two windows of 17 are held out.
    assert_eq!(data["shards"][0]["tokens"].as_u64(), Some(400 * 5 - 4 * 2 * 17), "{data}");
}
