//! A blocking client for btcd's JSON-RPC: TLS on loopback, one call per connection, because btcd closes after each.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};
use serde_json::{Value, json};

use super::LocalnetError;

/// Mining a few hundred blocks in one call takes seconds on a busy machine.
const TIMEOUT: Duration = Duration::from_secs(60);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
const MAX_ANSWER_BYTES: u64 = 64 << 20;

/// Calls a btcd.
#[derive(Clone, Debug)]
pub(super) struct BtcdRpc {
    address: SocketAddr,
    authorization: String,
    tls: Arc<ClientConfig>,
}

impl BtcdRpc {
    /// A client that trusts exactly the certificate in `certificate` (PEM).
    pub(super) fn new(port: u16, user: &str, password: &str, certificate: &Path) -> Result<Self, LocalnetError> {
        let bad = |error: &dyn std::fmt::Display| LocalnetError::Certificate(error.to_string());
        let der = CertificateDer::from_pem_file(certificate).map_err(|error| bad(&error))?;
        let mut roots = RootCertStore::empty();
        roots.add(der).map_err(|error| bad(&error))?;
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let tls = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|error| bad(&error))?
            .with_root_certificates(roots)
            .with_no_client_auth();
        let credentials = base64::engine::general_purpose::STANDARD.encode(format!("{user}:{password}"));
        Ok(Self {
            address: (Ipv4Addr::LOCALHOST, port).into(),
            authorization: format!("Basic {credentials}"),
            tls: Arc::new(tls),
        })
    }

    pub(super) fn address(&self) -> SocketAddr {
        self.address
    }

    /// One call. Blocks.
    pub(super) fn call(&self, method: &str, params: &Value) -> Result<Value, LocalnetError> {
        let unreachable = |reason: String| LocalnetError::Unreachable {
            address: self.address.to_string(),
            method: method.to_owned(),
            reason,
        };
        let answer = self.exchange(method, params).map_err(|error| unreachable(error.to_string()))?;
        let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((&answer, ""));
        let status = head.lines().next().unwrap_or_default();
        let mut answer: Value =
            serde_json::from_str(body.trim()).map_err(|error| unreachable(format!("{status}: {error}")))?;
        let error = &answer["error"];
        if !error.is_null() {
            return Err(LocalnetError::Refused {
                method: method.to_owned(),
                code: error["code"].as_i64().unwrap_or_default(),
                message: error["message"].as_str().unwrap_or("no reason given").to_owned(),
            });
        }
        Ok(answer["result"].take())
    }

    fn exchange(&self, method: &str, params: &Value) -> std::io::Result<String> {
        let stream = TcpStream::connect_timeout(&self.address, CONNECT_TIMEOUT)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(TIMEOUT))?;
        stream.set_write_timeout(Some(TIMEOUT))?;
        let name = ServerName::IpAddress(Ipv4Addr::LOCALHOST.into());
        let connection = ClientConnection::new(Arc::clone(&self.tls), name).map_err(std::io::Error::other)?;
        let mut stream = StreamOwned::new(connection, stream);
        let body = json!({ "jsonrpc": "1.0", "id": 1, "method": method, "params": params }).to_string();
        let request = format!(
            "POST / HTTP/1.1\r\nHost: {}\r\nAuthorization: {}\r\nContent-Type: application/json\r\nConnection: close\r\n\
             Content-Length: {}\r\n\r\n{body}",
            self.address,
            self.authorization,
            body.len()
        );
        stream.write_all(request.as_bytes())?;
        stream.flush()?;
        let mut answer = Vec::new();
        match stream.take(MAX_ANSWER_BYTES).read_to_end(&mut answer) {
            Ok(_) => {}
            // btcd closes without TLS's goodbye; whether the answer is whole, its JSON tells.
            Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => {}
            Err(error) => return Err(error),
        }
        String::from_utf8(answer).map_err(std::io::Error::other)
    }
}
