//! A Bitcoin regtest network of real programs on this machine: btcd and LND as child processes, for demo and tests.
//!
//! Coins here are worth nothing, so keys and passwords are simple; everything listens on 127.0.0.1 alone. No process
//! outlives the one that started it, however that ends. Must never touch a node or a chain that it did not start.

#[cfg(feature = "embedded")]
mod bridge;
mod btcd;
mod error;
mod faucet;
mod lnd;
mod network;
mod ports;
mod process;
mod rpc;
mod tools;
mod wallet;

#[cfg(feature = "embedded")]
pub use bridge::Bridge;
pub use btcd::{Btcd, BtcdAccess};
pub use error::LocalnetError;
pub use lnd::{LndFiles, LndProcess};
pub use network::{Funding, Network, NodeAccess};
pub use tools::Tools;
pub use wallet::{LndChannel, LndWallet};
