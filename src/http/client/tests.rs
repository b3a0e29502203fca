//! The client against the real server, and against servers that misbehave.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tempfile::TempDir;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio::sync::mpsc;

use super::{ClientError, CoordinatorClient, Policy, Progress, TicketReply};
use crate::http::server::{Limits, Rate, Server, Services};
use crate::http::testing as sample;
use crate::http::testing::{FakeCoordinator, ROUND, contribution_id};
use crate::ln::bolt11;
use crate::protocol::api::{ChannelOffer, ContributionState};
use crate::protocol::ids::{Blake3Hash, BountyId, ContributionId, RoundNumber};
use crate::protocol::l402::{Credentials, Identifier, Macaroon};

fn quick() -> Policy {
    Policy {
        connect: Duration::from_secs(2),
        request: Duration::from_secs(5),
        stall: Duration::from_millis(500),
        tries: 3,
        first_wait: Duration::from_millis(5),
        longest_wait: Duration::from_millis(20),
        ..Policy::default()
    }
}

async fn serve(limits: Limits) -> (Arc<FakeCoordinator>, Server, CoordinatorClient) {
    let fake = Arc::new(FakeCoordinator::new());
    let server =
        Server::start("127.0.0.1:0".parse().expect("an address"), Services::training(fake.clone()), limits).await;
    let server = server.expect("a port");
    let client = CoordinatorClient::with_policy(&format!("http://{}", server.address()), quick()).expect("a client");
    (fake, server, client)
}

/// A server that gives the n-th connection the n-th answer and hangs up; the requests' heads come out of the channel.
async fn scripted(answers: Vec<Vec<u8>>) -> (CoordinatorClient, mpsc::UnboundedReceiver<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address: SocketAddr = listener.local_addr().expect("an address");
    let (seen, heads) = mpsc::unbounded_channel();
    tokio::spawn(async move {
        for answer in answers {
            let (mut stream, _) = listener.accept().await.expect("a connection");
            let mut head = Vec::new();
            while !head.windows(4).any(|window| window == b"\r\n\r\n") {
                let read = stream.read_buf(&mut head).await.expect("a request");
                assert!(read > 0, "the request ends early");
            }
            let _ = seen.send(String::from_utf8_lossy(&head).to_lowercase());
            let _ = stream.write_all(&answer).await;
        }
    });
    let client = CoordinatorClient::with_policy(&format!("http://{address}"), quick()).expect("a client");
    (client, heads)
}

fn answer(head: &str, body: &[u8]) -> Vec<u8> {
    [b"HTTP/1.1 ", head.as_bytes(), b"\r\nConnection: close\r\n\r\n", body].concat()
}

fn blob() -> Vec<u8> {
    (0..400_000u32).map(|i| (i % 253) as u8).collect()
}

fn nothing(_: Progress) {}

fn part_of(to: &Path) -> std::path::PathBuf {
    to.with_file_name("blob.part")
}

#[tokio::test]
async fn every_endpoint_answers_with_its_type() {
    let (fake, _server, client) = serve(Limits::default()).await;
    assert_eq!(client.run().await.expect("a run"), sample::run_view());
    assert_eq!(client.round(None).await.expect("a round"), sample::round_view());
    assert_eq!(client.round(Some(ROUND)).await.expect("a round"), sample::round_view());
    assert_eq!(client.register(&sample::registration()).await.expect("noted").channel, ChannelOffer::Opening);
    let view = client.submit_invoices(contribution_id(), &sample::submission()).await.expect("taken");
    assert_eq!(view.state, ContributionState::Locking);
    let view = client.upload(contribution_id(), &sample::payload()).await.expect("taken");
    assert_eq!((view.state, fake.uploaded()), (ContributionState::Uploaded, Some(sample::payload())));
    let view = client.contribution(contribution_id()).await.expect("a contribution");
    assert_eq!(view.receipt, Some(sample::receipt()));
    assert_eq!(client.fetch_transcript(ROUND).await.expect("a transcript"), sample::transcript().to_bytes());
    assert_eq!(client.status().await.expect("a status"), sample::status());
}

