//! The peer: from first start to paid contribution, round after round.

pub mod behaviour;
