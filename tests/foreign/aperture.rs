//! A real Aperture on a real LND: in front of a coordinator without a gate of its own, and selling a download to
//! `l402t fetch`.

use std::io::Read as _;
use std::net::{SocketAddr, TcpListener as StdListener};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use l402t::localnet::{Btcd, LndFiles, LndProcess, LndWallet, Tools};
use serde_json::Value;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

use crate::live::{Live, l402t, prepare, run};

const MINE_AFTER: Duration = Duration::from_millis(50);
const PAUSE: Duration = Duration::from_millis(100);
const POLLS: u32 = 900;
/// How long a channel is open before it is relied on.
const SETTLED: Duration = Duration::from_secs(3);
/// What Aperture asks for: a ticket costs what the run's manifest says, in sat.
const TICKET_SAT: u64 = 1;
const BLOB_SAT: u64 = 5;
/// Larger than what is in flight between the programs, so that a download can be killed in the middle.
const CORPUS_BYTES: usize = 12_000_000;

/// A process that dies with the test.
pub(crate) struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn free_port() -> u16 {
    StdListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).expect("a port").port()
}

pub(crate) fn lnd_config(files: &LndFiles) -> String {
    format!(
        "[lightning]\nnode = \"lnd\"\n[lightning.lnd]\naddress = \"{}\"\ntls_cert = \"{}\"\nmacaroon = \"{}\"\n",
        files.rpc,
        files.tls_cert.display(),
        files.admin_macaroon.display()
    )
}

/// Starts Aperture in front of `backend`. Tickets cost something, and so do blobs for those who ask for them on localhost
/// by name: peers, who use the address, need them. The rest is free.
pub(crate) async fn aperture(folder: &Path, lnd: &LndFiles, backend: &str) -> (Running, SocketAddr) {
    let address: SocketAddr = ([127, 0, 0, 1], free_port()).into();
    std::fs::create_dir_all(folder).expect("made");
    let service = |name: &str, host: &str, path: &str, more: &str| {
        format!(
            "  - name: \"{name}\"\n    hostregexp: '{host}'\n    pathregexp: '{path}'\n    address: \"{backend}\"\n    protocol: http\n{more}"
        )
    };
    let sold = |sat: u64| format!("    capabilities: \"use\"\n    timeout: 3600\n    price: {sat}\n");
    let services = [
        service("tickets", ".*", "^/v1/rounds/[0-9]+/tickets$", &sold(TICKET_SAT)),
        service("blobs", "^localhost", "^/v1/blobs/.*$", &sold(BLOB_SAT)),
        service("open", ".*", "^/.*$", "    auth: \"off\"\n"),
    ];
    let config = format!(
        "listenaddr: \"{address}\"\ninsecure: true\ndebuglevel: \"info\"\ndbbackend: \"sqlite\"\n\
         authenticator:\n  network: \"regtest\"\n  lndhost: \"{}\"\n  tlspath: \"{}\"\n  macdir: \"{}\"\nservices:\n{}",
        lnd.rpc,
        lnd.tls_cert.display(),
        lnd.admin_macaroon.parent().expect("a folder").display(),
        services.concat()
    );
    let path = folder.join("aperture.yaml");
    std::fs::write(&path, config).expect("written");
    let log = std::fs::File::create(folder.join("aperture.log")).expect("made");
    let child = Command::new(crate::given("FOREIGN_APERTURE").join("aperture"))
        .arg(format!("--configfile={}", path.display()))
        .arg(format!("--basedir={}", folder.display()))
        // Its sample's `dbfile:` is not read from the file.
        .arg(format!("--sqlite.dbfile={}", folder.join("aperture.db").display()))
        .env("HOME", folder)
        .stdout(log.try_clone().expect("a second handle"))
        .stderr(log)
        .spawn()
        .expect("aperture starts");
    let running = Running(child);
    for _ in 0..POLLS {
        if TcpStream::connect(address).await.is_ok() {
            return (running, address);
        }
        tokio::time::sleep(PAUSE).await;
    }
    panic!("aperture does not listen: {}", std::fs::read_to_string(folder.join("aperture.log")).expect("a log"));
}

/// A slow line in front of `to`, so that a download takes seconds.
async fn slow_line(to: SocketAddr) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address");
    tokio::spawn(async move {
        while let Ok((client, _)) = listener.accept().await {
            tokio::spawn(async move {
                let Ok(server) = TcpStream::connect(to).await else { return };
                let (mut from_client, mut to_client) = client.into_split();
                let (mut from_server, mut to_server) = server.into_split();
                let up = async { tokio::io::copy(&mut from_client, &mut to_server).await.map(drop) };
                let down = async {
                    let mut chunk = vec![0; 64 * 1_024];
                    loop {
                        match from_server.read(&mut chunk).await? {
                            0 => return Ok::<_, std::io::Error>(()),
                            read => to_client.write_all(&chunk[..read]).await?,
                        }
                        tokio::time::sleep(Duration::from_millis(20)).await;
                    }
                };
                tokio::select! { _ = up => {}, _ = down => {} }
            });
        }
    });
    address
}

