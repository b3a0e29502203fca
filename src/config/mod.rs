//! Configuration: defaults < file < `L402T_*` < flag. The only place that reads the environment.
//!
//! Unknown keys are errors. Secrets are never in the file itself: a key that needs one names the file that holds it.

mod board;
mod environment;
mod lightning;
mod mcp;

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

pub use board::BoardConfig;
pub use environment::Environment;
pub use lightning::{ChainConfig, LightningConfig, LndConfig, NetworkName, NodeKind};
pub use mcp::McpConfig;

use crate::coordinator::settings::{ChannelSettings, Gate, RunSettings};

const PREFIX: &str = "L402T_";

/// Variables that stand for a global flag, not for a key of the file.
const FLAG_VARIABLES: [&str; 2] = ["L402T_CONFIG", "L402T_DATA"];

/// Everything that can be configured.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// What is logged, and where.
    pub log: LogConfig,
    /// `l402t coordinate`.
    pub coordinator: CoordinatorConfig,
    /// The run that `l402t coordinate` starts. Fixed once it has started.
    pub run: RunSettings,
    /// The Lightning node of `l402t coordinate` and `l402t peer`.
    pub lightning: LightningConfig,
    /// `l402t peer`.
    pub peer: PeerConfig,
    /// `l402t fetch`.
    pub fetch: FetchConfig,
    /// `l402t bounty`.
    pub bounty: BountyConfig,
    /// `l402t mcp`.
    pub mcp: McpConfig,
}

/// What is logged, and where.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LogConfig {
    /// As in RUST_LOG.
    pub filter: String,
    /// Where to.
    pub to: LogTarget,
}

impl Default for LogConfig {
    fn default() -> Self {
        Self { filter: "warn".to_owned(), to: LogTarget::Stderr }
    }
}

/// Where log lines go.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LogTarget {
    /// stderr.
    Stderr,
    /// `log.txt` in the data folder.
    File,
}

/// `l402t coordinate`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct CoordinatorConfig {
    /// Address and port of the API; port 0 picks a free one.
    pub listen: String,
    /// What judges.
    pub device: Device,
    /// Threads for the judge; 0 takes one a core.
    pub threads: u32,
    /// Who takes the submission fee before a ticket is given.
    pub gate: Gate,
    /// Reverse proxies, as addresses or networks, that say whose requests they pass on.
    pub trusted_proxies: Vec<String>,
    /// The header in which they say it.
    pub forwarded_header: ForwardedHeader,
    /// Channels to peers.
    pub channels: ChannelSettings,
    /// Bounties.
    pub bounties: BoardConfig,
}

impl Default for CoordinatorConfig {
    fn default() -> Self {
        Self {
            listen: "127.0.0.1:8402".to_owned(),
            device: Device::Cpu,
            threads: 0,
            gate: Gate::Own,
            trusted_proxies: Vec::new(),
            forwarded_header: ForwardedHeader::XForwardedFor,
            channels: ChannelSettings::default(),
            bounties: BoardConfig::default(),
        }
    }
}

/// The header in which reverse proxies say whose requests they pass on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ForwardedHeader {
    /// `X-Forwarded-For`.
    #[default]
    XForwardedFor,
    /// `Forwarded` (RFC 7239).
    Forwarded,
}

/// What trains, or judges.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Device {
    /// The processor.
    #[default]
    Cpu,
    /// The first CUDA device.
    Cuda,
}

/// What matrix products and attention are computed in while training.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Precision {
    /// fp32.
    #[default]
    F32,
    /// bf16.
    Bf16,
}

