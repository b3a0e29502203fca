//! A run: made once from settings, model and corpus, and read back at every start.

use std::path::Path;
use std::sync::Arc;

use super::bounty::BountyTask;
use super::core::Record;
use super::corpus::{Corpus, CorpusProgress};
use super::error::CoordinatorError;
use super::secrets::{Entropy, RunSecret};
use super::settings::RunSettings;
use crate::clock::Clock;
use crate::judge;
use crate::model::tokens::{HeldOutCut, Tokens};
use crate::model::{Checkpoint, LlamaConfig, Pretrained};
use crate::protocol::amount::Msat;
use crate::protocol::codec;
use crate::protocol::held_out::{MerkleTree, leaf, tokens_to_hex};
use crate::protocol::hold::MIN_HOLD_BLOCKS;
use crate::protocol::ids::{Blake3Hash, RunId};
use crate::protocol::manifest::{
    CodecParams, HeldOutParams, MAX_CONTRIBUTIONS, RunManifest, TimingParams, TrainingDataParams,
};
use crate::protocol::reward::MAX_TRANCHES;
use crate::protocol::round::RoundRules;
use crate::protocol::sign::{IdentityKey, Signed};
use crate::protocol::transcript::RevealedWindow;
use crate::store::StoreError;
use crate::store::blobs::{self, Blobs};
use crate::store::coordinator::{self as tables, meta, set_meta};
use crate::store::database::{CommitObserver, Connection, Database};

/// The manifest as a file, for auditors who read the folder.
pub const MANIFEST_FILE: &str = "manifest.json";

/// Largest model config.json.
const MAX_CONFIG_BYTES: u64 = 1 << 20;
/// Largest held-out pool.
const MAX_POOL_BYTES: u64 = 4 << 30;
/// Longest name.
const MAX_NAME_BYTES: usize = 64;

const META_SETTINGS: &str = "settings";
pub(super) const META_MANIFEST: &str = "manifest";
const META_IDENTITY: &str = "identity_secret";
pub(super) const META_SECRET: &str = "run_secret";
const META_POOL: &str = "held_out_pool";

/// A run that has started, of either kind: what its rounds have in common.
#[derive(Debug)]
pub struct Run {
    /// The digest of its manifest.
    pub id: RunId,
    /// What it works at.
    pub task: RunTask,
    /// The submission fee.
    pub(super) fee: Msat,
    /// CLTV delta that peers' hold invoices ask for, in blocks.
    pub(super) hold_blocks: u32,
    pub(super) timing: TimingParams,
    /// The largest payload that can be committed to.
    pub(super) max_payload_bytes: u64,
    pub(super) key: IdentityKey,
    pub(super) secret: RunSecret,
    pub(super) rules: RoundRules,
}

/// What a run works at.
#[derive(Debug)]
pub enum RunTask {
    /// A shared model.
    Training(Box<Training>),
    /// A sponsor's metric.
    Bounty(Box<BountyTask>),
}

/// A training run's own.
#[derive(Debug)]
pub struct Training {
    /// Signed by the coordinator.
    pub manifest: Signed<RunManifest>,
    /// The model's config.json.
    pub model_config: Arc<[u8]>,
    pub(super) pool: Pool,
}

impl Run {
    fn of_training(training: Training, key: IdentityKey, secret: RunSecret, model: &LlamaConfig) -> Self {
        let manifest = &training.manifest.body;
        Self {
            id: manifest.run_id(),
            fee: manifest.reward.fee_msat,
            hold_blocks: manifest.reward.hold_blocks,
            timing: manifest.timing,
            // No sparse update is larger than the dense one.
            max_payload_bytes: dense_bytes(model),
            rules: RoundRules::new(&manifest.timing, manifest.reward.hold_blocks),
            key,
            secret,
            task: RunTask::Training(Box::new(training)),
        }
    }

    /// A training run's own.
    pub fn training(&self) -> Option<&Training> {
        match &self.task {
            RunTask::Training(training) => Some(training),
            RunTask::Bounty(_) => None,
        }
    }

    /// A bounty's own, where it is known to be one.
    pub(super) fn bounty_task(&self) -> Result<&BountyTask, CoordinatorError> {
        self.bounty().ok_or(CoordinatorError::NoBounty)
    }

