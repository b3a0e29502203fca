//! Blocks that are replaced by others while money is held.

use l402t::ln::InvoiceStatus;
use l402t::protocol::ids::PaymentHash;

use crate::bench::{Bench, hold, refunded, settled};
use crate::embedded::{self, Embedded};

const AMOUNT_MSAT: u64 = 2_000_000;
const DEEPEST: u8 = 6;

async fn expiry_height(bench: &Embedded, hash: PaymentHash) -> u32 {
    match bench.peer().invoice(hash).await {
        Ok(InvoiceStatus::Accepted { expiry_height: Some(height), .. }) => height,
        other => panic!("it is not held: {other:?}"),
    }
}

#[tokio::test]
async fn held_money_goes_through_reorganisations_of_one_to_six_blocks_and_ends_as_it_should() {
    let mut bench = embedded::start().await;
    let (_, long) = hold(&bench, 100, AMOUNT_MSAT).await;
    let shown = expiry_height(&bench, long).await;
    for depth in 1..=DEEPEST {
        bench.mine(u32::from(depth)).await;
        // Locked in the blocks that go; the channel may have been funded in them, too.
        let (preimage, hash) = hold(&bench, depth, AMOUNT_MSAT).await;
        let expiry = expiry_height(&bench, hash).await;
        bench.reorganise(u32::from(depth)).await;
        assert_eq!(expiry_height(&bench, hash).await, expiry, "{depth} blocks");
        bench.peer().settle(preimage).await.expect("taken");
        settled(&bench, preimage, AMOUNT_MSAT).await;
    }
    assert_eq!(expiry_height(&bench, long).await, shown);
    // To the block: not a block earlier because of those that were replaced.
    let left = shown - bench.height();
    bench.mine(left - 2).await;
    bench.reorganise(1).await;
    assert_eq!(bench.height(), shown - 1);
    assert_eq!(expiry_height(&bench, long).await, shown);
    bench.mine(1).await;
    refunded(&bench, long).await;
    let (preimage, _) = hold(&bench, 101, AMOUNT_MSAT).await;
    bench.peer().settle(preimage).await.expect("taken");
    settled(&bench, preimage, AMOUNT_MSAT).await;
    bench.stop().await;
}
