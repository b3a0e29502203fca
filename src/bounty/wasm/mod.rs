//! Modules of WebAssembly that strangers wrote: what one is given, what comes of it, and how much fuel it took. Fuel counts
//! instructions, so a score made of it is the same on every machine and under any load.
//!
//! A module runs in a confined process ([`measure`]), never in the one that holds keys: the engine that runs it is not all
//! safe Rust. No module may import anything, and none sees another item than its own.

mod confined;
#[cfg(feature = "wasm")]
mod engine;
#[cfg(feature = "wasm")]
mod serve;

use serde::{Deserialize, Serialize};

pub use confined::{ARGUMENT, Measured, measure};
#[cfg(feature = "wasm")]
pub use serve::serve;

use crate::protocol::bounty::verdict::Rejection;

/// What counts fuel. Another version may count otherwise, so this belongs wherever an evaluation is recorded.
pub const FUEL_METER: &str = "wasmi 2.0.0";

/// Largest module, as text or as bytes.
pub const MOST_MODULE_BYTES: usize = 4 << 20;

/// A module, and the items that it is to answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Task {
    /// Its text (WAT) or its bytes.
    #[serde(with = "hex")]
    pub module: Vec<u8>,
    /// One call each, in an instance of its own.
    pub items: Vec<String>,
    /// How much of everything.
    pub limits: ModuleLimits,
}

/// What a module may use.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ModuleLimits {
    /// Of all items together.
    pub fuel: u64,
    /// Of its memory, for one item, in bytes.
    pub memory_bytes: u64,
    /// Of all answers together, each with a line's end, in bytes.
    pub output_bytes: u64,
}

/// What came of a module.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// It answered every item.
    Answered {
        /// In the order of the items, one line each.
        answers: Vec<String>,
        /// What that took.
        fuel: u64,
    },
    /// It did not.
    Failed {
        /// Why.
        failure: ModuleFailure,
        /// In words.
        detail: String,
    },
}

/// Why a module has no answers. All of it is its own doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ModuleFailure {
    /// No module, or not one that can be called.
    Unusable,
    /// It trapped.
    Crashed,
    /// Out of fuel, or of time.
    Fuel,
    /// It wanted more memory than it may have.
    Memory,
    /// Its answers are too long.
    Output,
    /// An answer is not one line of UTF-8 in its memory.
    Malformed,
}

impl ModuleFailure {
    /// As a verdict.
    pub fn rejection(self) -> Rejection {
        match self {
            ModuleFailure::Unusable => Rejection::BuildFailed,
            ModuleFailure::Crashed => Rejection::Crashed,
            ModuleFailure::Fuel => Rejection::TimeLimit,
            ModuleFailure::Memory => Rejection::MemoryLimit,
            ModuleFailure::Output => Rejection::OutputLimit,
            ModuleFailure::Malformed => Rejection::MalformedOutput,
        }
    }
}

/// Runs a module in this process, for tests of what comes before and after.
#[cfg(test)]
pub(crate) fn run_here(task: &Task) -> Outcome {
    #[cfg(feature = "wasm")]
    return engine::run(task).expect("enough memory here");
    #[cfg(not(feature = "wasm"))]
    panic!("{task:?} in a build without the feature wasm");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_meter_is_the_version_that_is_pinned() {
        let version = FUEL_METER.strip_prefix("wasmi ").expect("a name and a version");
        assert!(include_str!("../../../Cargo.toml").contains(&format!("wasmi = {{ version = \"={version}\"")));
    }
}
