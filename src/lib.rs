//! `l402t`: rounds of training on anyone's computer, judged to the bit and paid in sats over Lightning.
//!
//! ARCHITECTURE.md says which room may import which.

pub mod bounty;
pub mod cli;
pub mod clock;
pub mod cmd;
pub mod config;
pub mod coordinator;
pub mod fetch;
pub mod http;
pub mod judge;
pub mod ln;
#[cfg(feature = "lnd")]
pub mod localnet;
pub mod lock;
pub mod model;
pub mod offload;
pub mod peer;
pub mod protocol;
pub mod store;
#[allow(unsafe_code)]
pub mod sys;
pub mod train;
pub mod ui;
