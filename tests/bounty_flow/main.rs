//! A bounty from its posting to its replay, as its users live it: the program itself, real Lightning nodes, real boxes. Then the
//! same with each side killed (-9) in the middle. (Every single moment is the simulator's: tests/simulator/matrix.rs.)
#![cfg(feature = "embedded")]

#[cfg(feature = "mcp")]
mod mcp;

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Output, Stdio};
use std::thread::sleep;
use std::time::Duration;

use serde_json::Value;

const BUDGET_MSAT: u64 = 40_000_000;
const FEE_MSAT: u64 = 10_000;
/// What a package costs if nothing is said.
const PACKAGE_MSAT: u64 = 1_000;
/// Of 20 items the workspace gets 4 right, and 20 pay everything.
const MSAT_AN_ITEM: u64 = BUDGET_MSAT / 16;
const ITEMS: u32 = 20;
/// Held-out items are other numbers, so that the public ones are of no use.
const HELD_OUT_FROM: u32 = 100;

/// Doubles the numbers whose place among all items is below `right`. `pause_s` is how long a box takes.
fn answers(right: u32, pause_s: u32) -> String {
    format!(
        "import sys, time\ntime.sleep({pause_s})\nfor line in sys.stdin:\n    n = int(line)\n    \
         print(2 * n if n % {HELD_OUT_FROM} < {right} else 7)\n"
    )
}

const SCORER: &str = "\
items = open('/in/inputs').read().split()
answers = open('/in/answers').read().split()
print(sum(2 * int(n) == int(a) if a.lstrip('-').isdigit() else 0 for n, a in zip(items, answers)))
";

/// A deadline within the days that a coordinator takes, whatever day it is.
fn deadline() -> String {
    let output = Command::new("date").args(["-u", "-d", "+2 days", "+%Y-%m-%dT%H:%M:%SZ"]).output().expect("date runs");
    String::from_utf8(output.stdout).expect("text").trim().to_owned()
}

fn sponsors_folder(folder: &Path) {
    for name in ["workspace", "scorer", "public", "held-out"] {
        fs::create_dir_all(folder.join(name)).expect("made");
    }
    let numbers = |from: u32| (from..from + ITEMS).map(|n| format!("{n}\n")).collect::<String>();
    for (name, content) in [
        ("workspace/double.py", answers(4, 0)),
        ("scorer/score.py", SCORER.to_owned()),
        ("public/inputs", numbers(0)),
        ("held-out/inputs", numbers(HELD_OUT_FROM)),
        ("bounty.toml", manifest()),
    ] {
        fs::write(folder.join(name), content).expect("written");
    }
}

fn manifest() -> String {
    format!(
        r#"title = "Double numbers"
workspace = "workspace"
targets = ["double.py"]
[run]
command = ["python3", "/task/double.py"]
[data]
public = "public"
held_out = "held-out"
[scorer]
folder = "scorer"
command = ["python3", "/scorer/score.py"]
[metric]
name = "right"
direction = "higher"
decimals = 0
target = 20
min_improvement = 1
noise = 0
[reward]
budget_sat = {budget}
fee_sat = {fee}
[submissions]
cap = 20
deadline = {deadline}
[limits]
cpu_s = 10
wall_s = 30
memory_mb = 128
output_kb = 64
processes = 8
"#,
        budget = BUDGET_MSAT / 1_000,
        fee = FEE_MSAT / 1_000,
        deadline = deadline(),
    )
}

/// A process whose stdout is JSON lines. Killed when dropped.
struct Live {
    child: Child,
    lines: BufReader<ChildStdout>,
}

impl Live {
    fn start(command: &mut Command) -> Self {
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().expect("it starts");
        let lines = BufReader::new(child.stdout.take().expect("piped"));
        Self { child, lines }
    }

    /// Reads on until an event of that name: its own, or news of a bounty.
    fn wait_for(&mut self, event: &str) -> Value {
        let mut seen = String::new();
        loop {
            let mut line = String::new();
            assert_ne!(self.lines.read_line(&mut line).expect("read"), 0, "ended before {event}:\n{seen}");
            let value: Value = serde_json::from_str(&line).expect("a JSON line");
            if value["event"] == event || value["news"]["event"] == event {
                return value;
            }
            seen.push_str(&line);
        }
    }

