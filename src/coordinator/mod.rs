//! The coordinator: rounds, settlement, reconciliation and the service that drives them.
//!
//! What is legal is decided by `protocol::round`; here events are stored before anything is done about them, so that a
//! coordinator killed at any moment goes on where it was. It must never reveal a preimage before the transaction that
//! holds the receipt is on disk, and never pay a hash whose fate is unknown.
//!
//! Deadlines are times of day and go on while the coordinator is down: a payload that couldn't be uploaded for that is
//! `not_uploaded`, nothing of it is paid, and its peer gives the locked tranches back. What was uploaded is judged
//! whenever the coordinator is back.

pub mod bounty;
mod challenges;
mod closing;
mod core;
pub mod corpus;
pub mod engine;
mod error;
pub mod handle;
mod invoices;
pub mod judging;
mod news;
mod payments;
pub mod run;
mod secrets;
mod service;
pub mod settings;
pub mod status;
mod tickets;

pub use engine::{ChannelGate, Coordinator, Options, Surroundings};
pub use error::CoordinatorError;
pub use news::RunEvent;
pub use secrets::{Entropy, SystemEntropy};
