//! Clients that send too much, too slowly, or nonsense.

use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::{Answer, PATIENCE, Served, read_to_end, serve};
use crate::http::server::{Limits, Rate, Settings, TrustedProxies};
use crate::http::testing as sample;
use crate::http::testing::contribution_id;

fn payload_path() -> String {
    format!("/v1/contributions/{}/payload", contribution_id())
}

fn head(method: &str, path: &str, headers: &str) -> String {
    format!("{method} {path} HTTP/1.1\r\nHost: test\r\n{headers}\r\n")
}

const BINARY: &str = "Content-Type: application/octet-stream\r\n";
const JSON: &str = "Content-Type: application/json\r\n";

#[tokio::test]
async fn a_body_that_is_declared_too_long_is_refused_unread() {
    let served = serve(Limits::default()).await;
    let committed = sample::payload().len();
    for (request, status, code) in [
        (head("POST", "/v1/peers", &format!("{JSON}Content-Length: 65537\r\n")), 413, "body_too_large"),
        (
            head("PUT", &payload_path(), &format!("{BINARY}Content-Length: {}\r\n", committed + 1)),
            413,
            "body_too_large",
        ),
        (head("PUT", &payload_path(), &format!("{BINARY}Content-Length: 5\r\n")), 400, "payload_length"),
        (head("PUT", &payload_path(), "Content-Length: 99999999999\r\n"), 415, "unsupported_media_type"),
    ] {
        // Nothing of the body is sent: the answer can't have waited for it.
        let answer = Answer::parse(&served.raw(request.as_bytes()).await).expect("an answer");
        assert_eq!((answer.status, answer.code().as_str()), (status, code), "{request}");
    }
}

#[tokio::test]
async fn a_refused_upload_can_still_read_its_answer() {
    let served = serve(Limits::default()).await;
    let body = vec![7; 3_000_000];
    let headers = [("Content-Type", "application/octet-stream")];
    // Without lingering a reset overtakes the answer now and then.
    for _ in 0..20 {
        let answer = served.send("PUT", &payload_path(), &headers, &body).await;
        assert_eq!((answer.status, answer.code().as_str()), (413, "body_too_large"));
    }
}

#[tokio::test]
async fn a_chunked_body_is_cut_off_at_its_limit() {
    let served = serve(Limits::default()).await;
    for (request, limit) in [
        (head("POST", "/v1/peers", &format!("{JSON}Transfer-Encoding: chunked\r\n")), 65_536),
        (head("PUT", &payload_path(), &format!("{BINARY}Transfer-Encoding: chunked\r\n")), sample::payload().len()),
    ] {
        let chunk = [format!("{:x}\r\n", 8_192).as_bytes(), &[b'a'; 8_192], b"\r\n"].concat();
        let bytes = [request.as_bytes(), &chunk.repeat(limit / 8_192 + 40)].concat();
        let answer = Answer::parse(&served.raw(&bytes).await).expect("an answer");
        assert_eq!((answer.status, answer.code().as_str()), (413, "body_too_large"));
    }
    assert_eq!(served.fake.uploaded(), None);
}

#[tokio::test]
async fn a_chunked_upload_of_the_wrong_length_or_content_is_refused() {
    let served = serve(Limits::default()).await;
    let upload = |bytes: Vec<u8>| {
        let head =
            head("PUT", &payload_path(), &format!("{BINARY}Transfer-Encoding: chunked\r\nConnection: close\r\n"));
        [head.as_bytes(), format!("{:x}\r\n", bytes.len()).as_bytes(), &bytes, b"\r\n0\r\n\r\n"].concat()
    };
    let short = Answer::parse(&served.raw(&upload(vec![1; 10])).await).expect("an answer");
    assert_eq!((short.status, short.code().as_str()), (400, "payload_length"));
    let mut other = sample::payload();
    other[0] ^= 1;
    let other = Answer::parse(&served.raw(&upload(other)).await).expect("an answer");
    assert_eq!((other.status, other.code().as_str()), (400, "payload_mismatch"));
    let right = Answer::parse(&served.raw(&upload(sample::payload())).await).expect("an answer");
    assert_eq!(right.status, 200);
}

#[tokio::test]
async fn a_body_that_breaks_off_reaches_nobody() {
    let served = serve(Limits::default()).await;
    let mut stream = served.connect().await;
    let request = head("PUT", &payload_path(), &format!("{BINARY}Content-Length: {}\r\n", sample::payload().len()));
    stream.write_all(request.as_bytes()).await.expect("sent");
    stream.write_all(&sample::payload()[..1_000]).await.expect("sent");
    stream.shutdown().await.expect("half closed");
    let bytes = read_to_end(&mut stream).await;
    if let Some(answer) = Answer::parse(&bytes) {
        assert_eq!((answer.status, answer.code().as_str()), (400, "body_truncated"));
    }
    assert_eq!(served.fake.uploaded(), None);
}