/// `l402t peer`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct PeerConfig {
    /// The coordinator's URL.
    pub coordinator: Option<String>,
    /// What trains.
    pub device: Device,
    /// Threads for training; 0 leaves the choice to libtorch.
    pub threads: u32,
    /// What matrix products and attention are computed in.
    pub precision: Precision,
    /// Compute activations a second time instead of keeping them.
    pub gradient_checkpointing: bool,
    /// Sequences in one forward pass; 0 takes the run's.
    pub micro_batch: u32,
    /// The most that one submission fee may be, in msat.
    pub max_fee_msat: u64,
    /// The least that a run must lock for one contribution, in msat; runs that offer less are refused.
    pub min_reward_msat: u64,
    /// The most blocks that a reward may stay locked.
    pub max_hold_blocks: u32,
    /// How long a coordinator may stay unreachable before the peer gives up, in seconds.
    pub give_up_after_s: u32,
    /// The most bytes that one blob (checkpoint, training data) may have.
    pub max_blob_bytes: u64,
}

impl Default for PeerConfig {
    fn default() -> Self {
        Self {
            coordinator: None,
            device: Device::Cpu,
            threads: 0,
            precision: Precision::F32,
            gradient_checkpointing: false,
            micro_batch: 0,
            max_fee_msat: 10_000,
            min_reward_msat: 0,
            max_hold_blocks: 1_000,
            give_up_after_s: 300,
            max_blob_bytes: 64 << 30,
        }
    }
}

/// `l402t fetch`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct FetchConfig {
    /// The most that is paid to the server for one download, in sat.
    pub max_price_sat: u64,
    /// The most that is paid to nodes on the way, in sat.
    pub max_routing_fee_sat: u64,
}

impl Default for FetchConfig {
    fn default() -> Self {
        Self { max_price_sat: 100, max_routing_fee_sat: 10 }
    }
}

/// `l402t bounty`. The coordinator, and how long it may stay unreachable, are the peer's.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct BountyConfig {
    /// The most that one submission or one package may cost, in sat; what its route takes comes on top.
    pub max_fee_sat: u64,
    /// The most that packages and submissions may cost within 24 hours, fees and their routing, in sat.
    pub max_daily_fees_sat: u64,
    /// The least that a claim must be worth, in sat; others are not submitted.
    pub min_reward_sat: u64,
    /// The most blocks that a reward may stay locked.
    pub max_hold_blocks: u32,
    /// The most that one posted bounty may lock, in sat.
    pub max_budget_sat: u64,
    /// The most blocks that a posted bounty may lock it for.
    pub max_escrow_blocks: u32,
    /// The most that nodes on the way are paid for each payment that locks a part of it, in sat.
    pub max_routing_fee_sat: u64,
}

impl Default for BountyConfig {
    fn default() -> Self {
        Self {
            max_fee_sat: 100,
            max_daily_fees_sat: 1_000,
            min_reward_sat: 1,
            max_hold_blocks: 1_000,
            max_budget_sat: 100_000,
            max_escrow_blocks: 1_000,
            max_routing_fee_sat: 10,
        }
    }
}

/// Why the configuration was refused.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file can't be read.
    #[error("could not read the configuration file {path}: {source}")]
    Unreadable {
        /// Which file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The file has an unknown key or a value of the wrong kind. The text names key and line.
    #[error("{path}: {detail}")]
    File {
        /// Which file.
        path: PathBuf,
        /// What, and on which line.
        detail: String,
    },
    /// A variable that is no key, or has a value of the wrong kind.
    #[error("environment variable {name}: {detail}")]
    Variable {
        /// Which.
        name: String,
        /// What is wrong.
        detail: String,
    },
    /// What a key refers to can't be read.
    #[error("{key} = {reference:?}: {detail}")]
    Reference {
        /// Which key.
        key: &'static str,
        /// What it says: a path, `file:PATH` or `env:NAME`.
        reference: String,
        /// What is wrong with that.
        detail: String,
    },
}

impl Config {
    /// Defaults, then the file, then the environment.
    pub fn load(file: Option<&Path>, environment: &Environment) -> Result<Self, ConfigError> {
        let mut table = match file {
            Some(path) => read_file(path)?,
            None => toml::Table::new(),
        };
        for (name, value) in &environment.variables {
            if !FLAG_VARIABLES.contains(&name.as_str()) {
                set_variable(&mut table, name, value)?;
            }
        }
        // Each part has been checked by now, so this can only fail on what is wrong in itself.
        let mut config: Self = table.try_into().map_err(|error: toml::de::Error| ConfigError::File {
            path: file.map(Path::to_path_buf).unwrap_or_default(),
            detail: error.to_string(),
        })?;
        if config.lightning.state_folder.is_none() {
            config.lightning.state_folder = environment.state_folder();
        }
        Ok(config)
    }
}

