//! The simulated network's books: nodes, channels, invoices, payments, and where every msat is.
//!
//! No faults, no clock and no randomness here: each function is one thing that happens to the money. It must never
//! create or lose an msat: what leaves one place enters another in the same function.

use std::collections::{BTreeMap, VecDeque};

use crate::ln::{ChannelState, FAIL_BACK_BLOCKS, InvoiceStatus, PaymentFailure, PaymentStatus};
use crate::protocol::amount::Msat;
use crate::protocol::ids::{PaymentHash, Preimage, UnixMs};

/// What a node on the way takes for forwarding, and the blocks that it adds.
pub(super) const FORWARDING_FEE: Msat = Msat::new(1_000);
pub(super) const FORWARDING_BLOCKS: u32 = 72;
/// Longest route, in channels.
const MAX_HOPS: usize = 3;
/// HTLCs that fit into a channel, per direction.
pub(super) const MAX_HTLCS: usize = 50;

/// A node, by its place in [`Ledger::nodes`].
pub(super) type NodeIndex = usize;

#[derive(Debug)]
pub(super) struct Node {
    pub(super) node_id: String,
    pub(super) online: bool,
    pub(super) on_chain: Msat,
    pub(super) invoices: BTreeMap<PaymentHash, InvoiceRecord>,
    pub(super) payments: BTreeMap<PaymentHash, PaymentRecord>,
}

