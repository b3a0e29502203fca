//! A Hugging Face folder as others publish it: config.json, and weights in one safetensors file or in shards.
//!
//! Everything is checked against config.json and against the files' real lengths before memory is asked for. Files are
//! read in pieces: what a run works with is the arena of f32, into which F32, BF16 and F16 widen exactly. Never follows a
//! name out of the folder.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::sync::Arc;

use serde::Deserialize;

use super::checkpoint::check_finite;
use super::safetensors::{Dtype, Header, LENGTH_BYTES, header_length};
use super::{Checkpoint, Layout, LlamaConfig, ModelError, TensorSpec};

/// The model's description.
pub(super) const CONFIG_FILE: &str = "config.json";
/// All weights, where there are no shards.
pub(super) const WEIGHTS_FILE: &str = "model.safetensors";
/// Which shard holds which tensor.
pub(super) const INDEX_FILE: &str = "model.safetensors.index.json";

const MAX_CONFIG_BYTES: u64 = 1 << 20;
const MAX_INDEX_BYTES: u64 = 16 << 20;
const MAX_SHARDS: usize = 256;
/// Bytes that are read at once.
const CHUNK_BYTES: usize = 1 << 20;

/// A model as it was found in a folder.
#[derive(Clone, Debug)]
pub struct Pretrained {
    /// config.json, byte for byte.
    pub config_json: Vec<u8>,
    /// The weights, widened to f32.
    pub checkpoint: Checkpoint,
}

impl Pretrained {
    /// Reads `config.json` and the weights of a folder.
    pub fn read(folder: &Path) -> Result<Pretrained, ModelError> {
        let config_json = read_small(&folder.join(CONFIG_FILE), MAX_CONFIG_BYTES)?;
        let config = LlamaConfig::from_json(&config_json)?;
        let layout = config.layout();
        let shards = open_shards(folder)?;
        let places = places(&shards, &layout)?;
        let mut weights = Vec::with_capacity(layout.numel);
        for (spec, place) in layout.tensors.iter().zip(&places) {
            place.read(spec, &mut weights)?;
        }
        if config.tie_word_embeddings {
            check_tied(&shards, &layout, &weights)?;
        }
        Ok(Pretrained {
            config_json,
            checkpoint: Checkpoint { config: Arc::new(config), layout: Arc::new(layout), weights },
        })
    }
}

fn file_error(path: &Path, problem: impl std::fmt::Display) -> ModelError {
    ModelError::File { path: path.display().to_string(), problem: problem.to_string() }
}

/// Opens a regular file: a pipe would keep us waiting.
fn open(path: &Path) -> Result<File, ModelError> {
    let metadata = std::fs::metadata(path).map_err(|error| file_error(path, error))?;
    if !metadata.is_file() {
        return Err(file_error(path, "not a file"));
    }
    File::open(path).map_err(|error| file_error(path, error))
}

fn read_small(path: &Path, most_bytes: u64) -> Result<Vec<u8>, ModelError> {
    let mut bytes = Vec::new();
    io::Read::read_to_end(&mut io::Read::take(open(path)?, most_bytes + 1), &mut bytes)
        .map_err(|error| file_error(path, error))?;
    if bytes.len() as u64 > most_bytes {
        return Err(file_error(path, format_args!("more than {most_bytes} bytes")));
    }
    Ok(bytes)
}

/// An open safetensors file.
struct Shard {
    path: std::path::PathBuf,
    file: File,
    header: Header,
    /// Where the data begins.
    data: u64,
}

impl Shard {
    fn open(path: &Path) -> Result<Shard, ModelError> {
        let failed = |error: io::Error| unreadable(path, error);
        let file = open(path)?;
        let file_bytes = file.metadata().map_err(failed)?.len();
        let mut first = [0; LENGTH_BYTES as usize];
        file.read_exact_at(&mut first, 0).map_err(failed)?;
        let in_file = |error: ModelError| file_error(path, error);
        let length = header_length(first, file_bytes).map_err(in_file)?;
        let mut json = vec![0; length as usize];
        file.read_exact_at(&mut json, LENGTH_BYTES).map_err(failed)?;
        let header = Header::parse(&json).map_err(in_file)?;
        let data = LENGTH_BYTES + length;
        header.check_coverage(file_bytes - data).map_err(in_file)?;
        Ok(Shard { path: path.to_owned(), file, header, data })
    }
}

