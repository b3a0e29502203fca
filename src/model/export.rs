//! A Hugging Face folder as others read it: transformers, and converters to other formats.
//!
//! The folder appears under its name only when it is complete; one that is there already is never touched.

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

use serde_json::{Map, Value, json};

use super::pretrained::{CONFIG_FILE, INDEX_FILE, WEIGHTS_FILE};
use super::safetensors::{Dtype, Metadata, header};
use super::{Checkpoint, ModelError, TensorSpec};

/// What belongs to a model beside its weights, and is copied from the folder it came from.
const COMPANIONS: [&str; 9] = [
    "added_tokens.json",
    "chat_template.jinja",
    "generation_config.json",
    "merges.txt",
    "special_tokens_map.json",
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
    "vocab.json",
];
/// Values that are narrowed at once.
const CHUNK: usize = 1 << 18;

/// A model to write.
#[derive(Clone, Copy, Debug)]
pub struct Export<'a> {
    /// Its weights.
    pub checkpoint: &'a Checkpoint,
    /// Its config.json: written again with the element type of `dtype`, and otherwise as it is.
    pub config_json: &'a [u8],
    /// How the weights are stored.
    pub dtype: Dtype,
    /// Most bytes of tensors in one file, unless a single tensor is larger.
    pub most_shard_bytes: u64,
    /// A folder whose tokenizer and other files are copied.
    pub companions: Option<&'a Path>,
}

impl Export<'_> {
    /// Writes the folder. Gives the bytes of all tensors.
    ///
    /// # Errors
    /// [`ModelError::File`] where the folder exists, or can't be written, or `dtype` can't hold a weight.
    pub fn write(&self, folder: &Path) -> Result<u64, ModelError> {
        if folder.symlink_metadata().is_ok() {
            return Err(file_error(folder, "it is there already: choose another name, or remove it"));
        }
        let name = folder.file_name().ok_or_else(|| file_error(folder, "not the name of a folder"))?;
        let mut part_name = name.to_owned();
        part_name.push(".part");
        let part = folder.with_file_name(part_name);
        match std::fs::remove_dir_all(&part) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(file_error(&part, error)),
            Ok(()) | Err(_) => {}
        }
        std::fs::create_dir_all(&part).map_err(|error| file_error(&part, error))?;
        write_file(&part.join(CONFIG_FILE), self.config()?.as_bytes())?;
        let bytes = self.write_weights(&part)?;
        if let Some(from) = self.companions {
            copy_companions(from, &part)?;
        }
        std::fs::rename(&part, folder).map_err(|error| file_error(folder, error))?;
        Ok(bytes)
    }

    fn config(&self) -> Result<String, ModelError> {
        let mut map: Map<String, Value> =
            serde_json::from_slice(self.config_json).map_err(|error| ModelError::ConfigSyntax(error.to_string()))?;
        let fields: Vec<&str> = ["dtype", "torch_dtype"].into_iter().filter(|field| map.contains_key(*field)).collect();
        let fields = if fields.is_empty() { vec!["torch_dtype"] } else { fields };
        for field in fields {
            map.insert(field.to_owned(), json!(self.dtype.torch_name()));
        }
        // transformers finds the class by this.
        let family = self.checkpoint.config.variant.family;
        map.insert("architectures".to_owned(), json!([family.architecture()]));
        map.insert("model_type".to_owned(), json!(family.model_type()));
        Ok(format!("{:#}\n", Value::Object(map)))
    }

    fn bytes_of(&self, tensors: &[TensorSpec]) -> u64 {
        tensors.iter().map(|tensor| (self.dtype.bytes() * tensor.numel()) as u64).sum()
    }

    fn write_weights(&self, part: &Path) -> Result<u64, ModelError> {
        let tensors = &self.checkpoint.layout.tensors;
        let shards = self.shards();
        if let [all] = shards.as_slice() {
            self.write_shard(&part.join(WEIGHTS_FILE), all)?;
            return Ok(self.bytes_of(tensors));
        }
        let mut weight_map = Map::new();
        for (number, shard) in shards.iter().enumerate() {
            let name = format!("model-{:05}-of-{:05}.safetensors", number + 1, shards.len());
            self.write_shard(&part.join(&name), shard)?;
            weight_map.extend(shard.iter().map(|tensor| (tensor.name.clone(), json!(name))));
        }
        let bytes = self.bytes_of(tensors);
        let index = json!({ "metadata": { "total_size": bytes }, "weight_map": weight_map });
        write_file(&part.join(INDEX_FILE), format!("{index:#}\n").as_bytes())?;
        Ok(bytes)
    }

    /// The tensors cut into files, in layout order.
    fn shards(&self) -> Vec<&[TensorSpec]> {
        let mut rest = self.checkpoint.layout.tensors.as_slice();
        let mut shards = Vec::new();
        while !rest.is_empty() {
            let mut bytes = 0;
            let past = rest.iter().position(|tensor| {
                bytes += self.bytes_of(std::slice::from_ref(tensor));
                bytes > self.most_shard_bytes
            });
            let (shard, others) = rest.split_at(past.map_or(rest.len(), |place| place.max(1)));
            shards.push(shard);
            rest = others;
        }
        shards
    }

    fn write_shard(&self, path: &Path, tensors: &[TensorSpec]) -> Result<(), ModelError> {
        let failed = |error: io::Error| file_error(path, error);
        let mut file = BufWriter::new(File::create(path).map_err(failed)?);
        file.write_all(&header(tensors, self.dtype, Metadata::PyTorch)).map_err(failed)?;
        let mut bytes = Vec::with_capacity(CHUNK * self.dtype.bytes());
        for tensor in tensors {
            for (chunk, values) in self.checkpoint.weights[tensor.range()].chunks(CHUNK).enumerate() {
                bytes.clear();
                self.dtype.narrow(values, &mut bytes).map_err(|place| {
                    let (name, place) = (&tensor.name, chunk * CHUNK + place);
                    let dtype = self.dtype.name();
                    file_error(
                        path,
                        format_args!("{name} has a weight at {place} that {dtype} can't hold: use bf16 or f32"),
                    )
                })?;
                file.write_all(&bytes).map_err(failed)?;
            }
        }
        let file = file.into_inner().map_err(|error| failed(error.into_error()))?;
        file.sync_all().map_err(failed)
    }
}

