//! HTTP: the coordinator's server and the client. Logic lives elsewhere.

pub mod client;
pub mod server;

#[cfg(test)]
pub(crate) mod testing;
