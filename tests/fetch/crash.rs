//! A process that is killed at its n-th moment, for every n, and started again.

use l402t::fetch::Payment;
use l402t::protocol::amount::Msat;

use crate::fuse::Fuse;
use crate::shop::{PRICE, Shop};

/// More moments than a fetch has.
const MANY: i64 = 60;

#[tokio::test]
async fn killed_at_any_moment_a_fetch_ends_with_the_file_and_one_payment() {
    let mut crashes = 0;
    for moment in 1..MANY {
        let shop = Shop::open().await;
        shop.change(|manner| manner.cut_after = Some(120_000));
        let fuse = Fuse::after(moment);
        let first = shop.fetch_until(&shop.request("file"), &fuse).await;
        if !fuse.is_blown() {
            assert!(fuse.moments() < moment as u64 && first.is_some());
            break;
        }
        crashes += 1;
        if first.is_none() {
            // The moment after the last one is the end of the process: the file may be there already.
            match shop.fetch(&shop.request("file")).await {
                Ok(_) => {}
                Err(error) => assert_eq!(error.code(), "output_exists", "killed at moment {moment}: {error}"),
            }
        }
        assert_eq!(std::fs::read(shop.output("file")).expect("there"), shop.content(), "killed at moment {moment}");
        assert_eq!(shop.spent(), PRICE, "killed at moment {moment}");
    }
    assert!((8..MANY).contains(&crashes), "{crashes}");
}

#[tokio::test]
async fn a_purchase_that_was_cut_off_is_ended_before_another_begins_and_only_as_far_as_allowed() {
    let mut unpaid = 0;
    for moment in 1..12 {
        let shop = Shop::open().await;
        let fuse = Fuse::after(moment);
        let _ = shop.fetch_until(&shop.request("file"), &fuse).await;
        let paid_before = shop.spent();
        // Now nothing may be paid at all: what was paid is used, what wasn't is not paid.
        let mut request = shop.request("file");
        request.max_price = Msat::ZERO;
        match shop.fetch(&request).await {
            Ok(fetched) => assert!(matches!(fetched.payment, Payment::Reused { .. } | Payment::Free), "{fetched:?}"),
            Err(error) => {
                assert_eq!(error.code(), "too_expensive", "killed at moment {moment}: {error}");
                unpaid += 1;
            }
        }
        assert_eq!(shop.spent(), paid_before, "killed at moment {moment}");
    }
    assert!(unpaid > 0);
}
