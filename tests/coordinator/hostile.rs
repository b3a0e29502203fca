//! Hostile clients, over HTTP: tokens that were made up, cut, moved or stretched, and floods of requests for challenges.

use std::collections::{BTreeSet, HashMap};
use std::io::ErrorKind;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use l402t::clock::Stopwatch;
use l402t::coordinator::handle::CoordinatorHandle;
use l402t::http::server::{Limits, Rate, Server, Services};
use l402t::protocol::api::Ticket;
use l402t::protocol::l402::{ChallengeParams, Goods, Grant, Identifier, Macaroon, RootKey, mint, parse_challenge};
use l402t::protocol::sign::Signed;
use l402t::protocol::statements::Commitment;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpSocket, TcpStream};

use crate::peer::{Manner, Peer};
use crate::world::World;

/// An HTTP answer.
struct Answer {
    status: u16,
    headers: HashMap<String, String>,
    body: Vec<u8>,
}

impl Answer {
    fn challenge(&self) -> ChallengeParams {
        parse_challenge(self.headers.get("www-authenticate").map(String::as_str)).expect("a challenge")
    }

    fn code(&self) -> String {
        let body: serde_json::Value = serde_json::from_slice(&self.body).expect("JSON");
        body["error"]["code"].as_str().expect("a code").to_owned()
    }
}

async fn post(address: SocketAddr, commitment: &Signed<Commitment>, authorization: &[&str]) -> Answer {
    let body = commitment.to_bytes();
    let mut head = format!("POST /v1/rounds/{}/tickets HTTP/1.1\r\nHost: test\r\n", commitment.body.round);
    for value in authorization {
        head += &format!("Authorization: {value}\r\n");
    }
    head += &format!("Content-Type: application/json\r\nContent-Length: {}\r\nConnection: close\r\n\r\n", body.len());
    let mut stream = TcpStream::connect(address).await.expect("connected");
    stream.write_all(&[head.as_bytes(), &body].concat()).await.expect("sent");
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes).await.expect("read");
    let end = bytes.windows(4).position(|window| window == b"\r\n\r\n").expect("a head");
    let head = String::from_utf8(bytes[..end].to_vec()).expect("text");
    let mut lines = head.split("\r\n");
    let status = lines.next().and_then(|line| line.split(' ').nth(1)?.parse().ok()).expect("a status");
    let headers = lines.filter_map(|line| line.split_once(": ")).map(|(k, v)| (k.to_ascii_lowercase(), v.to_owned()));
    Answer { status, headers: headers.collect(), body: bytes[end + 4..].to_vec() }
}

async fn serve(handle: Arc<dyn CoordinatorHandle>, limits: Limits) -> Server {
    let services = Services::training(handle);
    Server::start("127.0.0.1:0".parse().expect("an address"), services, limits).await.expect("a port")
}

async fn registered(world: &World, handle: &dyn CoordinatorHandle, name: &'static str) -> Peer {
    let mut peer = Peer::new(world, name, name.as_bytes(), Manner::Honest);
    while !peer.registered {
        peer.register(handle).await.expect("registered");
    }
    peer
}

/// Buys a token for a commitment: the macaroon and its preimage.
async fn buy(address: SocketAddr, peer: &Peer, commitment: &Signed<Commitment>) -> (Macaroon, String) {
    let challenge = post(address, commitment, &[]).await.challenge();
    let preimage = peer.pay_invoice(&challenge.invoice).await;
    (Macaroon::from_base64(&challenge.macaroon).expect("a macaroon"), hex::encode(preimage.as_bytes()))
}

