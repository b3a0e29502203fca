//! Lightning from outside: one contract over every node, and what a kill -9 may do to the real one.

mod bench;
mod contract;
#[cfg(feature = "embedded")]
mod embedded;
#[cfg(feature = "embedded")]
mod kill;
#[cfg(any(feature = "embedded", feature = "lnd"))]
mod latency;
#[cfg(feature = "lnd")]
mod lnd;
#[cfg(feature = "lnd")]
mod lnd_fees;
#[cfg(feature = "lnd")]
mod lnd_kill;
#[cfg(feature = "lnd")]
mod lnd_refusals;
#[cfg(feature = "lnd")]
mod lnd_states;
#[cfg(feature = "embedded")]
mod reorganisation;
mod simulated;
#[cfg(feature = "embedded")]
mod wallet;