#[tokio::test]
async fn a_slow_body_times_out_with_an_answer() {
    let limits = Limits { json_body: Duration::from_millis(100), ..Limits::default() };
    let served = serve(limits).await;
    let request = head("POST", "/v1/peers", &format!("{JSON}Content-Length: 100\r\n")) + "{";
    let answer = Answer::parse(&served.raw(request.as_bytes()).await).expect("an answer");
    assert_eq!((answer.status, answer.code().as_str()), (408, "body_timeout"));
}

#[tokio::test]
async fn slow_headers_and_idle_connections_are_closed() {
    let limits = Limits { header_read: Duration::from_millis(100), ..Limits::default() };
    let served = serve(limits).await;
    for opening in ["", "GET /v1/run HTTP/1.1\r\nHost:", &head("GET", "/v1/run", "")] {
        let mut stream = served.connect().await;
        stream.write_all(opening.as_bytes()).await.expect("sent");
        read_to_end(&mut stream).await;
    }
}

#[tokio::test]
async fn a_head_that_trickles_in_is_cut_off_and_others_are_served_meanwhile() {
    let limits = Limits { header_read: Duration::from_millis(300), ..Limits::default() };
    let served = serve(limits).await;
    let mut slow = Vec::new();
    for _ in 0..100 {
        let (mut reader, mut writer) = served.connect().await.into_split();
        slow.push(tokio::spawn(async move {
            let trickle = async {
                for byte in b"GET /v1/run HTTP/1.1\r\nHost: ".iter().chain(std::iter::repeat(&b'a')) {
                    if writer.write_all(&[*byte]).await.is_err() {
                        break;
                    }
                    tokio::time::sleep(Duration::from_millis(10)).await;
                }
            };
            let ended = async { while matches!(reader.read(&mut [0; 64]).await, Ok(1..)) {} };
            tokio::select! { () = trickle => {}, () = ended => {} }
        }));
    }
    assert_eq!(served.get("/v1/run").await.status, 200);
    for connection in slow {
        tokio::time::timeout(PATIENCE, connection).await.expect("cut off").expect("no panic");
    }
}

#[tokio::test]
async fn clients_behind_a_named_proxy_have_rates_of_their_own_and_nobody_else_can_claim_one() {
    let rate = Rate { burst: 3, per_minute: 1 };
    let limits = Limits { requests: rate, ..Limits::default() };
    let proxies =
        TrustedProxies { networks: vec!["127.0.0.1".parse().expect("an address")], ..TrustedProxies::default() };
    let behind = serve(Settings { limits, proxies }).await;
    let direct = serve(limits).await;
    let statuses = async |served: &Served, from: &dyn Fn(u32) -> String| {
        let mut statuses = Vec::new();
        for nth in 0..6 {
            let answer = served.send("GET", "/v1/run", &[("X-Forwarded-For", &from(nth))], b"").await;
            statuses.push(answer.status);
        }
        statuses
    };
    assert_eq!(statuses(&behind, &|nth| format!("192.0.2.{nth}")).await, [200; 6], "six clients");
    assert_eq!(statuses(&behind, &|_| "198.51.100.1".into()).await, [200, 200, 200, 429, 429, 429]);
    let spoofed = statuses(&behind, &|nth| format!("203.0.113.{nth}, 198.51.100.2")).await;
    assert_eq!(spoofed, [200, 200, 200, 429, 429, 429], "what the client wrote itself doesn't count");
    assert_eq!(statuses(&direct, &|nth| format!("192.0.2.{nth}")).await, [200, 200, 200, 429, 429, 429]);
}

#[tokio::test]
async fn a_client_that_reads_nothing_is_dropped() {
    let limits = Limits { stall: Duration::from_millis(200), ..Limits::default() };
    let served = serve(limits).await;
    let hash = served.fake.publish(&vec![1; 64 * 1_024 * 1_024]);
    let mut stream = served.connect().await;
    stream.write_all(head("GET", &format!("/v1/blobs/{hash}"), "").as_bytes()).await.expect("sent");
    tokio::time::sleep(Duration::from_millis(1_500)).await;
    assert!(read_to_end(&mut stream).await.len() < 64 * 1_024 * 1_024);
}