#[tokio::test]
async fn no_token_but_the_right_one_buys_a_ticket_and_none_costs_another_invoice() {
    let world = World::new();
    let (coordinator, handle) = world.start().await;
    // More tries than an address has by default.
    let limits = Limits { challenges: Rate { burst: 1_000, per_minute: 60 }, ..Limits::default() };
    let server = serve(handle.clone(), limits).await;
    let at = server.address();
    let alice = registered(&world, &*handle, "alice").await;
    let bob = registered(&world, &*handle, "bob").await;
    let (hers, his) = (alice.commit(&*handle).await.expect("signed"), bob.commit(&*handle).await.expect("signed"));
    let (good, preimage) = buy(at, &alice, &hers).await;

    // The same service at another place: its tokens are well made, paid, and nobody's here.
    let elsewhere = World::new();
    let (_other, other_handle) = elsewhere.start().await;
    let other_server = serve(other_handle.clone(), Limits::default()).await;
    let carol = registered(&elsewhere, &*other_handle, "carol").await;
    let theirs = carol.commit(&*other_handle).await.expect("signed");
    let (foreign, foreign_preimage) = buy(other_server.address(), &carol, &theirs).await;

    let text = |macaroon: &Macaroon, preimage: &str| format!("L402 {}:{preimage}", macaroon.to_base64());
    let from_bytes = |bytes: &[u8]| {
        use base64::Engine as _;
        format!("L402 {}:{preimage}", base64::engine::general_purpose::STANDARD.encode(bytes))
    };
    let bytes = good.to_bytes();
    let flipped = |at: usize| {
        let mut bytes = bytes.clone();
        bytes[at] ^= 1;
        from_bytes(&bytes)
    };
    let identifier = Identifier::of(&good).expect("ours");
    let forged_grant = Grant { goods: Goods::Ticket(hers.body.contribution_id()), valid_until_s: u64::MAX };
    let forged = mint(&RootKey::from_bytes([7; 32]), &identifier, &forged_grant);
    // The last caveat (type, length, text, end) taken out, as if the token were for any contribution.
    let last = good.caveats().last().expect("caveats").len() + 3;
    let tail = 2 + 1 + 32;
    let without_binding = [&bytes[..bytes.len() - tail - last], &bytes[bytes.len() - tail..]].concat();
    let newer = {
        let place = bytes.windows(66).position(|window| window == good.identifier()).expect("its identifier");
        let mut bytes = bytes.clone();
        bytes[place + 1] = 1;
        from_bytes(&bytes)
    };
    let old_format = from_bytes(b"000elocation l\n0048identifier aaaa\n");
    let later = format!("l402t_valid_until={}", u64::MAX);
    let his_id = format!("l402t_contribution={}", his.body.contribution_id());
    let hostile = [
        ("forged", text(&forged, &preimage), "token_bad_signature"),
        ("signature changed", flipped(bytes.len() - 1), "token_bad_signature"),
        ("caveat removed", from_bytes(&without_binding), "token_bad_signature"),
        ("truncated", from_bytes(&bytes[..bytes.len() - 1]), "token_malformed"),
        ("with a tail", from_bytes(&[&bytes[..], b"\0"].concat()), "token_malformed"),
        ("preimage cut", text(&good, &preimage[..62]), "token_malformed"),
        ("another preimage", text(&good, &"11".repeat(32)), "token_wrong_preimage"),
        ("another service's", text(&foreign, &foreign_preimage), "token_unknown"),
        ("of a version to come", newer, "token_malformed"),
        ("of an old format", old_format, "token_malformed"),
        ("longer than paid", text(&good.clone().with_caveat(&later), &preimage), "token_widened"),
        ("for more services", text(&good.clone().with_caveat("services=l402t:0,x:0"), &preimage), "token_widened"),
        ("for another", text(&good.clone().with_caveat(&his_id), &preimage), "token_wrong_contribution"),
        ("no L402 at all", "Bearer abc".to_owned(), "token_malformed"),
        ("a bomb", format!("L402 {}:{preimage}", "A".repeat(20_000)), "token_malformed"),
    ];
    let mut invoices = BTreeSet::new();
    for (what, header, code) in &hostile {
        let answer = post(at, &hers, &[header]).await;
        assert_eq!((answer.status, answer.code().as_str()), (402, *code), "{what}");
        assert_eq!(answer.headers["cache-control"], "no-store", "{what}");
        invoices.insert(answer.challenge().invoice);
    }
    for cut in 0..bytes.len() {
        let answer = post(at, &hers, &[&from_bytes(&bytes[..cut])]).await;
        assert_eq!((answer.status, answer.code().as_str()), (402, "token_malformed"), "cut at {cut}");
        invoices.insert(answer.challenge().invoice);
    }
    assert_eq!(invoices.len(), 1, "each refusal shows the challenge that there is");
    // A token that somebody else paid for, shown for one's own contribution.
    let replayed = post(at, &his, &[&text(&good, &preimage)]).await;
    assert_eq!((replayed.status, replayed.code().as_str()), (402, "token_wrong_contribution"));
    assert_eq!(handle.round(None).await.expect("round").tickets, 0, "something was sold");

    // The right one, in each form, is one ticket.
    let lnget = good.clone().with_caveat(&format!("preimage={preimage}"));
    let mut sold = Vec::new();
    for headers in [
        vec![text(&good, &preimage)],
        vec![text(&good, &preimage).replace("L402", "LSAT"), text(&good, &preimage)],
        vec!["Basic dTpw".to_owned(), text(&good, &preimage)],
        vec![text(&lnget, &preimage)],
    ] {
        let headers: Vec<&str> = headers.iter().map(String::as_str).collect();
        let answer = post(at, &hers, &headers).await;
        assert_eq!(answer.status, 200, "{headers:?}");
        sold.push(serde_json::from_slice::<Ticket>(&answer.body).expect("a ticket"));
    }
    assert!(sold.iter().all(|ticket| *ticket == sold[0]));
    assert_eq!(handle.round(None).await.expect("round").tickets, 1);
    server.stop().await;
    drop((coordinator, handle));
}

