//! Models that transformers wrote, read by judge and trainer, and written for transformers again: the same logits.
//!
//! `./x transformers` fetches transformers and PyTorch and runs this; plain `./x test` lists it as ignored.
#![cfg(feature = "torch")]
#![allow(
    clippy::print_stdout,
    clippy::disallowed_methods,
    reason = "says what it compared; what `./x transformers` hands over"
)]

use std::num::NonZeroI32;
use std::path::{Path, PathBuf};
use std::process::Command;

use l402t::coordinator::settings::RunSettings;
use l402t::judge::{HeldOutBatch, Pool, Scorer};
use l402t::model::{Dtype, Export, Pretrained};
use l402t::train::inner::{Trainer, TrainerOptions};

/// The folder of Python packages that `./x transformers` provides.
const PACKAGES: &str = "TRANSFORMERS_PACKAGES";
/// A folder with a real model to compare, too.
const MODEL: &str = "TRANSFORMERS_MODEL";

const SCRIPT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/transformers/models.py");

fn python(arguments: &[&Path], command: &str) {
    let packages = std::env::var_os(PACKAGES).expect("run ./x transformers");
    let status = Command::new("python3")
        .arg(SCRIPT)
        .arg(command)
        .args(arguments)
        .env("PYTHONPATH", packages)
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .status();
    assert!(status.expect("python3 starts").success(), "models.py {command} failed");
}

fn floats(path: &Path) -> Vec<f32> {
    let bytes = std::fs::read(path).expect("logits");
    bytes.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect()
}

/// The largest difference, as a part of the largest logit.
fn difference(found: &[f32], expected: &[f32]) -> f32 {
    assert_eq!(found.len(), expected.len());
    let largest = expected.iter().fold(0f32, |largest, logit| largest.max(logit.abs()));
    found.iter().zip(expected).fold(0f32, |most, (a, b)| most.max((a - b).abs())) / largest
}

/// Compares judge and trainer with the logits that transformers computed, and gives the model back.
fn compare(folder: &Path, tokens: &Path, logits: &Path) -> Pretrained {
    let model = Pretrained::read(folder).expect("a folder that is supported");
    let tokens: Vec<u32> = serde_json::from_slice(&std::fs::read(tokens).expect("tokens")).expect("JSON");
    let expected = floats(logits);
    let start = &model.checkpoint;
    // The last token of a window is predicted only: any will do.
    let batch = HeldOutBatch::new(&start.config, vec![[&tokens[..], &[0]].concat()]).expect("a window");
    let judged = Scorer::new(&start.config, tokens.len(), Pool::all_cores()).logits(&start.weights, &batch);
    let options = TrainerOptions { threads: NonZeroI32::new(1), ..TrainerOptions::default() };
    let mut params = RunSettings::default().training;
    params.sequence_tokens = tokens.len() as u32;
    let mut trainer = Trainer::new(start.config.clone(), start.layout.clone(), params, options).expect("a trainer");
    let trained = trainer.logits(&start.weights, &tokens).expect("logits");
    let (judge, libtorch) = (difference(&judged, &expected), difference(&trained, &expected));
    println!("{}: judge {judge:.1e}, libtorch {libtorch:.1e} of the largest logit", folder.display());
    assert!(judge < 1e-4 && libtorch < 1e-4, "{}: judge {judge:.1e}, libtorch {libtorch:.1e}", folder.display());
    model
}

#[test]
#[ignore = "needs transformers and PyTorch: ./x transformers"]
fn every_variant_has_transformers_logits_in_judge_and_trainer_and_after_it_was_written_again() {
    let folder = tempfile::tempdir().expect("a folder");
    let folder = folder.path();
    python(&[folder], "make");
    let entries = std::fs::read_dir(folder).expect("listed").map(|entry| entry.expect("an entry").path());
    let mut models: Vec<PathBuf> = entries.filter(|path| path.is_dir()).collect();
    models.sort();
    assert_eq!(models.len(), 12);
    for (place, model) in models.iter().enumerate() {
        let Pretrained { config_json, checkpoint } =
            compare(model, &model.with_extension("tokens.json"), &model.with_extension("logits"));
        // Every other one in shards.
        let most_shard_bytes = if place % 2 == 0 { 100_000 } else { u64::MAX };
        let (checkpoint, config_json, dtype) = (&checkpoint, config_json.as_slice(), Dtype::F32);
        let export = Export { checkpoint, config_json, dtype, most_shard_bytes, companions: None };
        export.write(&model.with_extension("out")).expect("written");
    }
    python(&[folder], "compare");
}

#[test]
#[ignore = "needs transformers, PyTorch and a model: TRANSFORMERS_MODEL=FOLDER ./x transformers"]
fn a_model_of_the_user_s_has_transformers_logits_in_judge_and_trainer() {
    let model = PathBuf::from(std::env::var_os(MODEL).expect("run TRANSFORMERS_MODEL=FOLDER ./x transformers"));
    let folder = tempfile::tempdir().expect("a folder");
    let (tokens, logits) = (folder.path().join("tokens.json"), folder.path().join("logits"));
    let some: Vec<u32> = (0..96).map(|place| 20 + place * place % 900).collect();
    std::fs::write(&tokens, serde_json::to_vec(&some).expect("JSON")).expect("written");
    python(&[&model, &tokens, &logits], "logits");
    compare(&model, &tokens, &logits);
}