fn unreadable(path: &Path, error: io::Error) -> ModelError {
    match error.kind() {
        io::ErrorKind::UnexpectedEof => file_error(path, "the file is shorter than it should be; copy it again"),
        _ => file_error(path, error),
    }
}

/// Opens the one file, or what the index names.
fn open_shards(folder: &Path) -> Result<Vec<Shard>, ModelError> {
    let (whole, index) = (folder.join(WEIGHTS_FILE), folder.join(INDEX_FILE));
    if whole.exists() {
        return Ok(vec![Shard::open(&whole)?]);
    }
    if !index.exists() {
        let problem = format!(
            "there is neither {WEIGHTS_FILE} nor {INDEX_FILE}; weights in another format (pytorch_model.bin, .gguf) \
             have to be converted to safetensors first"
        );
        return Err(file_error(folder, problem));
    }
    let named: Index =
        serde_json::from_slice(&read_small(&index, MAX_INDEX_BYTES)?).map_err(|error| file_error(&index, error))?;
    let names: BTreeSet<&String> = named.weight_map.0.values().collect();
    if names.len() > MAX_SHARDS {
        return Err(file_error(&index, format_args!("{} shards, more than {MAX_SHARDS}", names.len())));
    }
    let is_inside = |name: &str| Path::new(name).file_name() == Some(name.as_ref()) && name.ends_with(".safetensors");
    if let Some(name) = names.iter().find(|name| !is_inside(name)) {
        let shown: String = name.chars().take(80).collect();
        let problem = format_args!("{shown:?} is not the name of a safetensors file in the folder").to_string();
        return Err(file_error(&index, problem));
    }
    let mut shards = Vec::with_capacity(names.len());
    for name in names {
        let shard = Shard::open(&folder.join(name))?;
        let of_shard = |tensor: &str| named.weight_map.0.get(tensor) == Some(name);
        if let Some(tensor) = shard.header.names().find(|tensor| !of_shard(tensor)) {
            return Err(file_error(&shard.path, format_args!("has tensor {tensor}, which the index says isn't there")));
        }
        let mut promised = named.weight_map.0.iter().filter(|(_, file)| *file == name);
        if let Some((tensor, _)) = promised.find(|(tensor, _)| shard.header.find(tensor).is_none()) {
            return Err(file_error(&shard.path, format_args!("lacks tensor {tensor}, which the index says is there")));
        }
        shards.push(shard);
    }
    Ok(shards)
}

#[derive(Debug, Deserialize)]
struct Index {
    weight_map: WeightMap,
}

/// From a tensor's name to its file; no name comes twice.
#[derive(Debug)]
struct WeightMap(BTreeMap<String, String>);

impl<'de> Deserialize<'de> for WeightMap {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct NamesOnce;
        impl<'de> serde::de::Visitor<'de> for NamesOnce {
            type Value = BTreeMap<String, String>;
            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("a map from tensor names to file names")
            }
            fn visit_map<A: serde::de::MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut files = BTreeMap::new();
                while let Some((tensor, file)) = map.next_entry::<String, String>()? {
                    if let Some(_before) = files.insert(tensor.clone(), file) {
                        return Err(serde::de::Error::custom(format!("tensor {tensor} is there twice")));
                    }
                }
                Ok(files)
            }
        }
        deserializer.deserialize_map(NamesOnce).map(WeightMap)
    }
}

/// Where one tensor lies.
struct Place<'a> {
    shard: &'a Shard,
    dtype: Dtype,
    /// In the file.
    start: u64,
    bytes: usize,
}