#[derive(Debug)]
pub(super) struct InvoiceRecord {
    pub(super) bolt11: String,
    pub(super) amount: Msat,
    pub(super) expires_at: UnixMs,
    /// The node's own for an ordinary invoice; what `settle` was given for a hold invoice.
    pub(super) preimage: Option<Preimage>,
    pub(super) kind: InvoiceKind,
    pub(super) state: InvoiceState,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum InvoiceKind {
    Ordinary,
    Hold,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum InvoiceState {
    Open,
    Accepted { payer: NodeIndex, amount: Msat, expiry_height: u32 },
    Settled { amount: Msat },
    Canceled,
}

#[derive(Debug)]
pub(super) struct PaymentRecord {
    pub(super) payee: NodeIndex,
    pub(super) amount: Msat,
    pub(super) fee: Msat,
    pub(super) cltv_height: u32,
    pub(super) hops: Vec<Hop>,
    pub(super) state: PaymentState,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum PaymentState {
    /// The money is in the HTLCs of the hops.
    Locked,
    /// The payee has it; the payer has yet to hear.
    Claimed(Preimage),
    Succeeded(Preimage),
    Failed(PaymentFailure, String),
}

/// An HTLC on a channel: `amount` has left `from`'s side.
#[derive(Clone, Copy, Debug)]
pub(super) struct Hop {
    channel: usize,
    from: usize,
    amount: Msat,
}

#[derive(Debug)]
struct Channel {
    ends: [NodeIndex; 2],
    balance: [Msat; 2],
    htlcs: [usize; 2],
}

/// What the payer asks of the route.
#[derive(Clone, Copy, Debug)]
pub(super) struct Order {
    pub(super) payment_hash: PaymentHash,
    pub(super) payer: NodeIndex,
    pub(super) payee: NodeIndex,
    pub(super) amount: Msat,
    pub(super) final_cltv_blocks: u32,
    pub(super) max_fee: Msat,
    pub(super) max_cltv_blocks: u32,
}

#[derive(Debug)]
pub(super) struct Ledger {
    pub(super) height: u32,
    pub(super) nodes: Vec<Node>,
    channels: Vec<Channel>,
}

impl Ledger {
    pub(super) fn new() -> Self {
        Self { height: 120, nodes: Vec::new(), channels: Vec::new() }
    }

    /// Everything there is: on chain, in channels and in HTLCs.
    pub(super) fn total(&self) -> Msat {
        let nodes = self.nodes.iter().map(|node| node.on_chain);
        let channels = self.channels.iter().flat_map(|channel| channel.balance);
        let locked = self
            .nodes
            .iter()
            .flat_map(|node| node.payments.values())
            .filter(|payment| payment.state == PaymentState::Locked)
            .flat_map(|payment| payment.hops.iter().map(|hop| hop.amount));
        Msat::checked_sum(nodes.chain(channels).chain(locked)).expect("far less than all bitcoin")
    }

    /// What a node has outside of HTLCs.
    pub(super) fn balance(&self, node: NodeIndex) -> Msat {
        let in_channels = self.sides(node).map(|(channel, side)| channel.balance[side]);
        Msat::checked_sum(in_channels.chain([self.nodes[node].on_chain])).expect("far less than all bitcoin")
    }

    /// What a node can send, what it can receive, and how many usable channels it has.
    pub(super) fn liquidity(&self, node: NodeIndex) -> (Msat, Msat, u32) {
        let sides: Vec<_> = self.sides(node).filter(|(channel, _)| self.usable(channel)).collect();
        let own = sides.iter().map(|(channel, side)| channel.balance[*side]);
        let theirs = sides.iter().map(|(channel, side)| channel.balance[1 - side]);
        (
            Msat::checked_sum(own).unwrap_or_default(),
            Msat::checked_sum(theirs).unwrap_or_default(),
            u32::try_from(sides.len()).unwrap_or(u32::MAX),
        )
    }

    pub(super) fn channel_state(&self, a: NodeIndex, b: NodeIndex) -> ChannelState {
        let mut state = ChannelState::None;
        for (channel, side) in self.sides(a) {
            if channel.ends[1 - side] == b {
                if self.usable(channel) {
                    return ChannelState::Usable;
                }
                state = ChannelState::Pending;
            }
        }
        state
    }

    pub(super) fn channels_between(&self, a: NodeIndex, b: NodeIndex) -> usize {
        self.sides(a).filter(|(channel, side)| channel.ends[1 - side] == b).count()
    }

    /// Moves `capacity` from `from`'s wallet into a channel, `push` of it to the other side.
    pub(super) fn open_channel(
        &mut self,
        from: NodeIndex,
        to: NodeIndex,
        capacity: Msat,
        push: Msat,
    ) -> Result<(), String> {
        let wallet = self.nodes[from].on_chain;
        let rest = wallet.checked_sub(capacity).ok_or(format!("the wallet has {wallet}, not {capacity}"))?;
        let own = capacity.checked_sub(push).ok_or(format!("can't push {push} of {capacity}"))?;
        self.nodes[from].on_chain = rest;
        self.channels.push(Channel { ends: [from, to], balance: [own, push], htlcs: [0, 0] });
        Ok(())
    }

    /// Locks the money on a route, or says why there is none.
    pub(super) fn lock(&mut self, order: &Order) -> Result<(), String> {
        let hops = self.route(order)?;
        for hop in &hops {
            let channel = &mut self.channels[hop.channel];
            channel.balance[hop.from] = less(channel.balance[hop.from], hop.amount);
            channel.htlcs[hop.from] += 1;
        }
        let fee = hops.first().map_or(Msat::ZERO, |hop| less(hop.amount, order.amount));
        let record = PaymentRecord {
            payee: order.payee,
            amount: order.amount,
            fee,
            cltv_height: self.height + order.final_cltv_blocks,
            hops,
            state: PaymentState::Locked,
        };
        self.nodes[order.payer].payments.insert(order.payment_hash, record);
        Ok(())
    }

    /// The payee takes the money that is locked to it. The payer hears by [`Ledger::hear_claim`].
    pub(super) fn claim(&mut self, payer: NodeIndex, hash: PaymentHash, preimage: Preimage) {
        self.release(payer, hash, PaymentState::Claimed(preimage), |hop| 1 - hop.from);
    }

    /// Gives the locked money back to the payer.
    pub(super) fn refund(&mut self, payer: NodeIndex, hash: PaymentHash, reason: &str) {
        self.release(payer, hash, PaymentState::Failed(PaymentFailure::Refused, reason.into()), |hop| hop.from);
    }

    fn release(&mut self, payer: NodeIndex, hash: PaymentHash, end: PaymentState, to: impl Fn(&Hop) -> usize) {
        let Some(payment) = self.nodes[payer].payments.get_mut(&hash) else { return };
        if payment.state != PaymentState::Locked {
            return;
        }
        payment.state = end;
        for hop in &payment.hops {
            let channel = &mut self.channels[hop.channel];
            channel.balance[to(hop)] = more(channel.balance[to(hop)], hop.amount);
            channel.htlcs[hop.from] -= 1;
        }
    }

    pub(super) fn hear_claim(&mut self, payer: NodeIndex, hash: PaymentHash) {
        if let Some(payment) = self.nodes[payer].payments.get_mut(&hash)
            && let PaymentState::Claimed(preimage) = payment.state
        {
            payment.state = PaymentState::Succeeded(preimage);
        }
    }

    /// The shortest route with enough money, HTLC slots and online nodes all the way.
    fn route(&self, order: &Order) -> Result<Vec<Hop>, String> {
        if !self.nodes[order.payee].online {
            return Err("no route: the payee is offline".into());
        }
        let path = self.path(order).ok_or("no route with enough capacity")?;
        let forwards = path.len() as u32 - 1;
        let fee = FORWARDING_FEE.checked_mul(u64::from(forwards)).unwrap_or(Msat::MAX_MONEY);
        if fee > order.max_fee {
            return Err(format!("no route: the fee of {fee} is more than {}", order.max_fee));
        }
        let blocks = order.final_cltv_blocks + forwards * FORWARDING_BLOCKS;
        if blocks > order.max_cltv_blocks {
            return Err(format!("no route: {blocks} blocks are more than {}", order.max_cltv_blocks));
        }
        let count = path.len();
        let amount = |place: usize| {
            let fees = FORWARDING_FEE.checked_mul((count - 1 - place) as u64).unwrap_or(Msat::MAX_MONEY);
            more(order.amount, fees)
        };
        Ok(path.into_iter().enumerate().map(|(n, (channel, from))| Hop { channel, from, amount: amount(n) }).collect())
    }

    /// Breadth first. Each hop must carry the amount and every fee that could come on top.
    fn path(&self, order: &Order) -> Option<Vec<(usize, usize)>> {
        let most = more(order.amount, FORWARDING_FEE.checked_mul(MAX_HOPS as u64 - 1)?);
        let mut queue = VecDeque::from([(order.payer, Vec::new())]);
        while let Some((at, path)) = queue.pop_front() {
            if at == order.payee {
                return Some(path);
            }
            if path.len() == MAX_HOPS || !self.nodes[at].online {
                continue;
            }
            for (index, channel) in self.channels.iter().enumerate() {
                let Some(from) = channel.ends.iter().position(|end| *end == at) else { continue };
                let last = channel.ends[1 - from] == order.payee;
                let needed = if last && path.is_empty() { order.amount } else { most };
                let fits = channel.balance[from] >= needed && channel.htlcs[from] < MAX_HTLCS;
                if fits && !path.iter().any(|(used, _)| *used == index) {
                    let mut longer = path.clone();
                    longer.push((index, from));
                    queue.push_back((channel.ends[1 - from], longer));
                }
            }
        }
        None
    }

    fn usable(&self, channel: &Channel) -> bool {
        channel.ends.iter().all(|end| self.nodes[*end].online)
    }

    /// The node's channels, each with the node's side of it.
    fn sides(&self, node: NodeIndex) -> impl Iterator<Item = (&Channel, usize)> {
        self.channels
            .iter()
            .filter_map(move |channel| channel.ends.iter().position(|end| *end == node).map(|side| (channel, side)))
    }
}

impl PaymentRecord {
    pub(super) fn status(&self) -> PaymentStatus {
        match &self.state {
            PaymentState::Locked | PaymentState::Claimed(_) => PaymentStatus::InFlight,
            PaymentState::Succeeded(preimage) => PaymentStatus::Succeeded { preimage: *preimage, fee: self.fee },
            PaymentState::Failed(why, reason) => PaymentStatus::Failed { why: *why, reason: reason.clone() },
        }
    }
}

impl InvoiceRecord {
    pub(super) fn status(&self, now: UnixMs) -> InvoiceStatus {
        match self.state {
            InvoiceState::Open if now >= self.expires_at => InvoiceStatus::Canceled,
            InvoiceState::Open => InvoiceStatus::Open,
            InvoiceState::Accepted { amount, expiry_height, .. } => {
                InvoiceStatus::Accepted { amount, expiry_height: Some(expiry_height) }
            }
            InvoiceState::Settled { amount } => InvoiceStatus::Settled { amount },
            InvoiceState::Canceled => InvoiceStatus::Canceled,
        }
    }
}

/// The height at which a payee gives an HTLC back, so as not to claim it too late.
pub(super) fn fail_back_height(cltv_height: u32) -> u32 {
    cltv_height.saturating_sub(FAIL_BACK_BLOCKS)
}

fn more(amount: Msat, by: Msat) -> Msat {
    amount.checked_add(by).expect("far less than all bitcoin")
}

fn less(amount: Msat, by: Msat) -> Msat {
    amount.checked_sub(by).expect("checked before it was locked")
}
