//! Corpora of every kind, with and without a tokenizer, and damaged ones.

use std::fs;

use super::*;

/// "a" 0, "b" 1, "c" 2, anything else 3, <end> 4.
const WORDS: &str = include_str!("../../../tests/words-tokenizer.json");

struct Setting {
    folder: tempfile::TempDir,
    settings: RunSettings,
}

impl Setting {
    /// A model of `vocabulary` tokens, of which 4 ends a text.
    fn new(vocabulary: u32) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        fs::create_dir(folder.path().join("data")).expect("made");
        let mut config: serde_json::Value =
            serde_json::from_str(include_str!("../../../tests/small-model.json")).expect("JSON");
        config["vocab_size"] = vocabulary.into();
        config["eos_token_id"] = 4.into();
        fs::write(folder.path().join("config.json"), config.to_string()).expect("written");
        let settings = RunSettings {
            model: Some(folder.path().join("config.json")),
            corpus: Some(folder.path().join("data")),
            ..RunSettings::default()
        };
        Self { folder, settings }
    }

    fn write(&self, name: &str, bytes: &[u8]) -> &Self {
        fs::write(self.folder.path().join(name), bytes).expect("written");
        self
    }

    fn open(&self) -> Result<Corpus, CoordinatorError> {
        Corpus::open(&self.settings, &mut ())
    }

    fn refusal(&self) -> String {
        self.open().expect_err("refused").to_string()
    }

    /// All tokens, in order.
    fn tokens(&self) -> Vec<u32> {
        let corpus = self.open().expect("a corpus");
        let cut = HeldOutCut::new(corpus.tokens(), 2, 0, &Blake3Hash::of(b"")).expect("no windows");
        let mut all = Vec::new();
        let keep = |shard: &Tokens| {
            all.extend_from_slice(shard.as_slice());
            Ok(Blake3Hash::of(b""))
        };
        let (shards, _) = corpus.split(cut, keep).expect("split");
        assert_eq!(shards.iter().map(|shard| shard.tokens).sum::<u64>(), corpus.tokens());
        all
    }
}

#[test]
fn the_tokenizer_beside_the_model_is_used_and_kept() {
    let setting = Setting::new(5);
    setting.write("tokenizer.json", WORDS.as_bytes()).write("data/1.txt", b"a b").write("data/2.txt", b"c x");
    assert_eq!(setting.tokens(), [0, 1, 4, 2, 3]);
    assert_eq!(setting.open().expect("a corpus").tokenizer.as_deref(), Some(WORDS.as_bytes()));
}

#[test]
fn a_folder_of_texts_without_a_tokenizer_is_bytes_for_a_model_of_bytes_only() {
    let setting = Setting::new(256);
    setting.write("data/1.txt", b"ab").write("data/2.jsonl", b"{\"text\":\"c\"}");
    assert_eq!(setting.tokens(), [97, 98, 0, 99]);
    assert!(setting.open().expect("a corpus").tokenizer.is_none());
    let setting = Setting::new(257);
    setting.write("data/1.txt", b"ab");
    assert!(setting.refusal().contains("tokenizer.json"), "{}", setting.refusal());
}

#[test]
fn a_tokenizer_of_another_model_is_refused() {
    let setting = Setting::new(4);
    setting.write("tokenizer.json", WORDS.as_bytes()).write("data/1.txt", b"a");
    let refusal = setting.refusal();
    assert!(refusal.contains("vocabulary has 4"), "{refusal}");
}

#[test]
fn token_files_are_shards_as_they_are_and_checked_against_the_vocabulary() {
    let setting = Setting::new(10);
    let file = |tokens: Vec<u32>| Tokens::new(tokens, 400).expect("valid").to_token_file();
    setting.write("data/1.tokens", &file(vec![1, 2])).write("data/2.tokens", &file(vec![3]));
    assert_eq!(setting.tokens(), [1, 2, 3]);
    setting.write("data/2.tokens", &file(vec![300]));
    let corpus = setting.open().expect("only counted");
    let cut = HeldOutCut::new(corpus.tokens(), 2, 0, &Blake3Hash::of(b"")).expect("no windows");
    let refusal = corpus.split(cut, |_| Ok(Blake3Hash::of(b""))).expect_err("refused").to_string();
    assert!(refusal.contains("2.tokens") && refusal.contains("300"), "{refusal}");
    let whole = file(vec![1, 2, 3]);
    setting.write("data/2.tokens", &whole[..12]);
    assert!(setting.refusal().contains("2.tokens"));
}

#[test]
fn a_token_file_is_known_by_how_it_begins_whatever_it_is_called() {
    let setting = Setting::new(10);
    let file = Tokens::new(vec![1, 2], 10).expect("valid").to_token_file();
    setting.write("data/1.txt", &file);
    assert_eq!(setting.tokens(), [1, 2]);
}

#[test]
fn a_made_shard_that_has_changed_is_refused() {
    let setting = Setting::new(5);
    setting.write("tokenizer.json", WORDS.as_bytes()).write("data/1.txt", b"a b c");
    let corpus = setting.open().expect("a corpus");
    let [Shard::File { path, .. }] = &corpus.shards[..] else { panic!("{corpus:?}") };
    let mut bytes = fs::read(path).expect("there");
    *bytes.last_mut().expect("tokens") ^= 1;
    fs::write(path, bytes).expect("written");
    let cut = HeldOutCut::new(corpus.tokens(), 2, 0, &Blake3Hash::of(b"")).expect("no windows");
    let refusal = corpus.split(cut, |_| Ok(Blake3Hash::of(b""))).expect_err("refused").to_string();
    assert!(refusal.contains("shard-00000.tokens"), "{refusal}");
}

#[test]
fn one_short_text_of_bytes_leaves_nothing_beside_it() {
    let mut setting = Setting::new(256);
    setting.write("data/1.txt", "né\0".as_bytes());
    setting.settings.corpus = Some(setting.folder.path().join("data/1.txt"));
    assert_eq!(setting.tokens(), [0x6e, 0xc3, 0xa9, 0]);
    assert_eq!(fs::read_dir(setting.folder.path().join("data")).expect("there").count(), 1);
}
