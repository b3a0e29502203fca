//! Durable state: SQLite (events, projections, outbox) and blobs by BLAKE3.
