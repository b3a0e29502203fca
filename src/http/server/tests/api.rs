//! Each path, used as it should be, and the errors of honest mistakes.

use std::sync::atomic::Ordering;
use std::time::Duration;

use serde_json::Value;

use super::{Answer, Served, serve};
use crate::http::server::routes::methods_and_paths;
use crate::http::server::{Limits, Rate, ServeError, Server, Services};
use crate::http::testing as sample;
use crate::http::testing::{FakeCoordinator, contribution_id};
use crate::protocol::ids::{Blake3Hash, Preimage};
use crate::protocol::l402::{Credentials, Macaroon, parse_challenge};

const TICKETS: &str = "/v1/rounds/1/tickets";

fn payload_path() -> String {
    format!("/v1/contributions/{}/payload", contribution_id())
}

async fn ask_for_ticket(served: &Served, authorization: Option<&str>) -> Answer {
    let mut headers = vec![("Content-Type", "application/json")];
    headers.extend(authorization.map(|value| ("Authorization", value)));
    served.send("POST", TICKETS, &headers, &sample::commitment().to_bytes()).await
}

/// The macaroon of a fresh challenge.
async fn challenge(served: &Served) -> Macaroon {
    let answer = ask_for_ticket(served, None).await;
    assert_eq!((answer.status, answer.code().as_str()), (402, "payment_required"));
    let params = parse_challenge([answer.header("www-authenticate")]).expect("a challenge");
    Macaroon::from_base64(&params.macaroon).expect("a macaroon")
}

fn paid(macaroon: Macaroon) -> String {
    Credentials::new(macaroon, sample::fee_preimage()).expect("ours").to_header()
}

#[tokio::test]
async fn every_view_is_served_as_json_that_is_not_stored() {
    let served = serve(Limits::default()).await;
    let contribution = format!("/v1/contributions/{}", contribution_id());
    for path in ["/v1/run", "/v1/rounds/current", "/v1/rounds/1", &contribution, "/v1/status"] {
        let answer = served.get(path).await;
        assert_eq!(answer.status, 200, "{path}");
        assert_eq!(answer.header("content-type"), "application/json");
        assert_eq!(answer.header("cache-control"), "no-store");
        assert_eq!(answer.header("x-content-type-options"), "nosniff");
        assert!(answer.json().is_object());
    }
    assert_eq!(served.get("/v1/run").await.json(), serde_json::to_value(sample::run_view()).expect("JSON"));
    assert_eq!(served.get("/v1/openapi.json").await.json()["openapi"], "3.1.0");
}

