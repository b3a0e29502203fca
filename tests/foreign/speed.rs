//! The gate's requests per second beside Aperture's, in one run, over one LND: `./x foreign speed`.
//!
//! Not the same work on both sides: Aperture passes a request on to a backend, while our gate is in the backend. So the
//! backend alone is measured too.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use l402t::clock::Stopwatch;
use l402t::http::client::CoordinatorClient;
use l402t::ln::lnd::{LndNode, Settings};
use l402t::ln::{Lightning, PayLimits, PaymentStatus};
use l402t::localnet::LndFiles;
use l402t::protocol::amount::Msat;
use l402t::protocol::ids::Blake3Hash;
use l402t::protocol::l402::parse_challenge;
use l402t::protocol::sign::{IdentityKey, Signed, Statement as _};
use l402t::protocol::statements::{Commitment, PeerRegistration};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::aperture::{Market, aperture, channel, lnd_config, market};
use crate::live::{Live, l402t, prepare};

const CONNECTIONS: usize = 16;
/// How long each measurement takes, and how often all of them are made, in turn.
const SPAN: Duration = Duration::from_secs(3);
const TURNS: usize = 3;
/// Commitments for which a fresh challenge is asked: four a peer.
const PEERS: usize = 250;
const PER_PEER: usize = 4;
const PAUSE: Duration = Duration::from_millis(100);
const POLLS: u32 = 900;

/// A request that is sent over and over, each time as another client behind a proxy.
#[derive(Clone)]
struct Shot {
    to: SocketAddr,
    method: &'static str,
    path: String,
    authorization: Option<String>,
    body: Vec<u8>,
    expect: u16,
}

impl Shot {
    fn bytes(&self, nth: usize) -> Vec<u8> {
        let mut head = format!("{} {} HTTP/1.1\r\nHost: localhost\r\n", self.method, self.path);
        head += &format!("X-Forwarded-For: 10.{}.{}.1\r\n", nth / 250 % 40, nth % 250);
        if let Some(value) = &self.authorization {
            head += &format!("Authorization: {value}\r\n");
        }
        if !self.body.is_empty() {
            head += &format!("Content-Type: application/json\r\nContent-Length: {}\r\n", self.body.len());
        }
        [head.as_bytes(), b"\r\n", &self.body].concat()
    }
}

/// Reads one answer of a connection that stays open: its status and head. As little work as can be: the gates have to
/// share the machine with it.
async fn answer(stream: &mut TcpStream, buffer: &mut Vec<u8>) -> (u16, String) {
    const LENGTH: &str = "content-length: ";
    loop {
        if let Some(end) = buffer.windows(4).position(|window| window == b"\r\n\r\n") {
            let head = String::from_utf8_lossy(&buffer[..end]).into_owned();
            let length = head.lines().find_map(|line| {
                let (name, value) = line.split_at_checked(LENGTH.len())?;
                name.eq_ignore_ascii_case(LENGTH).then(|| value.trim().parse::<usize>().ok())?
            });
            let whole = match length {
                Some(length) => (buffer.len() >= end + 4 + length).then_some(end + 4 + length),
                // Chunked: up to the last chunk.
                None => buffer[end..].windows(5).position(|window| window == b"0\r\n\r\n").map(|at| end + at + 5),
            };
            if let Some(whole) = whole {
                buffer.drain(..whole);
                return (head.split(' ').nth(1).and_then(|status| status.parse().ok()).expect("a status"), head);
            }
        }
        assert_ne!(stream.read_buf(buffer).await.expect("read"), 0, "the connection ended");
    }
}

async fn once(shot: &Shot) -> (u16, String) {
    let mut stream = TcpStream::connect(shot.to).await.expect("connected");
    stream.write_all(&shot.bytes(0)).await.expect("sent");
    answer(&mut stream, &mut Vec::new()).await
}

