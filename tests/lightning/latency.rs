//! Not tests: how long locking and settling take, and what a thousand held rewards cost. Run one alone, with
//! `--ignored --nocapture`; docs/benchmarks.md keeps the figures.

use std::time::{Duration, Instant};

use futures_util::future::join_all;
use l402t::ln::{InvoiceStatus, LnEvent, PaymentStatus};
use tokio::sync::broadcast::Receiver;
use tokio::sync::broadcast::error::RecvError;

use crate::bench::{Bench, FINAL_CLTV_BLOCKS, LIMITS, numbered, request};

/// One after another, and then in all by the lanes.
const PAYMENTS: u16 = 200;
/// In flight at once.
const LANES: u16 = 20;
const AMOUNT_MSAT: u64 = 2_000_000;

#[allow(clippy::disallowed_methods, reason = "it measures time")]
pub(crate) fn now() -> Instant {
    Instant::now()
}

/// What each payment took.
#[derive(Default)]
struct Times {
    created: Vec<Duration>,
    locked: Vec<Duration>,
    settled: Vec<Duration>,
}

impl Times {
    fn add(&mut self, more: Times) {
        self.created.extend(more.created);
        self.locked.extend(more.locked);
        self.settled.extend(more.settled);
    }
}

/// Locking and settling over any pair of nodes: one at a time, after a restart of each, and many at once.
pub(crate) async fn measure(bench: &mut impl Bench) {
    let mut alone = lane(bench, 0, PAYMENTS).await;
    report("the first lock", &mut alone.locked[..1].to_vec());
    report("create a hold invoice", &mut alone.created);
    report("one at a time: pay until locked", &mut alone.locked);
    report("one at a time: settle until the payer knows", &mut alone.settled);
    let start = now();
    bench.restart_peer().await;
    report("payee: clean stop, start and channel usable", &mut [start.elapsed()]);
    let start = now();
    bench.restart_coordinator().await;
    report("payer: clean stop, start and channel usable", &mut [start.elapsed()]);
    // The first payment after a start takes longer.
    lane(bench, 1, 1).await;
    let (start, mut all) = (now(), Times::default());
    let lanes = (0..LANES).map(|number| lane(bench, 2 + number, PAYMENTS / LANES));
    join_all(lanes).await.into_iter().for_each(|times| all.add(times));
    let per_second = f64::from(PAYMENTS) / start.elapsed().as_secs_f64();
    report(&format!("{LANES} in flight: pay until locked"), &mut all.locked);
    report(&format!("{LANES} in flight: settle until the payer knows"), &mut all.settled);
    say(&format!("{LANES} in flight: {per_second:.1} rewards locked and settled a second"));
}

/// Locks and settles one payment after another. No two lanes may have the same number.
async fn lane(bench: &impl Bench, number: u16, payments: u16) -> Times {
    let (coordinator, peer, mut times) = (bench.coordinator(), bench.peer(), Times::default());
    let (mut paying, mut receiving) = (coordinator.events(), peer.events());
    for place in 0..payments {
        let preimage = numbered(number, place);
        let hash = preimage.payment_hash();
        let start = now();
        let invoice = peer.create_hold_invoice(hash, &request(AMOUNT_MSAT), FINAL_CLTV_BLOCKS).await.expect("made");
        times.created.push(start.elapsed());
        let start = now();
        coordinator.pay(&invoice, LIMITS).await.expect("taken");
        heard(&mut receiving, LnEvent::Invoice(hash), async || {
            matches!(peer.invoice(hash).await, Ok(InvoiceStatus::Accepted { .. }))
        })
        .await;
        times.locked.push(start.elapsed());
        let start = now();
        peer.settle(preimage).await.expect("taken");
        heard(&mut paying, LnEvent::Payment(hash), async || {
            matches!(coordinator.payment(hash).await, Ok(PaymentStatus::Succeeded { .. }))
        })
        .await;
        times.settled.push(start.elapsed());
        heard(&mut receiving, LnEvent::Invoice(hash), async || {
            matches!(peer.invoice(hash).await, Ok(InvoiceStatus::Settled { .. }))
        })
        .await;
    }
    times
}

/// Waits for an event after which the check holds. A listener that fell behind looks, too.
async fn heard(events: &mut Receiver<LnEvent>, wanted: LnEvent, mut holds: impl AsyncFnMut() -> bool) {
    loop {
        match events.recv().await {
            Ok(event) if event != wanted => {}
            Err(RecvError::Closed) => panic!("the node ended"),
            Ok(_) | Err(RecvError::Lagged(_)) => {
                if holds().await {
                    return;
                }
            }
        }
    }
}

pub(crate) fn report(what: &str, times: &mut [Duration]) {
    times.sort();
    let at = |percent: usize| times[(times.len() * percent / 100).min(times.len() - 1)].as_secs_f64() * 1e3;
    say(&format!("{what}: n {}, p50 {:.1} ms, p90 {:.1} ms, p99 {:.1} ms", times.len(), at(50), at(90), at(99)));
}

#[allow(clippy::print_stderr, reason = "a measurement is for people")]
pub(crate) fn say(text: &str) {
    eprintln!("{text}");
}

/// Where the nodes are in this process.
#[cfg(feature = "embedded")]
mod embedded_nodes {
    use super::{measure, now, report};
    use crate::bench::Bench;

