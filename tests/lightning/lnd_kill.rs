//! kill -9 with real LNDs: of an LND, and of the process that gives it orders. Ignored by default, like the contract.
//!
//! The child is this test binary again, running [`child`] alone: it attaches to the peer's LND, carries out one order
//! and waits to be killed.

use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use l402t::ln::lnd::{LndNode, Settings};
use l402t::ln::{InvoiceRequest, InvoiceStatus, Lightning, PaymentStatus};
use l402t::protocol::amount::Msat;
use l402t::protocol::ids::{PaymentHash, Preimage};
use secrecy::SecretSlice;

use crate::bench::{
    Bench, FINAL_CLTV_BLOCKS, LIMITS, accepted, hold, peer_can_send, preimage, refunded, request, settled,
};
use crate::latency::say;
use crate::lnd::{Lnd, start};

/// Milliseconds from an order to the kill.
const DELAYS_MS: [u64; 5] = [0, 4, 15, 60, 250];
const AMOUNT_MSAT: u64 = 2_000_000;
/// Five seconds of looking, and how often what was left open is helped on.
const POLLS: u32 = 100;
const NUDGES: u32 = 2;
/// Two minutes.
const GIVE_UP_POLLS: u32 = 480;
/// Before what the child answers; the test harness writes to standard output too.
const MARK: &str = ">>> ";

/// Not a test: what the child process runs.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "the child process of the tests here"]
async fn lnd_child() {
    let mut lines = std::io::stdin().lines().map(|line| line.expect("readable"));
    let mut next = || lines.next().expect("another line");
    let (address, certificate, macaroon, folder) = (next(), next(), next(), PathBuf::from(next()));
    let read = |path: &str| SecretSlice::from(std::fs::read(path).expect("readable"));
    let settings = Settings { address, tls_cert: read(&certificate), macaroon: read(&macaroon), advertise: None };
    let node = LndNode::start(&settings, &folder).await.expect("it can be used");
    answer("up");
    let line = next();
    let (command, rest) = line.split_once(' ').expect("an order");
    let hash = || rest.parse::<PaymentHash>().expect("a hash");
    let done = match command {
        "settle" => node.settle(rest.parse().expect("a preimage")).await,
        "cancel" => node.cancel(hash()).await,
        "pay" => node.pay(rest, LIMITS).await.map(drop),
        other => panic!("unknown order {other}"),
    };
    answer(&format!("{done:?}"));
    // Until it is killed.
    std::future::pending::<()>().await;
}

#[allow(clippy::print_stdout, reason = "the parent reads it")]
fn answer(text: &str) {
    println!("{MARK}{text}");
    std::io::stdout().flush().expect("written");
}

