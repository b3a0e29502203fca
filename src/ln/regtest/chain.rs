//! The chain's state: headers, blocks, coins and the mempool, by Bitcoin's rules for regtest.
//!
//! Scripts are verified by libbitcoinconsensus; relative and absolute locks, maturity and amounts here. Only this process
//! makes blocks, and replaces them only when told to. It must never connect a block that isn't on disk.

use std::collections::{HashMap, HashSet};
use std::path::Path;
use std::sync::Arc;

use bitcoin::absolute::LockTime;
use bitcoin::block::{Header, Version as BlockVersion};
use bitcoin::blockdata::constants::genesis_block;
use bitcoin::hashes::Hash;
use bitcoin::script::{Builder, PushBytesBuf};
use bitcoin::transaction::Version;
use bitcoin::{
    Amount, Block, BlockHash, CompactTarget, Network, OutPoint, ScriptBuf, Sequence, Transaction, TxIn, TxMerkleNode,
    TxOut, Txid, Witness,
};

use super::RegtestError;
use super::error::code;
use super::mempool::{Mempool, Waiting};
use super::record_file::RecordFile;
use crate::clock::Clock;

const BLOCKS_FILE: &str = "blocks.dat";
const WAITING_FILE: &str = "waiting.dat";
/// Blocks between two halvings of the subsidy on regtest.
const HALVING_BLOCKS: u32 = 150;
/// Blocks before a coinbase can be spent.
const MATURITY_BLOCKS: u32 = 100;
/// Mined on the first start, so that ten coinbases can be spent.
const FIRST_BLOCKS: u32 = MATURITY_BLOCKS + 10;
const FIRST_SUBSIDY_SAT: u64 = 50 * 100_000_000;
const BLOCK_SPACING_S: u32 = 600;
/// Regtest's easiest target.
const BITS: u32 = 0x207f_ffff;
const FAUCET_FEE_SAT: u64 = 2_000;

/// BIP 68: the flag that disables a relative lock, the flag for seconds, and their unit.
const SEQUENCE_DISABLED: u32 = 1 << 31;
const SEQUENCE_IN_TIME: u32 = 1 << 22;
const SEQUENCE_MASK: u32 = 0xffff;
const SEQUENCE_UNIT_S: u32 = 512;

/// An output that can be spent.
#[derive(Clone, Debug)]
pub(super) struct Coin {
    pub(super) output: TxOut,
    /// Of the block that made it.
    pub(super) height: u32,
    pub(super) coinbase: bool,
}

#[derive(Debug)]
pub(super) struct Chain {
    pub(super) headers: Vec<Header>,
    pub(super) blocks: Vec<Block>,
    pub(super) heights: HashMap<BlockHash, u32>,
    pub(super) coins: HashMap<OutPoint, Coin>,
    pub(super) mempool: Mempool,
    /// Blocks that were replaced, with their heights: a node that was on one asks for the way back. Not kept on disk.
    pub(super) replaced: HashMap<BlockHash, (u32, Block)>,
    /// How often blocks were replaced: no two of one height may be alike.
    branch: u32,
    confirmed: HashMap<Txid, u32>,
    blocks_file: RecordFile,
    /// What waits, so that a crash before the next block loses no funding of a channel that is in use already.
    waiting_file: RecordFile,
    clock: Arc<dyn Clock>,
}

impl Chain {
    /// Reads the chain, or makes one whose faucet can pay.
    pub(super) fn open(dir: &Path, clock: Arc<dyn Clock>) -> Result<Self, RegtestError> {
        let (blocks_file, blocks) = RecordFile::open::<Block>(dir, BLOCKS_FILE)?;
        let (waiting_file, waiting) = RecordFile::open::<Transaction>(dir, WAITING_FILE)?;
        let mut chain = Self {
            headers: Vec::new(),
            blocks: Vec::new(),
            heights: HashMap::new(),
            coins: HashMap::new(),
            mempool: Mempool::default(),
            replaced: HashMap::new(),
            branch: 0,
            confirmed: HashMap::new(),
            blocks_file,
            waiting_file,
            clock,
        };
        chain.connect(genesis_block(Network::Regtest));
        for block in blocks {
            let follows = chain.tip().block_hash() == block.header.prev_blockhash;
            if !follows {
                let path = dir.join(BLOCKS_FILE);
                return Err(RegtestError::Damaged { path, at: 0 });
            }
            chain.connect(block);
        }
        for transaction in waiting {
            // One that was mined just before the crash is refused, as it should be.
            chain.admit(transaction).ok();
        }
        let missing = FIRST_BLOCKS.saturating_sub(chain.height());
        for remaining in (0..missing).rev() {
            chain.mine(remaining)?;
        }
        Ok(chain)
    }

