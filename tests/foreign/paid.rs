//! Our own gate, paid by foreign clients: the ticket request's body is prepared by us, since a token is bound to a signed
//! commitment; challenge, payment and credentials are theirs.

use std::io::{BufRead as _, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use l402t::http::client::CoordinatorClient;
use l402t::ln::embedded::{EmbeddedNode, Settings};
use l402t::ln::{Lightning as _, PayLimits, PaymentStatus};
use l402t::protocol::amount::Msat;
use l402t::protocol::api::ChannelOffer;
use l402t::protocol::ids::Blake3Hash;
use l402t::protocol::l402::{Macaroon, parse_challenge};
use l402t::protocol::sign::{IdentityKey, Signed, Statement as _};
use l402t::protocol::statements::{Commitment, PeerRegistration};
use serde_json::Value;

use crate::live::{Live, l402t, prepare};

const PAUSE: Duration = Duration::from_millis(100);
const POLLS: u32 = 600;

/// A coordinator, and a wallet with a channel from it.
struct Scene {
    home: tempfile::TempDir,
    _coordinator: Live,
    client: CoordinatorClient,
    wallet: EmbeddedNode,
}

impl Scene {
    async fn set() -> Self {
        let home = tempfile::tempdir().expect("a folder");
        prepare(home.path(), "c.toml", 20_000, "");
        let mut command = l402t(home.path());
        command.args(["coordinate", "--config", "c.toml", "--data", "c", "--json", "--listen", "127.0.0.1:0"]);
        let mut coordinator = Live::start(&mut command);
        let url = coordinator.wait_for("listening")["url"].as_str().expect("a URL").to_owned();
        let client = CoordinatorClient::new(&url).expect("a client");
        let view = client.run().await.expect("a run").lightning;
        let mut settings = Settings::regtest(view.regtest_rpc.expect("its own chain"));
        settings.trusted_peers_0conf.push(view.node_id.clone());
        let wallet = EmbeddedNode::start(&settings, &home.path().join("wallet")).await.expect("a node");
        wallet.fund_from_regtest_faucet(200_000).await.expect("funded");
        wallet.connect(&view.node_id, &view.address.expect("its address")).await.expect("connected");
        Self { home, _coordinator: coordinator, client, wallet }
    }

    /// A peer of that name is registered with the wallet's node and commits: the ticket request's URL and body.
    async fn commit(&self, name: &str) -> (String, Signed<Commitment>) {
        let key = IdentityKey::from_secret_bytes(Blake3Hash::of(name.as_bytes()).as_bytes()).expect("a key");
        let info = self.wallet.info().await.expect("up");
        let run = self.client.run().await.expect("a run").run;
        let registration =
            key.sign(PeerRegistration { run, peer: key.id(), node_id: info.node_id, address: info.address });
        let mut polls = 0;
        while self.client.register(&registration).await.expect("registered").channel != ChannelOffer::Usable {
            polls += 1;
            assert!(polls < POLLS, "no channel");
            tokio::time::sleep(PAUSE).await;
        }
        let opening = self.client.round(None).await.expect("a round").opening.body;
        let payload = Blake3Hash::of(name.as_bytes());
        let (round, opening) = (opening.round, opening.digest());
        let commitment = key.sign(Commitment {
            run,
            round,
            opening,
            peer: key.id(),
            payload,
            payload_bytes: name.len() as u64,
            claim: None,
        });
        (format!("{}/v1/rounds/{round}/tickets", self.client.url()), commitment)
    }

    fn write(&self, name: &str, commitment: &Signed<Commitment>) -> PathBuf {
        let folder = self.home.path().join(name);
        std::fs::create_dir_all(&folder).expect("made");
        let path = folder.join("body.json");
        std::fs::write(&path, commitment.to_bytes()).expect("written");
        path
    }

    /// The preimage in hex.
    async fn pay(&self, invoice: &str) -> String {
        let limits = PayLimits { max_fee: Msat::new(1_000), max_cltv_blocks: 1_008 };
        let hash = self.wallet.pay(invoice, limits).await.expect("on its way");
        for _ in 0..POLLS {
            match self.wallet.payment(hash).await.expect("known") {
                PaymentStatus::Succeeded { preimage, .. } => return hex::encode(preimage.as_bytes()),
                PaymentStatus::Failed { reason, .. } => panic!("not paid: {reason}"),
                _ => tokio::time::sleep(PAUSE).await,
            }
        }
        panic!("the payment does not end")
    }

    async fn balance(&self) -> Msat {
        self.wallet.info().await.expect("up").outbound_msat
    }
}

/// An HTTP answer as curl shows it.
struct Answer {
    status: u16,
    head: String,
    body: Value,
}

impl Answer {
    fn challenge(&self) -> (String, String) {
        let line = self.head.lines().find(|line| line.to_ascii_lowercase().starts_with("www-authenticate: "));
        let value = line.expect("a challenge").split_once(": ").expect("a value").1;
        let params = parse_challenge([value]).expect("a challenge");
        (params.macaroon, params.invoice)
    }

    fn code(&self) -> &str {
        self.body["error"]["code"].as_str().unwrap_or_default()
    }
}

fn curl(url: &str, body: &Path, authorization: Option<&str>) -> Answer {
    let mut command = Command::new("curl");
    command.args([
        "--silent",
        "--show-error",
        "--include",
        "--noproxy",
        "*",
        "--header",
        "Content-Type: application/json",
    ]);
    if let Some(value) = authorization {
        command.arg("--header").arg(format!("Authorization: {value}"));
    }
    let output = command.arg("--data-binary").arg(format!("@{}", body.display())).arg(url).output().expect("curl runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout).expect("text");
    let (head, body) = text.split_once("\r\n\r\n").expect("a head and a body");
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).expect("a status");
    Answer { status, head: head.to_owned(), body: serde_json::from_str(body).expect("JSON") }
}

/// Runs a client of clients.py: its answers, and how many invoices it had paid.
async fn python(scene: &Scene, client: &str, url: &str, body: &Path) -> (Vec<(u16, Value)>, u32) {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/foreign/clients.py");
    let mut child = Command::new("python3")
        .arg(script)
        .args([client, url])
        .arg(body)
        .env("PYTHONPATH", crate::given("FOREIGN_CLIENTS"))
        .env("HOME", scene.home.path())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("python3 runs");
    let mut input = child.stdin.take().expect("piped");
    let (mut answers, mut paid) = (Vec::new(), 0);
    for line in BufReader::new(child.stdout.take().expect("piped")).lines() {
        let line = line.expect("text");
        match line.split_once(' ').expect("a word") {
            ("PAY", invoice) => {
                paid += 1;
                writeln!(input, "{}", scene.pay(invoice).await).expect("it listens");
            }
            ("ANSWER", rest) => {
                let (status, body) = rest.split_once(' ').expect("a status and a body");
                answers.push((status.parse().expect("a status"), serde_json::from_str(body).expect("JSON")));
            }
            _ => panic!("{line}"),
        }
    }
    assert!(child.wait().expect("it ends").success());
    (answers, paid)
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs foreign software: ./x foreign"]
async fn foreign_clients_pay_our_gate_and_no_token_is_good_for_another() {
    let scene = Scene::set().await;
    // Fewsats' client and l402-requests: each pays once, gets its ticket, and shows the kept token for the same again.
    for client in ["fewsats", "l402-requests"] {
        let (url, commitment) = scene.commit(client).await;
        let body = scene.write(client, &commitment);
        let (answers, paid) = python(&scene, client, &url, &body).await;
        assert_eq!((answers.len(), paid), (2, 1), "{client}: {answers:?}");
        let id = commitment.body.contribution_id().to_string();
        assert!(answers.iter().all(|(status, _)| *status == 200), "{client}: {answers:?}");
        assert!(answers.iter().all(|(_, ticket)| ticket["contribution"] == id.as_str()), "{client}: {answers:?}");
        assert_eq!(answers[0], answers[1], "{client}: the same ticket");
    }

    // curl and a preimage.
    let (url, commitment) = scene.commit("curl").await;
    let body = scene.write("curl", &commitment);
    let first = curl(&url, &body, None);
    assert_eq!((first.status, first.code()), (402, "payment_required"));
    let (macaroon, invoice) = first.challenge();
    let unpaid = curl(&url, &body, Some(&format!("L402 {macaroon}:{}", "00".repeat(32))));
    assert_eq!((unpaid.status, unpaid.code()), (402, "token_wrong_preimage"));
    let preimage = scene.pay(&invoice).await;
    let unpadded = macaroon.trim_end_matches('=').replace('+', "-").replace('/', "_");
    let mut tickets = Vec::new();
    for header in [
        format!("L402 {macaroon}:{preimage}"),
        format!("LSAT {macaroon}:{preimage}"),
        format!("l402 {unpadded}:{}", preimage.to_uppercase()),
    ] {
        let answer = curl(&url, &body, Some(&header));
        assert_eq!(answer.status, 200, "{header}: {}", answer.body);
        tickets.push(answer.body);
    }
    assert!(tickets.iter().all(|ticket| *ticket == tickets[0]));
    let balance = scene.balance().await;

    // lnget asks twice before it pays, then adds the preimage as a caveat and shows it in the header too.
    let (url, commitment) = scene.commit("lnget").await;
    let body = scene.write("lnget", &commitment);
    let (first, second) = (curl(&url, &body, None).challenge(), curl(&url, &body, None).challenge());
    assert_eq!(first, second, "a second look costs no second invoice");
    // Somebody else's paid token doesn't help.
    let stolen = curl(&url, &body, Some(&format!("L402 {macaroon}:{preimage}")));
    assert_eq!((stolen.status, stolen.code()), (402, "token_wrong_contribution"));
    assert_eq!(scene.balance().await, balance, "nothing was paid so far");
    let paid = scene.pay(&second.1).await;
    let narrowed = Macaroon::from_base64(&second.0).expect("a macaroon").with_caveat(&format!("preimage={paid}"));
    let answer = curl(&url, &body, Some(&format!("L402 {}:{paid}", narrowed.to_base64())));
    assert_eq!(answer.status, 200, "{}", answer.body);

    let round = scene.client.round(None).await.expect("a round");
    assert_eq!(round.tickets, 4);
    scene.wallet.stop().await;
}
