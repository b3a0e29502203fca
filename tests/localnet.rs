//! btcd and LND as child processes. Ignored by default: `./x regtest test` builds the programs and runs these.
#![cfg(feature = "lnd")]

use std::path::{Path, PathBuf};
use std::time::Duration;

use l402t::localnet::{Btcd, LndProcess, LndWallet, Tools};

const MINE_AFTER: Duration = Duration::from_millis(50);

/// Polls of something that takes seconds, and the pause between them.
const POLLS: u32 = 600;
const PAUSE: Duration = Duration::from_millis(50);

#[allow(clippy::disallowed_methods, reason = "what `./x regtest test` built")]
fn tools() -> Tools {
    let folder = std::env::var_os("REGTEST_TOOLS").expect("REGTEST_TOOLS names the folder of btcd and lnd");
    Tools::in_folder(&PathBuf::from(folder)).expect("btcd and lnd are there")
}

async fn channels_are_usable(wallet: &mut LndWallet, count: usize) {
    for _ in 0..POLLS {
        let channels = wallet.channels().await.expect("lnd answers");
        if channels.iter().filter(|channel| channel.active).count() == count {
            return;
        }
        tokio::time::sleep(PAUSE).await;
    }
    panic!("no {count} usable channels");
}

async fn has_coins(wallet: &mut LndWallet, sat: u64) {
    for _ in 0..POLLS {
        if wallet.balance_sat().await.expect("lnd answers") == sat {
            return;
        }
        tokio::time::sleep(PAUSE).await;
    }
    panic!("{sat} sat did not arrive");
}

fn is_running(pid: u32) -> bool {
    Path::new(&format!("/proc/{pid}")).exists()
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs btcd and lnd: ./x regtest test"]
async fn a_funded_channel_outlives_the_kill_of_its_node() {
    let tools = tools();
    let folder = tempfile::tempdir().expect("a folder");
    let mut btcd = Btcd::start(&tools, &folder.path().join("btcd")).expect("btcd runs");
    btcd.automine(MINE_AFTER).expect("it mines");
    let (first, second) = (folder.path().join("ada"), folder.path().join("ben"));
    let (ada, ben) = tokio::join!(
        LndProcess::start(&tools, &first, "ada", &btcd, &[]),
        LndProcess::start(&tools, &second, "ben", &btcd, &[])
    );
    let (mut ada, ben) = (ada.expect("ada runs"), ben.expect("ben runs"));
    let (mut wallet, mut other) = (ada.wallet().await.expect("readable"), ben.wallet().await.expect("readable"));

    btcd.pay(&wallet.new_address().await.expect("an address"), 20_000_000).expect("paid");
    has_coins(&mut wallet, 20_000_000).await;
    let ben_id = other.node_id().await.expect("lnd answers");
    wallet.connect_to(&ben_id, &ben.files().p2p.to_string()).await.expect("connected");
    wallet.open_channel(&ben_id, 5_000_000, 2_500_000).await.expect("opened");
    channels_are_usable(&mut wallet, 1).await;

    let before = ada.pid().expect("it runs");
    ada.kill();
    assert!(!is_running(before));
    ada.restart().await.expect("it comes back");
    let mut wallet = ada.wallet().await.expect("readable");
    channels_are_usable(&mut wallet, 1).await;
    channels_are_usable(&mut other, 1).await;
    assert_eq!(other.channels().await.expect("lnd answers")[0].local_sat, 2_500_000);

    let pids = [ada.pid().expect("it runs"), ben.pid().expect("it runs")];
    drop((ada, ben, btcd));
    assert!(!pids.into_iter().any(is_running));
}

/// The program, on a regtest in `folder`: its exit code, and its result, or all that it wrote where there is none.
fn regtest(folder: &Path, arguments: &[&str]) -> (Option<i32>, serde_json::Value) {
    let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_l402t"));
    command.env_clear().env("HOME", folder).arg("regtest").args(arguments).arg("--json");
    let output = command.arg("--data").arg(folder.join("net")).output().expect("it starts");
    let text = String::from_utf8(output.stdout).expect("text");
    let words = String::from_utf8_lossy(&output.stderr).into_owned();
    let mut answer: serde_json::Value =
        serde_json::from_str(&text).unwrap_or_else(|_| panic!("not JSON: {text}{words}"));
    let said = if answer["result"].is_null() { answer } else { answer["result"].take() };
    (output.status.code(), said)
}

/// Kills the program that was started with this argument, whatever else runs here.
fn kill_started_with(argument: &str) {
    for entry in std::fs::read_dir("/proc").expect("Linux").flatten() {
        let line = std::fs::read(entry.path().join("cmdline")).unwrap_or_default();
        if line.split(|byte| *byte == 0).any(|part| part == argument.as_bytes()) {
            let pid = entry.file_name().into_string().expect("a number");
            assert!(std::process::Command::new("kill").args(["-9", &pid]).status().expect("it runs").success());
            return;
        }
    }
    panic!("nothing runs with {argument}");
}

/// Takes the regtest down whatever becomes of the test.
struct Down<'a>(&'a Path);

impl Drop for Down<'_> {
    fn drop(&mut self) {
        regtest(self.0, &["down"]);
    }
}

