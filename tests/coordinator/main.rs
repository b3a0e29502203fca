//! The coordinator with real files, a simulated Lightning network and a judge that needs no model: whole rounds, every
//! kind of bad input, and a crash at every commit and every call.

mod bounty;
#[cfg(feature = "torch")]
mod codecs;
mod crash;
mod export;
mod fold;
mod fuse;
mod hostile;
mod judge;
mod locks;
mod peer;
mod refusals;
mod replay;
mod rounds;
mod world;
