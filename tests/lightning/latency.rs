//! Not a test: how long locking and settling take. Run it alone, with `--ignored --nocapture`.

use std::time::{Duration, Instant};

use l402t::ln::{InvoiceStatus, LnEvent, PaymentStatus};
use l402t::protocol::ids::{PaymentHash, Preimage};

use crate::bench::{Bench, FINAL_CLTV_BLOCKS, LIMITS, request};
use crate::embedded;

const PAYMENTS: u8 = 200;

#[allow(clippy::disallowed_methods, reason = "it measures time")]
fn now() -> Instant {
    Instant::now()
}

#[tokio::test]
#[ignore = "a measurement, not a test"]
async fn lock_and_settle() {
    let start = now();
    let mut bench = embedded::start().await;
    report("from nothing to a usable channel", &mut [start.elapsed()]);
    let (coordinator, peer) = (bench.coordinator(), bench.peer());
    let (mut payments, mut invoices) = (coordinator.events(), peer.events());
    let (mut created, mut locked, mut settled) = (Vec::new(), Vec::new(), Vec::new());
    for tag in 0..PAYMENTS {
        let preimage = Preimage::from_bytes([tag; 32]);
        let hash = preimage.payment_hash();
        let start = now();
        let invoice = peer.create_hold_invoice(hash, &request(2_000_000), FINAL_CLTV_BLOCKS).await.expect("made");
        created.push(start.elapsed());
        let start = now();
        coordinator.pay(&invoice, LIMITS).await.expect("taken");
        heard(&mut invoices, LnEvent::Invoice(hash)).await;
        locked.push(start.elapsed());
        assert!(matches!(peer.invoice(hash).await, Ok(InvoiceStatus::Accepted { .. })));
        let start = now();
        peer.settle(preimage).await.expect("taken");
        heard(&mut payments, LnEvent::Payment(hash)).await;
        settled.push(start.elapsed());
        assert!(matches!(coordinator.payment(hash).await, Ok(PaymentStatus::Succeeded { .. })));
        heard(&mut invoices, LnEvent::Invoice(hash)).await;
    }
    report("the first lock", &mut locked[..1].to_vec());
    report("create a hold invoice", &mut created);
    report("pay until locked", &mut locked);
    report("settle until the payer knows", &mut settled);
    for (name, restart) in [("payee", true), ("payer", false)] {
        let start = now();
        match restart {
            true => bench.restart_peer().await,
            false => bench.restart_coordinator().await,
        }
        report(&format!("{name}: clean stop, start and channel usable"), &mut [start.elapsed()]);
    }
    twenty_at_once(&bench).await;
    bench.stop().await;
}

async fn twenty_at_once(bench: &impl Bench) {
    let (coordinator, peer) = (bench.coordinator(), bench.peer());
    let start = now();
    let mut preimages = Vec::new();
    for tag in 0..20_u8 {
        let mut bytes = [tag; 32];
        bytes[31] = 255;
        let preimage = Preimage::from_bytes(bytes);
        preimages.push(preimage);
        let hash = preimage.payment_hash();
        let invoice = peer.create_hold_invoice(hash, &request(100_000), FINAL_CLTV_BLOCKS).await.expect("made");
        coordinator.pay(&invoice, LIMITS).await.expect("taken");
    }
    let each = |check: fn(&InvoiceStatus) -> bool| {
        let (peer, hashes) = (&peer, preimages.iter().map(Preimage::payment_hash).collect::<Vec<PaymentHash>>());
        async move {
            for hash in hashes {
                while !peer.invoice(hash).await.is_ok_and(|status| check(&status)) {
                    tokio::time::sleep(Duration::from_millis(2)).await;
                }
            }
        }
    };
    each(|status| matches!(status, InvoiceStatus::Accepted { .. })).await;
    report("twenty holds at once: all locked", &mut [start.elapsed()]);
    let start = now();
    for preimage in &preimages {
        peer.settle(*preimage).await.expect("taken");
    }
    each(|status| matches!(status, InvoiceStatus::Settled { .. })).await;
    report("twenty holds at once: all settled", &mut [start.elapsed()]);
}

async fn heard(events: &mut tokio::sync::broadcast::Receiver<LnEvent>, wanted: LnEvent) {
    while events.recv().await.expect("not closed") != wanted {}
}

#[allow(clippy::print_stderr, reason = "a measurement is for people")]
fn report(what: &str, times: &mut [Duration]) {
    times.sort();
    let at = |percent: usize| times[(times.len() * percent / 100).min(times.len() - 1)].as_secs_f64() * 1e3;
    eprintln!("{what}: n {}, p50 {:.1} ms, p90 {:.1} ms, p99 {:.1} ms", times.len(), at(50), at(90), at(99));
}
