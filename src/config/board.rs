//! `[coordinator.bounties]`: whether and how a coordinator takes bounties on.

use serde::{Deserialize, Serialize};

/// Bounties of a coordinator.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct BoardConfig {
    /// Whether sponsors may post here. Needs a sandbox on this machine.
    pub enabled: bool,
    /// Bounties that are not over, at most.
    pub most: usize,
    /// Smallest budget, in sat.
    pub least_budget_sat: u64,
    /// What whoever wants to work on a bounty pays for its package by L402, in sat; 0: nothing.
    pub package_fee_sat: u64,
    /// Boxes that run at one time.
    pub slots: u32,
}

impl Default for BoardConfig {
    fn default() -> Self {
        Self { enabled: false, most: 32, least_budget_sat: 1_000, package_fee_sat: 1, slots: 2 }
    }
}