#[tokio::test]
async fn a_ticket_is_bought_with_the_challenge_and_its_preimage() {
    let (_fake, _server, client) = serve(Limits::default()).await;
    let reply = client.ticket(ROUND, &sample::commitment(), None).await.expect("a challenge");
    let TicketReply::Challenge { params, reason } = reply else { panic!("unpaid") };
    assert_eq!(reason.code, "payment_required");
    let macaroon = Macaroon::from_base64(&params.macaroon).expect("a macaroon");
    let invoice = bolt11::parse(&params.invoice, bolt11::Network::Regtest).expect("an invoice");
    assert_eq!(Identifier::of(&macaroon).expect("ours").payment_hash, invoice.payment_hash);
    let credentials = Credentials::new(macaroon, sample::fee_preimage()).expect("ours");
    for _ in 0..2 {
        let reply = client.ticket(ROUND, &sample::commitment(), Some(&credentials)).await.expect("a ticket");
        assert_eq!(reply, TicketReply::Ticket(Box::new(sample::ticket())));
    }
}

#[tokio::test]
async fn a_refusal_comes_with_its_code_and_is_not_repeated() {
    let (_fake, _server, client) = serve(Limits::default()).await;
    let error = client.round(Some(RoundNumber(9))).await.expect_err("unknown");
    assert_eq!(
        (error.code(), matches!(error, ClientError::Refused { status: 404, .. })),
        (Some("no_such_round"), true)
    );
    let error = client.ticket(RoundNumber(2), &sample::commitment(), None).await.expect_err("another round");
    assert_eq!(error.code(), Some("wrong_round"));
    let error = client.upload(contribution_id(), b"too short").await.expect_err("another payload");
    assert_eq!(error.code(), Some("payload_length"));
    let error = client.upload(ContributionId::from_bytes([0; 32]), b"").await.expect_err("no ticket");
    assert_eq!(error.code(), Some("no_such_ticket"));
}

#[tokio::test]
async fn a_coordinator_that_is_down_is_named_with_what_to_do() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let url = format!("http://{}", listener.local_addr().expect("an address"));
    drop(listener);
    let client = CoordinatorClient::with_policy(&url, quick()).expect("a client");
    let error = client.run().await.expect_err("down");
    assert!(matches!(error, ClientError::Unreachable { .. }), "{error}");
    assert!(error.to_string().contains(&url) && error.to_string().contains("Check that it runs"), "{error}");
}

#[test]
fn what_is_not_a_coordinators_url_is_refused() {
    for url in ["", "localhost:8402", "ftp://host", "http://", "http://u:p@host", "http://host/?q", "/v1"] {
        let error = CoordinatorClient::new(url).expect_err(url);
        assert!(matches!(error, ClientError::BadUrl { .. }), "{url}: {error}");
    }
    let client = CoordinatorClient::new("https://host/run-a").expect("served under a path");
    assert_eq!(client.endpoint(&["run"]).expect("a URL").as_str(), "https://host/run-a/v1/run");
}

#[tokio::test]
async fn passing_failures_are_tried_again_within_the_budget() {
    let busy = answer("503 Service Unavailable\r\nRetry-After: 1\r\nContent-Length: 0", b"");
    let body = serde_json::to_vec(&sample::run_view()).expect("JSON");
    let run = answer(&format!("200 OK\r\nContent-Length: {}", body.len()), &body);
    let cut = answer("200 OK\r\nContent-Length: 10", b"{");

    let (client, _heads) = scripted(vec![busy.clone(), cut.clone(), run]).await;
    assert_eq!(client.run().await.expect("the third answer"), sample::run_view());

    let (client, mut heads) = scripted(vec![busy.clone(), cut.clone(), cut.clone()]).await;
    let error = client.run().await.expect_err("three tries");
    assert!(matches!(error, ClientError::Interrupted { .. }), "{error}");
    assert_eq!([heads.recv().await, heads.recv().await, heads.recv().await].iter().flatten().count(), 3);
}

#[tokio::test]
async fn a_challenge_is_asked_for_once_since_each_costs_an_invoice() {
    let cut = answer("402 Payment Required\r\nContent-Length: 10", b"{");
    let (client, mut heads) = scripted(vec![cut.clone(), cut]).await;
    assert!(client.ticket(ROUND, &sample::commitment(), None).await.is_err());
    assert!(heads.recv().await.is_some());
    assert!(heads.try_recv().is_err(), "it was not repeated");
}