    pub(super) fn height(&self) -> u32 {
        // The genesis block is always there.
        self.headers.len() as u32 - 1
    }

    pub(super) fn tip(&self) -> &Header {
        &self.headers[self.headers.len() - 1]
    }

    /// A transaction of a block or of the mempool.
    pub(super) fn transaction(&self, txid: &Txid) -> Option<Transaction> {
        if let Some(waiting) = self.mempool.get(txid) {
            return Some(waiting.transaction.clone());
        }
        let block = &self.blocks[*self.confirmed.get(txid)? as usize];
        block.txdata.iter().find(|transaction| transaction.compute_txid() == *txid).cloned()
    }

    /// Takes a transaction into the mempool and on disk.
    pub(super) fn accept(&mut self, transaction: Transaction) -> Result<Txid, RegtestError> {
        let known = self.mempool.get(&transaction.compute_txid()).is_some();
        let txid = self.admit(transaction.clone())?;
        if !known && let Err(error) = self.waiting_file.append(&transaction) {
            self.mempool.remove(&txid);
            return Err(error);
        }
        Ok(txid)
    }

    /// Takes a transaction into the mempool; one that pays more replaces what it conflicts with (BIP 125).
    fn admit(&mut self, transaction: Transaction) -> Result<Txid, RegtestError> {
        let txid = transaction.compute_txid();
        if self.mempool.get(&txid).is_some() {
            return Ok(txid);
        }
        if self.confirmed.contains_key(&txid) {
            return Err(RegtestError::refused(code::ALREADY_IN_CHAIN, "Transaction outputs already in utxo set"));
        }
        let height = self.height();
        let fee_sat = self.check(&transaction, height + 1)?;
        let replaced = self.mempool.conflicts(&transaction);
        let replaced_fees: u64 = replaced.iter().filter_map(|txid| self.mempool.get(txid)).map(|old| old.fee_sat).sum();
        if !replaced.is_empty() && fee_sat <= replaced_fees {
            return Err(RegtestError::refused(code::REJECTED, "insufficient fee, rejecting replacement"));
        }
        if transaction.input.iter().any(|input| replaced.contains(&input.previous_output.txid)) {
            return Err(RegtestError::refused(code::REJECTED, "bad-txns-spends-conflicting-tx"));
        }
        for old in &replaced {
            self.mempool.remove(old);
        }
        self.mempool.insert(txid, Waiting { transaction, time_s: self.now_s(), height, fee_sat });
        Ok(txid)
    }

    /// The rules for a transaction in the block at `height`; the fee in sat.
    fn check(&self, transaction: &Transaction, height: u32) -> Result<u64, RegtestError> {
        let reject = |why: &str| Err(RegtestError::refused(code::REJECTED, why));
        if transaction.input.is_empty() || transaction.output.is_empty() || transaction.is_coinbase() {
            return reject("bad-txns-vin-or-vout-empty");
        }
        let median_time = median_time(&self.headers);
        if !is_final(transaction, height, median_time) {
            return reject("non-final");
        }
        let mut seen = HashSet::new();
        let mut spent: HashMap<OutPoint, TxOut> = HashMap::new();
        let mut in_sat: u64 = 0;
        for input in &transaction.input {
            let out_point = input.previous_output;
            if !seen.insert(out_point) {
                return reject("bad-txns-inputs-duplicate");
            }
            let coin = self.coins.get(&out_point).cloned().or_else(|| self.mempool.coin(&out_point, height));
            let Some(coin) = coin else {
                return Err(RegtestError::refused(code::MISSING_INPUTS, "bad-txns-inputs-missingorspent"));
            };
            if coin.coinbase && height - coin.height < MATURITY_BLOCKS {
                return reject("bad-txns-premature-spend-of-coinbase");
            }
            let relative = transaction.version >= Version::TWO;
            if relative && !self.relative_lock_passed(input.sequence, &coin, height, median_time) {
                return reject("non-BIP68-final");
            }
            in_sat = in_sat.saturating_add(coin.output.value.to_sat());
            spent.insert(out_point, coin.output);
        }
        let out_sat = transaction.output.iter().try_fold(0_u64, |sum, out| sum.checked_add(out.value.to_sat()));
        let Some(fee_sat) = out_sat.and_then(|out_sat| in_sat.checked_sub(out_sat)) else {
            return reject("bad-txns-in-belowout");
        };
        match transaction.verify(|out_point| spent.get(out_point).cloned()) {
            Ok(()) => Ok(fee_sat),
            Err(error) => reject(&format!("mandatory-script-verify-flag-failed ({error})")),
        }
    }