fn file_error(path: &Path, problem: impl std::fmt::Display) -> ModelError {
    ModelError::File { path: path.display().to_string(), problem: problem.to_string() }
}

fn write_file(path: &Path, bytes: &[u8]) -> Result<(), ModelError> {
    let written = File::create(path).and_then(|mut file| {
        file.write_all(bytes)?;
        file.sync_all()
    });
    written.map_err(|error| file_error(path, error))
}

fn copy_companions(from: &Path, to: &Path) -> Result<(), ModelError> {
    let paths: Vec<(PathBuf, &str)> = COMPANIONS.iter().map(|name| (from.join(name), *name)).collect();
    for (path, name) in paths.iter().filter(|(path, _)| path.is_file()) {
        std::fs::copy(path, to.join(name)).map_err(|error| file_error(path, error))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::checkpoint::tests::tiny;
    use super::super::{LlamaConfig, Pretrained};
    use super::*;

    fn export<'a>(checkpoint: &'a Checkpoint, config: &'a str) -> Export<'a> {
        let config_json = config.as_bytes();
        Export { checkpoint, config_json, dtype: Dtype::F32, most_shard_bytes: 5 << 30, companions: None }
    }

    /// Weights that every element type holds.
    fn short_checkpoint(config: LlamaConfig) -> Checkpoint {
        let mut checkpoint = Checkpoint::init(config, [7; 32]);
        for (place, weight) in checkpoint.weights.iter_mut().enumerate() {
            *weight = (place % 255) as f32 / 64.0 - 2.0;
        }
        checkpoint
    }

    #[test]
    fn what_is_written_is_read_back_bit_by_bit_in_every_element_type_whole_and_in_shards() {
        let checkpoint = short_checkpoint(tiny());
        let config = tiny().to_json();
        let folder = tempfile::tempdir().expect("a folder");
        for (number, dtype) in [Dtype::F32, Dtype::Bf16, Dtype::F16].into_iter().enumerate() {
            for most_shard_bytes in [1, 3_000, 5 << 30] {
                let target = folder.path().join(format!("{number}-{most_shard_bytes}"));
                let export = Export { dtype, most_shard_bytes, ..export(&checkpoint, &config) };
                let bytes = export.write(&target).expect("written");
                assert_eq!(bytes, (dtype.bytes() * checkpoint.layout.numel) as u64);
                assert_eq!(target.join(INDEX_FILE).exists(), most_shard_bytes < 5 << 30);
                let read = Pretrained::read(&target).expect("read");
                assert_eq!(read.checkpoint.hash(), checkpoint.hash());
                let config = String::from_utf8(read.config_json).expect("text");
                assert!(config.contains(&format!("\"torch_dtype\": \"{}\"", dtype.torch_name())), "{config}");
            }
        }
    }

    #[test]
    fn the_rest_of_config_json_and_the_tokenizer_come_along() {
        let checkpoint = short_checkpoint(tiny());
        let config = tiny().to_json().replacen('{', "{\"eos_token_id\": [1, 2], \"dtype\": \"bfloat16\",", 1);
        let folder = tempfile::tempdir().expect("a folder");
        std::fs::write(folder.path().join("tokenizer.json"), "{}").expect("written");
        std::fs::write(folder.path().join("training_args.bin"), "x").expect("written");
        let export = Export { companions: Some(folder.path()), ..export(&checkpoint, &config) };
        let target = folder.path().join("out");
        export.write(&target).expect("written");
        let written: Value =
            serde_json::from_slice(&std::fs::read(target.join(CONFIG_FILE)).expect("there")).expect("JSON");
        assert_eq!((&written["eos_token_id"], &written["dtype"]), (&json!([1, 2]), &json!("float32")));
        assert!(target.join("tokenizer.json").exists() && !target.join("training_args.bin").exists());
    }

    #[test]
    fn a_folder_that_is_there_is_left_alone_and_half_of_one_is_replaced() {
        let checkpoint = short_checkpoint(tiny());
        let config = tiny().to_json();
        let folder = tempfile::tempdir().expect("a folder");
        let target = folder.path().join("out");
        std::fs::create_dir_all(folder.path().join("out.part/old")).expect("made");
        export(&checkpoint, &config).write(&target).expect("written");
        assert!(!folder.path().join("out.part").exists() && !target.join("old").exists());
        let error = export(&checkpoint, &config).write(&target).expect_err("there").to_string();
        assert!(error.contains("there already"), "{error}");
    }

    #[test]
    fn a_weight_too_large_for_the_element_type_is_named_and_nothing_is_left_under_the_folder_s_name() {
        let mut checkpoint = short_checkpoint(tiny());
        let norm = checkpoint.layout.find("model.norm.weight").expect("there").offset;
        checkpoint.weights[norm + 3] = 70_000.0;
        let config = tiny().to_json();
        let folder = tempfile::tempdir().expect("a folder");
        let export = Export { dtype: Dtype::F16, ..export(&checkpoint, &config) };
        let error = export.write(&folder.path().join("out")).expect_err("too large").to_string();
        assert!(error.contains("model.norm.weight has a weight at 3 that F16"), "{error}");
        assert!(!folder.path().join("out").exists());
    }
}
