//! HTTP: the coordinator's server and the client. Logic lives elsewhere.
