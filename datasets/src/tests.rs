//! Datasets from end to end: files in, tokens out.

use std::fs;
use std::io::Write as _;
use std::path::Path;

use super::*;

/// A word-level tokenizer: "a" 0, "b" 1, "c" 2, anything else 3; one that says <end> 4.
const WORDS: &str = include_str!("../../tests/words-tokenizer.json");

fn encode(tokens: Vec<u32>) -> Result<Vec<u8>, DatasetError> {
    Ok(tokens.iter().flat_map(|token| token.to_le_bytes()).collect())
}

struct Setting {
    folder: tempfile::TempDir,
    tokenizer: Tokenizer,
    separator: Option<u32>,
    shard_tokens: usize,
}

impl Setting {
    fn new(tokenizer: Tokenizer) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        fs::create_dir(folder.path().join("data")).expect("made");
        Self { folder, tokenizer, separator: None, shard_tokens: 1 << 20 }
    }

    fn words() -> Self {
        Self::new(Tokenizer::from_json(WORDS.as_bytes()).expect("a tokenizer"))
    }

    fn data(&self) -> std::path::PathBuf {
        self.folder.path().join("data")
    }

    fn write(&self, name: &str, bytes: &[u8]) {
        fs::write(self.data().join(name), bytes).expect("written");
    }

    fn shards_with(&self, progress: &mut dyn Progress) -> Result<Vec<Shard>, DatasetError> {
        let dataset = Dataset::find(&self.data())?;
        let plan = Plan {
            dataset: &dataset,
            field: "text",
            tokenizer: &self.tokenizer,
            separator: self.separator,
            shard_tokens: self.shard_tokens,
            encode: &encode,
            cache: &self.folder.path().join("cache"),
        };
        tokenise(&plan, progress)
    }

    fn shards(&self) -> Result<Vec<Shard>, DatasetError> {
        self.shards_with(&mut ())
    }

    fn tokens(&self) -> Vec<u32> {
        read(&self.shards().expect("tokens"))
    }

    fn refusal(&self) -> String {
        self.shards().expect_err("refused").to_string()
    }
}

fn read(shards: &[Shard]) -> Vec<u32> {
    let mut tokens = Vec::new();
    for shard in shards {
        let bytes = fs::read(&shard.path).expect("there");
        assert_eq!(*blake3::hash(&bytes).as_bytes(), shard.hash);
        assert_eq!(bytes.len() as u64, 4 * shard.tokens);
        tokens.extend(bytes.chunks_exact(4).map(|b| u32::from_le_bytes([b[0], b[1], b[2], b[3]])));
    }
    tokens
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut packer = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    packer.write_all(bytes).expect("packed");
    packer.finish().expect("packed")
}

fn parquet(path: &Path, texts: &[Option<&str>], column: &str) {
    use ::parquet::basic::{Compression, ZstdLevel};
    use ::parquet::data_type::{ByteArray, ByteArrayType};
    use ::parquet::file::properties::WriterProperties;
    use ::parquet::file::writer::SerializedFileWriter;
    let schema = format!("message m {{ required int64 id; optional binary {column} (UTF8); }}");
    let schema = ::parquet::schema::parser::parse_message_type(&schema).expect("a schema");
    let packed = WriterProperties::builder().set_compression(Compression::ZSTD(ZstdLevel::default())).build();
    let file = fs::File::create(path).expect("made");
    let mut writer = SerializedFileWriter::new(file, schema.into(), packed.into()).expect("a writer");
    // Two row groups, as large files have them.
    for texts in texts.chunks(texts.len().div_ceil(2).max(1)) {
        let mut group = writer.next_row_group().expect("a group");
        let ids: Vec<i64> = (0..texts.len() as i64).collect();
        let mut column = group.next_column().expect("a column").expect("id");
        column.typed::<::parquet::data_type::Int64Type>().write_batch(&ids, None, None).expect("written");
        column.close().expect("closed");
        let values: Vec<ByteArray> = texts.iter().flatten().map(|text| ByteArray::from(*text)).collect();
        let levels: Vec<i16> = texts.iter().map(|text| i16::from(text.is_some())).collect();
        let mut column = group.next_column().expect("a column").expect("text");
        column.typed::<ByteArrayType>().write_batch(&values, Some(&levels), None).expect("written");
        column.close().expect("closed");
        group.close().expect("closed");
    }
    writer.close().expect("closed");
}