    /// The last line of a bounty command, once it has ended.
    fn end(mut self) -> Value {
        let lines = (&mut self.lines).lines().map(|line| line.expect("text"));
        let last = lines.last().expect("an answer");
        self.child.wait().expect("it ends");
        serde_json::from_str(&last).expect("JSON")
    }

    fn kill(mut self) {
        self.child.kill().expect("killed");
        self.child.wait().expect("it ends");
    }
}

impl Drop for Live {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A folder with a sponsor's bounty, and the data folders of everybody.
struct Scene {
    home: tempfile::TempDir,
    url: String,
}

impl Scene {
    /// A coordinator that takes on bounties, and a folder `sponsored` to post.
    fn open() -> (Self, Live) {
        let home = tempfile::tempdir().expect("a folder");
        fs::write(home.path().join("c.toml"), "[coordinator]\nlisten = \"127.0.0.1:0\"\n").expect("written");
        sponsors_folder(&home.path().join("sponsored"));
        let mut scene = Self { home, url: String::new() };
        let mut service = scene.coordinator("127.0.0.1:0");
        scene.url = service.wait_for("listening")["url"].as_str().expect("a URL").to_owned();
        (scene, service)
    }

    fn path(&self) -> &Path {
        self.home.path()
    }

    fn program(&self) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_l402t"));
        command.env_clear().env("HOME", self.path()).env("PATH", "/usr/bin:/bin").current_dir(self.path());
        command
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = self.program();
        command.args(arguments).arg("--json");
        command
    }

    fn coordinator(&self, listen: &str) -> Live {
        let arguments = ["coordinate", "--bounties", "--data", "c", "--config", "c.toml", "--listen", listen];
        Live::start(&mut self.command(&arguments))
    }

    fn output(&self, arguments: &[&str]) -> (Option<i32>, Value) {
        let Output { status, stdout, stderr } = self.command(arguments).output().expect("it starts");
        let text = String::from_utf8(stdout).expect("text");
        let last = text.lines().last().unwrap_or_else(|| panic!("{}", String::from_utf8_lossy(&stderr)));
        (status.code(), serde_json::from_str(last).expect("JSON"))
    }

    fn post(&self) -> Live {
        self.post_folder("sponsored")
    }

    fn post_folder(&self, folder: &str) -> Live {
        Live::start(&mut self.command(&["bounty", "post", folder, "--data", "s", "--coordinator", &self.url]))
    }

    /// Posts, and returns the bounty's id.
    fn posted(&self) -> String {
        open_id(&self.post().end())
    }

    /// Claims the bounty for an agent, and puts its change into the workspace.
    fn claimed(&self, bounty: &str, agent: &str, change: &str) {
        let arguments = ["bounty", "claim", bounty, "--coordinator", &self.url, "--data", agent];
        let into = format!("{agent}-work");
        let (code, answer) = self.output(&[&arguments[..], &["--into", &into]].concat());
        assert_eq!(code, Some(0), "{answer}");
        self.change(agent, change);
    }

    fn change(&self, agent: &str, change: &str) {
        fs::write(self.path().join(format!("{agent}-work/workspace/double.py")), change).expect("written");
    }

    fn submission(&self, agent: &str, claim: &str) -> Live {
        let folder = format!("{agent}-work");
        Live::start(&mut self.command(&["bounty", "submit", &folder, "--claim", claim, "--data", agent]))
    }

    /// What comes of a submission: the reward, or why there is none.
    fn submit(&self, agent: &str, claim: &str) -> Result<u64, String> {
        verdict(&self.submission(agent, claim).end())
    }

    /// Closes the bounty and waits until what nobody earned is back.
    fn close(&self, bounty: &str) -> Value {
        let (code, answer) = self.output(&["bounty", "close", bounty, "--data", "s"]);
        assert_eq!(code, Some(0), "{answer}");
        answer["result"].clone()
    }

