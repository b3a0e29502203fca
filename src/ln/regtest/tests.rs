use bitcoin::hashes::Hash;
use bitcoin::{Address, Network, PubkeyHash, WPubkeyHash};
use serde_json::json;

use super::*;

fn address(tag: u8) -> String {
    Address::p2wsh(&bitcoin::ScriptBuf::from_bytes(vec![tag]), Network::Regtest).to_string()
}

#[test]
fn the_faucet_pays_many_between_two_blocks_and_everything_confirms() {
    let dir = tempfile::tempdir().expect("a folder");
    let mut chain = RegtestChain::open(dir.path()).expect("opens");
    let rpc = chain.serve(0).expect("a port").to_string();
    let height = chain.height();
    for tag in 0..25 {
        client::faucet(&rpc, &address(tag), 50_000_000).expect("paid");
    }
    assert_eq!(chain.waiting(), 25);
    chain.mine(1).expect("mined");
    assert_eq!((chain.waiting(), chain.height()), (0, height + 1));
}

#[test]
fn a_chain_is_the_same_after_a_restart_and_after_a_torn_tail() {
    let dir = tempfile::tempdir().expect("a folder");
    let rpc_tip = |chain: &mut RegtestChain| {
        let rpc = chain.serve(0).expect("a port").to_string();
        client::call(&rpc, "getbestblockhash", &json!([])).expect("answers")
    };
    let mut chain = RegtestChain::open(dir.path()).expect("opens");
    let rpc = chain.serve(0).expect("a port").to_string();
    client::faucet(&rpc, &address(1), 1_000_000).expect("paid");
    chain.mine(1).expect("mined");
    let (height, tip) = (chain.height(), rpc_tip(&mut chain));
    chain.mine(1).expect("mined");
    drop(chain);
    let path = dir.path().join("blocks.dat");
    let bytes = std::fs::read(&path).expect("there");
    std::fs::write(&path, &bytes[..bytes.len() - 7]).expect("written");
    let mut chain = RegtestChain::open(dir.path()).expect("opens");
    assert_eq!((chain.height(), rpc_tip(&mut chain)), (height, tip));
    chain.mine(3).expect("mined");
    assert_eq!(chain.height(), height + 3);
}

#[test]
fn it_mines_when_a_transaction_waits_and_not_otherwise() {
    let dir = tempfile::tempdir().expect("a folder");
    let mut chain = RegtestChain::open(dir.path()).expect("opens");
    let rpc = chain.serve(0).expect("a port").to_string();
    let height = chain.height();
    chain.automine(Duration::from_millis(5)).expect("a thread");
    std::thread::sleep(Duration::from_millis(60));
    assert_eq!(chain.height(), height);
    client::faucet(&rpc, &address(1), 1_000_000).expect("paid");
    while chain.waiting() > 0 {
        std::thread::sleep(Duration::from_millis(2));
    }
    assert_eq!(chain.height(), height + 1);
}

#[test]
fn errors_carry_the_codes_that_nodes_look_for() {
    let dir = tempfile::tempdir().expect("a folder");
    let mut chain = RegtestChain::open(dir.path()).expect("opens");
    let rpc = chain.serve(0).expect("a port").to_string();
    let code = |method: &str, params: serde_json::Value| match client::call(&rpc, method, &params) {
        Err(RegtestError::Refused { code, .. }) => code,
        other => panic!("{method}: {other:?}"),
    };
    let nowhere = "00".repeat(32);
    assert_eq!(code("getblock", json!([nowhere, 0])), -5);
    assert_eq!(code("getrawtransaction", json!([nowhere])), -5);
    assert_eq!(code("getmempoolentry", json!([nowhere])), -5);
    assert_eq!(code("getblockhash", json!([1_000_000])), -8);
    assert_eq!(code("sendrawtransaction", json!(["00"])), -22);
    assert_eq!(code("faucet", json!([address(1), u64::MAX])), -8);
    let mainnet = Address::p2pkh(PubkeyHash::from_byte_array([1; 20]), Network::Bitcoin).to_string();
    assert_eq!(code("faucet", json!([mainnet, 1_000])), -5);
    assert_eq!(code("stop", json!([])), -32_601);
}

