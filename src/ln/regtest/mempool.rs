//! Transactions that wait for a block: what may enter, and what a better-paying one replaces.

use std::collections::{BTreeMap, HashMap};

use bitcoin::{OutPoint, Transaction, TxOut, Txid};

use super::chain::Coin;

/// A waiting transaction.
#[derive(Debug)]
pub(super) struct Waiting {
    pub(super) transaction: Transaction,
    /// When it came, in seconds since the Unix epoch.
    pub(super) time_s: u32,
    /// The tip's height when it came.
    pub(super) height: u32,
    pub(super) fee_sat: u64,
}

/// The waiting transactions, parents before children.
#[derive(Debug, Default)]
pub(super) struct Mempool {
    /// By order of arrival.
    waiting: BTreeMap<u64, Waiting>,
    places: HashMap<Txid, u64>,
    spends: HashMap<OutPoint, Txid>,
    arrivals: u64,
}

impl Mempool {
    pub(super) fn len(&self) -> usize {
        self.waiting.len()
    }

    pub(super) fn get(&self, txid: &Txid) -> Option<&Waiting> {
        self.waiting.get(self.places.get(txid)?)
    }

    /// In the order of arrival, which is an order they can be mined in.
    pub(super) fn iter(&self) -> impl Iterator<Item = &Waiting> {
        self.waiting.values()
    }

    pub(super) fn fees_sat(&self) -> u64 {
        self.iter().map(|waiting| waiting.fee_sat).sum()
    }

    /// A waiting transaction's output, as a coin of the block at `height`.
    pub(super) fn coin(&self, out_point: &OutPoint, height: u32) -> Option<Coin> {
        let output = self.output(out_point)?.clone();
        Some(Coin { output, height, coinbase: false })
    }

    fn output(&self, out_point: &OutPoint) -> Option<&TxOut> {
        self.get(&out_point.txid)?.transaction.output.get(out_point.vout as usize)
    }

    pub(super) fn is_spent(&self, out_point: &OutPoint) -> bool {
        self.spends.contains_key(out_point)
    }

    /// The waiting transactions that can't stay beside `transaction`: those that spend its inputs, and their descendants.
    pub(super) fn conflicts(&self, transaction: &Transaction) -> Vec<Txid> {
        let mut found: Vec<Txid> = Vec::new();
        for input in &transaction.input {
            if let Some(txid) = self.spends.get(&input.previous_output)
                && !found.contains(txid)
            {
                found.push(*txid);
            }
        }
        let mut next = 0;
        while let Some(txid) = found.get(next).copied() {
            for (out_point, spender) in &self.spends {
                if out_point.txid == txid && !found.contains(spender) {
                    found.push(*spender);
                }
            }
            next += 1;
        }
        found
    }

    pub(super) fn insert(&mut self, txid: Txid, waiting: Waiting) {
        self.arrivals += 1;
        for input in &waiting.transaction.input {
            self.spends.insert(input.previous_output, txid);
        }
        self.places.insert(txid, self.arrivals);
        self.waiting.insert(self.arrivals, waiting);
    }

    pub(super) fn remove(&mut self, txid: &Txid) {
        let removed = self.places.remove(txid).and_then(|place| self.waiting.remove(&place));
        for input in removed.iter().flat_map(|waiting| &waiting.transaction.input) {
            self.spends.remove(&input.previous_output);
        }
    }
}