    fn wallet_msat(&self, data: &str) -> u64 {
        let (code, wallet) = self.output(&["wallet", "show", "--data", data]);
        assert_eq!(code, Some(0), "{wallet}");
        wallet["result"]["channels"].as_array().expect("a list").iter().map(|one| number(one, "can_send_msat")).sum()
    }

    /// What an agent has paid for packages, and how often.
    fn agents_packages(&self, agent: &str) -> (u64, usize) {
        let result = self.output(&["ledger", "--data", agent]).1["result"].take();
        let purchases = result["purchases"].as_array().expect("a list");
        assert!(purchases.iter().all(|one| one["is_paid"] == true), "{result}");
        (number(&result["totals"], "purchases_msat"), purchases.len())
    }

    /// What packages of a bounty were sold for.
    fn sold_msat(&self, bounty: &str) -> u64 {
        let data = format!("c/bounties/{bounty}");
        number(&self.output(&["ledger", "--data", &data]).1["result"]["totals"], "packages_sold_msat")
    }

    /// Fees, and rewards, of everything an agent ever submitted.
    fn agents_book(&self, agent: &str) -> (u64, u64) {
        let (code, ledger) = self.output(&["ledger", "--data", agent]);
        assert_eq!(code, Some(0), "{ledger}");
        let totals = &ledger["result"]["totals"];
        assert_eq!(number(totals, "routing_msat"), 0, "{ledger}");
        (number(totals, "fees_msat"), number(totals, "received_msat"))
    }

    /// Has the example's agent try one candidate, and spend so much at most.
    fn example_agent(&self, data: &str, budget_sat: &str) {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/agent/agent.py");
        let mut agent = Command::new("python3");
        agent.env_clear().env("HOME", self.path()).env("PATH", "/usr/bin:/bin").current_dir(self.path());
        agent.arg("-B").arg(script).args(["--coordinator", &self.url, "--data", data, "--once", "--tries", "1"]);
        let Output { status, stdout, stderr } = agent
            .args(["--l402t", env!("CARGO_BIN_EXE_l402t"), "--budget-sat", budget_sat])
            .output()
            .expect("it starts");
        let told = [stdout, stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).concat();
        assert!(status.success(), "{told}");
    }

    /// The bounty's book: fees received, rewards settled; nothing may be locked any more, and what was taken out of the escrow
    /// went to agents or back.
    fn coordinators_book(&self, bounty: &str) -> (u64, u64) {
        let (code, ledger) = self.output(&["ledger", "--data", &format!("c/bounties/{bounty}")]);
        assert_eq!(code, Some(0), "{ledger}");
        let totals = &ledger["result"]["totals"];
        assert_eq!(number(totals, "rewards_locked_msat"), 0, "{ledger}");
        let moved = |from: &str, to: &str| -> u64 {
            let postings = ledger["result"]["postings"].as_array().expect("a list").iter();
            postings.filter(|one| one["from"] == from && one["to"] == to).map(|one| number(one, "amount_msat")).sum()
        };
        let settled = number(totals, "rewards_settled_msat");
        assert_eq!(moved("escrow", "wallet"), settled + moved("wallet", "escrow"), "{ledger}");
        (number(totals, "fees_received_msat"), settled)
    }

    fn replayed(&self, bounty: &str) -> Value {
        let (code, mut answer) = self.output(&["replay", "bounty", bounty, "--from", &self.url]);
        let replayed = answer["result"].take();
        assert_eq!((code, &replayed["identical"]), (Some(0), &Value::Bool(true)), "{answer} {replayed}");
        replayed
    }
}

fn open_id(answer: &Value) -> String {
    assert_eq!((&answer["ok"], &answer["result"]["phase"]), (&Value::Bool(true), &Value::from("open")), "{answer}");
    assert_eq!(number(&answer["result"], "locked_msat"), BUDGET_MSAT, "{answer}");
    answer["result"]["bounty"].as_str().expect("an id").to_owned()
}

fn number(value: &Value, name: &str) -> u64 {
    value[name].as_u64().unwrap_or_else(|| panic!("no {name} in {value}"))
}

