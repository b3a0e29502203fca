//! The paths of bounties: used as they should be, by mistake, and by clients that mean harm.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::io::AsyncWriteExt as _;

use super::{Answer, Served, serve, start};
use crate::http::server::limits::{MAX_POSTING_BYTES, POSTING_COPIES};
use crate::http::server::{Limits, Rate, Services};
use crate::http::testing as sample;
use crate::http::testing::bounties::{self, FakeBoard, bounty_id};
use crate::http::testing::contribution_id;
use crate::protocol::api::PostRequest;
use crate::protocol::bounty::statements::SponsorAsk;
use crate::protocol::ids::Blake3Hash;
use crate::protocol::l402::{Credentials, Macaroon, parse_challenge};

const JSON: (&str, &str) = ("Content-Type", "application/json");
const BINARY: (&str, &str) = ("Content-Type", "application/octet-stream");

/// A path of the board's bounty.
fn of_bounty(rest: &str) -> String {
    format!("/v1/bounties/{}{rest}", bounty_id())
}

fn posting() -> Vec<u8> {
    bytes_of(&bounties::post_request("cGFja2FnZQ==".into(), "aGVsZCBvdXQ=".into()))
}

fn bytes_of(request: &PostRequest) -> Vec<u8> {
    serde_json::to_vec(request).expect("JSON")
}

/// A head that is followed by nothing, or by what a test sends then.
fn post_head(headers: &str) -> String {
    format!("POST /v1/bounties HTTP/1.1\r\nHost: test\r\nContent-Type: application/json\r\n{headers}\r\n")
}

async fn without_a_board() -> Served {
    let fake = Arc::new(sample::FakeCoordinator::new());
    let server = start(Services::training(fake.clone()), Limits::default()).await;
    Served { fake, board: Arc::new(FakeBoard::new()), server }
}

async fn without_training() -> Served {
    let board = Arc::new(FakeBoard::new());
    let server = start(Services { training: None, board: Some(board.clone()) }, Limits::default()).await;
    Served { fake: Arc::new(sample::FakeCoordinator::new()), board, server }
}

#[tokio::test]
async fn a_bounty_is_listed_shown_and_closed() {
    let served = serve(Limits::default()).await;
    let list = served.get("/v1/bounties").await;
    assert_eq!((list.status, list.header("cache-control")), (200, "no-store"));
    assert_eq!(list.json()["bounties"][0]["bounty"], bounty_id().to_string());
    let view = served.get(&of_bounty("")).await;
    assert_eq!(view.json(), serde_json::to_value(bounties::bounty_view()).expect("JSON"));

    let closing = served.get(&of_bounty("/closing")).await;
    let bytes = bounties::closing().to_bytes();
    assert_eq!((closing.status, &closing.body), (200, &bytes));
    assert_eq!(closing.header("etag"), format!("\"{}\"", Blake3Hash::of(&bytes)));
    let part = served.send("GET", &of_bounty("/closing"), &[("Range", "bytes=-10")], b"").await;
    assert_eq!((part.status, &part.body[..]), (206, &bytes[bytes.len() - 10..]));
}

#[tokio::test]
async fn a_posting_reaches_the_board_and_the_same_again_gets_the_same_answer() {
    let served = serve(Limits::default()).await;
    let first = served.post("/v1/bounties", &posting()).await;
    assert_eq!((first.status, &first.json()["view"]["phase"]), (200, &"awaiting_escrow".into()));
    let again = served.post("/v1/bounties", &posting()).await;
    assert_eq!((again.status, again.json()), (200, first.json()));
    assert_eq!(served.board.posted().len(), 1);
    let listed = served.get("/v1/bounties").await.json();
    assert_eq!(listed["bounties"][0]["bounty"], first.json()["view"]["bounty"]);
}