#[tokio::test]
async fn a_429_is_waited_out() {
    let limits = Limits { requests: Rate { burst: 1, per_minute: 6_000 }, ..Limits::default() };
    let (_fake, _server, client) = serve(limits).await;
    for _ in 0..4 {
        client.run().await.expect("served in the end");
    }
}

#[tokio::test]
async fn answers_that_are_too_long_or_not_of_the_api_are_refused() {
    let policy = Policy { max_json_bytes: 100, ..quick() };
    let declared = answer("200 OK\r\nContent-Length: 101", b"");
    let endless = answer("200 OK", &[b' '; 5_000]);
    for bytes in [declared, endless] {
        let (client, _heads) = scripted(vec![bytes]).await;
        let client = CoordinatorClient { policy, ..client };
        assert!(matches!(client.run().await, Err(ClientError::TooLarge { limit_bytes: 100, .. })));
    }
    for bytes in [
        answer("200 OK\r\nContent-Length: 4", b"<ok>"),
        answer("302 Found\r\nLocation: http://127.0.0.1:1/\r\nContent-Length: 0", b""),
        answer("404 Not Found\r\nContent-Length: 4", b"nope"),
    ] {
        let (client, _heads) = scripted(vec![bytes]).await;
        let error = client.run().await.expect_err("not the API");
        assert!(matches!(error, ClientError::BadAnswer { .. }), "{error}");
    }
}

#[tokio::test]
async fn a_blob_is_downloaded_once_and_verified() {
    let (fake, server, client) = serve(Limits::default()).await;
    let (folder, hash) = (TempDir::new().expect("a folder"), fake.publish(&blob()));
    let to = folder.path().join("deeper/blob");
    let mut seen = Vec::new();
    assert_eq!(client.fetch_blob(hash, &to, |p| seen.push(p)).await.expect("downloaded"), 400_000);
    assert_eq!(std::fs::read(&to).expect("a file"), blob());
    assert_eq!(seen.first(), Some(&Progress { done_bytes: 0, total_bytes: 400_000 }));
    assert_eq!(seen.last(), Some(&Progress { done_bytes: 400_000, total_bytes: 400_000 }));
    assert!(seen.is_sorted_by_key(|p| p.done_bytes));
    server.stop().await;
    assert_eq!(client.fetch_blob(hash, &to, nothing).await.expect("it is here already"), 400_000);
}

#[tokio::test]
async fn a_blob_that_is_not_published_is_refused_and_leaves_nothing() {
    let (_fake, _server, client) = serve(Limits::default()).await;
    let folder = TempDir::new().expect("a folder");
    let error = client.fetch_blob(Blake3Hash::of(b"?"), &folder.path().join("blob"), nothing).await;
    assert_eq!(error.expect_err("unknown").code(), Some("no_such_blob"));
    assert_eq!(std::fs::read_dir(folder.path()).expect("a folder").count(), 0);
}

#[tokio::test]
async fn an_interrupted_download_goes_on_where_it_stopped() {
    let (bytes, hash, folder) = (blob(), Blake3Hash::of(&blob()), TempDir::new().expect("a folder"));
    let to = folder.path().join("blob");
    let (client, mut heads) = scripted(vec![
        answer("200 OK\r\nContent-Length: 400000", &bytes[..150_000]),
        answer(
            "206 Partial Content\r\nContent-Range: bytes 150000-399999/400000\r\nContent-Length: 250000",
            &bytes[150_000..300_000],
        ),
        answer(
            "206 Partial Content\r\nContent-Range: bytes 300000-399999/400000\r\nContent-Length: 100000",
            &bytes[300_000..],
        ),
    ])
    .await;
    assert_eq!(client.fetch_blob(hash, &to, nothing).await.expect("downloaded"), 400_000);
    assert_eq!(std::fs::read(&to).expect("a file"), bytes);
    assert!(!part_of(&to).exists());
    assert!(!heads.recv().await.expect("a request").contains("range:"));
    for from in ["150000", "300000"] {
        let head = heads.recv().await.expect("a request");
        assert!(head.contains(&format!("\r\nrange: bytes={from}-\r\n")), "{head}");
        assert!(head.contains(&format!("\r\nif-range: \"{hash}\"\r\n")), "{head}");
    }
}

