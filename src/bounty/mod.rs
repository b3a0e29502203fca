//! Bounties: a sponsor pays for a better score. This room owns running what strangers wrote; it never trusts any of it.

pub mod data;
pub mod diff;
pub mod evaluate;
pub mod judge;
pub mod lint;
pub mod load;
pub mod manifest;
pub mod orders;
pub mod package;
pub mod replay;
pub mod sandbox;
pub mod scratch;
pub mod tree;
pub mod wasm;