/// Every tensor of the model, in layout order; nothing in the files that isn't of the model.
fn places<'a>(shards: &'a [Shard], layout: &Layout) -> Result<Vec<Place<'a>>, ModelError> {
    for (shard, name) in shards.iter().flat_map(|shard| shard.header.names().map(move |name| (shard, name))) {
        // Old files keep what follows from config.json, too; and a tied head, which is compared later.
        if layout.find(name).is_none() && !name.ends_with(".rotary_emb.inv_freq") && name != HEAD {
            return Err(file_error(&shard.path, ModelError::UnknownTensor(name.to_owned())));
        }
    }
    layout.tensors.iter().map(|spec| place(shards, spec)).collect()
}

const HEAD: &str = "lm_head.weight";
const EMBEDDING: &str = "model.embed_tokens.weight";

fn place<'a>(shards: &'a [Shard], spec: &TensorSpec) -> Result<Place<'a>, ModelError> {
    place_of(shards, &spec.name, spec)?.ok_or_else(|| ModelError::MissingTensor(spec.name.clone()))
}

/// The tensor called `name`, which has the spec's shape; `None` where no file has it.
fn place_of<'a>(shards: &'a [Shard], name: &str, spec: &TensorSpec) -> Result<Option<Place<'a>>, ModelError> {
    // The index has each name once, and each shard what the index says: one at most has it.
    let Some((shard, entry)) = shards.iter().find_map(|shard| Some((shard, shard.header.find(name)?))) else {
        return Ok(None);
    };
    let dtype = entry.check(spec).map_err(|error| file_error(&shard.path, error))?;
    let [start, _] = entry.data_offsets;
    Ok(Some(Place { shard, dtype, start: shard.data + start, bytes: dtype.bytes() * spec.numel() }))
}

impl Place<'_> {
    /// Appends the tensor's values.
    fn read(&self, spec: &TensorSpec, weights: &mut Vec<f32>) -> Result<(), ModelError> {
        let from = weights.len();
        let mut chunk = vec![0; CHUNK_BYTES.min(self.bytes)];
        for offset in (0..self.bytes).step_by(CHUNK_BYTES) {
            let bytes = CHUNK_BYTES.min(self.bytes - offset);
            let chunk = &mut chunk[..bytes];
            let read = self.shard.file.read_exact_at(chunk, self.start + offset as u64);
            read.map_err(|error| unreadable(&self.shard.path, error))?;
            self.dtype.widen(chunk, weights);
        }
        check_finite(&weights[from..], &spec.name).map_err(|error| file_error(&self.shard.path, error))
    }
}