#[tokio::test]
async fn what_is_no_posting_is_refused_and_reaches_nobody() {
    let served = serve(Limits::default()).await;
    let whole = String::from_utf8(posting()).expect("text");
    let unknown_field = whole.replacen("{\"posting\"", &format!("{{\"{}\":1,\"posting\"", "x".repeat(5_000)), 1);
    let short_salt = whole.replace("0505\"", "05\"");
    let deep = "[".repeat(100_000);
    for body in [&unknown_field, &short_salt, &deep, &whole[..whole.len() - 1], "{}", "null", ""] {
        let answer = served.post("/v1/bounties", body.as_bytes()).await;
        assert_eq!((answer.status, answer.code().as_str()), (400, "malformed_body"), "{body:.80}");
        assert!(answer.body.len() < 1_000, "the answer does not give the body back");
    }
    let mut forged = bounties::post_request(String::new(), String::new());
    forged.posting.body.title = "another".into();
    assert_eq!(served.post("/v1/bounties", &bytes_of(&forged)).await.code(), "wrong_signature");
    let untyped = served.send("POST", "/v1/bounties", &[("Content-Type", "text/plain")], &posting()).await;
    assert_eq!((untyped.status, untyped.code().as_str()), (415, "unsupported_media_type"));
    assert_eq!(served.board.posted(), []);
}

#[tokio::test]
async fn a_sponsor_closes_its_bounty_and_nobody_else_does() {
    let served = serve(Limits::default()).await;
    let path = of_bounty("/sponsor");
    let closed = served.post(&path, &bounties::sponsor_request(SponsorAsk::Close).to_bytes()).await;
    assert_eq!((closed.status, &closed.json()["phase"]), (200, &"closing".into()));
    let stranger = sample::peer_key().sign(bounties::sponsor_request(SponsorAsk::Close).body);
    assert_eq!(served.post(&path, &stranger.to_bytes()).await.code(), "wrong_signature");
    let spaced = [b" ", &bounties::sponsor_request(SponsorAsk::Close).to_bytes()[..]].concat();
    assert_eq!(served.post(&path, &spaced).await.code(), "not_canonical");
    assert_eq!(served.post(&path, b"{}").await.code(), "malformed_body");
}

#[tokio::test]
async fn a_bountys_rounds_are_its_own_and_served_as_those_of_training() {
    let served = serve(Limits::default()).await;
    for rest in ["/rounds/current", "/rounds/1", &format!("/contributions/{}", contribution_id())] {
        let answer = served.get(&of_bounty(rest)).await;
        assert_eq!((answer.status, answer.header("cache-control")), (200, "no-store"), "{rest}");
    }
    assert_eq!(served.get(&of_bounty("/rounds/1/transcript")).await.body, sample::transcript().to_bytes());
    let registered = served.post(&of_bounty("/peers"), &sample::registration().to_bytes()).await;
    assert_eq!(registered.json()["channel"], "opening");

    let hash = served.board.run.publish(b"a bounty's blob");
    let part = served.send("GET", &of_bounty(&format!("/blobs/{hash}")), &[("Range", "bytes=2-7")], b"").await;
    assert_eq!((part.status, part.body.as_slice()), (206, &b"bounty"[..]));
    assert_eq!(served.get(&format!("/v1/blobs/{hash}")).await.code(), "no_such_blob", "not the training run's");

    let invoices = of_bounty(&format!("/contributions/{}/invoices", contribution_id()));
    assert_eq!(served.post(&invoices, &sample::submission().to_bytes()).await.json()["state"], "locking");
    let payload = of_bounty(&format!("/contributions/{}/payload", contribution_id()));
    assert_eq!(served.send("PUT", &payload, &[BINARY], &sample::payload()).await.status, 200);
    assert_eq!((served.board.run.uploaded(), served.fake.uploaded()), (Some(sample::payload()), None));
}