fn read_file(path: &Path) -> Result<toml::Table, ConfigError> {
    let text =
        std::fs::read_to_string(path).map_err(|source| ConfigError::Unreadable { path: path.to_path_buf(), source })?;
    let refused =
        |error: toml::de::Error| ConfigError::File { path: path.to_path_buf(), detail: located(&error, &text) };
    // From the text rather than from the table, because only the text knows its lines.
    toml::from_str::<Config>(&text).map_err(refused)?;
    text.parse::<toml::Table>().map_err(refused)
}

/// `line 3: unknown field …`, from an error that knows where it is.
fn located(error: &toml::de::Error, text: &str) -> String {
    match error.span() {
        Some(span) => {
            let before = text.get(..span.start).unwrap_or(text);
            format!("line {}: {}", before.matches('\n').count() + 1, error.message())
        }
        None => error.message().to_owned(),
    }
}

/// Sets the key that a variable stands for: `L402T_PEER_MAX_FEE_MSAT` is `max_fee_msat` in `[peer]`.
fn set_variable(table: &mut toml::Table, name: &str, value: &str) -> Result<(), ConfigError> {
    let refused = |detail: String| ConfigError::Variable { name: name.to_owned(), detail };
    let known = toml::Table::try_from(Config::default()).map_err(|error| refused(error.to_string()))?;
    let rest = name.trim_start_matches(PREFIX).to_ascii_lowercase();
    let path = key_path(&known, &rest).ok_or_else(|| {
        let sections: Vec<&str> = known.keys().map(String::as_str).collect();
        refused(format!("no such setting: after {PREFIX} comes a section ({}) and a key", sections.join(", ")))
    })?;
    // A value is TOML where it reads as that (numbers, true, lists), and a string otherwise.
    let as_toml = format!("value = {value}").parse::<toml::Table>().ok().and_then(|mut table| table.remove("value"));
    let as_text = toml::Value::String(value.to_owned());
    let mut refusal = String::new();
    for candidate in as_toml.into_iter().chain(std::iter::once(as_text)) {
        let mut alone = toml::Table::new();
        insert(&mut alone, &path, candidate.clone());
        match alone.try_into::<Config>() {
            Ok(_) => {
                insert(table, &path, candidate);
                return Ok(());
            }
            Err(error) if refusal.is_empty() => refusal = error.message().to_owned(),
            Err(_) => {}
        }
    }
    Err(refused(refusal))
}

/// Follows the known sections as far as they go; what is left is the key.
fn key_path(known: &toml::Table, rest: &str) -> Option<Vec<String>> {
    for (section, value) in known {
        let Some(inner) = value.as_table() else { continue };
        let Some(rest) = rest.strip_prefix(section.as_str()).and_then(|rest| rest.strip_prefix('_')) else { continue };
        let mut path = vec![section.clone()];
        path.extend(key_path(inner, rest).unwrap_or_else(|| vec![rest.to_owned()]));
        return Some(path);
    }
    None
}