/// Has a child attach to the LND of one side, give it one order and be killed so long after.
fn order_and_kill(lnd: &crate::lnd::Side, order: &str, delay: Duration) {
    let mut process: Child = Command::new(std::env::current_exe().expect("this binary"))
        .args(["lnd_kill::lnd_child", "--exact", "--ignored", "--nocapture", "--test-threads=1"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .expect("started");
    let (mut input, output) = (process.stdin.take().expect("piped"), process.stdout.take().expect("piped"));
    let files = lnd.process.files();
    let path = |path: &Path| path.display().to_string();
    let (certificate, macaroon) = (path(&files.tls_cert), path(&files.admin_macaroon));
    writeln!(input, "{}\n{certificate}\n{macaroon}\n{}", files.rpc, path(lnd.folder())).expect("written");
    let mut lines = BufReader::new(output).lines().map(|line| line.expect("readable"));
    assert!(lines.any(|line| line.contains(&format!("{MARK}up"))), "it came up");
    writeln!(input, "{order}").expect("written");
    std::thread::sleep(delay);
    process.kill().expect("killed");
    process.wait().expect("gone");
}

/// A payment that LND lost is given up once its invoice has expired.
fn soon_expired() -> InvoiceRequest {
    InvoiceRequest { expiry_s: 45, ..request(AMOUNT_MSAT) }
}

/// A hold invoice of the peer's, not paid yet.
async fn open_invoice(bench: &Lnd, tag: u8) -> (Preimage, PaymentHash, String) {
    let (preimage, hash) = preimage(tag);
    let invoice = bench.peer().create_hold_invoice(hash, &soon_expired(), FINAL_CLTV_BLOCKS).await;
    (preimage, hash, invoice.expect("made"))
}

async fn can_send(bench: &Lnd) -> Msat {
    bench.quiet().await;
    bench.peer().info().await.expect("up").outbound_msat
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs btcd and lnd: ./x regtest test"]
async fn an_lnd_killed_around_an_order_ends_it_after_its_restart() {
    let mut bench = start().await;
    let before = can_send(&bench).await;
    let mut earned = 0;
    for (place, delay_ms) in DELAYS_MS.into_iter().enumerate() {
        let tag = u8::try_from(place).expect("few") * 3 + 1;
        let delay = Duration::from_millis(delay_ms);
        // The payee dies around its claim, and gets the order again, as after any unclear answer.
        let (to_settle, _) = hold(&bench, tag, AMOUNT_MSAT).await;
        let (_, to_cancel) = hold(&bench, tag + 1, AMOUNT_MSAT).await;
        let peer = bench.peer();
        let orders = tokio::spawn(async move {
            let settled = peer.settle(to_settle).await;
            let canceled = peer.cancel(to_cancel).await;
            (settled, canceled)
        });
        tokio::time::sleep(delay).await;
        bench.peer.process.kill();
        // What came of it is not looked at: an unclear answer is one of the outcomes.
        orders.await.expect("no panic").0.ok();
        bench.peer.process.restart().await.expect("lnd comes back");
        bench.peer.attach().await;
        bench.usable().await;
        bench.peer().settle(to_settle).await.expect("taken");
        bench.peer().cancel(to_cancel).await.expect("taken");
        settled(&bench, to_settle, AMOUNT_MSAT).await;
        refunded(&bench, to_cancel).await;
        // The payer dies around its payment.
        let (preimage, hash, invoice) = open_invoice(&bench, tag + 2).await;
        let (coordinator, text) = (bench.coordinator(), invoice.clone());
        let order = tokio::spawn(async move { coordinator.pay(&text, LIMITS).await });
        tokio::time::sleep(delay).await;
        bench.coordinator.process.kill();
        order.await.expect("no panic").ok();
        bench.coordinator.process.restart().await.expect("lnd comes back");
        bench.coordinator.attach().await;
        bench.usable().await;
        earned += AMOUNT_MSAT;
        if pay_until_locked(&bench, hash, &invoice).await == Paid::Locked {
            bench.peer().settle(preimage).await.expect("taken");
            settled(&bench, preimage, AMOUNT_MSAT).await;
            earned += AMOUNT_MSAT;
        }
        say(&format!("killed {delay_ms} ms after the orders: {} msat earned so far", earned));
    }
    bench.quiet().await;
    peer_can_send(&bench, Msat::new(before.msat() + earned)).await;
    bench.stop().await;
}

/// What a caller does after a restart: it looks, and orders again what is not there or has failed. An exchange that the
/// kill left open ends with the next update.
async fn pay_until_locked(bench: &Lnd, hash: PaymentHash, invoice: &str) -> Paid {
    let (coordinator, peer) = (bench.coordinator(), bench.peer());
    for _ in 0..NUDGES {
        for _ in 0..POLLS {
            let status = coordinator.payment(hash).await;
            if let Ok(PaymentStatus::NotFound | PaymentStatus::Failed { .. }) = status {
                coordinator.pay(invoice, LIMITS).await.ok();
            }
            let invoice = peer.invoice(hash).await;
            if matches!(invoice, Ok(InvoiceStatus::Accepted { amount, .. }) if amount == Msat::new(AMOUNT_MSAT)) {
                return Paid::Locked;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        say(&format!("{:?} there, {:?} here", coordinator.payment(hash).await, peer.invoice(hash).await));
        bench.nudge().await;
    }
    // LND calls it in flight, and never sends it: it was killed between the two.
    for _ in 0..GIVE_UP_POLLS {
        if matches!(coordinator.payment(hash).await, Ok(PaymentStatus::Failed { .. })) {
            assert_eq!(peer.invoice(hash).await.expect("known"), InvoiceStatus::Canceled);
            return Paid::Lost;
        }
        tokio::time::sleep(Duration::from_millis(250)).await;
    }
    panic!("it never ends");
}

/// What became of a payment.
#[derive(Debug, PartialEq, Eq)]
enum Paid {
    Locked,
    Lost,
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs btcd and lnd: ./x regtest test"]
async fn a_process_killed_around_an_order_to_lnd_ends_it_after_its_restart() {
    let mut bench = start().await;
    let before = can_send(&bench).await;
    for (place, delay_ms) in DELAYS_MS.into_iter().enumerate() {
        let tag = u8::try_from(place).expect("few") * 4 + 1;
        let delay = Duration::from_millis(delay_ms);
        let (held, _) = hold(&bench, tag, AMOUNT_MSAT).await;
        let (_, to_cancel) = hold(&bench, tag + 1, AMOUNT_MSAT).await;
        let (early, early_hash, early_invoice) = open_invoice(&bench, tag + 2).await;
        let (paid, paid_hash, paid_invoice) = open_invoice(&bench, tag + 3).await;
        // One process a data folder.
        let detached: Arc<LndNode> = bench.peer.node.take().expect("runs");
        detached.stop().await;
        drop(detached);
        let hex = |preimage: &Preimage| hex::encode(preimage.as_bytes());
        order_and_kill(&bench.peer, &format!("settle {}", hex(&held)), delay);
        order_and_kill(&bench.peer, &format!("cancel {to_cancel}"), delay);
        order_and_kill(&bench.peer, &format!("settle {}", hex(&early)), delay);
        order_and_kill(&bench.coordinator, &format!("pay {paid_invoice}"), delay);
        bench.peer.attach().await;
        for preimage in [held, early] {
            bench.peer().settle(preimage).await.expect("taken");
        }
        bench.peer().cancel(to_cancel).await.expect("taken");
        settled(&bench, held, AMOUNT_MSAT).await;
        refunded(&bench, to_cancel).await;
        bench.coordinator().pay(&early_invoice, LIMITS).await.expect("taken");
        settled(&bench, early, AMOUNT_MSAT).await;
        assert_eq!(bench.coordinator().payment(early_hash).await.ok().map(|status| is_paid(&status)), Some(true));
        assert_eq!(pay_until_locked(&bench, paid_hash, &paid_invoice).await, Paid::Locked);
        accepted(&bench, paid_hash).await;
        bench.peer().settle(paid).await.expect("taken");
        settled(&bench, paid, AMOUNT_MSAT).await;
    }
    let earned = AMOUNT_MSAT * 3 * DELAYS_MS.len() as u64;
    bench.quiet().await;
    peer_can_send(&bench, Msat::new(before.msat() + earned)).await;
    bench.stop().await;
}

fn is_paid(status: &PaymentStatus) -> bool {
    matches!(status, PaymentStatus::Succeeded { .. })
}