    /// A bounty's own.
    pub fn bounty(&self) -> Option<&BountyTask> {
        match &self.task {
            RunTask::Training(_) => None,
            RunTask::Bounty(bounty) => Some(bounty),
        }
    }
}

/// The held-out pool.
#[derive(Debug)]
pub(super) struct Pool {
    windows: Vec<Vec<u32>>,
    tree: MerkleTree,
}

impl Pool {
    fn new(windows: Vec<Vec<u32>>, secret: &RunSecret) -> Option<Self> {
        let leaves = windows.iter().enumerate().map(|(i, tokens)| leaf(i as u32, &secret.salt(i as u32), tokens));
        let tree = MerkleTree::new(leaves.collect())?;
        Some(Self { windows, tree })
    }

    /// A window's tokens.
    pub(super) fn tokens(&self, index: u32) -> Option<&Vec<u32>> {
        self.windows.get(index as usize)
    }

    /// A window as the transcript reveals it.
    pub(super) fn reveal(&self, index: u32, secret: &RunSecret) -> Option<RevealedWindow> {
        Some(RevealedWindow {
            index,
            salt: secret.salt(index),
            tokens_hex: tokens_to_hex(self.tokens(index)?),
            proof: self.tree.proof(index)?,
        })
    }
}

/// What is in an open data folder.
#[derive(Debug)]
pub struct DataFolder {
    pub(super) db: Database,
    pub(super) blobs: Blobs,
    pub(super) private: Blobs,
}

impl DataFolder {
    /// Opens a data folder, keeping every other process out of it.
    pub fn open(folder: &Path, observer: Arc<dyn CommitObserver>) -> Result<Self, StoreError> {
        let db = tables::open(folder, observer)?;
        Ok(Self { db, blobs: Blobs::open(&folder.join("blobs"))?, private: Blobs::open(&folder.join("private"))? })
    }
}

/// A run that could start: its settings are checked, its model is read, its corpus made tokens.
#[derive(Debug)]
pub struct Prepared {
    config: Vec<u8>,
    model: LlamaConfig,
    /// The weights to start from, where there are any.
    pretrained: Option<Checkpoint>,
    corpus: Corpus,
}

impl Prepared {
    /// Checks the settings, then reads what they name: the corpus last, which may take long.
    pub fn new(settings: &RunSettings, progress: &mut dyn CorpusProgress) -> Result<Self, CoordinatorError> {
        check(settings)?;
        let (config, pretrained) = read_model(settings.model.as_deref())?;
        let model = LlamaConfig::from_json(&config)?;
        check_lengths(settings, &model)?;
        check_codec(settings, &model)?;
        let corpus = Corpus::open(settings, progress)?;
        Ok(Self { config, model, pretrained, corpus })
    }
}

/// Reads the folder's run back, or starts one if there is none: `prepared` if that has been done with the same settings.
///
/// # Errors
/// [`CoordinatorError::ChangedSetting`] if the folder's run was started with other settings.
pub fn open_or_start(
    data: &mut DataFolder,
    folder: &Path,
    settings: &RunSettings,
    prepared: Option<Prepared>,
    clock: &dyn Clock,
    entropy: &dyn Entropy,
) -> Result<Run, CoordinatorError> {
    let run = match meta(data.db.read(), META_SETTINGS)? {
        Some(before) => {
            refuse_changes(&before, settings)?;
            read(data)?
        }
        None => {
            let prepared = prepared.map_or_else(|| Prepared::new(settings, &mut ()), Ok)?;
            start(data, settings, prepared, clock, entropy)?
        }
    };
    if let Some(training) = run.training() {
        write_manifest(folder, &training.manifest.to_bytes())?;
    }
    Ok(run)
}

/// Leaves the manifest where an auditor who reads the folder finds it.
pub(super) fn write_manifest(folder: &Path, bytes: &[u8]) -> Result<(), StoreError> {
    blobs::write_synced(&folder.join(MANIFEST_FILE), &folder.join("manifest.part"), bytes)
}

fn refuse_changes(before: &[u8], now: &RunSettings) -> Result<(), CoordinatorError> {
    let corrupt = |_| StoreError::Corrupt { what: "copy of the run's settings" };
    let before: serde_json::Value = serde_json::from_slice(before).map_err(corrupt)?;
    let now = serde_json::to_value(now).map_err(corrupt)?;
    match first_difference("", &before, &now) {
        Some((key, before, now)) => Err(CoordinatorError::ChangedSetting { key, before, now }),
        None => Ok(()),
    }
}