#[tokio::test]
async fn unpaid_challenges_are_bounded_for_a_peer_and_for_a_round() {
    let world = World::new();
    let (_coordinator, handle) = world.start().await;
    let server = serve(handle.clone(), Limits::default()).await;
    let mut codes = Vec::new();
    let mut invoices = BTreeSet::new();
    for name in ["alice", "bob", "carol"] {
        let mut peer = registered(&world, &*handle, name).await;
        for nth in 0..6 {
            peer.payload = format!("{name} {nth}").into_bytes();
            let commitment = peer.commit(&*handle).await.expect("signed");
            let answer = post(server.address(), &commitment, &[]).await;
            if answer.status == 402 {
                invoices.insert(answer.challenge().invoice);
            }
            codes.push(answer.code());
        }
    }
    // The world's rounds have four seats, and a peer may keep four of them open.
    assert_eq!(invoices.len(), 4);
    assert_eq!(codes.iter().filter(|code| *code == "payment_required").count(), 4);
    assert!(codes[4..].iter().all(|code| code == "round_full" || code == "too_many_challenges"), "{codes:?}");
}

#[tokio::test]
async fn a_flood_from_one_address_makes_no_more_invoices_than_its_rate() {
    const REQUESTS: usize = 3_000;
    let mut world = World::new();
    world.settings.timing.max_contributions = 1_024;
    let (_coordinator, handle) = world.start().await;
    let limits = Limits::default();
    let server = serve(handle.clone(), limits).await;
    let mut commitments = Vec::new();
    for name in ["a", "b", "c", "d", "e", "f", "g", "h", "i"] {
        let mut peer = registered(&world, &*handle, name).await;
        for nth in 0..4 {
            peer.payload = format!("{name} {nth}").into_bytes();
            commitments.push(peer.commit(&*handle).await.expect("signed"));
        }
    }
    let watch = Stopwatch::start();
    let mut invoices = BTreeSet::new();
    let mut turned_away = 0;
    for nth in 0..REQUESTS {
        let answer = post(server.address(), &commitments[nth % commitments.len()], &[]).await;
        match answer.status {
            402 => drop(invoices.insert(answer.challenge().invoice)),
            429 => turned_away += 1,
            status => panic!("status {status}"),
        }
    }
    let rate = limits.challenges;
    let most = u64::from(rate.burst) + watch.elapsed_ms() * u64::from(rate.per_minute) / 60_000 + 1;
    assert!((1..=most).contains(&(invoices.len() as u64)), "{} invoices, at most {most}", invoices.len());
    assert!(turned_away > REQUESTS / 2, "{turned_away}");
}

/// As many as are held open at once, where the machine allows it.
const IDLE: u64 = 10_000;
/// The server's own ends, and whatever else is open.
const FILES_BESIDE: u64 = 1_024 + 256;

/// What this process has in memory now, in KiB.
fn memory_kib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").expect("Linux");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("counted");
    line.trim().trim_end_matches(" kB").parse().expect("a number")
}

#[tokio::test]
async fn ten_thousand_idle_connections_are_bounded_and_a_payer_is_served_beside_them() {
    let world = World::new();
    let (_coordinator, handle) = world.start().await;
    let limits = Limits::default();
    let server = serve(Arc::clone(&handle), limits).await;
    let payer = registered(&world, &*handle, "payer").await;
    let commitment = payer.commit(&*handle).await.expect("signed");
    let files = l402t::sys::raise_open_files().expect("it may be raised to the hard limit");
    let open = IDLE.min(files.saturating_sub(FILES_BESIDE));
    assert!(open >= 1_100, "{files} files are too few to fill the server");
    let before = memory_kib();
    let mut idle = Vec::new();
    for nth in 0..open {
        let socket = TcpSocket::new_v4().expect("a socket");
        // A hundred from each address: no more of them are turned away than the whole server may hold.
        let [high, low] = u16::try_from(nth / 100 + 2).expect("few").to_be_bytes();
        socket.bind(SocketAddr::from(([127, 0, high + 1, low], 0))).expect("a loopback address");
        idle.push(socket.connect(server.address()).await.expect("connected"));
    }
    let is_held = |stream: &&TcpStream| {
        let error = stream.try_read(&mut [0]).err();
        error.is_some_and(|error| error.kind() == ErrorKind::WouldBlock)
    };
    // All are open at this end; the server keeps as many as it allows itself.
    let held_within = async |most: usize| {
        let watch = Stopwatch::start();
        loop {
            let held = idle.iter().filter(is_held).count();
            if (1..=most).contains(&held) {
                return held;
            }
            assert!(watch.elapsed_ms() < 10_000, "{held} of {open} are held, at most {most}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    held_within(limits.connections).await;
    let grown = memory_kib().saturating_sub(before);
    assert!(grown < 256 * 1_024, "{grown} KiB more for {open} connections");

    // A second later their places are a newcomer's, long before the time for a head is over.
    tokio::time::sleep(Duration::from_millis(1_200)).await;
    let (macaroon, preimage) = buy(server.address(), &payer, &commitment).await;
    let token = format!("L402 {}:{preimage}", macaroon.to_base64());
    let ticket = post(server.address(), &commitment, &[&token]).await;
    assert_eq!(ticket.status, 200, "{}", String::from_utf8_lossy(&ticket.body));
    held_within(limits.connections).await;
}