#[tokio::test]
async fn a_package_costs_an_invoice_and_its_token_buys_it_in_parts_and_as_often_as_one_likes() {
    let limits = Limits { challenges: Rate { burst: 2, per_minute: 1 }, ..Limits::default() };
    let served = serve(limits).await;
    let path = of_bounty("/package");
    let token = async |answer: Answer| {
        let challenge = parse_challenge([answer.header("www-authenticate")]).expect("L402");
        let macaroon = Macaroon::from_base64(&challenge.macaroon).expect("a macaroon");
        Credentials::new(macaroon, sample::fee_preimage()).expect("ours").to_header()
    };
    let first = served.get(&path).await;
    assert_eq!((first.status, first.header("cache-control")), (402, "no-store"));
    assert_eq!(first.code(), "payment_required");
    let paid = token(first).await;
    for _ in 0..4 {
        let whole = served.send("GET", &path, &[("Authorization", &paid)], b"").await;
        assert_eq!((whole.status, whole.body.as_slice()), (200, bounties::PACKAGE), "a paid request is no challenge");
        assert_eq!(whole.header("etag"), format!("\"{}\"", Blake3Hash::of(bounties::PACKAGE)));
    }
    let rest = served.send("GET", &path, &[("Authorization", &paid), ("Range", "bytes=4-")], b"").await;
    assert_eq!((rest.status, rest.body.as_slice()), (206, &bounties::PACKAGE[4..]));
    // A ticket's token is none for the package, and two challenges are all that this address gets.
    let commitment = bounties::submission_commitment().to_bytes();
    let tickets = token(served.post(&of_bounty("/rounds/1/tickets"), &commitment).await).await;
    let refused = served.send("GET", &path, &[("Authorization", &tickets)], b"").await;
    assert_eq!((refused.status, served.board.run.challenges.load(Ordering::SeqCst)), (429, 2));
}

#[tokio::test]
async fn a_ticket_of_a_bounty_costs_an_invoice_and_the_preimage_buys_it() {
    let limits = Limits { challenges: Rate { burst: 2, per_minute: 1 }, ..Limits::default() };
    let served = serve(limits).await;
    let (path, body) = (of_bounty("/rounds/1/tickets"), sample::commitment().to_bytes());
    let answer = served.post(&path, &body).await;
    assert_eq!((answer.status, answer.code().as_str()), (402, "payment_required"));
    let params = parse_challenge([answer.header("www-authenticate")]).expect("a challenge");
    let macaroon = Macaroon::from_base64(&params.macaroon).expect("a macaroon");
    let paid = Credentials::new(macaroon, sample::fee_preimage()).expect("ours").to_header();
    let ticket = served.send("POST", &path, &[JSON, ("Authorization", &paid)], &body).await;
    assert_eq!((ticket.status, ticket.json()), (200, serde_json::to_value(sample::ticket()).expect("JSON")));
    assert_eq!(served.post(&path, &body).await.status, 402);
    assert_eq!(served.post(&path, &body).await.status, 429, "challenges have a rate of their own");
    assert_eq!(served.board.run.challenges.load(Ordering::SeqCst), 2);
}

#[tokio::test]
async fn mistaken_paths_are_errors_that_say_what_is_there() {
    let served = serve(Limits::default()).await;
    let unknown = "0".repeat(64);
    for (path, status, code) in [
        (format!("/v1/bounties/{unknown}"), 404, "no_such_bounty"),
        (format!("/v1/bounties/{unknown}/closing"), 404, "no_such_bounty"),
        (format!("/v1/bounties/{unknown}/rounds/current"), 404, "no_such_bounty"),
        (format!("/v1/bounties/{unknown}/blobs/{unknown}"), 404, "no_such_bounty"),
        ("/v1/bounties/nonsense".into(), 400, "bad_path"),
        ("/v1/bounties/%ff".into(), 400, "bad_path"),
        ("/v1/bounties/nonsense/rounds/current".into(), 400, "bad_path"),
        (format!("/v1/bounties/{}", "A".repeat(64)), 400, "bad_path"),
        ("/v1/bounties/".into(), 404, "not_found"),
        ("/v1/bounties/../run".into(), 404, "not_found"),
        (of_bounty("/rounds/7"), 404, "no_such_round"),
        (of_bounty("/rounds/01"), 400, "bad_path"),
        (of_bounty("/rounds/1/aggregate"), 404, "not_found"),
        (of_bounty("/blobs/..%2f..%2fetc%2fpasswd"), 400, "bad_path"),
        (of_bounty("/contributions/zz"), 400, "bad_path"),
    ] {
        let answer = served.get(&path).await;
        assert_eq!((answer.status, answer.code().as_str()), (status, code), "{path}");
        assert_eq!(answer.header("cache-control"), "no-store");
    }
    for (method, path) in [("PUT", "/v1/bounties".to_owned()), ("POST", of_bounty("")), ("GET", of_bounty("/sponsor"))]
    {
        let answer = served.send(method, &path, &[], b"").await;
        assert_eq!((answer.status, answer.code().as_str()), (405, "method_not_allowed"), "{method} {path}");
        assert!(!answer.header("allow").is_empty());
    }
}