fn first_difference(key: &str, a: &serde_json::Value, b: &serde_json::Value) -> Option<(String, String, String)> {
    match (a, b) {
        (serde_json::Value::Object(a), serde_json::Value::Object(b)) => {
            let names: std::collections::BTreeSet<&String> = a.keys().chain(b.keys()).collect();
            names.into_iter().find_map(|name| {
                let path = if key.is_empty() { name.clone() } else { format!("{key}.{name}") };
                let null = serde_json::Value::Null;
                first_difference(&path, a.get(name).unwrap_or(&null), b.get(name).unwrap_or(&null))
            })
        }
        (a, b) if a == b => None,
        (a, b) => Some((key.to_owned(), a.to_string(), b.to_string())),
    }
}

fn read(data: &DataFolder) -> Result<Run, CoordinatorError> {
    let db = data.db.read();
    let corrupt = |what| move || StoreError::Corrupt { what };
    let manifest = meta(db, META_MANIFEST)?.ok_or_else(corrupt("run"))?;
    let manifest = Signed::<RunManifest>::from_bytes(&manifest).map_err(|_| corrupt("manifest")())?;
    let secret = secret_bytes(db, META_SECRET)?;
    let pool: [u8; 32] = secret_bytes(db, META_POOL)?;
    let params = manifest.body.held_out;
    let file = data.private.get(&Blake3Hash::from_bytes(pool), MAX_POOL_BYTES)?;
    let tokens = Tokens::from_token_file(&file, u32::MAX)?;
    let windows = tokens.as_slice().chunks(params.window_tokens.max(1) as usize).map(<[u32]>::to_vec).collect();
    let secret = RunSecret::from_bytes(secret);
    let pool = Pool::new(windows, &secret).filter(|pool| pool.tree.root() == params.root);
    let key = IdentityKey::from_secret_bytes(&secret_bytes(db, META_IDENTITY)?);
    let config = data.blobs.get(&manifest.body.model_config, MAX_CONFIG_BYTES)?;
    let model = LlamaConfig::from_json(&config)?;
    let pool = pool.ok_or_else(corrupt("held-out pool"))?;
    let training = Training { manifest, model_config: config.into(), pool };
    Ok(Run::of_training(training, key.ok_or_else(corrupt("identity key"))?, secret, &model))
}

pub(super) fn secret_bytes(db: &Connection, name: &str) -> Result<[u8; 32], StoreError> {
    let bytes = meta(db, name)?.and_then(|bytes| bytes.try_into().ok());
    bytes.ok_or(StoreError::Corrupt { what: "secret of the run" })
}

