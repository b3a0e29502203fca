//! The server over real sockets, with a fake coordinator behind it.

mod api;
mod bounties;
mod discovery;
mod hostile;
mod openapi;

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::{Server, Services, Settings};
use crate::http::testing::FakeCoordinator;
use crate::http::testing::bounties::FakeBoard;

/// No test should take this long; a hang fails instead.
const PATIENCE: Duration = Duration::from_secs(20);

/// A served fake: a training run, and a board with one bounty.
struct Served {
    fake: Arc<FakeCoordinator>,
    board: Arc<FakeBoard>,
    server: Server,
}

async fn serve(settings: impl Into<Settings>) -> Served {
    let (fake, board) = (Arc::new(FakeCoordinator::new()), Arc::new(FakeBoard::new()));
    let services = Services { training: Some(fake.clone()), board: Some(board.clone()) };
    Served { fake, board, server: start(services, settings).await }
}

/// Only what is named is there.
async fn start(services: Services, settings: impl Into<Settings>) -> Server {
    let address = "127.0.0.1:0".parse().expect("an address");
    Server::start(address, services, settings).await.expect("a free port")
}

/// An answer, read to the end of the connection.
#[derive(Debug)]
struct Answer {
    status: u16,
    headers: HashMap<String, String>,
    body: Vec<u8>,
}

impl Answer {
    fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", String::as_str)
    }

    fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|_| panic!("not JSON: {self:?}"))
    }

    fn code(&self) -> String {
        self.json()["error"]["code"].as_str().unwrap_or_default().to_owned()
    }

    fn parse(bytes: &[u8]) -> Option<Answer> {
        let end = bytes.windows(4).position(|window| window == b"\r\n\r\n")?;
        let head = std::str::from_utf8(&bytes[..end]).ok()?;
        let mut lines = head.split("\r\n");
        let status = lines.next()?.split(' ').nth(1)?.parse().ok()?;
        let headers = lines.filter_map(|line| line.split_once(": "));
        let headers = headers.map(|(name, value)| (name.to_ascii_lowercase(), value.to_owned())).collect();
        Some(Answer { status, headers, body: bytes[end + 4..].to_vec() })
    }
}

impl Served {
    fn address(&self) -> SocketAddr {
        self.server.address()
    }

    async fn connect(&self) -> TcpStream {
        TcpStream::connect(self.address()).await.expect("connected")
    }

    /// Sends raw bytes and reads until the server closes the connection.
    async fn raw(&self, bytes: &[u8]) -> Vec<u8> {
        let mut stream = self.connect().await;
        // The server may close before it has read everything.
        let _ = stream.write_all(bytes).await;
        read_to_end(&mut stream).await
    }

    /// One request on a connection of its own.
    async fn send(&self, method: &str, path: &str, headers: &[(&str, &str)], body: &[u8]) -> Answer {
        let mut request = format!("{method} {path} HTTP/1.1\r\nHost: test\r\nConnection: close\r\n");
        for (name, value) in headers {
            request += &format!("{name}: {value}\r\n");
        }
        if !body.is_empty() {
            request += &format!("Content-Length: {}\r\n", body.len());
        }
        let bytes = self.raw(&[request.as_bytes(), b"\r\n", body].concat()).await;
        Answer::parse(&bytes).unwrap_or_else(|| panic!("no answer: {:?}", String::from_utf8_lossy(&bytes)))
    }

    async fn get(&self, path: &str) -> Answer {
        self.send("GET", path, &[], b"").await
    }

    async fn post(&self, path: &str, body: &[u8]) -> Answer {
        self.send("POST", path, &[("Content-Type", "application/json")], body).await
    }
}

async fn read_to_end(stream: &mut TcpStream) -> Vec<u8> {
    let mut bytes = Vec::new();
    let read = tokio::time::timeout(PATIENCE, async {
        let mut chunk = [0; 8_192];
        while let Ok(read @ 1..) = stream.read(&mut chunk).await {
            bytes.extend_from_slice(&chunk[..read]);
        }
    });
    read.await.expect("the server closes the connection");
    bytes
}