#[tokio::test]
async fn a_download_goes_on_after_the_process_was_stopped() {
    let (fake, _server, client) = serve(Limits::default()).await;
    let (folder, hash) = (TempDir::new().expect("a folder"), fake.publish(&blob()));
    let to = folder.path().join("blob");
    for have in [0, 1, 399_999, 400_000] {
        std::fs::write(part_of(&to), &blob()[..have]).expect("written");
        let mut first = None;
        client.fetch_blob(hash, &to, |p| first = first.or(Some(p.done_bytes))).await.expect("downloaded");
        assert_eq!(first, (have < 400_000).then_some(have as u64), "only what is missing is fetched");
        assert_eq!(std::fs::read(&to).expect("a file"), blob());
        std::fs::remove_file(&to).expect("removed");
    }
}

#[tokio::test]
async fn an_aggregate_is_resumed_like_a_blob_and_left_alone_if_it_is_too_long() {
    let (fake, _server, client) = serve(Limits::default()).await;
    let (folder, next) = (TempDir::new().expect("a folder"), sample::next_checkpoint());
    let to = folder.path().join("blob");
    let missing = client.fetch_aggregate(ROUND, next, 400_000, &to, nothing).await.expect_err("there is none");
    assert_eq!(missing.code(), Some("no_aggregate"));
    fake.keep_aggregate(&blob());
    let refused = client.fetch_aggregate(ROUND, next, 399_999, &to, nothing).await.expect_err("a byte too many");
    assert!(matches!(refused, ClientError::TooLarge { limit_bytes: 399_999, .. }), "{refused}");
    assert_eq!(std::fs::read_dir(folder.path()).expect("a folder").count(), 0, "nothing was written");
    for have in [0, 1, 399_999, 400_000] {
        std::fs::write(part_of(&to), &blob()[..have]).expect("written");
        let mut first = None;
        let length = client.fetch_aggregate(ROUND, next, 400_000, &to, |p| first = first.or(Some(p.done_bytes))).await;
        assert_eq!(length.expect("downloaded"), 400_000);
        assert_eq!(first, (have < 400_000).then_some(have as u64), "only what is missing is fetched");
        assert_eq!(std::fs::read(&to).expect("a file"), blob());
    }
    // What belongs to another round's end is not gone on from.
    std::fs::write(part_of(&to), [7; 100]).expect("written");
    let other = Blake3Hash::of(b"other");
    client.fetch_aggregate(ROUND, other, 400_000, &to, nothing).await.expect("downloaded whole");
    assert_eq!(std::fs::read(&to).expect("a file"), blob());
}

#[tokio::test]
async fn a_corrupt_part_file_is_thrown_away_and_fetched_again() {
    let (fake, _server, client) = serve(Limits::default()).await;
    let (folder, hash) = (TempDir::new().expect("a folder"), fake.publish(&blob()));
    let to = folder.path().join("blob");
    for junk in [vec![9; 1_000], vec![9; 500_000]] {
        std::fs::write(part_of(&to), junk).expect("written");
        client.fetch_blob(hash, &to, nothing).await.expect("downloaded again");
        assert_eq!(std::fs::read(&to).expect("a file"), blob());
        std::fs::write(&to, b"corrupt").expect("written");
    }
}

#[tokio::test]
async fn wrong_bytes_are_never_handed_on() {
    let (fake, _server, client) = serve(Limits::default()).await;
    let (folder, hash) = (TempDir::new().expect("a folder"), Blake3Hash::of(&blob()));
    let mut forged = blob();
    forged[200_000] ^= 1;
    fake.publish_as(hash, &forged);
    let to = folder.path().join("blob");
    let error = client.fetch_blob(hash, &to, nothing).await.expect_err("forged");
    let expected_got = Blake3Hash::of(&forged);
    assert!(matches!(error, ClientError::WrongBytes { got, times: 2, .. } if got == expected_got), "{error}");
    assert_eq!(std::fs::read_dir(folder.path()).expect("a folder").count(), 0, "nothing is left behind");
}

