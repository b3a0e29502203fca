//! A blocking client for another process's regtest chain, or for bitcoind: one call per connection.

use std::io::{Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use super::RegtestError;

const TIMEOUT: Duration = Duration::from_secs(5);
const MAX_ANSWER_BYTES: u64 = 16 << 20;

/// Asks the faucet behind `address` (`host:port`) to pay `amount_sat` to a regtest address. It takes a block to confirm.
pub(crate) fn faucet(address: &str, pay_to: &str, amount_sat: u64) -> Result<(), RegtestError> {
    call(address, "faucet", &json!([pay_to, amount_sat])).map(drop)
}

/// Whom to call, and as whom.
pub(crate) struct Credentials {
    /// `host:port`.
    address: String,
    /// A whole header line, or nothing.
    authorization: String,
}

impl Credentials {
    /// For the regtest chain, which asks for no password.
    pub(crate) fn none(address: &str) -> Self {
        Self { address: address.into(), authorization: String::new() }
    }

    /// For a bitcoind.
    pub(crate) fn of(address: &str, user: &str, password: &str) -> Self {
        let basic = STANDARD.encode(format!("{user}:{password}"));
        Self { address: address.into(), authorization: format!("Authorization: Basic {basic}\r\n") }
    }
}

/// One JSON-RPC call to a regtest chain. Blocks for up to a few seconds.
pub(crate) fn call(address: &str, method: &str, params: &Value) -> Result<Value, RegtestError> {
    call_as(&Credentials::none(address), method, params)
}

/// One JSON-RPC call. Blocks for up to a few seconds.
pub(crate) fn call_as(to: &Credentials, method: &str, params: &Value) -> Result<Value, RegtestError> {
    let unreachable = |reason: String| RegtestError::Unreachable { address: to.address.clone(), reason };
    let answer = exchange(to, method, params).map_err(|error| unreachable(error.to_string()))?;
    let body = answer.split_once("\r\n\r\n").map_or("", |(_, body)| body);
    let mut answer: Value = serde_json::from_str(body).map_err(|error| unreachable(error.to_string()))?;
    let error = &answer["error"];
    if !error.is_null() {
        let message = error["message"].as_str().unwrap_or("no reason given").chars().take(200).collect::<String>();
        return Err(RegtestError::Refused { code: error["code"].as_i64().unwrap_or_default(), message });
    }
    Ok(answer["result"].take())
}

fn exchange(to: &Credentials, method: &str, params: &Value) -> std::io::Result<String> {
    let not_found = || std::io::Error::new(std::io::ErrorKind::NotFound, "the host is unknown");
    let Credentials { address, authorization } = to;
    let socket = address.to_socket_addrs()?.next().ok_or_else(not_found)?;
    let mut stream = TcpStream::connect_timeout(&socket, TIMEOUT)?;
    stream.set_read_timeout(Some(TIMEOUT))?;
    stream.set_write_timeout(Some(TIMEOUT))?;
    let body = json!({ "jsonrpc": "1.0", "id": 1, "method": method, "params": params }).to_string();
    let head = format!(
        "POST / HTTP/1.1\r\nHost: {address}\r\nContent-Type: application/json\r\n\
         {authorization}Connection: close\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    );
    stream.write_all(head.as_bytes())?;
    // The regtest chain's server answers one request after another: no second one comes. A bitcoind is told so.
    if authorization.is_empty() {
        stream.shutdown(std::net::Shutdown::Write)?;
    }
    let mut answer = String::new();
    stream.take(MAX_ANSWER_BYTES).read_to_string(&mut answer)?;
    Ok(answer)
}