#[tokio::test]
async fn header_bombs_are_refused() {
    let served = serve(Limits::default()).await;
    let many = "A: b\r\n".repeat(1_000);
    let long = format!("A: {}\r\n", "b".repeat(100_000));
    let path = format!("/{}", "a".repeat(100_000));
    for request in [head("GET", "/v1/run", &many), head("GET", "/v1/run", &long), head("GET", &path, "")] {
        let bytes = served.raw(request.as_bytes()).await;
        let status = Answer::parse(&bytes).map(|answer| answer.status);
        assert!(matches!(status, None | Some(400..=499)), "{status:?}");
    }
    assert_eq!(served.get("/v1/run").await.status, 200, "others are served");
}

#[tokio::test]
async fn what_is_not_http_is_refused() {
    let served = serve(Limits::default()).await;
    for bytes in [
        &b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"[..],
        b"GET\r\n\r\n",
        b"GET /v1/run HTTP/9.9\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"POST /v1/peers HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\n12345",
        b"POST /v1/peers HTTP/1.1\r\nHost: a\r\nContent-Length: -1\r\n\r\n",
        b"POST /v1/peers HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
    ] {
        let answer = Answer::parse(&served.raw(bytes).await);
        assert!(answer.is_none_or(|answer| (400..500).contains(&answer.status)), "{bytes:?}");
    }
}

#[tokio::test]
async fn paths_that_climb_are_just_unknown() {
    let served = serve(Limits::default()).await;
    for path in [
        "/v1/blobs/../../etc/passwd",
        "/v1/blobs/..%2f..%2fetc%2fpasswd",
        "/v1/blobs/%2e%2e",
        "/v1/blobs/%00",
        "//v1/run",
        "/v1/blobs/",
        "/v1/./run",
        "*",
        "http://elsewhere/v1/nothing",
    ] {
        let answer = served.get(path).await;
        assert!(matches!(answer.status, 400 | 404), "{path}: {answer:?}");
        assert!(!answer.code().is_empty(), "{path}");
    }
}

#[tokio::test]
async fn huge_range_lists_are_answered_with_the_whole() {
    let served = serve(Limits::default()).await;
    let hash = served.fake.publish(b"a small blob");
    let list = format!("bytes={}0-0", "0-,".repeat(5_000));
    let answer = served.send("GET", &format!("/v1/blobs/{hash}"), &[("Range", &list)], b"").await;
    assert_eq!((answer.status, answer.body.as_slice()), (200, &b"a small blob"[..]));
}

#[tokio::test]
async fn pipelined_requests_are_answered_in_order() {
    let served = serve(Limits::default()).await;
    let requests = head("GET", "/v1/rounds/1", "") + &head("GET", "/nowhere", "Connection: close\r\n");
    let text = String::from_utf8(served.raw(requests.as_bytes()).await).expect("UTF-8");
    let (first, second) = (text.find("200 OK"), text.find("404 Not Found"));
    assert!(first.is_some() && first < second, "{text}");
}

#[tokio::test]
async fn one_address_can_not_take_every_connection() {
    let limits = Limits { connections_per_address: 3, ..Limits::default() };
    let served = serve(limits).await;
    let mut held = Vec::new();
    for _ in 0..3 {
        let mut stream = served.connect().await;
        stream.write_all(b"GET /v1/run HTTP/1.1\r\n").await.expect("sent");
        held.push(stream);
    }
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert!(served.raw(head("GET", "/v1/run", "").as_bytes()).await.is_empty());
    held.clear();
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert_eq!(served.get("/v1/run").await.status, 200);
}

#[tokio::test]
async fn uploads_can_not_take_more_memory_than_there_is() {
    let committed = sample::payload().len() as u64;
    let served = serve(Limits { upload_memory_bytes: committed - 1, ..Limits::default() }).await;
    let headers = [("Content-Type", "application/octet-stream")];
    let answer = served.send("PUT", &payload_path(), &headers, &sample::payload()).await;
    assert_eq!((answer.status, answer.code().as_str()), (413, "body_too_large"));

    let served = serve(Limits { upload_memory_bytes: committed + 8_192, ..Limits::default() }).await;
    let mut slow = served.connect().await;
    let request = head("PUT", &payload_path(), &format!("{BINARY}Content-Length: {committed}\r\n"));
    slow.write_all(request.as_bytes()).await.expect("sent");
    tokio::time::sleep(Duration::from_millis(100)).await;
    let answer = served.send("PUT", &payload_path(), &headers, &sample::payload()).await;
    assert_eq!((answer.status, answer.code().as_str()), (503, "busy"));
}