    /// BIP 68.
    fn relative_lock_passed(&self, sequence: Sequence, coin: &Coin, height: u32, median_time: u32) -> bool {
        let sequence = sequence.to_consensus_u32();
        let value = sequence & SEQUENCE_MASK;
        if sequence & SEQUENCE_DISABLED != 0 {
            return true;
        }
        if sequence & SEQUENCE_IN_TIME == 0 {
            return height >= coin.height + value;
        }
        let before_coin = &self.headers[..self.headers.len().min(coin.height as usize)];
        median_time >= self::median_time(before_coin) + value * SEQUENCE_UNIT_S
    }

    /// Mines a block with the whole mempool. `remaining` blocks are to follow at once: its time is set back for them.
    pub(super) fn mine(&mut self, remaining: u32) -> Result<(), RegtestError> {
        let height = self.height() + 1;
        let subsidy_sat = FIRST_SUBSIDY_SAT.checked_shr(height / HALVING_BLOCKS).unwrap_or(0);
        let mut transactions = vec![coinbase(height, self.branch, subsidy_sat + self.mempool.fees_sat())];
        transactions.extend(self.mempool.iter().map(|waiting| waiting.transaction.clone()));
        let wanted = self.now_s().saturating_sub(remaining.saturating_mul(BLOCK_SPACING_S));
        let header = Header {
            version: BlockVersion::from_consensus(0x2000_0000),
            prev_blockhash: self.tip().block_hash(),
            merkle_root: TxMerkleNode::all_zeros(),
            time: wanted.max(median_time(&self.headers) + 1),
            bits: CompactTarget::from_consensus(BITS),
            nonce: 0,
        };
        let mut block = Block { header, txdata: transactions };
        commit_to_witnesses(&mut block);
        block.header.merkle_root = block.compute_merkle_root().unwrap_or(TxMerkleNode::all_zeros());
        while block.header.validate_pow(block.header.target()).is_err() {
            block.header.nonce = block.header.nonce.wrapping_add(1);
        }
        self.blocks_file.append(&block)?;
        self.connect(block);
        if self.mempool.len() == 0 {
            self.waiting_file.clear()?;
        }
        Ok(())
    }

    /// Adds a block that is on disk and whose transactions have been checked.
    fn connect(&mut self, block: Block) {
        let height = self.headers.len() as u32;
        for (place, transaction) in block.txdata.iter().enumerate() {
            let txid = transaction.compute_txid();
            for input in &transaction.input {
                self.coins.remove(&input.previous_output);
            }
            // The genesis block's coinbase can't be spent.
            if height > 0 {
                for (vout, output) in (0_u32..).zip(&transaction.output) {
                    if !output.script_pubkey.is_op_return() {
                        let coin = Coin { output: output.clone(), height, coinbase: place == 0 };
                        self.coins.insert(OutPoint::new(txid, vout), coin);
                    }
                }
            }
            self.confirmed.insert(txid, height);
            self.mempool.remove(&txid);
        }
        self.heights.insert(block.block_hash(), height);
        self.headers.push(block.header);
        self.blocks.push(block);
    }

    /// Replaces the last `depth` blocks by `depth + 1` others: what was in them waits again, and is in the first of the new
    /// ones.
    pub(super) fn reorganise(&mut self, depth: u32) -> Result<(), RegtestError> {
        let kept = self.height().checked_sub(depth).filter(|kept| *kept >= FIRST_BLOCKS);
        let kept = kept.ok_or_else(|| RegtestError::refused(code::BAD_PARAMETER, "the first blocks stay"))?;
        let dropped = self.blocks.split_off(kept as usize + 1);
        self.blocks_file.drop_last(&dropped)?;
        let waited = std::mem::take(&mut self.mempool);
        (self.headers, self.heights, self.coins, self.confirmed) = Default::default();
        for block in std::mem::take(&mut self.blocks) {
            self.connect(block);
        }
        self.waiting_file.clear()?;
        let unconfirmed = dropped.iter().flat_map(|block| block.txdata.iter().skip(1));
        for transaction in unconfirmed.chain(waited.iter().map(|waiting| &waiting.transaction)) {
            // One that spent a coin of a dropped block's miner is gone with it.
            self.accept(transaction.clone()).ok();
        }
        for (height, block) in (kept + 1..).zip(dropped) {
            self.replaced.insert(block.block_hash(), (height, block));
        }
        self.branch += 1;
        (0..=depth).rev().try_for_each(|remaining| self.mine(remaining))
    }