/// A tied model's head may be there as well, as a copy of the embedding; anything else would be lost silently.
fn check_tied(shards: &[Shard], layout: &Layout, weights: &[f32]) -> Result<(), ModelError> {
    let Some(embedding) = layout.find(EMBEDDING) else { return Ok(()) };
    let Some(place) = place_of(shards, HEAD, embedding)? else { return Ok(()) };
    let mut head = Vec::with_capacity(embedding.numel());
    place.read(embedding, &mut head)?;
    let same = head.iter().zip(&weights[embedding.range()]).all(|(a, b)| a.to_bits() == b.to_bits());
    if same {
        return Ok(());
    }
    let problem = format!("{HEAD} is not {EMBEDDING}, and config.json ties them: set tie_word_embeddings to false");
    Err(file_error(&place.shard.path, problem))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::super::Export;
    use super::super::checkpoint::tests::tiny;
    use super::*;

    /// A folder with a tiny model in it, in shards or whole.
    struct Folder(tempfile::TempDir);

    impl Folder {
        fn new(most_shard_bytes: u64) -> Self {
            let folder = tempfile::tempdir().expect("a folder");
            let checkpoint = Checkpoint::init(tiny(), [7; 32]);
            let config = tiny().to_json();
            let (config_json, dtype) = (config.as_bytes(), Dtype::F32);
            let export = Export { checkpoint: &checkpoint, config_json, dtype, most_shard_bytes, companions: None };
            export.write(&folder.path().join("model")).expect("written");
            Self(folder)
        }

        fn path(&self, name: &str) -> std::path::PathBuf {
            self.0.path().join("model").join(name)
        }

        fn read(&self) -> Result<Pretrained, ModelError> {
            Pretrained::read(&self.0.path().join("model"))
        }

        fn refusal(&self) -> String {
            self.read().expect_err("refused").to_string()
        }

        /// Changes the JSON of a file.
        fn edit(&self, name: &str, change: impl Fn(&mut Value)) {
            let mut value = serde_json::from_slice(&std::fs::read(self.path(name)).expect("there")).expect("JSON");
            change(&mut value);
            std::fs::write(self.path(name), value.to_string()).expect("written");
        }

        /// Changes the header of a safetensors file, and appends to its data.
        fn edit_header(&self, change: impl Fn(&mut Value), more: &[u8]) {
            let bytes = std::fs::read(self.path(WEIGHTS_FILE)).expect("there");
            let (first, rest) = bytes.split_first_chunk().expect("long enough");
            let (json, data) = rest.split_at(u64::from_le_bytes(*first) as usize);
            let mut header = serde_json::from_slice(json).expect("JSON");
            change(&mut header);
            self.write(header.to_string().as_bytes(), &[data, more].concat());
        }

        fn write(&self, header: &[u8], data: &[u8]) {
            let length = (header.len() as u64).to_le_bytes();
            std::fs::write(self.path(WEIGHTS_FILE), [&length, header, data].concat()).expect("written");
        }
    }

    const WHOLE: u64 = u64::MAX;

    #[test]
    fn an_old_folder_s_buffers_and_the_copy_of_a_tied_head_are_passed_over() {
        let folder = Folder::new(WHOLE);
        let before = folder.read().expect("read").checkpoint;
        let embedding = before.tensor_named(EMBEDDING).expect("there");
        let mut more: Vec<u8> = embedding.iter().flat_map(|weight| weight.to_le_bytes()).collect();
        let (start, end) = (4 * before.layout.numel, 4 * before.layout.numel + more.len());
        more.extend([0; 8]);
        let add = |header: &mut Value| {
            header[HEAD] = json!({"dtype": "F32", "shape": [32, 16], "data_offsets": [start, end]});
            let buffer = "model.layers.0.self_attn.rotary_emb.inv_freq";
            header[buffer] = json!({"dtype": "F32", "shape": [2], "data_offsets": [end, end + 8]});
        };
        folder.edit_header(add, &more);
        assert_eq!(folder.read().expect("read").checkpoint.hash(), before.hash());
        let folder = Folder::new(WHOLE);
        more[5] ^= 1;
        folder.edit_header(add, &more);
        let error = folder.refusal();
        assert!(error.contains("lm_head.weight is not model.embed_tokens.weight"), "{error}");
    }

    #[test]
    fn headers_that_lie_are_refused_before_memory_is_asked_for() {
        let norm = "model.norm.weight";
        type Lie = fn(&mut Value);
        let cases: [(&str, Lie); 8] = [
            ("was expected", |h| h["model.norm.weight"]["data_offsets"] = json!([0, 64])),
            ("was expected", |h| h["model.norm.weight"]["data_offsets"] = json!([u64::MAX - 64, u64::MAX])),
            ("header says", |h| {
                h.as_object_mut().expect("a map").remove("model.norm.weight");
            }),
            ("is F32 [17]", |h| h["model.norm.weight"]["shape"] = json!([17])),
            ("is I64 [16]", |h| h["model.norm.weight"]["dtype"] = json!("I64")),
            ("is BF16 [16]", |h| h["model.norm.weight"]["dtype"] = json!("BF16")),
            ("invalid value", |h| h["model.norm.weight"]["shape"] = json!([-16])),
            ("unknown field", |h| h["model.norm.weight"]["strides"] = json!([1])),
        ];
        for (words, change) in cases {
            let folder = Folder::new(WHOLE);
            folder.edit_header(change, &[]);
            let error = folder.refusal();
            assert!(error.contains(words) && error.contains(WEIGHTS_FILE), "{words}: {error}");
        }
        let folder = Folder::new(WHOLE);
        folder.edit_header(
            |h| h["model.extra.weight"] = json!({"dtype": "F32", "shape": [0], "data_offsets": [0, 0]}),
            &[],
        );
        assert!(folder.refusal().contains("model.extra.weight is not part of the model"));
        let folder = Folder::new(WHOLE);
        folder.write(br#"{"a":{"dtype":"F32","shape":[0],"data_offsets":[0,0]},"a":{"dtype":"F32","shape":[0],"data_offsets":[0,0]}}"#, &[]);
        assert!(folder.refusal().contains("tensor a is there twice"));
        for length in [u64::MAX, 1 << 40, 17 << 20, 100] {
            std::fs::write(folder.path(WEIGHTS_FILE), length.to_le_bytes()).expect("written");
            assert!(folder.refusal().contains("a header of"), "{length}");
        }
        for bytes in [&b""[..], b"1234567"] {
            std::fs::write(folder.path(WEIGHTS_FILE), bytes).expect("written");
            folder.refusal();
        }
        // Deeply nested JSON must not use up the stack.
        folder.write("[".repeat(200_000).as_bytes(), &[]);
        folder.refusal();
        let folder = Folder::new(WHOLE);
        folder.edit(CONFIG_FILE, |config| {
            config["vocab_size"] = json!(1 << 20);
            config["hidden_size"] = json!(8192);
        });
        assert!(folder.refusal().contains("model.embed_tokens.weight is F32 [32, 16]"), "{norm}");
    }

    #[test]
    fn an_index_that_lies_is_refused() {
        let shard = "model-00002-of-00009.safetensors";
        let tensor = "model.layers.0.mlp.up_proj.weight";
        for outside in ["../x.safetensors", "/etc/x.safetensors", "a/b.safetensors", "..", "", "weights.bin"] {
            let folder = Folder::new(3_000);
            folder.edit(INDEX_FILE, |index| index["weight_map"][tensor] = json!(outside));
            let error = folder.refusal();
            assert!(error.contains("is not the name of a safetensors file in the folder"), "{outside}: {error}");
        }
        let folder = Folder::new(3_000);
        std::fs::remove_file(folder.path(shard)).expect("removed");
        assert!(folder.refusal().contains(shard));
        std::fs::create_dir(folder.path(shard)).expect("made");
        assert!(folder.refusal().contains("not a file"));

        let folder = Folder::new(3_000);
        folder.edit(INDEX_FILE, |index| index["weight_map"]["model.more.weight"] = json!(shard));
        assert!(folder.refusal().contains("lacks tensor model.more.weight"));
        let folder = Folder::new(3_000);
        folder.edit(INDEX_FILE, |index| {
            index["weight_map"].as_object_mut().expect("a map").remove(tensor);
        });
        assert!(folder.refusal().contains(&format!("has tensor {tensor}")));
        let folder = Folder::new(3_000);
        let text = std::fs::read_to_string(folder.path(INDEX_FILE)).expect("there");
        let twice = text.replacen("\"weight_map\": {", &format!("\"weight_map\": {{\"{tensor}\": \"{shard}\","), 1);
        std::fs::write(folder.path(INDEX_FILE), twice).expect("written");
        assert!(folder.refusal().contains("is there twice"));
        std::fs::remove_file(folder.path(INDEX_FILE)).expect("removed");
        assert!(folder.refusal().contains("converted to safetensors"));
    }

    #[test]
    fn weights_that_are_not_finite_are_named() {
        let folder = Folder::new(WHOLE);
        let mut bytes = std::fs::read(folder.path(WEIGHTS_FILE)).expect("there");
        let place = bytes.len() - 4;
        bytes[place..].copy_from_slice(&f32::NAN.to_le_bytes());
        std::fs::write(folder.path(WEIGHTS_FILE), bytes).expect("written");
        assert!(folder.refusal().contains("tensor model.norm.weight has a non-finite weight at 15"));
    }
}
