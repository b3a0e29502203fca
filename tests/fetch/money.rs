//! What is paid, when, and when not.

use l402t::fetch::{Blame, FetchError, Payment, Standing, Unaccepted};
use l402t::protocol::amount::Msat;
use l402t::protocol::ids::Blake3Hash;

use crate::fuse::Fuse;
use crate::shop::{Challenge, PRICE, Shop};

#[tokio::test]
async fn a_file_is_paid_for_once_and_its_token_serves_until_it_expires() {
    let shop = Shop::open().await;
    let first = shop.fetch(&shop.request("first")).await.expect("fetched");
    assert!(matches!(first.payment, Payment::Bought { amount: PRICE, .. }), "{first:?}");
    assert_eq!(std::fs::read(shop.output("first")).expect("there"), shop.content());
    assert_eq!(shop.spent(), PRICE);

    let second = shop.fetch(&shop.request("second")).await.expect("fetched");
    assert!(matches!(second.payment, Payment::Reused { .. }), "{second:?}");
    let elsewhere = shop.url.replace("data.bin", "other.bin");
    let third = shop.fetch(&shop.request_for(&elsewhere, "third")).await.expect("fetched");
    assert!(matches!(third.payment, Payment::Reused { .. }), "another path of the same service: {third:?}");
    assert_eq!(shop.spent(), PRICE);
    let sent: Vec<bool> = shop.requests().iter().map(|head| head.contains("\r\nauthorization: ")).collect();
    assert_eq!(sent, [false, true, true, true], "a token that is there is shown at once");

    shop.clock.advance_ms(3_600_000);
    let fourth = shop.fetch(&shop.request("fourth")).await.expect("fetched");
    assert!(matches!(fourth.payment, Payment::Bought { .. }), "{fourth:?}");
    assert_eq!(shop.spent(), Msat::new(2 * PRICE.msat()));
    let last = shop.requests().pop().expect("a request");
    assert!(last.contains("authorization: l402 "), "the newer name, where both are offered: {last}");
}

#[tokio::test]
async fn a_server_that_only_knows_lsat_is_answered_by_that_name() {
    let shop = Shop::open().await;
    shop.change(|manner| manner.challenge = Challenge::OnlyLsat);
    shop.fetch(&shop.request("file")).await.expect("fetched");
    assert!(shop.requests()[1].contains("authorization: lsat "), "{:?}", shop.requests());
}

#[tokio::test]
async fn what_costs_more_than_allowed_is_refused_and_nothing_is_paid() {
    let shop = Shop::open().await;
    let mut request = shop.request("file");
    request.max_price = Msat::new(PRICE.msat() - 1);
    let error = shop.fetch(&request).await.expect_err("too much");
    assert!(matches!(error, FetchError::TooExpensive { asked: PRICE, .. }), "{error}");
    assert_eq!((error.blame(), error.code()), (Blame::Payment, "too_expensive"));
    assert_eq!(shop.spent(), Msat::ZERO);
    assert!(!shop.output("file").exists());
}

#[tokio::test]
async fn a_challenge_whose_parts_disagree_is_not_paid() {
    for challenge in [Challenge::OtherInvoice, Challenge::NoAmount, Challenge::Nonsense] {
        let shop = Shop::open().await;
        shop.change(|manner| manner.challenge = challenge);
        let error = shop.fetch(&shop.request("file")).await.expect_err("not to be paid");
        assert!(matches!(error, FetchError::Untrusted(_)), "{challenge:?}: {error}");
        assert_eq!(shop.spent(), Msat::ZERO, "{challenge:?}");
    }
}

#[tokio::test]
async fn a_server_that_takes_the_money_and_not_the_token_is_paid_once() {
    let shop = Shop::open().await;
    shop.change(|manner| manner.takes_none = true);
    for _ in 0..3 {
        let error = shop.fetch(&shop.request("file")).await.expect_err("refused");
        assert!(matches!(error, FetchError::PaidInVain { amount: PRICE, .. }), "{error}");
        assert_eq!((error.blame(), shop.spent()), (Blame::Remote, PRICE));
    }
    // Its owner may insist, and a server that comes to its senses is not paid again.
    let mut insist = shop.request("file");
    insist.unaccepted = Unaccepted::PayAgain;
    shop.fetch(&insist).await.expect_err("refused again");
    assert_eq!(shop.spent(), Msat::new(2 * PRICE.msat()));
    shop.change(|manner| manner.takes_none = false);
    let fetched = shop.fetch(&shop.request("file")).await.expect("fetched");
    assert!(matches!(fetched.payment, Payment::Reused { .. }));
    assert_eq!(shop.spent(), Msat::new(2 * PRICE.msat()));
}