#[test]
fn every_format_gives_the_same_tokens() {
    let documents = ["a b c", "c c", "x a"];
    let lines: String = documents.map(|text| format!("{{\"id\":1,\"text\":\"{text}\"}}\n")).concat();
    let expected = [0, 1, 2, 4, 2, 2, 4, 3, 0];
    let of = |write: &dyn Fn(&Setting)| {
        let mut setting = Setting::words();
        setting.separator = Some(4);
        write(&setting);
        setting.tokens()
    };
    assert_eq!(
        of(&|s| documents.iter().enumerate().for_each(|(i, text)| s.write(&format!("{i}.txt"), text.as_bytes()))),
        expected
    );
    assert_eq!(of(&|s| s.write("all.jsonl", lines.as_bytes())), expected);
    assert_eq!(of(&|s| s.write("all.jsonl.gz", &gzip(lines.as_bytes()))), expected);
    assert_eq!(of(&|s| s.write("all.jsonl.zst", &zstd::encode_all(lines.as_bytes(), 1).expect("packed"))), expected);
    let rows = [Some("a b c"), None, Some("c c"), Some("x a")];
    assert_eq!(of(&|s| parquet(&s.data().join("train-00000-of-00001.parquet"), &rows, "text")), expected);
}

#[test]
fn bytes_are_the_text_as_it_is() {
    let setting = Setting::new(Tokenizer::bytes());
    let text: String = (0..300_000).map(|line| format!("line {line} é\n")).collect();
    assert!(text.len() > 4 * pieces::PIECE_BYTES);
    setting.write("text.txt", text.as_bytes());
    let expected: Vec<u32> = text.bytes().map(u32::from).collect();
    assert!(setting.tokens() == expected);
}

#[test]
fn a_text_without_lines_is_cut_between_characters() {
    let setting = Setting::new(Tokenizer::bytes());
    // Three bytes each, so that no power of two falls between two.
    let text = "€".repeat(pieces::PIECE_BYTES);
    setting.write("text.txt", text.as_bytes());
    assert!(setting.tokens() == text.bytes().map(u32::from).collect::<Vec<u32>>());
    let setting = Setting::new(Tokenizer::bytes());
    setting.write("one.jsonl", format!("{{\"text\":\"{text}\"}}").as_bytes());
    assert!(setting.tokens() == text.bytes().map(u32::from).collect::<Vec<u32>>());
}

/// Stops after so many batches, as a kill would.
struct StopAfter(usize);

impl Progress for StopAfter {
    fn tokenised(&mut self, _: usize, _: usize, _: u64) -> bool {
        self.0 = self.0.saturating_sub(1);
        self.0 > 0
    }
}

#[test]
fn work_that_is_stopped_anywhere_ends_with_the_same_shards() {
    let fill = |setting: &mut Setting| {
        setting.separator = Some(4);
        setting.shard_tokens = 700;
        let lines: String = (0..9_000).map(|i| format!("{{\"text\":\"a b {}\"}}\n", ["c", "x"][i % 2])).collect();
        setting.write("1.jsonl", lines.as_bytes());
        setting.write("2.txt", &b"a b c\n".repeat(50));
        parquet(&setting.data().join("3.parquet"), &vec![Some("c b a"); 5_000], "text");
    };
    let mut setting = Setting::words();
    fill(&mut setting);
    let whole = setting.shards().expect("tokens");
    assert!(whole.len() > 50);
    let mut other = Setting::words();
    fill(&mut other);
    let mut stops = 0;
    let resumed = loop {
        // What a kill leaves behind of the file that was being written.
        let part = other.folder.path().join("cache");
        if let Some(folder) = fs::read_dir(part).ok().and_then(|mut list| list.next()) {
            fs::write(folder.expect("there").path().join("shard-00001.tokens.part"), b"half").expect("written");
        }
        match other.shards_with(&mut StopAfter(1 + stops)) {
            Ok(shards) => break shards,
            Err(DatasetError::Stopped) => stops += 1,
            Err(error) => panic!("{error}"),
        }
        assert!(stops < 50, "no progress");
    };
    assert!(stops >= 3, "{stops}");
    assert_eq!(read(&resumed), read(&whole));
    let hashes = |shards: &[Shard]| shards.iter().map(|shard| shard.hash).collect::<Vec<_>>();
    assert_eq!(hashes(&resumed), hashes(&whole));
}

#[test]
fn a_shard_that_is_missing_is_made_again_and_no_other() {
    let mut setting = Setting::words();
    setting.separator = Some(4);
    setting.shard_tokens = 1_000;
    let lines: String = (0..4_000).map(|i| format!("{{\"text\":\"a b {}\"}}\n", ["c", "x"][i % 2])).collect();
    setting.write("1.jsonl", lines.as_bytes());
    setting.write("2.txt", &b"a b c\n".repeat(50));
    setting.write("3.txt", b"c b a");
    let whole = setting.shards().expect("tokens");
    let tokens = read(&whole);
    assert!(whole.len() > 12);
    let last = whole.len() - 1;
    for missing in [&[0][..], &[7], &[7, 8, 11], &[last], &[0, last], &(0..=last).collect::<Vec<_>>()] {
        let written = |shard: &Shard| fs::metadata(&shard.path).expect("there").modified().expect("known");
        let before: Vec<_> = whole.iter().map(written).collect();
        missing.iter().for_each(|number| fs::remove_file(&whole[*number].path).expect("removed"));
        assert_eq!(setting.shards().expect("tokens"), whole, "without {missing:?}");
        assert_eq!(read(&whole), tokens, "without {missing:?}");
        let again: Vec<_> = (0..=last).filter(|number| written(&whole[*number]) != before[*number]).collect();
        assert_eq!(again, missing);
    }
}

