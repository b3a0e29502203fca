//! The coordinator: rounds, settlement, reconciliation and the service that drives them.

pub mod handle;