#[tokio::test]
async fn what_is_free_opens_no_wallet_and_a_file_that_exists_is_left_alone() {
    let shop = Shop::open().await;
    shop.change(|manner| manner.free = true);
    let fetched = shop.fetch(&shop.request("file")).await.expect("fetched");
    assert_eq!(fetched.payment, Payment::Free);
    std::fs::write(shop.output("file"), "mine").expect("written");
    let before = shop.requests().len();
    let error = shop.fetch(&shop.request("file")).await.expect_err("it exists");
    assert!(matches!(error, FetchError::Exists(_)), "{error}");
    assert_eq!((shop.requests().len(), std::fs::read(shop.output("file")).expect("there")), (before, b"mine".to_vec()));
}

#[tokio::test]
async fn the_tokens_are_for_their_owner_only() {
    use std::os::unix::fs::PermissionsExt as _;
    let shop = Shop::open().await;
    shop.fetch(&shop.request("file")).await.expect("fetched");
    for entry in std::fs::read_dir(shop.output("tokens")).expect("a folder").flatten() {
        let mode = entry.metadata().expect("there").permissions().mode() & 0o777;
        assert_eq!(mode, 0o600, "{:?}", entry.path());
    }
}

#[tokio::test]
async fn a_token_that_brought_something_else_is_kept_and_no_other_is_bought() {
    let shop = Shop::open().await;
    shop.change(|manner| manner.valid_s = 60);
    let mut request = shop.request("file");
    request.digest = Some(Blake3Hash::of(b"something else"));
    for _ in 0..2 {
        let error = shop.fetch(&request).await.expect_err("something else");
        assert_eq!((error.code(), shop.spent()), ("bad_content", PRICE), "{error}");
        assert!(!shop.output("file").exists());
    }
    shop.change(|manner| manner.takes_none = true);
    let error = shop.fetch(&request).await.expect_err("refused");
    assert!(matches!(error, FetchError::PaidInVain { amount: PRICE, .. }), "{error}");
    // What it should have been is as good as ever.
    shop.change(|manner| manner.takes_none = false);
    request.digest = Some(Blake3Hash::of(&shop.content()));
    shop.fetch(&request).await.expect("fetched");
    assert_eq!(shop.spent(), PRICE);
}

#[tokio::test]
async fn a_token_that_ends_before_it_brought_anything_is_replaced_only_if_its_owner_says_so() {
    let shop = Shop::open().await;
    shop.change(|manner| manner.valid_s = 60);
    let mut request = shop.request("file");
    request.digest = Some(Blake3Hash::of(b"something else"));
    assert_eq!(shop.fetch(&request).await.expect_err("something else").code(), "bad_content");
    shop.clock.advance_ms(61_000);
    for _ in 0..2 {
        let error = shop.fetch(&request).await.expect_err("refused");
        assert_eq!((error.code(), shop.spent()), ("paid_in_vain", PRICE), "{error}");
    }
    request.unaccepted = Unaccepted::PayAgain;
    request.digest = Some(Blake3Hash::of(&shop.content()));
    shop.fetch(&request).await.expect("fetched");
    assert_eq!(shop.spent().msat(), 2 * PRICE.msat());
}

#[tokio::test]
async fn looking_up_what_was_begun_pays_nothing() {
    let mut begun = 0;
    for moment in 1..12 {
        let shop = Shop::open().await;
        let _ = shop.fetch_until(&shop.request("file"), &Fuse::after(moment)).await;
        let before = shop.spent();
        let mut session = shop.session();
        let url = shop.request("file").url;
        begun += u32::from(session.standing(&url).expect("read") == Standing::Begun);
        session.look_up().await.expect("the node answers");
        let after = session.standing(&url).expect("read");
        assert_eq!((shop.spent(), after == Standing::Bought), (before, before == PRICE), "moment {moment}: {after:?}");
    }
    assert!(begun > 0);
}