#[tokio::test]
async fn without_training_its_paths_lead_to_the_bounties() {
    let served = without_training().await;
    for path in ["/v1/run", "/v1/status", "/v1/rounds/current", "/v1/rounds/1/aggregate", "/v1/contributions/zz"] {
        let answer = served.get(path).await;
        assert_eq!((answer.status, answer.code().as_str()), (404, "no_training"), "{path}");
        assert!(answer.json()["error"]["fix"].as_str().is_some_and(|fix| fix.contains("/v1/bounties")));
    }
    assert_eq!(served.post("/v1/peers", &sample::registration().to_bytes()).await.code(), "no_training");
    assert_eq!(served.get(&of_bounty("/rounds/current")).await.status, 200);
}

#[tokio::test]
async fn without_a_board_there_are_no_bounties() {
    let served = without_a_board().await;
    for path in ["/v1/bounties", &of_bounty(""), &of_bounty("/rounds/current"), &of_bounty("/closing")] {
        let answer = served.get(path).await;
        assert_eq!((answer.status, answer.code().as_str()), (404, "no_bounties"), "{path}");
    }
    assert_eq!(served.post("/v1/bounties", &posting()).await.code(), "no_bounties");
    assert_eq!(served.get("/v1/run").await.status, 200);
}

#[tokio::test]
async fn the_longest_package_fits_with_its_held_out_part_and_nothing_longer_is_read() {
    let both = crate::bounty::package::MOST_BYTES;
    assert!(both.div_ceil(3) * 4 < MAX_POSTING_BYTES);
    let limits = Limits::default();
    assert!(POSTING_COPIES * MAX_POSTING_BYTES <= limits.posting_memory_bytes);
    let served = serve(limits).await;
    // Nothing of the body is sent: the answer can't have waited for it.
    let too_long = post_head(&format!("Content-Length: {}\r\n", MAX_POSTING_BYTES + 1));
    let answer = Answer::parse(&served.raw(too_long.as_bytes()).await).expect("an answer");
    assert_eq!((answer.status, answer.code().as_str()), (413, "body_too_large"));
}

#[tokio::test]
async fn a_posting_of_some_megabytes_is_taken_whole_and_in_chunks() {
    let served = serve(Limits::default()).await;
    let body = bytes_of(&bounties::post_request("QUFB".repeat(1 << 20), "QUFB".into()));
    assert_eq!(served.post("/v1/bounties", &body).await.status, 200);
    let head = post_head("Transfer-Encoding: chunked\r\nConnection: close\r\n") + &format!("{:x}\r\n", body.len());
    let chunked = [head.as_bytes(), &body, b"\r\n0\r\n\r\n"].concat();
    let answer = Answer::parse(&served.raw(&chunked).await).expect("an answer");
    assert_eq!((answer.status, served.board.posted().len()), (200, 1));
}