#[tokio::test]
async fn a_download_that_only_trickles_is_given_up_on_and_kept() {
    let hash = Blake3Hash::of(&blob());
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address");
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let _ = stream.read(&mut [0; 4_096]).await;
                let _ = stream.write_all(&answer("200 OK\r\nContent-Length: 400000", b"")).await;
                while stream.write_all(&[0]).await.is_ok() {
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
            });
        }
    });
    let policy = Policy { request: Duration::from_millis(300), slowest_bytes_per_s: u64::MAX, tries: 1, ..quick() };
    let client = CoordinatorClient::with_policy(&format!("http://{address}"), policy).expect("a client");
    let folder = TempDir::new().expect("a folder");
    let to = folder.path().join("blob");
    let error = client.fetch_blob(hash, &to, nothing).await.expect_err("a trickle");
    assert!(error.to_string().contains("too slowly"), "{error}");
    assert!(std::fs::metadata(part_of(&to)).expect("kept").len() > 0);
}

#[tokio::test]
async fn parts_that_were_not_asked_for_and_blobs_that_are_too_long_are_refused() {
    let hash = Blake3Hash::of(&blob());
    let folder = TempDir::new().expect("a folder");
    let to = folder.path().join("blob");
    std::fs::write(part_of(&to), &blob()[..10]).expect("written");
    for range in ["bytes 0-399999/400000", "bytes 10-20/400000", "bytes 10-5/6", "bytes 10-399999/*", "nonsense"] {
        let (client, _heads) =
            scripted(vec![answer(&format!("206 Partial Content\r\nContent-Range: {range}"), b"")]).await;
        let error = client.fetch_blob(hash, &to, nothing).await.expect_err("another part");
        assert!(matches!(error, ClientError::BadAnswer { .. }), "{range}: {error}");
    }
    let (client, _heads) = scripted(vec![answer("200 OK\r\nContent-Length: 400000", &blob())]).await;
    let client = CoordinatorClient { policy: Policy { max_blob_bytes: 399_999, ..quick() }, ..client };
    let error = client.fetch_blob(hash, &to, nothing).await.expect_err("too long");
    assert!(matches!(error, ClientError::TooLarge { .. }), "{error}");
}

#[tokio::test]
async fn a_server_that_stalls_is_given_up_on() {
    let (fake, _server, client) = serve(Limits::default()).await;
    *fake.run_takes.lock().expect("unpoisoned") = Duration::from_secs(3);
    let client =
        CoordinatorClient { policy: Policy { request: Duration::from_millis(50), tries: 2, ..quick() }, ..client };
    let error = client.run().await.expect_err("too slow");
    assert!(matches!(error, ClientError::Interrupted { .. }), "{error}");
    assert_eq!(fake.runs_finished.load(Ordering::SeqCst), 0);
}

#[tokio::test]
async fn a_bountys_calls_go_below_the_bounty_and_those_about_bounties_do_not() {
    let refusal = b"HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\nconnection: close\r\n\r\n".to_vec();
    let (client, mut heads) = scripted(vec![refusal; 6]).await;
    let bounty = BountyId::from_bytes([0xab; 32]);
    let of_bounty = client.of_bounty(bounty);
    let place = TempDir::new().expect("a folder");
    assert!(of_bounty.round(None).await.is_err());
    assert!(of_bounty.contribution(contribution_id()).await.is_err());
    assert!(of_bounty.fetch_blob(Blake3Hash::of(b"x"), &place.path().join("x"), |_| {}).await.is_err());
    assert!(of_bounty.bounty(bounty).await.is_err());
    assert!(of_bounty.bounties().await.is_err());
    assert!(client.round(None).await.is_err());
    let under = format!("/v1/bounties/{bounty}");
    for path in [
        format!("{under}/rounds/current"),
        format!("{under}/contributions/{}", contribution_id()),
        format!("{under}/blobs/{}", Blake3Hash::of(b"x")),
        under.clone(),
        "/v1/bounties".to_owned(),
        "/v1/rounds/current".to_owned(),
    ] {
        let head = heads.recv().await.expect("a request");
        assert!(head.starts_with(&format!("get {path} http")), "{head}");
    }
}