fn insert(table: &mut toml::Table, path: &[String], value: toml::Value) {
    match path {
        [] => {}
        [key] => {
            table.insert(key.clone(), value);
        }
        [section, rest @ ..] => {
            let entry = table.entry(section.clone()).or_insert_with(|| toml::Value::Table(toml::Table::new()));
            if let Some(inner) = entry.as_table_mut() {
                insert(inner, rest, value);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use secrecy::ExposeSecret as _;

    use super::*;

    fn environment(variables: &[(&str, &str)]) -> Environment {
        let variables = variables.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        Environment { variables, ..Environment::default() }
    }

    fn load(text: &str, variables: &[(&str, &str)]) -> Result<Config, ConfigError> {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("config.toml");
        std::fs::write(&path, text).expect("written");
        Config::load(Some(&path), &environment(variables))
    }

    #[test]
    fn the_example_documents_every_key_with_its_default() {
        let example = include_str!("../../config.example.toml");
        // Keys without a default are commented out in the example; everything else is there as it is.
        let parsed: toml::Table = example.parse().expect("the example is TOML");
        let defaults = toml::Table::try_from(Config::default()).expect("the defaults are TOML");
        assert_eq!(parsed, defaults);
        for optional in [
            "# coordinator = ",
            "# model = ",
            "# corpus = ",
            "# tokenizer = ",
            "# advertise = ",
            "# anchor_reserve_sat = ",
            "# macaroon = ",
            "# state_folder = ",
            "# [lightning.chain]",
        ] {
            assert!(example.contains(optional), "the example must mention {optional}");
        }
    }

    #[test]
    fn an_unknown_key_is_named_with_its_line() {
        let error = load("[peer]\nthreads = 1\nthread = 2\n", &[]).expect_err("refused").to_string();
        assert!(error.contains("line 3") && error.contains("`thread`"), "{error}");
    }

    #[test]
    fn the_environment_wins_over_the_file() {
        let config = load("[peer]\nthreads = 1\n", &[("L402T_PEER_THREADS", "7"), ("L402T_LOG_FILTER", "info")]);
        let config = config.expect("valid");
        assert_eq!((config.peer.threads, config.log.filter.as_str()), (7, "info"));
    }

    #[test]
    fn a_variable_that_is_no_setting_is_refused() {
        for (name, value) in [("L402T_PEER_THREAD", "7"), ("L402T_NONSENSE", "1"), ("L402T_PEER_THREADS", "many")] {
            let error = load("", &[(name, value)]).expect_err("refused").to_string();
            assert!(error.contains(name), "{error}");
        }
    }

    #[test]
    fn a_text_setting_may_look_like_a_number() {
        let config = load("", &[("L402T_PEER_COORDINATOR", "8402")]).expect("valid");
        assert_eq!(config.peer.coordinator.as_deref(), Some("8402"));
    }

    #[test]
    fn an_lnd_is_named_by_file_or_by_environment() {
        let text = "[lightning]\nnode = \"lnd\"\n[lightning.lnd]\nmacaroon = \"/secret\"\n";
        let config = load(text, &[("L402T_LIGHTNING_LND_ADDRESS", "node:10009")]).expect("valid");
        assert_eq!((config.lightning.node, config.lightning.lnd.address.as_str()), (NodeKind::Lnd, "node:10009"));
        assert_eq!(config.lightning.lnd.macaroon.as_deref(), Some("/secret"));
        let error = load("[lightning.lnd]\nmacaron = \"x\"\n", &[]).expect_err("refused").to_string();
        assert!(error.contains("line 2") && error.contains("`macaron`"), "{error}");
        let error = load("[lightning]\nnode = \"cln\"\n", &[]).expect_err("refused").to_string();
        assert!(error.contains("embedded") && error.contains("lnd"), "{error}");
    }

    #[test]
    fn a_reference_is_read_from_its_file_and_what_is_missing_is_named() {
        let folder = tempfile::tempdir().expect("a folder");
        let environment = Environment { home: Some(folder.path().to_path_buf()), ..Environment::default() };
        std::fs::write(folder.path().join("secret"), "hush").expect("written");
        std::fs::write(folder.path().join("nothing"), "").expect("written");
        let path = folder.path().join("secret").display().to_string();
        for reference in [path.clone(), format!("file:{path}"), "~/secret".to_owned()] {
            let read = environment.read_reference("macaroon", &reference).expect("there");
            assert_eq!(read.expose_secret(), b"hush");
        }
        for (reference, said) in [
            ("~/none", "can't read"),
            ("env:L402T_NO_SUCH_VARIABLE", "no environment variable"),
            ("~/nothing", "empty"),
        ] {
            let error = environment.read_reference("macaroon", reference).expect_err("refused").to_string();
            assert!(error.contains(said) && error.contains(reference) && error.contains("macaroon"), "{error}");
        }
    }
}
