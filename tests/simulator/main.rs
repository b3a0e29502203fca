//! A seeded simulator: the coordinator, its peers, Lightning and the clock in one thread, with crashes, reordering,
//! duplicates, delays and reorganisations, all decided by one number.
//!
//! `./x simulate --seeds N` runs many; a failure prints the seed that reproduces it.

mod audit;
mod dice;
mod disk;
#[path = "../coordinator/fold.rs"]
#[allow(dead_code, reason = "the coordinator's own tests use the rest")]
mod fold;
mod history;
#[path = "../coordinator/judge.rs"]
#[allow(dead_code, reason = "the coordinator's own tests use the rest")]
mod judge;
mod life;
mod matrix;
mod parallel;
mod plan;
mod seeds;
mod sim;
mod wire;
mod world;