#[test]
#[ignore = "needs btcd and lnd: ./x regtest test"]
fn what_was_killed_is_named_with_its_log_and_brought_back() {
    let folder = tempfile::tempdir().expect("a folder");
    let (home, tools) = (folder.path(), tools());
    let up = ["up", "--peers", "1", "--tools", tools.folder().to_str().expect("text")];
    let _down = Down(home);
    let (code, state) = regtest(home, &up);
    assert_eq!((code, &state["already_up"]), (Some(0), &false.into()), "{state}");
    assert_eq!(regtest(home, &["status"]).0, Some(0));
    let net = home.join("net");
    let is_named = |name: &str| {
        let (code, status) = regtest(home, &["status"]);
        assert_eq!((code, &status["up"]), (Some(1), &false.into()), "{status}");
        let ended = &status["ended"][0];
        assert_eq!(ended["name"], *name, "{status}");
        let log = PathBuf::from(ended["log"].as_str().expect("a path"));
        assert!(log.starts_with(&net) && log.exists(), "{status}");
    };

    kill_started_with(&format!("--lnddir={}", net.join("peer-1").display()));
    is_named("peer-1");
    let (code, again) = regtest(home, &up);
    assert_eq!(code, Some(0), "{again}");
    assert_eq!((&again["already_up"], &again["started_again"][0]), (&true.into(), &"peer-1".into()), "{again}");
    assert_eq!((&again["nodes"], &again["btcd"]), (&state["nodes"], &state["btcd"]), "the same ports and keys");
    let (code, status) = regtest(home, &["status"]);
    assert_eq!((code, &status["up"]), (Some(0), &true.into()), "{status}");

    kill_started_with(&format!("--datadir={}", net.join("btcd/data").display()));
    is_named("btcd");
    let (code, refused) = regtest(home, &up);
    assert_eq!((code, refused["error"]["code"].as_str()), (Some(2), Some("regtest_chain_gone")), "{refused}");
}

#[test]
#[ignore = "needs btcd and lnd: ./x regtest test"]
fn every_payment_spends_a_coin_of_its_own_until_none_are_left() {
    let tools = tools();
    let folder = tempfile::tempdir().expect("a folder");
    let address = "bcrt1qw508d6qejxtdg4y5r3zarvary0c5xw7kygt080";
    let btcd = Btcd::start(&tools, folder.path()).expect("btcd runs");
    for waiting in 1..=3 {
        btcd.pay(address, 1_000).expect("paid");
        assert_eq!(btcd.waiting().expect("an answer"), waiting);
    }
    let height = btcd.height().expect("an answer");
    btcd.generate(1).expect("mined");
    assert_eq!((btcd.waiting().expect("an answer"), btcd.height().expect("an answer")), (0, height + 1));
    let error = btcd.pay(address, 21_000_000 * 100_000_000).expect_err("more than there is").to_string();
    assert!(error.contains("mine some blocks"), "{error}");
    btcd.pay(address, 1_000).expect("nothing was spent on what could not be paid");
    assert!(btcd.pay("bc1qw508d6qejxtdg4y5r3zarvary0c5xw7kv8f3t4", 1_000).is_err(), "an address of another network");
}

#[test]
fn a_folder_without_the_programs_is_refused_with_what_to_do() {
    let folder = tempfile::tempdir().expect("a folder");
    let error = Tools::in_folder(folder.path()).expect_err("nothing is there").to_string();
    assert!(error.contains("./x regtest build"), "{error}");
}

#[cfg(feature = "embedded")]
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs btcd and lnd: ./x regtest test"]
async fn an_embedded_node_follows_the_same_chain_and_gets_a_channel_from_lnd() {
    use l402t::ln::embedded::{EmbeddedNode, Settings};
    use l402t::ln::{ChannelState, Lightning};
    use l402t::localnet::{Funding, Network};

    let folder = tempfile::tempdir().expect("a folder");
    let funding = Funding { channels: 1, capacity_sat: 2_000_000 };
    let network = Network::start(&tools(), folder.path(), &["coordinator"], funding).await.expect("it runs");
    let coordinator = network.nodes().next().expect("it has a node").clone();
    let chain = network.bridge().expect("built with embedded nodes");
    let settings = Settings { trusted_peers_0conf: vec![coordinator.node_id.clone()], ..Settings::regtest(&chain) };
    let node = EmbeddedNode::start(&settings, &folder.path().join("embedded")).await.expect("it runs");
    node.fund_from_regtest_faucet(200_000).await.expect("coins from the blocks that btcd mined");

    let info = node.info().await.expect("an answer");
    let mut wallet = coordinator.files.wallet().await.expect("readable");
    wallet.connect_to(&info.node_id, &info.address.expect("it listens")).await.expect("connected");
    wallet.open_channel(&info.node_id, 2_000_000, 500_000).await.expect("opened");
    channels_are_usable(&mut wallet, 1).await;
    for _ in 0..POLLS {
        if node.channel_state(&coordinator.node_id).await.expect("an answer") == ChannelState::Usable {
            node.stop().await;
            return;
        }
        tokio::time::sleep(PAUSE).await;
    }
    panic!("the embedded node can't use the channel");
}