#[test]
fn a_transaction_that_breaks_a_rule_is_refused() {
    let dir = tempfile::tempdir().expect("a folder");
    let chain = RegtestChain::open(dir.path()).expect("opens");
    let mut inner = chain.chain.lock();
    let to = bitcoin::ScriptBuf::new_p2wpkh(&WPubkeyHash::from_byte_array([1; 20]));
    let txid = inner.faucet(to, 1_000_000).expect("paid");
    let good = inner.transaction(&txid).expect("waits");
    inner.mempool.remove(&txid);
    let mut refused = |change: &dyn Fn(&mut bitcoin::Transaction)| {
        let mut bad = good.clone();
        change(&mut bad);
        inner.accept(bad).expect_err("breaks a rule").to_string()
    };
    let too_much = bitcoin::Amount::from_sat(60 * 100_000_000);
    assert!(refused(&|tx| tx.output[0].value = too_much).contains("in-belowout"));
    assert!(refused(&|tx| tx.input.push(tx.input[0].clone())).contains("inputs-duplicate"));
    assert!(refused(&|tx| tx.input[0].witness = bitcoin::Witness::new()).contains("script-verify"));
    assert!(refused(&|tx| tx.input[0].previous_output.vout = 9).contains("missingorspent"));
    let next_week = bitcoin::absolute::LockTime::from_height(5_000).expect("a height");
    assert!(refused(&|tx| tx.lock_time = next_week).contains("non-final"));
    assert!(refused(&|tx| tx.input[0].sequence = bitcoin::Sequence::from_height(500)).contains("BIP68"));
    inner.accept(good).expect("unchanged it is fine");
}

#[test]
fn a_transaction_that_waits_survives_a_crash() {
    let dir = tempfile::tempdir().expect("a folder");
    let mut chain = RegtestChain::open(dir.path()).expect("opens");
    let rpc = chain.serve(0).expect("a port").to_string();
    for tag in 0..3 {
        client::faucet(&rpc, &address(tag), 1_000_000).expect("paid");
    }
    // As after a kill -9: nothing is said goodbye to.
    drop(chain);
    let chain = RegtestChain::open(dir.path()).expect("opens");
    assert_eq!(chain.waiting(), 3);
    chain.mine(1).expect("mined");
    drop(chain);
    assert_eq!(RegtestChain::open(dir.path()).expect("opens").waiting(), 0);
}

#[test]
fn replaced_blocks_give_their_transactions_back_and_are_found_by_those_who_were_on_them() {
    let dir = tempfile::tempdir().expect("a folder");
    let mut chain = RegtestChain::open(dir.path()).expect("opens");
    let rpc = chain.serve(0).expect("a port").to_string();
    client::faucet(&rpc, &address(1), 1_000_000).expect("paid");
    chain.mine(1).expect("mined");
    client::faucet(&rpc, &address(2), 1_000_000).expect("paid");
    chain.mine(2).expect("mined");
    client::faucet(&rpc, &address(3), 1_000_000).expect("waits");
    let best = || client::call(&rpc, "getbestblockhash", &json!([])).expect("answers");
    let header = |hash: &serde_json::Value| client::call(&rpc, "getblockheader", &json!([hash])).expect("known");
    let (height, old) = (chain.height(), best());
    chain.reorganise(3).expect("other blocks");
    assert_eq!((chain.height(), chain.waiting()), (height + 1, 0));
    assert_ne!(header(&old)["hash"], header(&best())["previousblockhash"]);
    assert_eq!(header(&old)["height"], height);
    let first = client::call(&rpc, "getblockhash", &json!([height - 2])).expect("there");
    let block = client::call(&rpc, "getblock", &json!([first, 0])).expect("there");
    let block: bitcoin::Block = bitcoin::consensus::encode::deserialize_hex(block.as_str().expect("hex")).expect("one");
    assert_eq!(block.txdata.len(), 4, "all three are in the first of the new blocks");
    assert!(chain.reorganise(height).is_err());
    // What is on disk is the new chain.
    let tip = best();
    drop(chain);
    let mut chain = RegtestChain::open(dir.path()).expect("opens");
    let rpc = chain.serve(0).expect("a port").to_string();
    assert_eq!(client::call(&rpc, "getbestblockhash", &json!([])).expect("answers"), tip);
}
