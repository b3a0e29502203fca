//! Bounties: a sponsor pays for a better score. This room owns running what strangers wrote; it never trusts any of it.

pub mod diff;
pub mod manifest;
pub mod sandbox;
pub mod tree;