/// Requests per second over some connections, until the time is over or the shots are used up.
async fn rate(shots: Arc<dyn Fn(usize) -> Option<Shot> + Send + Sync>) -> u64 {
    let (watch, sent) = (Stopwatch::start(), Arc::new(AtomicUsize::new(0)));
    let mut tasks = Vec::new();
    for _ in 0..CONNECTIONS {
        let (shots, sent) = (shots.clone(), sent.clone());
        tasks.push(tokio::spawn(async move {
            let (mut stream, mut buffer, mut done) = (None, Vec::new(), 0u64);
            while watch.elapsed() < SPAN {
                let nth = sent.fetch_add(1, Ordering::Relaxed);
                let Some(shot) = shots(nth) else { break };
                if stream.is_none() {
                    let opened = TcpStream::connect(shot.to).await.expect("connected");
                    opened.set_nodelay(true).expect("set");
                    stream = Some(opened);
                }
                let connection = stream.as_mut().expect("just opened");
                connection.write_all(&shot.bytes(nth)).await.expect("sent");
                let (status, head) = answer(connection, &mut buffer).await;
                assert_eq!(status, shot.expect, "{head}");
                done += 1;
            }
            done
        }));
    }
    let mut total = 0;
    for task in tasks {
        total += task.await.expect("no panic");
    }
    total * 1_000 / watch.elapsed_ms().max(1)
}

async fn node(files: &LndFiles, folder: &std::path::Path) -> LndNode {
    let settings = Settings {
        address: files.rpc.to_string(),
        tls_cert: std::fs::read(&files.tls_cert).expect("there").into(),
        macaroon: std::fs::read(&files.admin_macaroon).expect("there").into(),
        advertise: None,
    };
    LndNode::start(&settings, folder).await.expect("lnd can be used")
}

/// Pays a 402's invoice: the value of `Authorization`.
async fn buy(ln: &LndNode, head: &str) -> String {
    let values = head.lines().filter_map(|line| {
        let (name, value) = line.split_once(": ")?;
        name.eq_ignore_ascii_case("www-authenticate").then_some(value)
    });
    let params = parse_challenge(values).expect("a challenge");
    let limits = PayLimits { max_fee: Msat::new(10_000), max_cltv_blocks: 1_008 };
    let hash = ln.pay(&params.invoice, limits).await.expect("on its way");
    for _ in 0..POLLS {
        if let PaymentStatus::Succeeded { preimage, .. } = ln.payment(hash).await.expect("known") {
            return format!("L402 {}:{}", params.macaroon, hex::encode(preimage.as_bytes()));
        }
        tokio::time::sleep(PAUSE).await;
    }
    panic!("the payment does not end")
}

