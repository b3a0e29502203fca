//! HTTP/1.1 on loopback for the chain's RPC: one thread per connection, every line, body and count bounded.
//!
//! There is no password: it must never listen on anything but 127.0.0.1.

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use serde_json::{Value, json};

use super::RegtestError;
use super::error::code;

const MAX_CONNECTIONS: usize = 256;
const MAX_HEADER_BYTES: u64 = 16 * 1_024;
const MAX_BODY_BYTES: usize = 8 << 20;
/// A client that is silent for longer is let go; it connects again when it needs to.
const IDLE: Duration = Duration::from_secs(120);

/// A chain that can be asked.
pub(crate) trait Answers: Send + Sync + std::fmt::Debug {
    /// Answers one call. Blocks.
    fn answer(&self, method: &str, params: &Value) -> Result<Value, RegtestError>;
}

/// A running server.
#[derive(Debug)]
pub(crate) struct Server {
    address: SocketAddr,
    state: Arc<State>,
    acceptor: Option<JoinHandle<()>>,
}

#[derive(Debug)]
struct State {
    chain: Arc<dyn Answers>,
    stopping: AtomicBool,
    open: Mutex<HashMap<u64, TcpStream>>,
    /// One per connection; those that have ended are forgotten with the next one.
    threads: Mutex<Vec<JoinHandle<()>>>,
}

impl Server {
    /// Serves `chain` on 127.0.0.1 and `port`, or any free one for 0.
    pub(crate) fn start(chain: Arc<dyn Answers>, port: u16) -> Result<Self, RegtestError> {
        let failed = |source| RegtestError::Listen { port, source };
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port)).map_err(failed)?;
        let address = listener.local_addr().map_err(failed)?;
        let state = Arc::new(State {
            chain,
            stopping: AtomicBool::new(false),
            open: Mutex::default(),
            threads: Mutex::default(),
        });
        let shared = Arc::clone(&state);
        let acceptor = std::thread::Builder::new()
            .name("regtest-accept".into())
            .spawn(move || accept(&listener, &shared))
            .map_err(failed)?;
        Ok(Self { address, state, acceptor: Some(acceptor) })
    }

    /// Where it listens.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.state.stopping.store(true, Ordering::SeqCst);
        // Wakes the acceptor, which then sees the flag.
        TcpStream::connect_timeout(&self.address, Duration::from_secs(1)).ok();
        if let Some(acceptor) = self.acceptor.take() {
            acceptor.join().ok();
        }
        for (_, stream) in self.state.open.lock().unwrap_or_else(PoisonError::into_inner).drain() {
            stream.shutdown(Shutdown::Both).ok();
        }
        // They share the chain: it is only free to be opened again once they are gone.
        let threads = std::mem::take(&mut *self.state.threads.lock().unwrap_or_else(PoisonError::into_inner));
        for thread in threads {
            thread.join().ok();
        }
    }
}

fn accept(listener: &TcpListener, state: &Arc<State>) {
    for (number, stream) in (0_u64..).zip(listener.incoming()) {
        if state.stopping.load(Ordering::SeqCst) {
            return;
        }
        let Ok(stream) = stream else {
            // Out of file descriptors, say: wait for some to be closed.
            std::thread::sleep(Duration::from_millis(50));
            continue;
        };
        {
            let mut open = state.open.lock().unwrap_or_else(PoisonError::into_inner);
            match stream.try_clone() {
                Ok(copy) if open.len() < MAX_CONNECTIONS => open.insert(number, copy),
                _ => continue,
            };
        }
        let shared = Arc::clone(state);
        let spawned = std::thread::Builder::new().name("regtest-rpc".into()).spawn(move || {
            if let Err(error) = serve(&shared, stream) {
                tracing::debug!(%error, "regtest connection ended");
            }
            shared.open.lock().unwrap_or_else(PoisonError::into_inner).remove(&number);
        });
        match spawned {
            Ok(thread) => {
                let mut threads = state.threads.lock().unwrap_or_else(PoisonError::into_inner);
                threads.retain(|thread| !thread.is_finished());
                threads.push(thread);
            }
            Err(_) => drop(state.open.lock().unwrap_or_else(PoisonError::into_inner).remove(&number)),
        }
    }
}

/// Answers requests until the client leaves.
fn serve(state: &State, stream: TcpStream) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(IDLE))?;
    stream.set_write_timeout(Some(IDLE))?;
    let mut writer = stream.try_clone()?;
    let mut reader = BufReader::new(stream);
    while let Some(body) = read_request(&mut reader)? {
        let request: Value = serde_json::from_slice(&body).unwrap_or(Value::Null);
        let (status, answer) = answer(state, &request);
        let body = answer.to_string();
        let head = format!(
            "HTTP/1.1 {status}\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        );
        writer.write_all(head.as_bytes())?;
    }
    Ok(())
}

/// A request's body; `None` when the client has closed.
fn read_request(reader: &mut BufReader<TcpStream>) -> std::io::Result<Option<Vec<u8>>> {
    let refuse = |why: &str| Err(std::io::Error::new(std::io::ErrorKind::InvalidData, why));
    let mut head = reader.by_ref().take(MAX_HEADER_BYTES);
    let mut line = String::new();
    if head.read_line(&mut line)? == 0 {
        return Ok(None);
    }
    let mut length = 0;
    loop {
        line.clear();
        if head.read_line(&mut line)? == 0 {
            return refuse("the header is cut short or too long");
        }
        let field = line.trim();
        if field.is_empty() {
            break;
        }
        if let Some((name, value)) = field.split_once(':')
            && name.eq_ignore_ascii_case("content-length")
        {
            length = value.trim().parse().unwrap_or(usize::MAX);
        }
    }
    if length > MAX_BODY_BYTES {
        return refuse("the body is too long");
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body)?;
    Ok(Some(body))
}

fn answer(state: &State, request: &Value) -> (&'static str, Value) {
    let id = &request["id"];
    let method = request["method"].as_str().unwrap_or_default();
    let result = state.chain.answer(method, &request["params"]);
    match result {
        Ok(result) => ("200 OK", json!({ "result": result, "error": null, "id": id })),
        Err(error) => {
            let (code, message) = match error {
                RegtestError::Refused { code, message } => (code, message),
                other => (code::INTERNAL, other.to_string()),
            };
            let error = json!({ "code": code, "message": message });
            ("500 Internal Server Error", json!({ "result": null, "error": error, "id": id }))
        }
    }
}