#[test]
fn a_shard_that_goes_missing_while_work_is_stopped_is_made_again() {
    let mut setting = Setting::words();
    setting.shard_tokens = 700;
    let lines: String = (0..9_000).map(|i| format!("{{\"text\":\"a b {}\"}}\n", ["c", "x"][i % 2])).collect();
    setting.write("1.jsonl", lines.as_bytes());
    assert!(matches!(setting.shards_with(&mut StopAfter(2)), Err(DatasetError::Stopped)));
    let cache = fs::read_dir(setting.folder.path().join("cache")).expect("there").next().expect("one").expect("read");
    fs::remove_file(cache.path().join("shard-00002.tokens")).expect("was made");
    let resumed = read(&setting.shards().expect("tokens"));
    assert_eq!(resumed.len(), 27_000);
    assert!(resumed.chunks(3).enumerate().all(|(i, line)| line == [0, 1, 2 + i as u32 % 2]));
}

#[test]
fn a_note_that_is_damaged_or_says_too_much_is_none() {
    let setting = Setting::words();
    setting.write("a.txt", b"a b c");
    let whole = setting.shards().expect("tokens");
    let note = whole[0].path.with_file_name("progress.json");
    let text = fs::read_to_string(&note).expect("a note");
    let hash = hex::encode(whole[0].hash);
    for damaged in [
        text[..text.len() / 2].to_owned(),
        "{}".into(),
        text.replace(&hash, "no hash"),
        text.replace("complete", "done"),
    ] {
        assert_ne!(damaged, text);
        fs::write(&note, damaged).expect("written");
        assert_eq!(setting.shards().expect("tokens"), whole);
        assert_eq!(read(&whole), [0, 1, 2]);
    }
    // Another shard than was written before: whoever made it had other tokens, so none of them counts.
    fs::write(&note, text.replace(&hash, &"0".repeat(64))).expect("written");
    fs::remove_file(&whole[0].path).expect("removed");
    assert_eq!(setting.shards().expect("tokens"), whole);
}

#[test]
fn tokens_that_are_made_are_found_and_another_content_has_others() {
    let setting = Setting::words();
    setting.write("a.txt", b"a b");
    let first = setting.shards().expect("tokens");
    let written = fs::metadata(&first[0].path).expect("there").modified().expect("known");
    assert_eq!(setting.shards().expect("tokens"), first);
    assert_eq!(fs::metadata(&first[0].path).expect("there").modified().expect("known"), written);
    setting.write("a.txt", b"a c");
    let other = setting.shards().expect("tokens");
    assert_ne!(first[0].path, other[0].path);
    assert_eq!(read(&other), [0, 2]);
}

#[test]
fn what_is_wrong_is_named_by_file_and_place() {
    let with = |name: &str, bytes: &[u8]| {
        let setting = Setting::words();
        setting.write(name, bytes);
        setting.refusal()
    };
    let refused = |name: &str, bytes: &[u8], said: &[&str]| {
        let refusal = with(name, bytes);
        assert!(said.iter().all(|word| refusal.contains(word)), "{name}: {refusal}");
    };
    refused("a.txt", b"ab\xc3(", &["a.txt", "byte 2", "UTF-8"]);
    refused("a.txt", b"abc\xc3", &["a.txt", "byte 3", "UTF-8"]);
    refused("a.txt", b"", &["a.txt", "no text"]);
    refused("a.jsonl", b"\n\n", &["a.jsonl", "no text"]);
    refused(
        "a.jsonl",
        b"{\"text\":\"a\"}\n\n{\"txt\":\"b\"}\n",
        &["a.jsonl", "line 3", "\"text\"", "txt", "text_field"],
    );
    refused("a.jsonl", b"{\"text\":1}", &["line 1", "not a string"]);
    refused("a.jsonl", b"[1]", &["line 1", "not a JSON object"]);
    refused("a.jsonl", b"{\"text\":", &["line 1", "not JSON"]);
    let packed = gzip(&b"a b c ".repeat(1_000));
    refused("a.txt.gz", &packed[..packed.len() - 10], &["a.txt.gz", "cut off"]);
    let packed = zstd::encode_all(&b"a b c ".repeat(1_000)[..], 1).expect("packed");
    refused("a.txt.zst", &packed[..packed.len() - 4], &["a.txt.zst", "cut off"]);
    refused("a.parquet", b"PAR1 and no more", &["a.parquet", "not a whole parquet file"]);
    refused("a.parquet", b"", &["a.parquet", "no text"]);
    refused("notes.md", b"a", &[".jsonl", ".parquet"]);
}

