//! The protocol: amounts, identifiers, statements, rules and wire formats.
//!
//! Pure: no IO, no clock, no randomness, no floats. Everything here is a function of its arguments.

pub mod aggregate;
pub mod amount;
pub mod api;
pub mod bounty;
pub mod codec;
pub mod discovery;
pub mod held_out;
pub mod hold;
pub mod ids;
pub mod l402;
pub mod manifest;
pub mod reward;
pub mod round;
pub mod shards;
pub mod sign;
pub mod statements;
pub mod transcript;
pub mod verdict;
