//! Bounties: a run whose rounds take submissions instead of updates, and which its sponsor pays for.
//!
//! Everything that moves money between coordinator and agents is as in training; this owns what is different: the posting, the
//! sponsor's escrow, the book of claims, and what stays sealed until the bounty closes. It must never reveal an agent's
//! preimage before the sponsor's money for it has been taken, and never open a seal before the last verdict.

pub mod board;
mod closing;
mod escrow;
mod judging;
mod pay_back;
mod posting;
mod sales;
mod service;
mod state;
mod waiting;

pub use board::{Board, BoardSettings, BoardSurroundings, open, start};
pub use closing::CLOSING_FILE;
pub(super) use escrow::Funding;
pub(super) use judging::BountyRequest;
pub use posting::BountyTask;
pub(super) use state::{BountyState, Takes};
