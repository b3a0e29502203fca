//! `fetch` against a server that sells by L402 as Aperture does, and against servers that misbehave, with a simulated
//! wallet: what is paid, what is downloaded, and a crash at every commit and every call to the node.

mod crash;
#[path = "../coordinator/fuse.rs"]
mod fuse;
mod money;
mod resume;
mod shop;
