//! A Lightning network in memory, for tests: channels, hold invoices, blocks and faults, all decided by a seed.
//!
//! Invoices are real BOLT 11. State survives a crash of a node; events don't. It must never be chosen silently: only
//! tests and an explicit setting make one. Not modelled: on-chain fees, channel reserves, force-closes.

mod faults;
mod ledger;
mod node;
#[cfg(test)]
mod tests;
mod world;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

pub use faults::Faults;
use world::World;

use crate::clock::{Clock, SystemClock};
use crate::ln::{InvoiceStatus, Lightning, LnEvent, PaymentStatus};
use crate::protocol::amount::Msat;
use crate::protocol::ids::PaymentHash;

/// The network. Clones share it.
///
/// Without delays everything that a call sets off happens before the call returns. With delays, time is counted in
/// calls: each call to any node, and each [`Network::advance`], is one tick.
#[derive(Clone, Debug)]
pub struct Network {
    world: Arc<Mutex<World>>,
}

impl Network {
    /// An empty network on the machine's clock.
    pub fn new(seed: u64, faults: Faults) -> Self {
        Self::with_clock(seed, faults, Arc::new(SystemClock))
    }

    /// An empty network whose invoices expire by `clock`.
    pub fn with_clock(seed: u64, faults: Faults, clock: Arc<dyn Clock>) -> Self {
        Self { world: Arc::new(Mutex::new(World::new(seed, faults, clock))) }
    }

    fn world(&self) -> MutexGuard<'_, World> {
        // A panic while it was held is a failed test already.
        self.world.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The node of that name, online from its first mention on.
    pub fn node(&self, name: &str) -> Arc<dyn Lightning> {
        let index = self.world().node(name);
        Arc::new(node::SimulatedNode::new(self.clone(), index))
    }

    /// Gives a node coins on chain: the only way money enters.
    ///
    /// # Panics
    /// Past 21 million bitcoin.
    pub fn fund(&self, name: &str, amount: Msat) {
        let mut world = self.world();
        let index = world.node(name);
        let node = &mut world.ledger.nodes[index];
        node.on_chain = node.on_chain.checked_add(amount).expect("less than all bitcoin");
    }

    /// Funds `from` with `capacity` and opens a channel with it, `push` on `to`'s side.
    ///
    /// # Panics
    /// When `push` is more than `capacity`.
    pub fn channel(&self, from: &str, to: &str, capacity: Msat, push: Msat) {
        self.fund(from, capacity);
        let mut world = self.world();
        let (from, to) = (world.node(from), world.node(to));
        world.ledger.open_channel(from, to, capacity, push).expect("the wallet was just funded");
        world.tell(from, LnEvent::Channels);
        world.tell(to, LnEvent::Channels);
        world.run_due();
    }

    /// Changes what goes wrong from now on.
    pub fn set_faults(&self, faults: Faults) {
        self.world().faults = faults;
    }

    /// Mines blocks; HTLCs that they make expire go back.
    pub fn mine(&self, blocks: u32) {
        let mut world = self.world();
        for _ in 0..blocks {
            world.mine_block();
        }
    }

    /// Lets ticks pass without a call.
    pub fn advance(&self, ticks: u64) {
        self.world().advance(ticks);
    }

    /// Takes a node down. Its calls fail until [`Network::restart`]; its listeners hear nothing more.
    pub fn crash(&self, name: &str) {
        let mut world = self.world();
        let index = world.node(name);
        world.crash(index);
    }

    /// Brings a node back with the state it had.
    pub fn restart(&self, name: &str) {
        let mut world = self.world();
        let index = world.node(name);
        world.ledger.nodes[index].online = true;
        world.run_due();
    }

    /// Takes blocks back, as a reorganisation does. What expired by them stays expired.
    pub fn unmine(&self, blocks: u32) {
        let mut world = self.world();
        world.ledger.height = world.ledger.height.saturating_sub(blocks);
    }

    /// Height of the best block.
    pub fn height(&self) -> u32 {
        self.world().ledger.height
    }

    /// Everything that a node ever tried to pay, for audits.
    pub fn payments(&self, name: &str) -> Vec<(PaymentHash, Msat, PaymentStatus)> {
        let mut world = self.world();
        let index = world.node(name);
        let payments = world.ledger.nodes[index].payments.iter();
        payments.map(|(hash, payment)| (*hash, payment.amount, payment.status())).collect()
    }

    /// Every invoice that a node ever made, for audits.
    pub fn invoices(&self, name: &str) -> Vec<(PaymentHash, Msat, InvoiceStatus)> {
        let mut world = self.world();
        let (index, now) = (world.node(name), world.now());
        let invoices = world.ledger.nodes[index].invoices.iter();
        invoices.map(|(hash, invoice)| (*hash, invoice.amount, invoice.status(now))).collect()
    }

    /// Orders to pay what the payer had last been told to be [`PaymentStatus::Unknown`]: a mistake of the payer's.
    pub fn blind_resends(&self) -> u64 {
        self.world().blind_resends
    }

    /// How many channels there are between two nodes.
    pub fn channels_between(&self, a: &str, b: &str) -> usize {
        let mut world = self.world();
        let (a, b) = (world.node(a), world.node(b));
        world.ledger.channels_between(a, b)
    }

    /// Everything there is, on chain, in channels and in HTLCs: changed by [`Network::fund`] alone.
    pub fn total_msat(&self) -> Msat {
        self.world().ledger.total()
    }

    /// What a node owns outside of HTLCs.
    pub fn balance(&self, name: &str) -> Msat {
        let mut world = self.world();
        let index = world.node(name);
        world.ledger.balance(index)
    }
}