fn start(
    data: &mut DataFolder,
    settings: &RunSettings,
    prepared: Prepared,
    clock: &dyn Clock,
    entropy: &dyn Entropy,
) -> Result<Run, CoordinatorError> {
    let Prepared { config, model, pretrained, corpus } = prepared;
    let unreadable = |source| CoordinatorError::Unreadable { path: "the system's random source".into(), source };
    let random = || entropy.bytes32().map_err(unreadable);
    let identity = random()?;
    let key = IdentityKey::from_secret_bytes(&identity).ok_or(CoordinatorError::Panicked)?;
    let secret_key = random()?;
    let secret = RunSecret::from_bytes(secret_key);

    let vocabulary = u32::try_from(model.vocab_size).unwrap_or(u32::MAX);
    let held_out = &settings.held_out;
    let windows = held_out.rounds.saturating_mul(held_out.block_windows);
    let cut = HeldOutCut::new(corpus.tokens(), held_out.window_tokens, windows, &secret.split_seed())?;
    let (shards, held_out_windows) = corpus.split(cut, |shard| Ok(data.blobs.put(&shard.to_token_file())?))?;
    let pool_file = Tokens::new(held_out_windows.concat(), vocabulary)?.to_token_file();
    let bad_pool = || CoordinatorError::BadSetting {
        key: "held_out.rounds",
        value: held_out.rounds.to_string(),
        problem: "a run needs at least one round with windows".into(),
    };
    let pool = Pool::new(held_out_windows, &secret).ok_or_else(bad_pool)?;
    let seed = blake3::derive_key("l402t initial checkpoint seed v1", &settings.seed.to_le_bytes());
    let checkpoint = pretrained.unwrap_or_else(|| Checkpoint::init(model.clone(), seed));

    let pool_blob = data.private.put(&pool_file)?;
    let manifest = key.sign(RunManifest {
        version: 1,
        name: settings.name.clone(),
        coordinator: key.id(),
        created_ms: clock.now(),
        model_config: data.blobs.put(&config)?,
        initial_checkpoint: data.blobs.put(&checkpoint.to_safetensors())?,
        training_data: TrainingDataParams {
            shards,
            shards_per_round: settings.shards_per_round,
            tokenizer: corpus.tokenizer.map(|json| data.blobs.put(&json)).transpose()?,
        },
        held_out: HeldOutParams {
            root: pool.tree.root(),
            windows,
            block_windows: held_out.block_windows,
            windows_per_round: held_out.windows_per_round,
            window_tokens: held_out.window_tokens,
        },
        training: settings.training,
        codec: settings.codec,
        judge: settings.judge,
        reward: settings.reward,
        timing: settings.timing,
    });
    let published: Vec<Blake3Hash> = {
        let data = &manifest.body.training_data;
        let single = [manifest.body.model_config, manifest.body.initial_checkpoint];
        single.into_iter().chain(data.tokenizer).chain(data.shards.iter().map(|shard| shard.hash)).collect()
    };
    let manifest_bytes = manifest.to_bytes();
    let training = Training { manifest, model_config: config.into(), pool };
    let run = Run::of_training(training, key, secret, &model);
    let settings = serde_json::to_vec(settings).map_err(|_| StoreError::Corrupt { what: "setting" })?;
    data.db.write(|t| {
        Record::RunStarted { run: &run.id.to_string() }.append(t, clock.now())?;
        set_meta(t, META_IDENTITY, &identity)?;
        set_meta(t, META_SECRET, &secret_key)?;
        set_meta(t, META_POOL, pool_blob.as_bytes())?;
        set_meta(t, META_MANIFEST, &manifest_bytes)?;
        set_meta(t, META_SETTINGS, &settings)?;
        published.iter().try_for_each(|blob| tables::publish(t, blob))
    })?;
    Ok(run)
}

/// Bytes of all weights in f32.
fn dense_bytes(model: &LlamaConfig) -> u64 {
    4 * model.layout().numel as u64
}

/// config.json, and the weights to start from where the setting names a Hugging Face folder.
fn read_model(path: Option<&Path>) -> Result<(Vec<u8>, Option<Checkpoint>), CoordinatorError> {
    match path {
        Some(folder) if folder.is_dir() => {
            let Pretrained { config_json, checkpoint } = Pretrained::read(folder)?;
            Ok((config_json, Some(checkpoint)))
        }
        path => Ok((read_file("model", path)?, None)),
    }
}

fn read_file(key: &'static str, path: Option<&Path>) -> Result<Vec<u8>, CoordinatorError> {
    let path = path.ok_or(CoordinatorError::MissingSetting { key })?;
    std::fs::read(path).map_err(CoordinatorError::unreadable(path))
}

fn check(settings: &RunSettings) -> Result<(), CoordinatorError> {
    let bad = |key, value: &dyn ToString, problem: &str| {
        Err(CoordinatorError::BadSetting { key, value: value.to_string(), problem: problem.into() })
    };
    let (held_out, timing, reward) = (&settings.held_out, &settings.timing, &settings.reward);
    if settings.name.is_empty() || settings.name.len() > MAX_NAME_BYTES {
        return bad("name", &settings.name, "a name has 1 to 64 bytes");
    }
    if held_out.windows_per_round == 0 || held_out.windows_per_round > held_out.block_windows {
        return bad("held_out.windows_per_round", &held_out.windows_per_round, "1 ..= held_out.block_windows");
    }
    if held_out.window_tokens < 2 {
        return bad("held_out.window_tokens", &held_out.window_tokens, "a window needs two tokens at least");
    }
    if held_out.rounds.checked_mul(held_out.block_windows).is_none_or(|windows| windows == 0) {
        return bad("held_out.rounds", &held_out.rounds, "at least 1, and no more than 2³² windows in all");
    }
    if timing.commit_ms == 0 || timing.upload_ms <= timing.commit_ms {
        return bad("timing.upload_ms", &timing.upload_ms, "it must be later than timing.commit_ms, which can't be 0");
    }
    if settings.shards_per_round == 0 {
        return bad("shards_per_round", &settings.shards_per_round, "a peer needs at least one");
    }
    if !(1..=MAX_CONTRIBUTIONS).contains(&timing.max_contributions) {
        return bad("timing.max_contributions", &timing.max_contributions, "1 ..= 1024");
    }
    if !(1..=MAX_TRANCHES).contains(&reward.tranches) {
        return bad("reward.tranches", &reward.tranches, "1 ..= 10");
    }
    if !(MIN_HOLD_BLOCKS..=crate::ln::MAX_HOLD_CLTV_BLOCKS).contains(&reward.hold_blocks) {
        return bad("reward.hold_blocks", &reward.hold_blocks, "48 ..= 1000");
    }
    let unit = crate::protocol::reward::tranche_amounts(reward).first().map_or(0, |unit| unit.msat());
    if unit < 1_000 {
        return bad("reward.pool_msat", &reward.pool_msat.msat(), "the smallest tranche must be 1 sat at least");
    }
    Ok(())
}