/// Two LNDs with coins, on a chain that mines by itself.
pub(crate) struct Market {
    pub(crate) till: LndWallet,
    pub(crate) purse: LndWallet,
    pub(crate) seller: LndProcess,
    pub(crate) buyer: LndProcess,
    pub(crate) btcd: Btcd,
}

pub(crate) async fn market(home: &Path) -> Market {
    let tools = Tools::in_folder(&crate::given("REGTEST_TOOLS")).expect("btcd and lnd");
    let mut btcd = Btcd::start(&tools, &home.join("btcd")).expect("btcd runs");
    btcd.automine(MINE_AFTER).expect("it mines");
    let (seller, buyer) = (home.join("seller"), home.join("buyer"));
    let (seller, buyer) = tokio::join!(
        LndProcess::start(&tools, &seller, "seller", &btcd, &[]),
        LndProcess::start(&tools, &buyer, "buyer", &btcd, &[])
    );
    let (seller, buyer) = (seller.expect("lnd runs"), buyer.expect("lnd runs"));
    let (mut till, mut purse) = (seller.wallet().await.expect("readable"), buyer.wallet().await.expect("readable"));
    for wallet in [&mut till, &mut purse] {
        btcd.pay(&wallet.new_address().await.expect("an address"), 20_000_000).expect("paid");
        has_coins(wallet).await;
    }
    Market { till, purse, seller, buyer, btcd }
}

async fn has_coins(wallet: &mut LndWallet) {
    for _ in 0..POLLS {
        if wallet.balance_sat().await.expect("lnd answers") > 0 {
            return;
        }
        tokio::time::sleep(PAUSE).await;
    }
    panic!("no coins arrive");
}

/// Opens a channel from one node to the other, half of it the other's, and waits until both use it.
pub(crate) async fn channel(from: &mut LndWallet, to: &mut LndWallet, address: &str) {
    let node_id = to.node_id().await.expect("lnd answers");
    from.connect_to(&node_id, address).await.expect("connected");
    // The other node is online a moment after it is connected.
    let mut tries = 0;
    while let Err(error) = from.open_channel(&node_id, 5_000_000, 2_500_000).await {
        tries += 1;
        assert!(tries < POLLS, "{error}");
        tokio::time::sleep(PAUSE).await;
    }
    for wallet in [from, to] {
        let mut tries = 0;
        while !wallet.channels().await.expect("lnd answers").iter().any(|channel| channel.active) {
            tries += 1;
            assert!(tries < POLLS, "the channel does not open");
            tokio::time::sleep(PAUSE).await;
        }
    }
    tokio::time::sleep(SETTLED).await;
}

async fn spendable_sat(wallet: &mut LndWallet) -> u64 {
    wallet.channels().await.expect("lnd answers").iter().map(|channel| channel.local_sat).sum()
}

