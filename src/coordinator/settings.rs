//! What an operator chooses. [`RunSettings`] are fixed once a run has started; the others may change between starts.

use std::path::PathBuf;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer, Serialize};

use crate::protocol::amount::{Msat, Ppm};
use crate::protocol::manifest::{CodecParams, JudgeParams, RewardParams, TimingParams, TrainingParams};

/// A run. Fixed once it has started.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RunSettings {
    /// For people; at most 64 bytes.
    pub name: String,
    /// The model: a config.json (Hugging Face style), or a Hugging Face folder with weights to start from. Needed to start a
    /// run.
    pub model: Option<PathBuf>,
    /// What to train on: UTF-8 text, JSONL, parquet or token files; one file, or a folder of them. Needed to start a run.
    pub corpus: Option<PathBuf>,
    /// The name of the text in JSON objects and tables.
    pub text_field: String,
    /// The tokenizer.json for text; the one in the model's folder, if there is one, is taken without being named.
    pub tokenizer: Option<PathBuf>,
    /// How many of the training shards a peer reads from in a round.
    pub shards_per_round: u32,
    /// Decides the first weights, where `model` has none.
    pub seed: u64,
    /// The held-out pool.
    pub held_out: HeldOutSettings,
    /// The inner loop.
    #[serde(deserialize_with = "over_defaults")]
    pub training: TrainingParams,
    /// The sparse update.
    #[serde(deserialize_with = "over_defaults")]
    pub codec: CodecParams,
    /// The verdict's rules.
    #[serde(deserialize_with = "over_defaults")]
    pub judge: JudgeParams,
    /// What is paid.
    #[serde(deserialize_with = "over_defaults")]
    pub reward: RewardParams,
    /// How long a round may take.
    #[serde(deserialize_with = "over_defaults")]
    pub timing: TimingParams,
}

impl Default for RunSettings {
    fn default() -> Self {
        Self {
            name: "l402t".to_owned(),
            model: None,
            corpus: None,
            text_field: "text".to_owned(),
            tokenizer: None,
            shards_per_round: 2,
            seed: 1,
            held_out: HeldOutSettings::default(),
            training: TrainingParams::default(),
            codec: CodecParams::default(),
            judge: JudgeParams::default(),
            reward: RewardParams::default(),
            timing: TimingParams::default(),
        }
    }
}

/// The held-out pool: how much text is kept from training, and how much a round uses up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct HeldOutSettings {
    /// For how many rounds there are windows: the run ends after so many.
    pub rounds: u32,
    /// Windows a round may draw from.
    pub block_windows: u32,
    /// Windows a round is scored on.
    pub windows_per_round: u32,
    /// Tokens in a window.
    pub window_tokens: u32,
}

impl Default for HeldOutSettings {
    fn default() -> Self {
        Self { rounds: 100, block_windows: 16, windows_per_round: 8, window_tokens: 129 }
    }
}

/// Channels to peers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ChannelSettings {
    /// When a channel is opened to a peer that registers.
    pub open_to_peers: OpenChannels,
    /// Size of such a channel, in sat.
    pub capacity_sat: u64,
    /// What the peer is given of it, in msat, so that it can pay its first fees.
    pub push_msat: Msat,
    /// Most channels that are opened to peers over the run's life.
    pub max_channels: u32,
    /// Most routing fee of a reward payment, in ppm of its amount.
    pub max_routing_fee_ppm: Ppm,
}

impl Default for ChannelSettings {
    fn default() -> Self {
        Self {
            open_to_peers: OpenChannels::OnRegtest,
            capacity_sat: 1_000_000,
            push_msat: Msat::new(100_000_000),
            max_channels: 32,
            max_routing_fee_ppm: Ppm::new(10_000).unwrap_or(Ppm::ZERO),
        }
    }
}

/// Who takes the submission fee before a ticket is given.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Gate {
    /// This coordinator: by L402, on its own node.
    #[default]
    Own,
    /// A reverse proxy that speaks L402, on this machine. Whoever reaches the port pays nothing, so it must be a loopback
    /// address.
    Proxy,
    /// The same, on any address: the operator has seen to it that only the proxy reaches the port.
    ProxyElsewhere,
}

/// When a channel is opened to a peer that registers. A push is a gift, and an opening costs fees.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OpenChannels {
    /// Peers bring their own inbound capacity.
    Never,
    /// Only where coins are worth nothing.
    #[default]
    OnRegtest,
    /// On any network.
    Always,
}

fn ppm(parts: u32) -> Ppm {
    Ppm::new(parts).unwrap_or(Ppm::ONE)
}

impl Default for TrainingParams {
    fn default() -> Self {
        Self {
            inner_steps: 30,
            micro_batch: 8,
            gradient_accumulation: 1,
            sequence_tokens: 128,
            learning_rate_nano: 1_000_000,
            warmup_steps: 10,
            beta1_ppm: ppm(900_000),
            beta2_ppm: ppm(950_000),
            weight_decay_ppm: ppm(100_000),
            clip_norm_micro: 1_000_000,
            error_feedback_decay_ppm: ppm(950_000),
        }
    }
}

impl Default for CodecParams {
    fn default() -> Self {
        Self { version: 2, tile: 64, k: 64, value_bits: 2 }
    }
}

impl Default for JudgeParams {
    fn default() -> Self {
        // 0.0001 nats a token are 429,497 units of 2⁻³².
        Self {
            df32_version: 1,
            min_gain_per_token: 429_497,
            min_gain_of_median_ppm: ppm(100_000),
            copy_overlap_ppm: ppm(400_000),
            outer_lr_ppm: ppm(700_000),
        }
    }
}

impl Default for RewardParams {
    fn default() -> Self {
        Self {
            pool_msat: Msat::new(24_000_000),
            max_share_ppm: ppm(500_000),
            tranches: 5,
            fee_msat: Msat::new(1_000),
            hold_blocks: 144,
        }
    }
}

impl Default for TimingParams {
    fn default() -> Self {
        Self { commit_ms: 600_000, upload_ms: 720_000, close_at_contributions: 0, max_contributions: 64 }
    }
}

/// Reads a section that names only what differs from the defaults. Its type itself has no optional fields, because a
/// manifest must name everything.
fn over_defaults<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
    T: Default + Serialize + DeserializeOwned,
{
    use serde::de::Error;
    let given = serde_json::Map::deserialize(deserializer)?;
    let mut all = serde_json::to_value(T::default()).map_err(D::Error::custom)?;
    if let Some(fields) = all.as_object_mut() {
        fields.extend(given);
    }
    serde_json::from_value(all).map_err(D::Error::custom)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_section_may_name_only_what_differs() {
        let settings: RunSettings = toml::from_str("[timing]\ncommit_ms = 5\n[reward]\ntranches = 3\n").expect("valid");
        assert_eq!(settings.timing, TimingParams { commit_ms: 5, ..TimingParams::default() });
        assert_eq!(settings.reward.tranches, 3);
        assert_eq!(settings.codec, CodecParams::default());
    }

    #[test]
    fn an_unknown_key_is_refused_by_name() {
        for text in ["nam = 1", "[timing]\ncommit = 5", "[held_out]\nwindow = 1"] {
            let error = toml::from_str::<RunSettings>(text).expect_err("refused").to_string();
            assert!(error.contains("unknown field"), "{error}");
        }
    }

    #[test]
    fn the_defaults_survive_being_written_down() {
        let text = toml::to_string(&RunSettings::default()).expect("TOML");
        assert_eq!(toml::from_str::<RunSettings>(&text).expect("valid"), RunSettings::default());
    }
}