fn verdict(answer: &Value) -> Result<u64, String> {
    if answer["ok"] == true {
        return Ok(number(&answer["result"], "reward_msat"));
    }
    Err(answer["error"]["code"].as_str().unwrap_or_else(|| panic!("{answer}")).to_owned())
}

#[test]
fn who_reaches_the_claim_is_paid_and_who_cheats_is_not_and_every_msat_is_somewhere() {
    let (scene, service) = Scene::open();
    let bounty = scene.posted();
    let sponsor_had = scene.wallet_msat("s") + BUDGET_MSAT;

    let (honest, overclaimed) = (answers(12, 0), answers(14, 0));
    scene.claimed(&bounty, "a", &honest);
    assert_eq!(scene.submit("a", "12"), Ok(8 * MSAT_AN_ITEM));
    // Somebody else's files, and a claim that nobody has made: no improvement.
    scene.claimed(&bounty, "b", &honest);
    assert_eq!(scene.submit("b", "13"), Err("no_improvement".into()));
    scene.change("b", &overclaimed);
    assert_eq!(scene.submit("b", "20"), Err("below_claim".into()));
    // A diff that the coordinator would refuse unseen costs nothing: it never leaves this machine.
    scene.change("b", &answers(4, 0));
    assert_eq!(scene.submit("b", "13"), Err("rejected_static".into()));

    let closed = scene.close(&bounty);
    assert_eq!((number(&closed, "earned_msat"), number(&closed, "locked_msat")), (8 * MSAT_AN_ITEM, 0), "{closed}");
    assert_eq!(
        number(&closed, "taken_msat"),
        8 * MSAT_AN_ITEM + number(&closed, "paid_back_msat"),
        "what was taken and not earned is back: {closed}"
    );
    assert_eq!(scene.wallet_msat("s"), sponsor_had - 8 * MSAT_AN_ITEM, "the sponsor pays rewards and nothing else");
    assert_eq!(scene.agents_book("a"), (FEE_MSAT, 8 * MSAT_AN_ITEM));
    assert_eq!(scene.agents_book("b"), (2 * FEE_MSAT, 0));
    assert_eq!(scene.coordinators_book(&bounty), (3 * FEE_MSAT, 8 * MSAT_AN_ITEM));
    assert_eq!([scene.agents_packages("a"), scene.agents_packages("b")], [(PACKAGE_MSAT, 1); 2]);
    assert_eq!(scene.sold_msat(&bounty), 2 * PACKAGE_MSAT);
    // Whoever comes too late may look for nothing.
    let arguments = ["bounty", "claim", &bounty, "--coordinator", &scene.url, "--data", "d", "--into", "late"];
    let (code, late) = scene.output(&arguments);
    assert_eq!((code, &late["result"]["package"]["token"]), (Some(0), &Value::from("free")), "{late}");

    let replayed = scene.replayed(&bounty);
    assert_eq!((number(&replayed, "submissions"), number(&replayed, "reached")), (3, 1), "{replayed}");
    assert_eq!(number(&replayed, "paid_msat"), 8 * MSAT_AN_ITEM);
    service.kill();
}

