//! Coins from the blocks that this network mined: each payment spends whole coinbases, signed with the mining key.

use std::collections::BTreeMap;
use std::str::FromStr;

use bitcoin::absolute::LockTime;
use bitcoin::address::NetworkUnchecked;
use bitcoin::consensus::encode::serialize_hex;
use bitcoin::hashes::Hash;
use bitcoin::key::{CompressedPublicKey, Secp256k1};
use bitcoin::secp256k1::{All, Message, SecretKey};
use bitcoin::sighash::{EcdsaSighashType, SighashCache};
use bitcoin::transaction::Version;
use bitcoin::{Address, Amount, Network, OutPoint, ScriptBuf, Sequence, Transaction, TxIn, TxOut, Txid, Witness};
use serde_json::{Value, json};

use super::LocalnetError;
use super::rpc::BtcdRpc;

/// The mining key. Its coins are worth nothing, so it need not be secret.
const KEY: [u8; 32] = [0x42; 32];

/// Paid to the miner: far above any minimum, for up to a hundred outputs.
const FEE_SAT: u64 = 100_000;

/// A coinbase can be spent once 100 blocks are on top.
const MATURITY_BLOCKS: u32 = 100;

/// Spends coinbases in the order of their blocks.
#[derive(Debug)]
pub(super) struct Faucet {
    secp: Secp256k1<All>,
    key: SecretKey,
    public: CompressedPublicKey,
    /// The next block whose coinbase has not been spent, as far as is known.
    next_height: u32,
}

/// A coinbase that can be spent.
struct Coin {
    at: OutPoint,
    value_sat: u64,
}

impl Faucet {
    pub(super) fn new() -> Result<Self, LocalnetError> {
        let bug = |error: &dyn std::fmt::Display| LocalnetError::Address {
            address: "the mining key's".to_owned(),
            reason: error.to_string(),
        };
        let secp = Secp256k1::new();
        let key = SecretKey::from_slice(&KEY).map_err(|error| bug(&error))?;
        let public = CompressedPublicKey(key.public_key(&secp));
        Ok(Self { secp, key, public, next_height: 1 })
    }

    /// Where blocks' rewards go.
    pub(super) fn mining_address(&self) -> Address {
        Address::p2wpkh(&self.public, Network::Regtest)
    }

    /// Pays each address its amount in one transaction. It takes a block to confirm.
    pub(super) fn pay(&mut self, rpc: &BtcdRpc, payments: &BTreeMap<String, u64>) -> Result<Txid, LocalnetError> {
        let outputs = payments.iter().map(|(address, sat)| output(address, *sat)).collect::<Result<Vec<_>, _>>()?;
        let wanted_sat = payments.values().fold(FEE_SAT, |sum, sat| sum.saturating_add(*sat));
        let tip = height(rpc)?;
        let mut coins = Vec::new();
        let mut sum_sat = 0_u64;
        let mut next_height = self.next_height;
        while sum_sat < wanted_sat {
            if next_height + MATURITY_BLOCKS > tip {
                return Err(LocalnetError::Dry { wanted_sat });
            }
            if let Some(coin) = coinbase(rpc, next_height)? {
                sum_sat += coin.value_sat;
                coins.push(coin);
            }
            next_height += 1;
        }
        let transaction = self.sign(&coins, outputs, sum_sat - wanted_sat);
        let txid = transaction.compute_txid();
        rpc.call("sendrawtransaction", &json!([serialize_hex(&transaction)]))?;
        self.next_height = next_height;
        Ok(txid)
    }

    fn sign(&self, coins: &[Coin], mut outputs: Vec<TxOut>, change_sat: u64) -> Transaction {
        let script = self.mining_address().script_pubkey();
        outputs.push(TxOut { value: Amount::from_sat(change_sat), script_pubkey: script.clone() });
        let input = |coin: &Coin| TxIn {
            previous_output: coin.at,
            script_sig: ScriptBuf::new(),
            sequence: Sequence::ENABLE_RBF_NO_LOCKTIME,
            witness: Witness::new(),
        };
        let mut transaction = Transaction {
            version: Version::TWO,
            lock_time: LockTime::ZERO,
            input: coins.iter().map(input).collect(),
            output: outputs,
        };
        let witnesses: Vec<Witness> = (0..coins.len())
            .map(|index| {
                let value = Amount::from_sat(coins[index].value_sat);
                let digest = SighashCache::new(&transaction)
                    .p2wpkh_signature_hash(index, &script, value, EcdsaSighashType::All)
                    .expect("the script is P2WPKH and the index is an input's");
                let message = Message::from_digest(digest.to_byte_array());
                let signature = bitcoin::ecdsa::Signature::sighash_all(self.secp.sign_ecdsa(&message, &self.key));
                Witness::p2wpkh(&signature, &self.public.0)
            })
            .collect();
        for (input, witness) in transaction.input.iter_mut().zip(witnesses) {
            input.witness = witness;
        }
        transaction
    }
}

/// The best block's height.
pub(super) fn height(rpc: &BtcdRpc) -> Result<u32, LocalnetError> {
    let answer = rpc.call("getblockcount", &json!([]))?;
    answer.as_u64().and_then(|height| u32::try_from(height).ok()).ok_or_else(|| odd(rpc, "getblockcount", &answer))
}

/// The coinbase of the block at `height`; `None` if it is spent.
fn coinbase(rpc: &BtcdRpc, height: u32) -> Result<Option<Coin>, LocalnetError> {
    let hash = rpc.call("getblockhash", &json!([height]))?;
    let block = rpc.call("getblock", &json!([hash, 1]))?;
    let txid = &block["tx"][0];
    let unspent = rpc.call("gettxout", &json!([txid, 0, true]))?;
    let Some(value_btc) = unspent["value"].as_f64() else { return Ok(None) };
    let parsed = txid.as_str().and_then(|text| Txid::from_str(text).ok());
    let (Some(txid), Ok(value)) = (parsed, Amount::from_btc(value_btc)) else {
        return Err(odd(rpc, "gettxout", &unspent));
    };
    Ok(Some(Coin { at: OutPoint { txid, vout: 0 }, value_sat: value.to_sat() }))
}

fn output(address: &str, amount_sat: u64) -> Result<TxOut, LocalnetError> {
    let bad = |reason: String| LocalnetError::Address { address: address.to_owned(), reason };
    let parsed = Address::<NetworkUnchecked>::from_str(address).map_err(|error| bad(error.to_string()))?;
    let parsed = parsed.require_network(Network::Regtest).map_err(|error| bad(error.to_string()))?;
    Ok(TxOut { value: Amount::from_sat(amount_sat), script_pubkey: parsed.script_pubkey() })
}

/// An answer in an unexpected form.
pub(super) fn odd(rpc: &BtcdRpc, method: &str, answer: &Value) -> LocalnetError {
    LocalnetError::Unreachable {
        address: rpc.address().to_string(),
        method: method.to_owned(),
        reason: format!("unexpected answer {}", answer.to_string().chars().take(200).collect::<String>()),
    }
}
