//! The rules of a bounty: what a score is, what an improvement pays, in which order, and what is said and signed.
//!
//! Pure like the rest of the protocol: whoever has the statements of a bounty and what its evaluations found gets every
//! verdict and every amount again ([`book::Book`]). Nothing here runs, measures or times anything.

pub mod book;
pub mod canary;
pub mod held_out;
pub mod offer;
pub mod order;
pub mod pay;
pub mod payload;
pub mod score;
pub mod split;
pub mod statements;
pub mod verdict;
