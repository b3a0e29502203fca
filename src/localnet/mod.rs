//! A Bitcoin regtest network of real programs on this machine: btcd and LND as child processes, for demo and tests.
//!
//! Coins here are worth nothing, so keys and passwords are simple; everything listens on 127.0.0.1 alone. No process
//! outlives the one that started it, however that ends. Must never touch a node or a chain that it did not start.

mod btcd;
mod error;
mod faucet;
mod lnd;
mod ports;
mod process;
mod rpc;
mod tools;
mod wallet;

pub use btcd::Btcd;
pub use error::LocalnetError;
pub use lnd::{LndFiles, LndProcess};
pub use tools::Tools;
pub use wallet::{LndChannel, LndWallet};