fn fetch(home: &Path, url: &str, more: &[&str]) -> (Option<i32>, Value) {
    let base = ["fetch", url, "--config", "p.toml", "--data", "p", "--json"];
    let output = run(home, &[&base, more].concat());
    let text = String::from_utf8(output.stdout).expect("text");
    let words = String::from_utf8(output.stderr).expect("text");
    (output.status.code(), serde_json::from_str(&text).unwrap_or_else(|_| panic!("not JSON: {text}{words}")))
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs foreign software: ./x foreign"]
async fn aperture_sells_tickets_for_a_coordinator_and_a_download_to_fetch() {
    let home = tempfile::tempdir().expect("a folder");
    let home = home.path();
    let Market { btcd: _btcd, seller, buyer, mut till, mut purse } = market(home).await;
    // A channel that has been there for a while: LND doesn't pay at once over one that has only just opened.
    channel(&mut till, &mut purse, &buyer.files().p2p.to_string()).await;

    // A coordinator without a gate of its own, on the same LND as the Aperture in front of it.
    let proxied = "[coordinator]\ngate = \"proxy\"\ntrusted_proxies = [\"127.0.0.1\"]\n";
    prepare(home, "c.toml", CORPUS_BYTES, &format!("{proxied}{}", lnd_config(seller.files())));
    std::fs::write(home.join("p.toml"), lnd_config(buyer.files())).expect("written");
    let open = ["coordinate", "--config", "c.toml", "--data", "c", "--json", "--listen", "0.0.0.0:0"];
    let refused = run(home, &open);
    assert_eq!(refused.status.code(), Some(2), "an open gate on every address");
    assert!(String::from_utf8_lossy(&refused.stdout).contains("open_gate"), "{refused:?}");
    let mut command = l402t(home);
    command.args(&open[..open.len() - 1]).arg("127.0.0.1:0");
    let mut coordinator = Live::start(&mut command);
    let url = coordinator.wait_for("listening")["url"].as_str().expect("a URL").to_owned();
    let backend = url.strip_prefix("http://").expect("http");
    let (_aperture, front) = aperture(&home.join("aperture"), seller.files(), backend).await;

    // A peer buys its ticket from Aperture and has its reward locked by the coordinator.
    let mut command = l402t(home);
    command.args(["peer", "--config", "p.toml", "--data", "p", "--json", "--behaviour", "garbage", "--rounds", "1"]);
    let mut peer = Live::start(command.arg("--coordinator").arg(format!("http://{front}")));
    let locked = peer.wait_for("locked");
    assert_eq!(locked["event"], "locked");
    drop(peer);

    // A resource behind the same Aperture, over a slow line.
    let run_view: Value = serde_json::from_slice(&get(front, "/v1/run").await).expect("JSON");
    let shard = &run_view["manifest"]["body"]["training_data"]["shards"][0];
    let blob = shard["hash"].as_str().unwrap_or_else(|| panic!("{run_view}")).to_owned();
    let slow = slow_line(front).await;
    let resource = format!("http://localhost:{}/v1/blobs/{blob}", slow.port());
    let before = spendable_sat(&mut purse).await;
    let (code, answer) = fetch(home, &resource, &["--max-price", "4", "--output", "data"]);
    assert_eq!((code, answer["error"]["code"].as_str()), (Some(4), Some("too_expensive")), "{answer}");
    assert_eq!(spendable_sat(&mut purse).await, before, "nothing was paid");

    // Killed once it has begun to pay, and once in the middle of the download: paid once all the same.
    let start = || {
        let mut command = l402t(home);
        let arguments =
            ["fetch", &resource, "--config", "p.toml", "--data", "p", "--max-price", "5", "--output", "data"];
        command.args(arguments).stderr(Stdio::piped()).stdout(Stdio::null());
        Running(command.spawn().expect("it starts"))
    };
    let mut paying = start();
    let mut words = paying.0.stderr.take().expect("piped");
    let mut told = String::new();
    while !told.contains("paying") {
        let mut byte = [0];
        assert_eq!(words.read(&mut byte).expect("read"), 1, "ended before it paid: {told}");
        told.push(char::from(byte[0]));
    }
    drop(paying);
    let part = home.join("data.part");
    let downloading = start();
    for _ in 0..POLLS {
        if std::fs::metadata(&part).is_ok_and(|metadata| metadata.len() > 500_000) {
            break;
        }
        tokio::time::sleep(PAUSE / 10).await;
    }
    drop(downloading);
    let kept = std::fs::metadata(&part).expect("a beginning").len();
    assert!(kept > 500_000 && kept < CORPUS_BYTES as u64 / 2, "{kept} bytes");
    let (code, answer) = fetch(home, &resource, &["--max-price", "5", "--output", "data"]);
    assert_eq!((code, answer["result"]["token"].as_str()), (Some(0), Some("reused")), "{answer}");
    assert!(answer["result"]["resumed_from"].as_u64().is_some_and(|from| from >= 500_000), "{answer}");
    let whole = std::fs::read(home.join("data")).expect("there");
    assert_eq!(blake3::hash(&whole).to_hex().as_str(), blob, "the right bytes");
    assert_eq!(before - spendable_sat(&mut purse).await, BLOB_SAT, "paid once");

    // The token serves again, for nothing.
    let direct = format!("http://localhost:{}/v1/blobs/{blob}", front.port());
    let (code, answer) = fetch(home, &direct, &["--max-price", "5", "--output", "direct"]);
    assert_eq!(
        (code, answer["result"]["token"].as_str()),
        (Some(0), Some("bought")),
        "another origin is another service: {answer}"
    );
    let (code, answer) = fetch(home, &direct, &["--max-price", "0", "--output", "again"]);
    assert_eq!((code, answer["result"]["token"].as_str()), (Some(0), Some("reused")), "{answer}");
    assert_eq!(before - spendable_sat(&mut purse).await, 2 * BLOB_SAT);
}

async fn get(address: SocketAddr, path: &str) -> Vec<u8> {
    let mut stream = TcpStream::connect(address).await.expect("connected");
    let request = format!("GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.expect("sent");
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes).await.expect("read");
    let end = bytes.windows(4).position(|window| window == b"\r\n\r\n").expect("a head");
    let text = String::from_utf8(bytes[end + 4..].to_vec()).expect("text");
    // Aperture may answer in chunks.
    let start = text.find('{').expect("JSON");
    let last = text.rfind('}').expect("JSON");
    text.as_bytes()[start..=last].to_vec()
}
