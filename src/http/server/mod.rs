//! The coordinator's HTTP server: sockets, limits, and the API of [`crate::protocol::api`] in front of a
//! training run, bounties, or both: [`Services`].
//!
//! It decides nothing about rounds or money. It must never hold more memory, connections or time than [`Limits`] says,
//! whatever a client sends, and never cancel a coordinator's call that has begun.

mod bounties;
mod connection;
mod content;
mod discovery;
mod extract;
mod failure;
mod forwarded;
mod handlers;
mod limits;
mod page;
mod range;
mod rate;
mod routes;
mod services;

#[cfg(test)]
mod tests;

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinHandle;

pub use forwarded::{BadNetwork, ForwardedHeader, Network, TrustedProxies};
pub use limits::{Limits, Rate};
pub use services::Services;

/// Why the server can't serve.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// Another program has the port.
    #[error(
        "can't listen on {0}: port {port} is in use by another program. Stop that program (perhaps an earlier \
         coordinator) or choose another port",
        port = .0.port()
    )]
    InUse(SocketAddr),
    /// The operating system forbids it.
    #[error("can't listen on {0}: permission denied. Ports below 1024 need privileges: choose a higher one")]
    Denied(SocketAddr),
    /// The address isn't this machine's.
    #[error("can't listen on {0}: this machine has no such address. Use 0.0.0.0 for all of its addresses")]
    NotOurs(SocketAddr),
    /// Anything else.
    #[error("can't listen on {address}: {source}")]
    Listen {
        /// Where.
        address: SocketAddr,
        /// What the operating system said.
        source: io::Error,
    },
}

/// How to serve: what clients may use, and behind what.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Settings {
    /// What clients may use.
    pub limits: Limits,
    /// The reverse proxies in front.
    pub proxies: TrustedProxies,
}

impl From<Limits> for Settings {
    /// With nothing in front.
    fn from(limits: Limits) -> Self {
        Self { limits, proxies: TrustedProxies::default() }
    }
}

/// A running server. Dropping it stops it too, without waiting.
#[derive(Debug)]
pub struct Server {
    address: SocketAddr,
    stop: watch::Sender<Stop>,
    accepting: JoinHandle<()>,
}

/// What the server's tasks are told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stop {
    /// Serve on.
    No,
    /// Finish what is under way.
    Gracefully,
}

impl Server {
    /// Starts to listen and to serve. Port 0 takes a free one.
    pub async fn start(
        listen: SocketAddr,
        services: Services,
        settings: impl Into<Settings>,
    ) -> Result<Self, ServeError> {
        let listener = TcpListener::bind(listen).await.map_err(|source| bind_error(listen, source))?;
        let address = listener.local_addr().map_err(|source| bind_error(listen, source))?;
        let (stop, stopped) = watch::channel(Stop::No);
        let accepting = tokio::spawn(connection::serve(listener, services, settings.into(), stopped));
        tracing::info!(%address, "serving the HTTP API");
        Ok(Self { address, stop, accepting })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Stops accepting, lets what is under way finish for as long as [`Limits::stop_grace`], then cuts it off.
    pub async fn stop(self) {
        self.stop.send_replace(Stop::Gracefully);
        if let Err(error) = self.accepting.await {
            tracing::warn!(%error, "the HTTP server did not stop cleanly");
        }
    }
}

fn bind_error(address: SocketAddr, source: io::Error) -> ServeError {
    match source.kind() {
        io::ErrorKind::AddrInUse => ServeError::InUse(address),
        io::ErrorKind::PermissionDenied => ServeError::Denied(address),
        io::ErrorKind::AddrNotAvailable => ServeError::NotOurs(address),
        _ => ServeError::Listen { address, source },
    }
}

/// Whole seconds for `Retry-After`, at least one.
fn retry_after_s(wait: Duration) -> u64 {
    wait.as_secs().saturating_add(u64::from(wait.subsec_nanos() > 0)).max(1)
}
