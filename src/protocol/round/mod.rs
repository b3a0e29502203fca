//! One round as a pure state machine: which event is legal when, and what must be done about it.
//!
//! [`transition`] decides; it never reads a clock, a database or a node. Whoever drives it stores the event, the new
//! state and the effects in one transaction, and only then acts on the effects.

mod rules;
mod state;
#[cfg(test)]
mod tests;

pub use rules::{LOCK_PAUSES_MS, transition};
pub use state::{
    Account, Contribution, Effect, Event, Illegal, Lapse, Progress, Round, RoundRules, Tranche, TrancheState,
};
