//! Every bound of the server, named.

use std::time::Duration;

use crate::bounty::package::MOST_BYTES as MAX_PACKAGE_BYTES;

/// How often an address may do something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    /// So many at once.
    pub burst: u32,
    /// So many a minute in the long run.
    pub per_minute: u32,
}

/// What clients may use. Peers behind one router, and all processes of a demo, share an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Open connections.
    pub connections: usize,
    /// Open connections of one address (IPv6: of one /64 network).
    pub connections_per_address: usize,
    /// How long a connection may live; downloads resume on the next one.
    pub connection_lifetime: Duration,
    /// How long a request's headers may take, and how long a connection may be idle between requests.
    pub header_read: Duration,
    /// How long a connection may move no byte in either direction while a request is under way.
    pub stall: Duration,
    /// How long a JSON body may take.
    pub json_body: Duration,
    /// The least speed of an upload, in bytes a second, on top of `json_body`.
    pub upload_bytes_per_s: u64,
    /// Memory for uploads under way, in bytes.
    pub upload_memory_bytes: u64,
    /// Memory for postings under way, in bytes, apart from `upload_memory_bytes`: who has paid for a ticket never waits for
    /// strangers.
    pub posting_memory_bytes: u64,
    /// Memory for postings under way that are short, in bytes, apart from `posting_memory_bytes`: most are, and a long one that
    /// is sent slowly must not keep them out.
    pub short_posting_memory_bytes: u64,
    /// The least speed of a posting from its beginning on, in bytes a second, on top of `json_body`.
    pub posting_bytes_per_s: u64,
    /// How long an answer of the coordinator may take; its work goes on after that.
    pub call: Duration,
    /// Calls of the coordinator under way.
    pub calls: u32,
    /// Requests of one address.
    pub requests: Rate,
    /// Ticket requests of one address that end in a challenge: each costs an invoice.
    pub challenges: Rate,
    /// Postings of one address: each is read to its end, and costs invoices.
    pub postings: Rate,
    /// How long requests under way may take once the server stops.
    pub stop_grace: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 1_024,
            connections_per_address: 128,
            connection_lifetime: Duration::from_secs(3_600),
            header_read: Duration::from_secs(20),
            stall: Duration::from_secs(90),
            json_body: Duration::from_secs(15),
            upload_bytes_per_s: 16 * 1_024,
            upload_memory_bytes: 512 * 1_024 * 1_024,
            posting_memory_bytes: POSTING_COPIES * MAX_POSTING_BYTES,
            short_posting_memory_bytes: 64 * 1_024 * 1_024,
            posting_bytes_per_s: 128 * 1_024,
            call: Duration::from_secs(60),
            calls: 256,
            requests: Rate { burst: 400, per_minute: 6_000 },
            challenges: Rate { burst: 30, per_minute: 60 },
            postings: Rate { burst: 12, per_minute: 12 },
            stop_grace: Duration::from_secs(5),
        }
    }
}

impl Limits {
    /// How long an upload of so many bytes may take.
    pub(super) fn upload_time(&self, bytes: u64) -> Duration {
        self.json_body.saturating_add(Duration::from_secs(bytes / self.upload_bytes_per_s.max(1)))
    }

    /// How long so many bytes of a posting may take, and a posting that ends after them.
    pub(super) fn posting_time(&self, bytes: u64) -> Duration {
        self.json_body.saturating_add(Duration::from_secs(bytes / self.posting_bytes_per_s.max(1)))
    }
}

/// The most bytes of a JSON body.
pub(super) const MAX_JSON_BYTES: u64 = 64 * 1_024;
/// The most bytes of a posting: what agents get and the held-out part may together be as long as one package, in base64.
pub(super) const MAX_POSTING_BYTES: u64 = MAX_PACKAGE_BYTES.div_ceil(3) * 4 + MAX_JSON_BYTES;
/// The most bytes of a posting that counts as short.
pub(super) const SHORT_POSTING_BYTES: u64 = 1_024 * 1_024;
/// How often a posting is in memory at most: as it comes in a buffer that grows, and as what is read out of it.
pub(super) const POSTING_COPIES: u64 = 3;
/// The most bytes of a request's head.
pub(super) const MAX_HEAD_BYTES: usize = 32 * 1_024;
/// The most headers of a request.
pub(super) const MAX_HEADERS: usize = 64;