#[tokio::test]
async fn the_status_page_is_one_file_that_runs_only_its_own_script() {
    let answer = serve(Limits::default()).await.get("/").await;
    assert_eq!(answer.header("content-type"), "text/html; charset=utf-8");
    let policy = answer.header("content-security-policy");
    assert!(policy.contains("default-src 'none'") && policy.contains("script-src 'sha256-"), "{policy}");
    let page = String::from_utf8(answer.body).expect("UTF-8");
    assert!(!page.contains("src=\"") && !page.contains("<link") && !page.contains("@import"));
    for markup in
        ["innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "DOMParser", "eval(", ".href", "srcdoc"]
    {
        assert!(!page.contains(markup), "{markup}: what the coordinator says is text, never markup");
    }
    let asked = page.split('"').filter(|text| text.starts_with("/v1/")).collect::<Vec<_>>();
    assert_eq!(asked, ["/v1/bounties", "/v1/status"]);
    assert!(asked.iter().all(|path| methods_and_paths().iter().any(|(_, served)| served == path)));
}

#[tokio::test]
async fn a_ticket_costs_an_invoice_and_the_preimage_buys_it() {
    let served = serve(Limits::default()).await;
    let answer = ask_for_ticket(&served, None).await;
    assert_eq!(answer.status, 402);
    assert_eq!(answer.header("cache-control"), "no-store");
    assert!(answer.header("www-authenticate").starts_with("L402 macaroon=\""));

    let ticket = ask_for_ticket(&served, Some(&paid(challenge(&served).await))).await;
    assert_eq!((ticket.status, ticket.json()), (200, serde_json::to_value(sample::ticket()).expect("JSON")));
}

#[tokio::test]
async fn bad_credentials_get_a_fresh_challenge_that_says_why() {
    let served = serve(Limits::default()).await;
    let macaroon = challenge(&served).await;
    let identifier = macaroon.identifier().to_vec();
    let forged = paid(Macaroon::new(&[9; 32], &identifier, "l402"));
    let unpaid = Credentials::new(macaroon.clone(), Preimage::from_bytes([9; 32])).expect("ours").to_header();
    for (credentials, code) in [
        ("L402 nonsense".to_owned(), "token_malformed"),
        (forged, "token_bad_signature"),
        (unpaid, "token_wrong_preimage"),
    ] {
        let answer = ask_for_ticket(&served, Some(&credentials)).await;
        assert_eq!((answer.status, answer.code().as_str()), (402, code));
        let fresh = parse_challenge([answer.header("www-authenticate")]).expect("a challenge");
        assert_ne!(Macaroon::from_base64(&fresh.macaroon).expect("a macaroon").identifier(), &identifier);
    }
    served.fake.now_s.store(sample::NOW_S + 600, Ordering::SeqCst);
    let answer = ask_for_ticket(&served, Some(&paid(macaroon))).await;
    assert_eq!((answer.status, answer.code().as_str()), (402, "token_expired"));
    assert!(answer.headers.contains_key("www-authenticate"));
}

#[tokio::test]
async fn statements_are_taken_in_their_canonical_form_only() {
    let served = serve(Limits::default()).await;
    let registration = sample::registration().to_bytes();
    assert_eq!(served.post("/v1/peers", &registration).await.json()["channel"], "opening");
    let spaced = [b" ", &registration[..]].concat();
    let answer = served.post("/v1/peers", &spaced).await;
    assert_eq!((answer.status, answer.code().as_str()), (400, "not_canonical"));
    for body in [&b"{}"[..], b"{", b"\xff", b""] {
        let answer = served.post("/v1/peers", body).await;
        assert_eq!((answer.status, answer.code().as_str()), (400, "malformed_body"));
    }
    let untyped = served.send("POST", "/v1/peers", &[("Content-Type", "text/plain")], &registration).await;
    assert_eq!((untyped.status, untyped.code().as_str()), (415, "unsupported_media_type"));
}

#[tokio::test]
async fn invoices_and_the_payload_reach_the_coordinator() {
    let served = serve(Limits::default()).await;
    let invoices = format!("/v1/contributions/{}/invoices", contribution_id());
    assert_eq!(served.post(&invoices, &sample::submission().to_bytes()).await.json()["state"], "locking");

    let binary = [("Content-Type", "application/octet-stream")];
    let answer = served.send("PUT", &payload_path(), &binary, &sample::payload()).await;
    assert_eq!((answer.status, &answer.json()["state"]), (200, &Value::from("uploaded")));
    assert_eq!(served.fake.uploaded(), Some(sample::payload()));
}

#[tokio::test]
async fn unknown_things_are_errors_in_json() {
    let served = serve(Limits::default()).await;
    let unknown = "0".repeat(64);
    for (path, status, code) in [
        ("/nowhere".to_owned(), 404, "not_found"),
        ("/v1/".to_owned(), 404, "not_found"),
        ("/v1/rounds/7".to_owned(), 404, "no_such_round"),
        ("/v1/rounds/-1".to_owned(), 400, "bad_path"),
        ("/v1/rounds/01".to_owned(), 400, "bad_path"),
        ("/v1/rounds/4294967296".to_owned(), 400, "bad_path"),
        ("/v1/rounds/%ff".to_owned(), 400, "bad_path"),
        (format!("/v1/blobs/{unknown}"), 404, "no_such_blob"),
        (format!("/v1/contributions/{unknown}"), 404, "no_such_contribution"),
    ] {
        let answer = served.get(&path).await;
        assert_eq!((answer.status, answer.code().as_str()), (status, code), "{path}");
        assert_eq!(answer.header("cache-control"), "no-store");
    }
    let answer = served.send("DELETE", "/v1/run", &[], b"").await;
    assert_eq!((answer.status, answer.code().as_str()), (405, "method_not_allowed"));
    assert!(answer.header("allow").contains("GET"), "{answer:?}");
}

#[tokio::test]
async fn blobs_are_served_in_parts_with_their_hash_as_etag() {
    let served = serve(Limits::default()).await;
    let bytes: Vec<u8> = (0..300_000u32).map(|i| (i % 251) as u8).collect();
    let hash = served.fake.publish(&bytes);
    let (path, etag) = (format!("/v1/blobs/{hash}"), format!("\"{hash}\""));

    let whole = served.get(&path).await;
    assert_eq!((whole.status, whole.header("etag"), whole.header("accept-ranges")), (200, etag.as_str(), "bytes"));
    assert_eq!(whole.body, bytes);

    let part = served.send("GET", &path, &[("Range", "bytes=1000-200000")], b"").await;
    assert_eq!((part.status, part.header("content-range")), (206, "bytes 1000-200000/300000"));
    assert_eq!(part.body, bytes[1_000..=200_000]);

    let past = served.send("GET", &path, &[("Range", "bytes=300000-")], b"").await;
    assert_eq!((past.status, past.header("content-range")), (416, "bytes */300000"));
    assert_eq!(past.code(), "range_not_satisfiable");

    let other = Blake3Hash::of(b"other");
    for (if_range, status) in [(etag.clone(), 206), (format!("\"{other}\""), 200), ("yesterday".to_owned(), 200)] {
        let answer = served.send("GET", &path, &[("Range", "bytes=5-"), ("If-Range", &if_range)], b"").await;
        assert_eq!(answer.status, status, "{if_range}");
    }
    let known = served.send("GET", &path, &[("If-None-Match", &etag)], b"").await;
    assert_eq!((known.status, known.body.len()), (304, 0));
    let head = served.send("HEAD", &path, &[], b"").await;
    assert_eq!((head.status, head.header("content-length"), head.body.len()), (200, "300000", 0));
}

#[tokio::test]
async fn aggregates_are_served_while_they_are_kept() {
    let served = serve(Limits::default()).await;
    let path = "/v1/rounds/1/aggregate";
    assert_eq!(served.get(path).await.code(), "no_aggregate");
    served.fake.keep_aggregate(b"aggregate");
    let answer = served.get(path).await;
    assert_eq!((answer.status, answer.body.as_slice()), (200, &b"aggregate"[..]));
    let etag = format!("\"{}\"", sample::next_checkpoint());
    assert_eq!((answer.header("etag"), answer.header("cache-control")), (etag.as_str(), "no-cache"));
    let part = served.send("GET", path, &[("Range", "bytes=4-"), ("If-Range", &etag)], b"").await;
    assert_eq!((part.status, part.body.as_slice()), (206, &b"egate"[..]));
    let other = format!("\"{}\"", Blake3Hash::of(b"other"));
    let whole = served.send("GET", path, &[("Range", "bytes=4-"), ("If-Range", &other)], b"").await;
    assert_eq!((whole.status, whole.body.as_slice()), (200, &b"aggregate"[..]));
    assert_eq!(served.get("/v1/rounds/0/aggregate").await.code(), "no_aggregate");
}

#[tokio::test]
async fn transcripts_are_served_to_the_bit_and_in_parts() {
    let served = serve(Limits::default()).await;
    let bytes = sample::transcript().to_bytes();
    let answer = served.get("/v1/rounds/1/transcript").await;
    assert_eq!((answer.status, &answer.body), (200, &bytes));
    assert_eq!(answer.header("etag"), format!("\"{}\"", Blake3Hash::of(&bytes)));
    let part = served.send("GET", "/v1/rounds/1/transcript", &[("Range", "bytes=-10")], b"").await;
    assert_eq!((part.status, &part.body[..]), (206, &bytes[bytes.len() - 10..]));
    assert_eq!(served.get("/v1/rounds/0/transcript").await.code(), "not_closed");
}

#[tokio::test]
async fn too_many_requests_are_told_when_to_come_back() {
    let limits = Limits { requests: Rate { burst: 2, per_minute: 6 }, ..Limits::default() };
    let served = serve(limits).await;
    assert_eq!(served.get("/v1/run").await.status, 200);
    assert_eq!(served.get("/nowhere").await.status, 404);
    let answer = served.get("/v1/run").await;
    assert_eq!((answer.status, answer.code().as_str()), (429, "too_many_requests"));
    assert!((1..=10).contains(&answer.header("retry-after").parse::<u64>().expect("seconds")));
}

#[tokio::test]
async fn challenges_are_rarer_than_requests_and_a_bought_ticket_costs_none() {
    let limits = Limits { challenges: Rate { burst: 2, per_minute: 1 }, ..Limits::default() };
    let served = serve(limits).await;
    let credentials = paid(challenge(&served).await);
    for _ in 0..5 {
        assert_eq!(ask_for_ticket(&served, Some(&credentials)).await.status, 200);
    }
    assert_eq!(ask_for_ticket(&served, None).await.status, 402);
    let answer = ask_for_ticket(&served, None).await;
    assert_eq!((answer.status, answer.header("retry-after")), (429, "60"));
    assert_eq!(served.fake.challenges.load(Ordering::SeqCst), 2, "no invoice was made for it");
}

#[tokio::test]
async fn a_refused_commitment_costs_no_challenge() {
    let limits = Limits { challenges: Rate { burst: 1, per_minute: 1 }, ..Limits::default() };
    let served = serve(limits).await;
    for _ in 0..3 {
        assert_eq!(served.post("/v1/rounds/7/tickets", &sample::commitment().to_bytes()).await.code(), "wrong_round");
    }
    assert_eq!(ask_for_ticket(&served, None).await.status, 402);
}

#[tokio::test]
async fn a_slow_coordinator_is_a_timeout_and_its_work_goes_on() {
    let served = serve(Limits { call: Duration::from_millis(50), ..Limits::default() }).await;
    *served.fake.run_takes.lock().expect("unpoisoned") = Duration::from_millis(300);
    let answer = served.get("/v1/run").await;
    assert_eq!((answer.status, answer.code().as_str()), (504, "timed_out"));
    assert_eq!(served.fake.runs_finished.load(Ordering::SeqCst), 0);
    served.server.stop().await;
    assert_eq!(served.fake.runs_finished.load(Ordering::SeqCst), 1, "stopping waits for the coordinator's work");
}

#[tokio::test]
async fn more_calls_than_the_limit_are_told_to_wait() {
    let served = serve(Limits { calls: 1, ..Limits::default() }).await;
    *served.fake.run_takes.lock().expect("unpoisoned") = Duration::from_millis(400);
    let (one, two) = tokio::join!(served.get("/v1/run"), served.get("/v1/run"));
    let mut statuses = [one.status, two.status];
    statuses.sort_unstable();
    assert_eq!(statuses, [200, 503]);
    let busy = if one.status == 503 { one } else { two };
    assert_eq!((busy.code().as_str(), busy.header("retry-after")), ("busy", "3"));
}

#[tokio::test]
async fn stopping_finishes_the_request_under_way_and_frees_the_port() {
    let Served { fake, board, server } = serve(Limits::default()).await;
    let address = server.address();
    *fake.run_takes.lock().expect("unpoisoned") = Duration::from_millis(200);
    let served = Served { fake: fake.clone(), board, server };
    let request = tokio::spawn(async move { (served.get("/v1/run").await.status, served) });
    tokio::time::sleep(Duration::from_millis(50)).await;
    let again = Server::start(address, Services::training(fake.clone()), Limits::default()).await;
    let again = again.expect_err("the port is taken");
    assert!(matches!(again, ServeError::InUse(_)), "{again}");
    assert!(again.to_string().contains(&address.port().to_string()), "{again}");
    let (status, served) = request.await.expect("ended");
    assert_eq!(status, 200);
    served.server.stop().await;
    let again = Server::start(address, Services::training(fake), Limits::default()).await;
    again.expect("the port is free again").stop().await;
}

#[tokio::test]
async fn an_address_of_another_machine_is_named_in_the_error() {
    let elsewhere = "192.0.2.1:8402".parse().expect("an address");
    let fake = std::sync::Arc::new(FakeCoordinator::new());
    let error = Server::start(elsewhere, Services::training(fake), Limits::default()).await.expect_err("not ours");
    assert!(matches!(error, ServeError::NotOurs(_)), "{error}");
}