#[test]
fn a_table_that_is_cut_short_or_has_no_such_column_is_refused() {
    let setting = Setting::words();
    let path = setting.data().join("a.parquet");
    parquet(&path, &[Some("a"), Some("b")], "content");
    let refusal = setting.refusal();
    assert!(
        refusal.contains("a.parquet") && refusal.contains("content") && refusal.contains("text_field"),
        "{refusal}"
    );
    parquet(&path, &[Some("a"), Some("b")], "text");
    let whole = fs::read(&path).expect("there");
    for cut in (1..whole.len()).step_by(7) {
        fs::write(&path, &whole[..cut]).expect("cut");
        assert!(setting.refusal().contains("not a whole parquet file"), "{cut} bytes");
    }
}

#[test]
fn token_files_are_told_from_texts_and_not_mixed_with_them() {
    let setting = Setting::words();
    setting.write("a.tokens", b"\xffL402TOK");
    setting.write("b.txt", b"\xffL402TOK too");
    let dataset = Dataset::find(&setting.data()).expect("found");
    assert_eq!(dataset.token_files().expect("tokens").len(), 2);
    setting.write("c.txt", b"text");
    let refusal = setting.refusal();
    assert!(refusal.contains("a.tokens") && refusal.contains("c.txt"), "{refusal}");
}

#[test]
fn splits_for_validation_and_test_are_left_out_beside_the_one_to_train_on() {
    let names = |written: &[&str]| {
        let setting = Setting::words();
        for name in written {
            let path = setting.data().join(name);
            fs::create_dir_all(path.parent().expect("a folder")).expect("made");
            fs::write(path, b"a").expect("written");
        }
        let dataset = Dataset::find(&setting.data()).expect("found");
        let name = |file: &files::DatasetFile| {
            file.path.strip_prefix(setting.data()).expect("inside").to_str().expect("UTF-8").to_owned()
        };
        assert_eq!(dataset.left_out(), written.len() - dataset.files.len());
        dataset.files.iter().map(name).collect::<Vec<_>>()
    };
    assert_eq!(
        names(&["test-00000-of-00001.txt", "train-00000-of-00002.txt", "train-00001-of-00002.txt", "validation.txt"]),
        ["train-00000-of-00002.txt", "train-00001-of-00002.txt"]
    );
    assert_eq!(names(&["default/test/0000.txt", "default/train/0000.txt"]), ["default/train/0000.txt"]);
    // Where nothing says what to train on, everything is.
    assert_eq!(names(&["test.txt", "trains.txt"]), ["test.txt", "trains.txt"]);
}

#[test]
fn a_tokenizer_that_is_none_is_refused() {
    for json in [
        "",
        "{}",
        "null",
        "[]",
        &WORDS[..WORDS.len() / 2],
        &WORDS.replace("WordLevel", "NoSuchModel"),
        &"[".repeat(1 << 20),
    ] {
        let error = Tokenizer::from_json(json.as_bytes()).expect_err("refused").to_string();
        assert!(error.contains("tokenizer.json"), "{error}");
        assert!(error.len() < 2_000, "{} bytes", error.len());
    }
    // A regular expression that would take forever on some texts ends with an error, or with tokens.
    let slow = WORDS.replace(
        r#"{"type":"Whitespace"}"#,
        r#"{"type":"Split","pattern":{"Regex":"(a|a)*(?=b)\\1c"},"behavior":"Isolated","invert":false}"#,
    );
    let mut setting = Setting::new(Tokenizer::from_json(slow.as_bytes()).expect("a tokenizer"));
    setting.separator = None;
    setting.write("a.txt", "a".repeat(5_000).as_bytes());
    let _ = setting.shards();
}

#[test]
fn the_vocabulary_has_the_added_tokens_in_it() {
    assert_eq!(Tokenizer::from_json(WORDS.as_bytes()).expect("a tokenizer").vocabulary(), 5);
    assert_eq!(Tokenizer::bytes().vocabulary(), 256);
}

#[test]
fn two_at_once_in_one_folder_are_refused() {
    struct Second<'a>(&'a Setting, Option<String>);
    impl Progress for Second<'_> {
        fn tokenised(&mut self, _: usize, _: usize, _: u64) -> bool {
            self.1.get_or_insert_with(|| self.0.refusal());
            true
        }
    }
    let setting = Setting::words();
    setting.write("a.txt", b"a b");
    let mut second = Second(&setting, None);
    setting.shards_with(&mut second).expect("tokens");
    assert!(second.1.expect("asked").contains("another process"));
}
