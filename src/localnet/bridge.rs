//! btcd's chain, served as Bitcoin Core would: embedded nodes ask for things that btcd lacks or says differently.
//!
//! The same methods as the in-process regtest chain, the faucet included. Errors carry Bitcoin Core's codes, because
//! nodes tell "not found" from the rest by them.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};

use serde_json::{Value, json};

use super::LocalnetError;
use super::faucet::Faucet;
use super::rpc::BtcdRpc;
use crate::ln::regtest::RegtestError;
use crate::ln::regtest::server::{Answers, Server};

/// Bitcoin Core's codes.
const NOT_FOUND: i64 = -5;
const BAD_PARAMETER: i64 = -8;
const NO_SUCH_METHOD: i64 = -32_601;
const INTERNAL: i64 = -1;

/// A running bridge. Dropping it stops it.
#[derive(Debug)]
pub struct Bridge(Server);

impl Bridge {
    pub(super) fn start(btcd: BtcdRpc, faucet: Arc<Mutex<Faucet>>) -> Result<Self, LocalnetError> {
        let chain = BtcdChain { btcd, faucet };
        let server = Server::start(Arc::new(chain), 0);
        server.map(Bridge).map_err(|error| LocalnetError::Bridge(error.to_string()))
    }

    /// Where embedded nodes find the chain: `kind = "regtest_rpc"`.
    pub fn address(&self) -> SocketAddr {
        self.0.address()
    }
}

#[derive(Debug)]
struct BtcdChain {
    btcd: BtcdRpc,
    faucet: Arc<Mutex<Faucet>>,
}

impl Answers for BtcdChain {
    fn answer(&self, method: &str, params: &Value) -> Result<Value, RegtestError> {
        let first = &params[0];
        match method {
            "getblockchaininfo" => {
                let mut info = self.ask(method, &json!([]))?;
                info["initialblockdownload"] = json!(false);
                Ok(info)
            }
            "getblockcount" | "getbestblockhash" => self.ask(method, &json!([])),
            "getblockhash" => self.ask(method, &json!([first])).map_err(|error| recode(error, BAD_PARAMETER)),
            "getblockheader" => self.block_header(first),
            // Without the 0, btcd gives an object.
            "getblock" | "getrawtransaction" => {
                self.ask(method, &json!([first, 0])).map_err(|error| recode(error, NOT_FOUND))
            }
            "estimatesmartfee" => Ok(json!({ "feerate": 0.000_02, "blocks": first })),
            "getmempoolinfo" => {
                let size = self.ask(method, &json!([]))?["size"].take();
                Ok(json!({ "loaded": true, "size": size, "mempoolminfee": 0.000_01, "minrelaytxfee": 0.000_01 }))
            }
            "getrawmempool" => self.ask(method, &json!([false])),
            "getmempoolentry" => self.mempool_entry(first),
            "gettxout" => self.ask(method, &json!([first, params[1], true])),
            "sendrawtransaction" => self.ask(method, &json!([first])),
            "faucet" => self.pay(params),
            _ => Err(refused(NO_SUCH_METHOD, "Method not found")),
        }
    }
}

impl BtcdChain {
    fn ask(&self, method: &str, params: &Value) -> Result<Value, RegtestError> {
        self.btcd.call(method, params).map_err(into_answer)
    }

    /// With the chain's work, which btcd doesn't say: each regtest block is worth two hashes.
    fn block_header(&self, hash: &Value) -> Result<Value, RegtestError> {
        let answer = self.ask("getblockheader", &json!([hash, true]));
        let mut header = answer.map_err(|error| recode(error, NOT_FOUND))?;
        let height = header["height"].as_u64().ok_or_else(|| refused(INTERNAL, "btcd names no height"))?;
        header["chainwork"] = json!(format!("{:064x}", 2 * (u128::from(height) + 1)));
        if height == 0
            && let Some(fields) = header.as_object_mut()
        {
            fields.remove("previousblockhash");
        }
        Ok(header)
    }

    fn mempool_entry(&self, txid: &Value) -> Result<Value, RegtestError> {
        let txid = txid.as_str().ok_or_else(|| refused(BAD_PARAMETER, "bad transaction id"))?;
        let waiting = self.ask("getrawmempool", &json!([true]))?;
        let entry = waiting.get(txid).ok_or_else(|| refused(NOT_FOUND, "Transaction not in mempool"))?;
        Ok(json!({
            "time": entry["time"], "height": entry["height"], "vsize": entry["vsize"],
            "fees": { "base": entry["fee"] },
        }))
    }

    fn pay(&self, params: &Value) -> Result<Value, RegtestError> {
        let (Some(address), Some(amount_sat)) = (params[0].as_str(), params[1].as_u64()) else {
            return Err(refused(BAD_PARAMETER, "the faucet takes an address and an amount in sat"));
        };
        let payments = [(address.to_owned(), amount_sat)].into();
        let mut faucet = self.faucet.lock().unwrap_or_else(PoisonError::into_inner);
        faucet.pay(&self.btcd, &payments).map(|txid| json!(txid.to_string())).map_err(into_answer)
    }
}

fn refused(code: i64, message: &str) -> RegtestError {
    RegtestError::Refused { code, message: message.to_owned() }
}

fn into_answer(error: LocalnetError) -> RegtestError {
    match error {
        LocalnetError::Refused { code, message, .. } => RegtestError::Refused { code, message },
        other => refused(INTERNAL, &other.to_string()),
    }
}

/// A refusal of btcd's under the code that Bitcoin Core has for it.
fn recode(error: RegtestError, code: i64) -> RegtestError {
    match error {
        RegtestError::Refused { message, .. } => RegtestError::Refused { code, message },
        other => other,
    }
}