#[tokio::test]
async fn a_posting_that_breaks_off_or_trickles_reaches_nobody() {
    let limits = Limits { json_body: Duration::from_millis(100), ..Limits::default() };
    let served = serve(limits).await;
    let head = post_head(&format!("Content-Length: {}\r\n", posting().len()));
    let slow = [head.as_bytes(), &posting()[..100]].concat();
    let answer = Answer::parse(&served.raw(&slow).await).expect("an answer");
    assert_eq!((answer.status, answer.code().as_str()), (408, "body_timeout"));

    let mut stream = served.connect().await;
    stream.write_all(&slow).await.expect("sent");
    stream.shutdown().await.expect("half closed");
    if let Some(answer) = Answer::parse(&super::read_to_end(&mut stream).await) {
        assert_eq!((answer.status, answer.code().as_str()), (400, "body_truncated"));
    }
    assert_eq!(served.board.posted(), []);
}

#[tokio::test]
async fn postings_under_way_share_a_bounded_memory_that_payloads_do_not_wait_for() {
    let posting = || bytes_of(&bounties::post_request("QUFB".repeat(10_000), String::new()));
    let length = posting().len() as u64;
    let memory = POSTING_COPIES * length + 8_192;
    let served = serve(Limits { short_posting_memory_bytes: memory, ..Limits::default() }).await;
    let mut slow = served.connect().await;
    slow.write_all(post_head(&format!("Content-Length: {length}\r\n")).as_bytes()).await.expect("sent");
    tokio::time::sleep(Duration::from_millis(100)).await;
    let answer = served.post("/v1/bounties", &posting()).await;
    assert_eq!((answer.status, answer.code().as_str(), answer.header("retry-after")), (503, "busy", "3"));
    let payload = of_bounty(&format!("/contributions/{}/payload", contribution_id()));
    assert_eq!(served.send("PUT", &payload, &[BINARY], &sample::payload()).await.status, 200);
    drop(slow);
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert_eq!(served.post("/v1/bounties", &posting()).await.status, 200, "a broken connection frees its part");

    let small = serve(Limits { short_posting_memory_bytes: length, ..Limits::default() }).await;
    assert_eq!(small.post("/v1/bounties", &posting()).await.code(), "body_too_large");
}

#[tokio::test]
async fn a_long_posting_that_trickles_is_given_up_long_before_its_whole_length_would_have_to_be_here() {
    let limits = Limits { json_body: Duration::from_millis(100), stall: Duration::from_secs(2), ..Limits::default() };
    let served = serve(limits).await;
    let head = post_head(&format!("Content-Length: {MAX_POSTING_BYTES}\r\n"));
    let slow = [head.as_bytes(), &posting()[..100]].concat();
    let answer = Answer::parse(&served.raw(&slow).await).expect("an answer");
    assert_eq!((answer.status, answer.code().as_str()), (408, "body_timeout"));
}

#[tokio::test]
async fn a_long_posting_under_way_keeps_no_short_one_out() {
    let served = serve(Limits::default()).await;
    let mut slow = served.connect().await;
    slow.write_all(post_head(&format!("Content-Length: {MAX_POSTING_BYTES}\r\n")).as_bytes()).await.expect("sent");
    tokio::time::sleep(Duration::from_millis(100)).await;
    let long = bytes_of(&bounties::post_request("QUFB".repeat(1 << 18), "QUFB".into()));
    assert_eq!(served.post("/v1/bounties", &long).await.code(), "busy");
    assert_eq!(served.post("/v1/bounties", &posting()).await.status, 200);
}

#[tokio::test]
async fn postings_have_a_rate_of_their_own() {
    let served = serve(Limits { postings: Rate { burst: 2, per_minute: 1 }, ..Limits::default() }).await;
    assert_eq!(served.post("/v1/bounties", &posting()).await.status, 200);
    assert_eq!(served.post("/v1/bounties", b"{}").await.status, 400, "what is refused was read too");
    let answer = served.post("/v1/bounties", &posting()).await;
    assert_eq!((answer.status, answer.header("retry-after")), (429, "60"));
    assert_eq!(served.get("/v1/bounties").await.status, 200);
}