    /// Pays from the coinbases, which anyone can spend. Waiting change is used too, so that many can ask between blocks.
    pub(super) fn faucet(&mut self, to: ScriptBuf, amount_sat: u64) -> Result<Txid, RegtestError> {
        let dry = || RegtestError::refused(code::NO_FUNDS, "the faucet has no coins left to spend now");
        let needed_sat = amount_sat.checked_add(FAUCET_FEE_SAT).ok_or_else(dry)?;
        let (mut inputs, mut sum_sat) = (Vec::new(), 0);
        for (out_point, value_sat) in self.faucet_coins() {
            if sum_sat >= needed_sat {
                break;
            }
            inputs.push(out_point);
            sum_sat += value_sat;
        }
        let change_sat = sum_sat.checked_sub(needed_sat).ok_or_else(dry)?;
        let witness = Witness::from_slice(&[anyone_can_spend().as_bytes()]);
        let transaction = Transaction {
            version: Version::TWO,
            lock_time: LockTime::ZERO,
            input: inputs
                .into_iter()
                .map(|previous_output| TxIn {
                    previous_output,
                    script_sig: ScriptBuf::new(),
                    sequence: Sequence::ENABLE_RBF_NO_LOCKTIME,
                    witness: witness.clone(),
                })
                .collect(),
            output: vec![
                TxOut { value: Amount::from_sat(amount_sat), script_pubkey: to },
                TxOut { value: Amount::from_sat(change_sat), script_pubkey: anyone_can_spend().to_p2wsh() },
            ],
        };
        self.accept(transaction)
    }

    /// The faucet's coins that can be spent in the next block, oldest first.
    fn faucet_coins(&self) -> Vec<(OutPoint, u64)> {
        let (script, next) = (anyone_can_spend().to_p2wsh(), self.height() + 1);
        let confirmed = self.coins.iter().filter(|(_, coin)| {
            coin.output.script_pubkey == script && (!coin.coinbase || next - coin.height >= MATURITY_BLOCKS)
        });
        let mut coins: Vec<_> = confirmed.map(|(at, coin)| (coin.height, *at, coin.output.value.to_sat())).collect();
        for waiting in self.mempool.iter() {
            let txid = waiting.transaction.compute_txid();
            for (vout, output) in (0_u32..).zip(&waiting.transaction.output) {
                if output.script_pubkey == script {
                    coins.push((next, OutPoint::new(txid, vout), output.value.to_sat()));
                }
            }
        }
        coins.retain(|(_, out_point, _)| !self.mempool.is_spent(out_point));
        coins.sort();
        coins.into_iter().map(|(_, out_point, value_sat)| (out_point, value_sat)).collect()
    }

    fn now_s(&self) -> u32 {
        u32::try_from(self.clock.now().0 / 1_000).unwrap_or(u32::MAX)
    }
}

fn anyone_can_spend() -> ScriptBuf {
    Builder::new().push_opcode(bitcoin::opcodes::OP_TRUE).into_script()
}

/// BIP 113: the median of the last eleven blocks' times; 0 without any.
fn median_time(headers: &[Header]) -> u32 {
    let mut times: Vec<u32> = headers.iter().rev().take(11).map(|header| header.time).collect();
    times.sort_unstable();
    times.get(times.len() / 2).copied().unwrap_or(0)
}

fn is_final(transaction: &Transaction, height: u32, median_time: u32) -> bool {
    if transaction.input.iter().all(|input| input.sequence == Sequence::MAX) {
        return true;
    }
    match transaction.lock_time {
        LockTime::Blocks(lock) => lock.to_consensus_u32() < height,
        LockTime::Seconds(lock) => lock.to_consensus_u32() < median_time,
    }
}

fn coinbase(height: u32, branch: u32, value_sat: u64) -> Transaction {
    let mut tag = PushBytesBuf::new();
    // Five bytes are far below the limit of a push.
    tag.extend_from_slice(b"l402t").ok();
    let script_sig =
        Builder::new().push_int(i64::from(height)).push_slice(tag).push_int(i64::from(branch)).into_script();
    Transaction {
        version: Version::TWO,
        lock_time: LockTime::ZERO,
        input: vec![TxIn {
            previous_output: OutPoint::null(),
            script_sig,
            sequence: Sequence::MAX,
            witness: Witness::from_slice(&[[0_u8; 32]]),
        }],
        output: vec![TxOut { value: Amount::from_sat(value_sat), script_pubkey: anyone_can_spend().to_p2wsh() }],
    }
}

/// BIP 141: the coinbase's commitment to all witnesses.
fn commit_to_witnesses(block: &mut Block) {
    let Some(root) = block.witness_root() else { return };
    let commitment = Block::compute_witness_commitment(&root, &[0; 32]);
    let mut script = vec![0x6a, 0x24, 0xaa, 0x21, 0xa9, 0xed];
    script.extend(commitment.as_byte_array());
    let output = TxOut { value: Amount::ZERO, script_pubkey: ScriptBuf::from_bytes(script) };
    block.txdata[0].output.push(output);
}