fn check_lengths(settings: &RunSettings, model: &LlamaConfig) -> Result<(), CoordinatorError> {
    let longest = model.max_position_embeddings as u64;
    let lengths = [
        ("held_out.window_tokens", settings.held_out.window_tokens - 1),
        ("training.sequence_tokens", settings.training.sequence_tokens),
    ];
    for (key, tokens) in lengths {
        if u64::from(tokens) > longest {
            let problem = format!("the model takes {longest} tokens");
            return Err(CoordinatorError::BadSetting { key, value: tokens.to_string(), problem });
        }
    }
    Ok(())
}

fn check_codec(settings: &RunSettings, model: &LlamaConfig) -> Result<(), CoordinatorError> {
    let CodecParams { tile, k, value_bits, .. } = settings.codec;
    let bad = |problem: String| {
        let value = format!("tile {tile}, k {k}, value_bits {value_bits}");
        CoordinatorError::BadSetting { key: "codec", value, problem }
    };
    codec::check_params(&settings.codec, &model.layout().shapes()).map_err(|problem| bad(problem.to_string()))?;
    let (chance, copy) = (judge::chance_overlap(&settings.codec), settings.judge.copy_overlap_ppm);
    if chance >= copy {
        let (chance, copy) = (chance.get(), copy.get());
        return Err(bad(format!(
            "any two updates share about {chance} ppm of their places, and from judge.copy_overlap_ppm = {copy} on one is a \
             copy of the other"
        )));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::ManualClock;
    use crate::coordinator::SystemEntropy;
    use crate::coordinator::settings::HeldOutSettings;
    use crate::protocol::ids::UnixMs;
    use crate::store::database::Unwatched;

    #[test]
    fn a_changed_setting_is_named() {
        let before = RunSettings::default();
        let bytes = serde_json::to_vec(&before).expect("JSON");
        assert!(refuse_changes(&bytes, &before).is_ok());
        let mut now = before;
        now.timing.upload_ms += 1;
        let error = refuse_changes(&bytes, &now).expect_err("refused").to_string();
        assert!(error.contains("timing.upload_ms") && error.contains("720001"), "{error}");
    }

    #[test]
    fn a_round_takes_from_one_contribution_to_the_most_that_a_peer_decodes() {
        let check = |max_contributions| {
            let mut settings = RunSettings::default();
            settings.timing.max_contributions = max_contributions;
            check(&settings).map_err(|error| error.to_string())
        };
        for possible in [1, MAX_CONTRIBUTIONS] {
            assert_eq!(check(possible), Ok(()));
        }
        for impossible in [0, MAX_CONTRIBUTIONS + 1, u32::MAX] {
            let refused = check(impossible).expect_err("refused");
            let most = MAX_CONTRIBUTIONS.to_string();
            assert!(refused.contains("timing.max_contributions") && refused.ends_with(&most), "{refused}");
        }
    }

    /// A folder with a model of bytes and a corpus, and the settings that name them.
    fn small_run(corpus: &str) -> (tempfile::TempDir, RunSettings) {
        let folder = tempfile::tempdir().expect("a folder");
        let (model, text) = (folder.path().join("config.json"), folder.path().join("corpus.jsonl"));
        std::fs::write(&model, include_str!("../../tests/small-model.json")).expect("written");
        std::fs::write(&text, corpus).expect("written");
        let mut settings = RunSettings { model: Some(model), corpus: Some(text), ..RunSettings::default() };
        settings.held_out = HeldOutSettings { rounds: 1, block_windows: 2, windows_per_round: 1, window_tokens: 17 };
        settings.training.sequence_tokens = 16;
        (folder, settings)
    }

    /// Counts how often it is told anything.
    #[cfg(feature = "datasets")]
    #[derive(Default)]
    struct Told(u32);

    #[cfg(feature = "datasets")]
    impl CorpusProgress for Told {
        fn hashed(&mut self, _: u64, _: u64) -> bool {
            self.0 += 1;
            true
        }

        fn tokenised(&mut self, _: usize, _: usize, _: u64) -> bool {
            self.0 += 1;
            true
        }
    }

    #[cfg(feature = "datasets")]
    #[test]
    fn every_setting_is_checked_before_the_corpus_is_made_tokens() {
        let (_folder, settings) = small_run("{\"text\":\"a\"}");
        type Change = fn(&mut RunSettings);
        let impossible: [(&str, Change); 4] = [
            ("name", |settings| settings.name.clear()),
            ("held_out.window_tokens", |settings| settings.held_out.window_tokens = 66),
            ("training.sequence_tokens", |settings| settings.training.sequence_tokens = 65),
            ("codec", |settings| settings.codec.value_bits = 3),
        ];
        for (key, change) in impossible {
            let (mut settings, mut told) = (settings.clone(), Told::default());
            change(&mut settings);
            let refused = Prepared::new(&settings, &mut told).expect_err("refused").to_string();
            assert!(refused.contains(key), "{refused}");
            assert_eq!(told.0, 0, "the corpus was read before {key} was refused");
        }
        let mut told = Told::default();
        Prepared::new(&settings, &mut told).expect("possible");
        assert!(told.0 > 0);
    }

    #[test]
    fn a_run_that_is_prepared_starts_without_reading_its_model_and_corpus_again() {
        let (folder, mut settings) = small_run("");
        let text = folder.path().join("corpus.txt");
        std::fs::write(&text, "All happy rounds are alike. ".repeat(10)).expect("written");
        settings.corpus = Some(text.clone());
        let data = folder.path().join("data");
        let open = |prepared| {
            let mut opened = DataFolder::open(&data, Arc::new(Unwatched)).expect("opened");
            let clock = ManualClock::new(UnixMs(1));
            open_or_start(&mut opened, &data, &settings, prepared, &clock, &SystemEntropy)
        };
        let prepared = Prepared::new(&settings, &mut ()).expect("possible");
        std::fs::remove_file(&text).expect("removed");
        std::fs::remove_file(folder.path().join("config.json")).expect("removed");
        assert!(matches!(open(None), Err(CoordinatorError::Unreadable { .. })));
        let id = open(Some(prepared)).expect("started").id;
        assert_eq!(open(None).expect("read back").id, id);
    }

    #[test]
    fn a_codec_that_no_round_can_be_judged_with_starts_no_run() {
        let model = LlamaConfig::from_json(
            br#"{"model_type":"llama","architectures":["LlamaForCausalLM"],"vocab_size":256,"hidden_size":8,
            "intermediate_size":16,"num_hidden_layers":1,"num_attention_heads":2,"num_key_value_heads":1,"head_dim":4,
            "max_position_embeddings":32,"rms_norm_eps":1e-5,"rope_theta":10000.0,"tie_word_embeddings":true,
            "hidden_act":"silu"}"#,
        )
        .expect("a model");
        let check = |tile, k, value_bits| {
            let codec = CodecParams { version: 2, tile, k, value_bits };
            check_codec(&RunSettings { codec, ..RunSettings::default() }, &model).map_err(|error| error.to_string())
        };
        for (tile, k, value_bits) in [(64, 64, 1), (64, 64, 4), (16, 100, 2), (16, 256, 8), (2, 4, 8)] {
            assert_eq!(check(tile, k, value_bits), Ok(()), "{tile} {k} {value_bits}");
        }
        for (tile, k, value_bits, words) in [
            (64, 64, 3, "values of 3 bits"),
            (16, 255, 8, "k must be 256"),
            (16, 103, 2, "share about 402343 ppm"),
            (1, 1, 8, "share about 1000000 ppm"),
        ] {
            let refused = check(tile, k, value_bits).expect_err("refused");
            assert!(refused.contains("codec = tile") && refused.contains(words), "{refused}");
        }
    }
}