#[test]
fn whoever_is_killed_the_budget_is_locked_once_and_the_claim_paid_once() {
    let (scene, mut service) = Scene::open();
    let address = scene.url.strip_prefix("http://").expect("http").to_owned();

    // The sponsor, once the coordinator has answered and locking has begun.
    let sponsor = scene.post();
    let answer = || {
        let postings = fs::read_dir(scene.path().join("s/bounties")).into_iter().flatten();
        postings.flatten().any(|posting| posting.path().join("answer.json").exists())
    };
    while !answer() {
        sleep(Duration::from_millis(20));
    }
    sponsor.kill();
    let bounty = scene.posted();
    assert_eq!(fs::read_dir(scene.path().join("s/bounties")).expect("there").count(), 1, "the same posting goes on");
    let sponsor_had = scene.wallet_msat("s") + BUDGET_MSAT;

    // The agent, with its fee paid and its reward locked.
    scene.claimed(&bounty, "a", &answers(10, 1));
    let mut agent = scene.submission("a", "10");
    agent.wait_for("locked");
    agent.kill();
    assert_eq!(scene.submit("a", "10"), Ok(6 * MSAT_AN_ITEM));
    service.wait_for("submissions_judged");

    // The coordinator, while the candidate is in its box.
    scene.change("a", &answers(16, 1));
    let mut agent = scene.submission("a", "16");
    agent.wait_for("uploaded");
    service.wait_for("round_judging");
    service.kill();
    let mut service = scene.coordinator(&address);
    service.wait_for("listening");
    assert_eq!(verdict(&agent.end()), Ok(6 * MSAT_AN_ITEM));

    let closed = scene.close(&bounty);
    assert_eq!((number(&closed, "earned_msat"), number(&closed, "locked_msat")), (12 * MSAT_AN_ITEM, 0), "{closed}");
    assert_eq!(scene.wallet_msat("s"), sponsor_had - 12 * MSAT_AN_ITEM);
    assert_eq!(scene.agents_book("a"), (2 * FEE_MSAT, 12 * MSAT_AN_ITEM), "a fee for each submission");
    assert_eq!(scene.coordinators_book(&bounty), (2 * FEE_MSAT, 12 * MSAT_AN_ITEM));
    let replayed = scene.replayed(&bounty);
    assert_eq!((number(&replayed, "submissions"), number(&replayed, "reached")), (2, 2), "{replayed}");
    service.kill();
}

#[test]
fn a_claim_that_is_killed_again_and_again_is_paid_for_once() {
    let (scene, service) = Scene::open();
    let bounty = scene.posted();
    let arguments = ["bounty", "claim", &bounty, "--coordinator", &scene.url, "--data", "a"];
    let claim = |into: &str| scene.command(&[&arguments[..], &["--into", into]].concat());
    // A wallet's first start takes a second or so: each try gets a little further.
    let mut killed = 0;
    for patience_ms in std::iter::successors(Some(100), |ms| Some(ms + ms / 3)) {
        let mut child = claim("mine").stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("it starts");
        sleep(Duration::from_millis(patience_ms));
        let _ = child.kill();
        child.wait().expect("it ends");
        // The last one may be killed with everything done but its answer.
        if scene.path().join("mine").exists() {
            break;
        }
        killed += 1;
        assert!(killed < 25, "it never ends");
    }
    assert!(killed > 0 && scene.path().join("mine/AGENTS.md").exists());
    // Again it costs nothing; where something lies already it doesn't even begin.
    let (code, again) = scene.output(&[&arguments[..], &["--into", "again"]].concat());
    assert_eq!((code, &again["result"]["package"]["token"]), (Some(0), &Value::from("reused")), "{again}");
    assert_eq!(number(&again["result"]["package"], "paid_msat"), 0);
    let (code, refused) = scene.output(&[&arguments[..], &["--into", "mine"]].concat());
    assert_eq!((code, &refused["error"]["code"]), (Some(2), &Value::from("folder_exists")), "{refused}");
    assert_eq!(scene.agents_packages("a"), (PACKAGE_MSAT, 1));
    // It is a resource as any other that is sold by L402, to whoever pays.
    let url = format!("{}/v1/bounties/{bounty}/package", scene.url);
    let config = format!("[peer]\ncoordinator = \"{}\"\n", scene.url);
    fs::write(scene.path().join("a.toml"), config).expect("written");
    let (code, fetched) = scene.output(&["fetch", &url, "--data", "a", "--config", "a.toml", "--output", "bought"]);
    assert_eq!((code, number(&fetched["result"], "paid_msat")), (Some(0), PACKAGE_MSAT), "{fetched}");
    let package = |path: &str| fs::read(scene.path().join(path)).expect("there");
    assert_eq!(package("bought"), package("mine/claim.package"));
    assert_eq!(scene.agents_packages("a"), (2 * PACKAGE_MSAT, 2));
    assert_eq!(scene.sold_msat(&bounty), 2 * PACKAGE_MSAT);
    service.kill();
}

