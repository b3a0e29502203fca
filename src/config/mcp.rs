//! `[mcp]`: what a program may do with the wallet through `l402t mcp`, beyond the limits of `[bounty]`.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// `l402t mcp`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct McpConfig {
    /// What costs more than this, in sat, waits until a person has said yes in the client; 0: everything that costs.
    pub confirm_above_sat: u64,
    /// Where claimed bounties lie: nothing outside of it is read or written for a client. Without it, the folder that the server
    /// was started in.
    pub folder: Option<PathBuf>,
}