fn commit(
    client_round: &l402t::protocol::statements::RoundOpening,
    name: &str,
    key: &IdentityKey,
) -> Signed<Commitment> {
    key.sign(Commitment {
        run: client_round.run,
        round: client_round.round,
        opening: client_round.digest(),
        peer: key.id(),
        payload: Blake3Hash::of(name.as_bytes()),
        payload_bytes: name.len() as u64,
        claim: None,
    })
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "a measurement: ./x foreign speed"]
async fn speed_of_the_gate_beside_apertures() {
    let home = tempfile::tempdir().expect("a folder");
    let home = home.path();
    let Market { btcd: _btcd, seller, buyer, mut till, mut purse } = market(home).await;
    channel(&mut purse, &mut till, &seller.files().p2p.to_string()).await;
    let ln = node(buyer.files(), &home.join("buyers-records")).await;

    let many = format!(
        "max_contributions = 1024\n[coordinator]\ntrusted_proxies = [\"127.0.0.1\"]\n{}",
        lnd_config(seller.files())
    );
    // The run's section ends with its timing.
    prepare(home, "c.toml", 20_000, &many);
    let mut command = l402t(home);
    command.args(["coordinate", "--config", "c.toml", "--data", "c", "--json", "--listen", "127.0.0.1:0"]);
    let mut coordinator = Live::start(&mut command);
    let url = coordinator.wait_for("listening")["url"].as_str().expect("a URL").to_owned();
    let backend: SocketAddr = url.strip_prefix("http://").and_then(|text| text.parse().ok()).expect("an address");
    let (_aperture, front) = aperture(&home.join("aperture"), seller.files(), &backend.to_string()).await;

    let client = CoordinatorClient::new(&url).expect("a client");
    let run = client.run().await.expect("a run").run;
    let opening = client.round(None).await.expect("a round").opening.body;
    let info = ln.info().await.expect("up");
    let mut fresh = Vec::new();
    for peer in 0..PEERS {
        let key = IdentityKey::from_secret_bytes(Blake3Hash::of(&peer.to_be_bytes()).as_bytes()).expect("a key");
        let node_id = info.node_id.clone();
        client
            .register(&key.sign(PeerRegistration { run, peer: key.id(), node_id, address: None }))
            .await
            .expect("noted");
        for nth in 0..PER_PEER {
            fresh.push(commit(&opening, &format!("{peer} {nth}"), &key).to_bytes());
        }
    }
    let tickets = format!("/v1/rounds/{}/tickets", opening.round);
    let ours = |body: &[u8], authorization: Option<String>, expect: u16| Shot {
        to: backend,
        method: "POST",
        path: tickets.clone(),
        authorization,
        body: body.to_vec(),
        expect,
    };
    let get = |to: SocketAddr, path: &str, authorization: Option<String>, expect: u16| Shot {
        to,
        method: "GET",
        path: path.to_owned(),
        authorization,
        body: Vec::new(),
        expect,
    };

    // What is fresh can be asked for once.
    let mut unused: Vec<Shot> = fresh.iter().map(|body| ours(body, None, 402)).collect();
    let (other, sold) = (unused.remove(0), unused.pop().expect("some"));
    // Nothing else is sold to the peer that has its ticket.
    unused.truncate(unused.len() - (PER_PEER - 1));
    let own_token = buy(&ln, &once(&sold).await.1).await;
    assert_eq!(once(&ours(&sold.body, Some(own_token.clone()), 200)).await.0, 200);
    // Aperture guards a path of the same backend: its blobs.
    let blob = format!("/v1/blobs/{}", client.run().await.expect("a run").manifest.body.model_config);
    let its_token = buy(&ln, &once(&get(front, &blob, None, 402)).await.1).await;

    let always =
        |shot: Shot| -> Arc<dyn Fn(usize) -> Option<Shot> + Send + Sync> { Arc::new(move |_| Some(shot.clone())) };
    let once_each = move |shots: Vec<Shot>| -> Arc<dyn Fn(usize) -> Option<Shot> + Send + Sync> {
        Arc::new(move |nth| shots.get(nth).cloned())
    };
    let share = unused.len() / TURNS;
    let mut figures: Vec<(&str, Vec<u64>)> = Vec::new();
    let mut note = |name: &'static str, figure: u64| match figures.iter_mut().find(|(known, _)| *known == name) {
        Some((_, all)) => all.push(figure),
        None => figures.push((name, vec![figure])),
    };
    for turn in 0..TURNS {
        note("backend alone: GET a blob", rate(always(get(backend, &blob, None, 200))).await);
        note(
            "Aperture: valid token, GET the blob",
            rate(always(get(front, &blob, Some(its_token.clone()), 200))).await,
        );
        note("l402t: valid token, the ticket", rate(always(ours(&sold.body, Some(own_token.clone()), 200))).await);
        note(
            "l402t: token verified, then refused",
            rate(always(ours(&other.body, Some(own_token.clone()), 402))).await,
        );
        note("Aperture: challenge (a new invoice)", rate(always(get(front, &blob, None, 402))).await);
        note("l402t: challenge (the invoice there is)", rate(always(other.clone())).await);
        let part = unused[turn * share..(turn + 1) * share].to_vec();
        note("l402t: challenge (a new invoice)", rate(once_each(part)).await);
    }
    let mut table = String::new();
    for (name, mut all) in figures {
        all.sort_unstable();
        table += &format!("{name:<42} {:>8} /s (of {TURNS}: {all:?})\n", all[all.len() / 2]);
    }
    show(&table);
}

#[allow(clippy::print_stdout, reason = "the result of a measurement")]
fn show(table: &str) {
    println!("{table}");
}