#[test]
fn what_the_owner_does_not_allow_is_not_paid_whatever_was_begun_before() {
    let (scene, service) = Scene::open();
    let bounty = scene.posted();
    let refused = |limits: &str, more: &[&str]| {
        fs::write(scene.path().join("b.toml"), format!("[bounty]\n{limits}\n")).expect("written");
        let claim = ["bounty", "claim", &bounty, "--coordinator", &scene.url, "--into", "mine"];
        let (code, answer) = scene.output(&[&claim[..], &["--data", "b", "--config", "b.toml"], more].concat());
        (code, answer["error"]["code"].as_str().unwrap_or("paid").to_owned())
    };
    // A first look at the wallet makes its folder. The route of 1 sat may take 5.
    assert_eq!(refused("max_daily_fees_sat = 5", &[]), (Some(2), "spending_cap".into()));
    assert_eq!(refused("max_fee_sat = 0", &[]), (Some(2), "terms".into()));
    assert_eq!(refused("", &["--max-price", "0"]), (Some(4), "too_expensive".into()));
    assert_eq!(scene.sold_msat(&bounty), 0);

    // As a process leaves it that dies right before it asks its node to pay.
    let path = format!("/v1/bounties/{bounty}/package");
    let (macaroon, invoice) = challenge(&scene.url, &path);
    let db = rusqlite::Connection::open(scene.path().join("b/packages/tokens.db")).expect("there");
    db.execute(
        "INSERT INTO tokens (payment_hash, origin, path, scheme, macaroon, invoice, amount_msat, bought_ms, state)
         VALUES (randomblob(32), ?1, ?2, 'L402', ?3, ?4, ?5, 1, 'paying')",
        rusqlite::params![scene.url, path, macaroon, invoice, PACKAGE_MSAT],
    )
    .expect("written");
    assert_eq!(refused("max_fee_sat = 0", &[]), (Some(2), "terms".into()), "a purchase that was begun is no leave");
    let unpaid = |wanted: &str| {
        let query = "SELECT count(*) FROM tokens WHERE state = ?1";
        db.query_row(query, [wanted], |row| row.get::<_, u32>(0)).expect("counted")
    };
    assert_eq!((unpaid("paying"), unpaid("unpaid")), (0, 1), "and counts no more once its node was asked");
    assert_eq!(refused("max_daily_fees_sat = 6", &[]), (Some(0), "paid".into()));
    assert_eq!((scene.sold_msat(&bounty), scene.agents_packages("b")), (PACKAGE_MSAT, (PACKAGE_MSAT, 1)));
    service.kill();
}

/// Macaroon and invoice of a 402.
fn challenge(url: &str, path: &str) -> (String, String) {
    use std::io::{Read, Write};
    let address = url.strip_prefix("http://").expect("http");
    let mut stream = std::net::TcpStream::connect(address).expect("it listens");
    write!(stream, "GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n").expect("sent");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("answered");
    assert!(answer.starts_with("HTTP/1.1 402"), "{answer}");
    let value = |name: &str| {
        let rest = answer.split(&format!("{name}=\"")).nth(1).expect("there");
        rest.split('"').next().expect("quoted").to_owned()
    };
    (value("macaroon"), value("invoice"))
}

#[test]
fn the_example_agent_earns_within_its_spending_cap_and_submits_nothing_twice() {
    let (scene, service) = Scene::open();
    let logs = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/bounties/logs");
    let posted = scene.post_folder(logs.to_str().expect("a name")).end();
    assert_eq!(posted["result"]["phase"], "open", "{posted}");
    let open_bounty = posted["result"]["bounty"].as_str().expect("an id");

    let submissions = || scene.output(&["bounty", "status", "--data", "a"]).1["result"]["submissions"].clone();
    scene.example_agent("a", "9");
    assert_eq!(submissions(), Value::Array(Vec::new()), "a fee of 10 sat is beyond the cap");
    scene.example_agent("b", "5");
    assert_eq!(scene.sold_msat(open_bounty), PACKAGE_MSAT, "a package of 1 sat and its routing are beyond that of b");
    scene.example_agent("a", "100");
    let (fees, earned) = scene.agents_book("a");
    assert_eq!(fees, FEE_MSAT);
    assert!(earned > 10_000_000, "only {earned} msat");
    scene.example_agent("a", "100");
    assert_eq!(scene.agents_book("a"), (fees, earned));
    service.kill();
}
