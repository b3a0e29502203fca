//! Downloads that break off.

use l402t::fetch::{FetchError, Payment};

use crate::shop::{PRICE, Shop};

#[tokio::test]
async fn a_download_that_breaks_off_goes_on_where_it_was_with_the_same_token() {
    let shop = Shop::open().await;
    shop.change(|manner| manner.cut_after = Some(70_000));
    let fetched = shop.fetch(&shop.request("file")).await.expect("fetched");
    assert_eq!((fetched.bytes, shop.spent()), (300_000, PRICE));
    assert_eq!(std::fs::read(shop.output("file")).expect("there"), shop.content());
    assert!(!shop.output("file.part").exists());
    let ranges: Vec<_> = shop.requests().into_iter().filter(|head| head.contains("\r\nrange: bytes=")).collect();
    assert_eq!(ranges.len(), 4, "{ranges:?}");
    assert!(ranges.iter().all(|head| head.contains("\r\nif-range: \"one\"\r\n")), "{ranges:?}");
}

#[tokio::test]
async fn a_later_run_goes_on_with_what_an_earlier_one_has_left() {
    let shop = Shop::open().await;
    shop.change(|manner| manner.cut_after = Some(0));
    let error = shop.fetch(&shop.request("file")).await.expect_err("not a byte comes");
    assert_eq!((error.code(), shop.spent()), ("interrupted", PRICE));
    let (begun, content) = (shop.output("file.part"), shop.content());
    std::fs::write(&begun, &content[..123_456]).expect("as if so many had come");
    shop.change(|manner| manner.cut_after = None);
    let fetched = shop.fetch(&shop.request("file")).await.expect("fetched");
    assert_eq!((fetched.resumed_from, fetched.bytes), (123_456, 300_000));
    assert!(matches!(fetched.payment, Payment::Reused { .. }));
    assert_eq!((std::fs::read(shop.output("file")).expect("there"), shop.spent()), (content, PRICE));
    assert!(shop.requests().last().expect("a request").contains("range: bytes=123456-"));
}

#[tokio::test]
async fn a_beginning_of_other_content_is_never_gone_on_with() {
    for etag in [Some("\"two\""), None] {
        let shop = Shop::open().await;
        shop.change(|manner| manner.cut_after = Some(0));
        shop.fetch(&shop.request("file")).await.expect_err("not a byte comes");
        std::fs::write(shop.output("file.part"), vec![0xee; 100_000]).expect("written");
        shop.change(|manner| {
            (manner.cut_after, manner.etag) = (None, etag);
            manner.content.reverse();
        });
        shop.fetch(&shop.request("file")).await.expect("fetched");
        assert_eq!(std::fs::read(shop.output("file")).expect("there"), shop.content(), "{etag:?}");
    }
    // Nor one of which nobody knows what it is of.
    let shop = Shop::open().await;
    std::fs::write(shop.output("file.part"), vec![0xee; 100_000]).expect("written");
    shop.fetch(&shop.request("file")).await.expect("fetched");
    assert_eq!(std::fs::read(shop.output("file")).expect("there"), shop.content());
}

#[tokio::test]
async fn a_token_that_ends_before_the_download_does_is_replaced_by_the_next_run() {
    let shop = Shop::open().await;
    shop.change(|manner| manner.cut_after = Some(100_000));
    shop.change(|manner| manner.ends_after = Some(2));
    let error = shop.fetch(&shop.request("file")).await.expect_err("the token has ended");
    assert!(matches!(error, FetchError::Expired { done_bytes: 100_000 }), "{error}");
    assert_eq!(shop.spent(), PRICE, "one run pays once");
    shop.change(|manner| (manner.cut_after, manner.ends_after) = (None, None));
    shop.clock.advance_ms(3_600_000);
    let fetched = shop.fetch(&shop.request("file")).await.expect("fetched");
    assert!(fetched.resumed_from == 100_000 && matches!(fetched.payment, Payment::Bought { .. }), "{fetched:?}");
    assert_eq!(std::fs::read(shop.output("file")).expect("there"), shop.content());
}
