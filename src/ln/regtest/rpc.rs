//! The part of Bitcoin Core's JSON-RPC that a Lightning node uses, and a faucet.
//!
//! Errors carry Bitcoin Core's codes: nodes tell "not found" from the rest by them.

use bitcoin::address::NetworkUnchecked;
use bitcoin::consensus::encode::{deserialize_hex, serialize_hex};
use bitcoin::{Address, Block, BlockHash, Network, OutPoint, Transaction, Txid};
use serde_json::{Value, json};

use super::RegtestError;
use super::chain::Chain;
use super::error::code;

/// Most that one faucet call pays: 100 BTC.
const FAUCET_MAX_SAT: u64 = 10_000_000_000;

/// Answers one call.
pub(super) fn answer(chain: &mut Chain, method: &str, params: &Value) -> Result<Value, RegtestError> {
    match method {
        "getblockchaininfo" => Ok(chain_info(chain)),
        "getblockcount" => Ok(json!(chain.height())),
        "getbestblockhash" => Ok(json!(chain.tip().block_hash().to_string())),
        "getblockhash" => block_hash(chain, &params[0]),
        "getblockheader" => block_header(chain, &params[0]),
        "getblock" => block(chain, &params[0]),
        "estimatesmartfee" => Ok(json!({ "feerate": 0.000_02, "blocks": params[0] })),
        "getmempoolinfo" => Ok(json!({
            "loaded": true, "size": chain.mempool.len(), "mempoolminfee": 0.000_01, "minrelaytxfee": 0.000_01,
        })),
        "getrawmempool" => {
            let txids = chain.mempool.iter().map(|waiting| waiting.transaction.compute_txid().to_string());
            Ok(json!(txids.collect::<Vec<_>>()))
        }
        "getmempoolentry" => mempool_entry(chain, &params[0]),
        "getrawtransaction" => {
            let found = chain.transaction(&parse::<Txid>(&params[0], "transaction id")?);
            let transaction = found.ok_or_else(|| not_found("No such mempool or blockchain transaction"))?;
            Ok(json!(serialize_hex(&transaction)))
        }
        "gettxout" => unspent(chain, params),
        "sendrawtransaction" => {
            let undecodable = || RegtestError::refused(code::BAD_TRANSACTION, "TX decode failed");
            let text = params[0].as_str().ok_or_else(undecodable)?;
            let transaction: Transaction = deserialize_hex(text).map_err(|_| undecodable())?;
            Ok(json!(chain.accept(transaction)?.to_string()))
        }
        "faucet" => faucet(chain, params),
        _ => Err(RegtestError::refused(code::NO_SUCH_METHOD, format!("Method not found: {}", clip(method)))),
    }
}

fn chain_info(chain: &Chain) -> Value {
    json!({
        "chain": "regtest", "blocks": chain.height(), "headers": chain.height(),
        "bestblockhash": chain.tip().block_hash().to_string(), "initialblockdownload": false,
    })
}

fn block_hash(chain: &Chain, height: &Value) -> Result<Value, RegtestError> {
    let header = height.as_u64().and_then(|height| chain.headers.get(usize::try_from(height).ok()?));
    let header = header.ok_or_else(|| RegtestError::refused(code::BAD_PARAMETER, "Block height out of range"))?;
    Ok(json!(header.block_hash().to_string()))
}

fn block_header(chain: &Chain, hash: &Value) -> Result<Value, RegtestError> {
    let (height, block) = find(chain, hash)?;
    let header = &block.header;
    let mut answer = json!({
        "hash": header.block_hash().to_string(),
        "height": height,
        "version": header.version.to_consensus(),
        "merkleroot": header.merkle_root.to_string(),
        "time": header.time,
        "nonce": header.nonce,
        "bits": format!("{:08x}", header.bits.to_consensus()),
        // Each regtest block is worth two hashes.
        "chainwork": format!("{:064x}", 2 * (u128::from(height) + 1)),
    });
    if height > 0 {
        answer["previousblockhash"] = json!(header.prev_blockhash.to_string());
    }
    Ok(answer)
}

fn block(chain: &Chain, hash: &Value) -> Result<Value, RegtestError> {
    Ok(json!(serialize_hex(find(chain, hash)?.1)))
}

fn mempool_entry(chain: &Chain, txid: &Value) -> Result<Value, RegtestError> {
    let waiting = chain.mempool.get(&parse::<Txid>(txid, "transaction id")?);
    let waiting = waiting.ok_or_else(|| not_found("Transaction not in mempool"))?;
    Ok(json!({
        "time": waiting.time_s, "height": waiting.height, "vsize": waiting.transaction.vsize(),
        "fees": { "base": bitcoin::Amount::from_sat(waiting.fee_sat).to_btc() },
    }))
}

fn unspent(chain: &Chain, params: &Value) -> Result<Value, RegtestError> {
    let txid = parse::<Txid>(&params[0], "transaction id")?;
    let vout = params[1].as_u64().and_then(|vout| u32::try_from(vout).ok());
    let vout = vout.ok_or_else(|| RegtestError::refused(code::BAD_PARAMETER, "bad output index"))?;
    let out_point = OutPoint { txid, vout };
    let next = chain.height() + 1;
    let waiting = || chain.mempool.coin(&out_point, next).filter(|_| params[2] != json!(false));
    Ok(chain.coins.get(&out_point).cloned().or_else(waiting).map_or(Value::Null, |coin| {
        json!({
            "confirmations": next - coin.height, "value": coin.output.value.to_btc(),
            "scriptPubKey": { "hex": coin.output.script_pubkey.to_hex_string() }, "coinbase": coin.coinbase,
        })
    }))
}

fn faucet(chain: &mut Chain, params: &Value) -> Result<Value, RegtestError> {
    let address = parse::<Address<NetworkUnchecked>>(&params[0], "address")?;
    let address = address
        .require_network(Network::Regtest)
        .map_err(|_| RegtestError::refused(code::NOT_FOUND, "not a regtest address"))?;
    let amount_sat = params[1].as_u64().filter(|sat| (1..=FAUCET_MAX_SAT).contains(sat));
    let amount_sat = amount_sat.ok_or_else(|| {
        RegtestError::refused(code::BAD_PARAMETER, format!("the faucet pays 1 ..= {FAUCET_MAX_SAT} sat"))
    })?;
    Ok(json!(chain.faucet(address.script_pubkey(), amount_sat)?.to_string()))
}

/// A block and its height; one that was replaced is known, too.
fn find<'a>(chain: &'a Chain, hash: &Value) -> Result<(u32, &'a Block), RegtestError> {
    let hash = parse::<BlockHash>(hash, "block hash")?;
    let best = chain.heights.get(&hash).map(|height| (*height, &chain.blocks[*height as usize]));
    let found = best.or_else(|| chain.replaced.get(&hash).map(|(height, block)| (*height, block)));
    found.ok_or_else(|| not_found("Block not found"))
}

fn parse<T: std::str::FromStr>(value: &Value, what: &str) -> Result<T, RegtestError> {
    let parsed = value.as_str().and_then(|text| text.parse().ok());
    parsed.ok_or_else(|| RegtestError::refused(code::BAD_PARAMETER, format!("bad {what}")))
}

fn not_found(what: &str) -> RegtestError {
    RegtestError::refused(code::NOT_FOUND, what)
}

fn clip(text: &str) -> String {
    text.chars().take(40).collect()
}
