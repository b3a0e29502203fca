//! The peer: from first start to paid contribution, round after round.
//!
//! Must never pay for the same contribution twice, upload before its own node holds the reward, or forget a preimage.

pub mod api;
pub mod behaviour;
mod catch_up;
pub mod cheats;
mod checks;
mod contribution;
pub mod error;
pub mod events;
pub mod folder;
pub mod guard;
#[cfg(feature = "torch")]
pub mod honest;
pub mod identity;
pub mod journal;
mod package;
mod payments;
pub mod remote;
mod service;
pub mod session;
pub mod settings;
pub mod spending;
pub mod sponsor;
pub mod stage;
pub mod submit;
pub mod terms;
pub mod trainer;
mod training;
mod wallet;

pub use checks::{Limits, NotWorthIt, check_bounty, check_bounty_limits, check_run, worth};

#[cfg(test)]
mod tests;