    #[tokio::test]
    #[ignore = "a measurement, not a test"]
    async fn lock_and_settle_embedded() {
        let start = now();
        let mut bench = crate::embedded::start().await;
        report("from nothing to a usable channel", &mut [start.elapsed()]);
        measure(&mut bench).await;
        bench.stop().await;
    }
}

/// A coordinator in a process of its own that locks a thousand rewards, and what that costs it.
#[cfg(feature = "embedded")]
mod thousand_held {
    use std::path::Path;
    use std::sync::Arc;

    use futures_util::future::join_all;
    use l402t::ln::embedded::EmbeddedNode;
    use l402t::ln::{InvoiceStatus, Lightning};

    use super::{AMOUNT_MSAT, now, report, say};
    use crate::bench::{FINAL_CLTV_BLOCKS, numbered, request, until};
    use crate::embedded::{node, regtest};
    use crate::kill::Victim;

    const PEERS: u16 = 25;
    /// LDK takes 50 HTLCs in a channel and direction.
    const HELD_BY_EACH: u16 = 40;

    #[tokio::test]
    #[ignore = "a measurement, not a test"]
    async fn a_thousand_rewards_held_by_embedded() {
        let root = tempfile::tempdir().expect("a folder");
        let (_chain, rpc) = regtest(&root);
        let folder = root.path().join("coordinator");
        let mut coordinator = Victim::start(&rpc, &folder, "");
        assert_eq!(coordinator.ask("fund 400000000"), "Ok(())");
        say(&format!("coordinator without channels: {} MiB", memory_mib(coordinator.id())));
        let mut peers = Vec::new();
        for number in 0..PEERS {
            peers.push(join(&root.path().join(format!("peer{number}")), &rpc, &mut coordinator).await);
        }
        say(&format!("with {PEERS} channels: {} MiB", memory_mib(coordinator.id())));
        let start = now();
        for place in 0..HELD_BY_EACH {
            for (peer, number) in peers.iter().zip(0..) {
                let hash = numbered(number, place).payment_hash();
                let made = peer.create_hold_invoice(hash, &request(AMOUNT_MSAT), FINAL_CLTV_BLOCKS).await;
                assert_eq!(coordinator.ask(&format!("pay {}", made.expect("made"))), format!("Ok({hash:?})"));
            }
        }
        let all = peers.iter().zip(0..).map(|(peer, number)| held(peer, number));
        join_all(all).await;
        let held = u32::from(PEERS * HELD_BY_EACH);
        say(&format!("{held} rewards locked in {:.1} s", start.elapsed().as_secs_f64()));
        say(&format!("with {held} held: {} MiB", memory_mib(coordinator.id())));
        // The first with a kill -9, as after a crash.
        for what in ["after a kill", "after another"] {
            drop(coordinator);
            let start = now();
            coordinator = Victim::start(&rpc, &folder, "");
            report(&format!("{what}: start until the node answers"), &mut [start.elapsed()]);
            until("every channel is usable", async || coordinator.ask("channels") == PEERS.to_string()).await;
            report(&format!("{what}: start until all {PEERS} channels are usable"), &mut [start.elapsed()]);
            say(&format!("{what}: {} MiB", memory_mib(coordinator.id())));
        }
        let start = now();
        for (peer, number) in peers.iter().zip(0..) {
            for place in 0..HELD_BY_EACH {
                peer.settle(numbered(number, place)).await.expect("taken");
            }
        }
        join_all(peers.iter().zip(0..).map(|(peer, number)| settled(peer, number))).await;
        say(&format!("{held} rewards settled in {:.1} s", start.elapsed().as_secs_f64()));
        for peer in peers {
            peer.stop().await;
        }
    }

    async fn join(folder: &Path, rpc: &str, coordinator: &mut Victim) -> Arc<EmbeddedNode> {
        let peer = node(rpc, folder.to_path_buf(), std::slice::from_ref(&coordinator.node_id)).await;
        peer.fund_from_regtest_faucet(200_000).await.expect("funded");
        let address = peer.info().await.expect("up").address.expect("listens");
        assert_eq!(coordinator.ask(&format!("open {} {address}", peer.node_id())), "Ok(())");
        until("the channel is usable", async || peer.info().await.is_ok_and(|info| info.usable_channels == 1)).await;
        peer
    }

    async fn held(peer: &EmbeddedNode, number: u16) {
        each(peer, number, |status| matches!(status, InvoiceStatus::Accepted { .. })).await;
    }

    async fn settled(peer: &EmbeddedNode, number: u16) {
        each(peer, number, |status| matches!(status, InvoiceStatus::Settled { .. })).await;
    }

    async fn each(peer: &EmbeddedNode, number: u16, check: fn(&InvoiceStatus) -> bool) {
        for place in 0..HELD_BY_EACH {
            let hash = numbered(number, place).payment_hash();
            until("it is so", async || peer.invoice(hash).await.is_ok_and(|status| check(&status))).await;
        }
    }

    /// What the process has in memory now, as Linux counts it.
    fn memory_mib(process: u32) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{process}/status")).expect("Linux");
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("counted");
        line.trim().trim_end_matches(" kB").trim().parse::<u64>().expect("a number") / 1_024
    }
}
