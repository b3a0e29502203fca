//! Everything that may be in the way with an LND, each really brought about, as `l402t doctor` and `l402t coordinate` say it:
//! one test, because a start takes seconds.

use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::thread::scope;

use l402t::ln::lnd::{LndNode, PERMISSIONS};
use l402t::ln::{ChannelRequest, ChannelState, Lightning};
use l402t::localnet::{Btcd, LndFiles, Tools};
use l402t::protocol::amount::Msat;
use serde_json::Value;

use crate::bench::until;
use crate::lnd::{Side, settings, tools};
use crate::lnd_refusals::bake;

const RUN: &str = include_str!("../small-run.toml");

/// Killed when dropped.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// An LND by itself, on a chain that nobody tells it anything about.
fn lonely_lnd(tools: &Tools, folder: &Path, files: &LndFiles, more: &[&str]) -> Running {
    let mut command = Command::new(tools.folder().join("lnd"));
    command
        .arg(format!("--lnddir={}", folder.display()))
        .args(["--configfile=/dev/null", "--bitcoin.regtest", "--bitcoin.node=neutrino", "--nobootstrap", "--norest"])
        .arg(format!("--rpclisten={}", files.rpc))
        .arg(format!("--listen={}", files.p2p))
        .args(more)
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    Running(command.spawn().expect("lnd starts"))
}

/// Ports that nobody uses now, and where an LND in `folder` would leave its files.
fn files_in(folder: &Path) -> LndFiles {
    let free = || std::net::TcpListener::bind("127.0.0.1:0").and_then(|socket| socket.local_addr()).expect("a port");
    LndFiles {
        rpc: free(),
        p2p: free(),
        tls_cert: folder.join("tls.cert"),
        admin_macaroon: folder.join("data/chain/bitcoin/regtest/admin.macaroon"),
        log: folder.join("lnd.log"),
    }
}

fn config(home: &Path, name: &str, address: &str, tls_cert: &Path, macaroon: &Path) -> String {
    let text = format!(
        "{RUN}\n[coordinator.channels]\nopen_to_peers = \"never\"\n[lightning]\nnode = \"lnd\"\n[lightning.lnd]\naddress = \
         \"{address}\"\ntls_cert = \"{}\"\nmacaroon = \"{}\"\n",
        tls_cert.display(),
        macaroon.display()
    );
    let file = format!("{name}.toml");
    std::fs::write(home.join(&file), text).expect("written");
    file
}

fn l402t(home: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_l402t"));
    command.env_clear().env("HOME", home).current_dir(home).args(arguments);
    command
}

/// The doctor's exit code, and the level, code and fix of one of its checks.
fn doctor(home: &Path, config: &str, check: &str) -> (Option<i32>, [String; 3]) {
    let arguments = ["doctor", "coordinate", "--config", config, "--data", config.trim_end_matches(".toml"), "--json"];
    let output = l402t(home, &arguments).output().expect("it starts");
    let report: Value = serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("not JSON: {output:?}"));
    let checks = report["result"]["checks"].as_array().expect("a list");
    let found = checks.iter().find(|one| one["name"] == *check).unwrap_or_else(|| panic!("no {check}: {report}"));
    let text = |key: &str| found[key].as_str().unwrap_or_default().to_owned();
    (output.status.code(), [text("level"), text("code"), text("fix")])
}

fn coordinate(home: &Path, config: &str) -> Command {
    let data = config.trim_end_matches(".toml");
    l402t(home, &["coordinate", "--config", config, "--data", data, "--json", "--listen", "127.0.0.1:0"])
}

/// What `coordinate` ends with.
fn refused(output: &Output) -> (Option<i32>, String, String) {
    let text = String::from_utf8_lossy(&output.stdout);
    let last: Value = serde_json::from_str(text.lines().last().unwrap_or_default())
        .unwrap_or_else(|_| panic!("not JSON: {output:?}"));
    let part = |key: &str| last["error"][key].as_str().unwrap_or_default().to_owned();
    (output.status.code(), part("code"), part("fix"))
}

/// Both commands say that this is in the way, and the same thing to do.
fn both_refuse(home: &Path, config: &str, exit: i32, code: &str, to_do: &str) {
    scope(|threads| {
        let started = threads.spawn(|| coordinate(home, config).output().expect("it starts"));
        let (examined, [level, found, fix]) = doctor(home, config, "lightning");
        assert_eq!((examined, level.as_str(), found.as_str()), (Some(1), "fail", code), "{config}: {fix}");
        assert!(fix.contains(to_do), "{config}: {fix}");
        let (ended, told, same) = refused(&started.join().expect("no panic"));
        assert_eq!((ended, told.as_str(), same), (Some(exit), code, fix), "{config}");
    });
}

/// The doctor warns of what is short, and a coordinator that starts says the same before it serves.
fn both_warn(home: &Path, config: &str, code: &str) {
    let (examined, [level, found, fix]) = doctor(home, config, "liquidity");
    assert_eq!((examined, level.as_str(), found.as_str()), (Some(0), "warn", code), "{config}: {fix}");
    let mut serving =
        Running(coordinate(home, config).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().expect("it starts"));
    let mut lines = BufReader::new(serving.0.stdout.take().expect("piped")).lines();
    let mut next = || -> Value { serde_json::from_str(&lines.next().expect("a line").expect("text")).expect("JSON") };
    let first = next();
    let told = (first["event"].as_str(), first["code"].as_str(), first["fix"].as_str());
    assert_eq!(told, (Some("short"), Some(code), Some(fix.as_str())), "{config}: {first}");
    assert_eq!(next()["event"], "listening", "{config}");
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs btcd and lnd: ./x regtest test"]
async fn whatever_is_in_the_way_both_commands_say_it_with_its_code_and_what_to_do() {
    let (tools, root) = (tools(), tempfile::tempdir().expect("a folder"));
    let home = root.path();
    std::fs::write(home.join("model.json"), include_str!("../small-model.json")).expect("written");
    std::fs::write(home.join("corpus.txt"), "All happy families are alike. ".repeat(700)).expect("written");
    let mut btcd = Btcd::start(&tools, &home.join("btcd")).expect("btcd runs");
    btcd.automine(std::time::Duration::from_millis(20)).expect("it mines");
    let (mut ada, ben) = tokio::join!(Side::start(&tools, home, "ada", &btcd), Side::start(&tools, home, "ben", &btcd));
    let (hers, his) = (ada.process.files().clone(), ben.process.files().clone());

    // Wrong settings, and nobody there.
    let address = hers.rpc.to_string();
    let wrong = config(home, "macaroon", &address, &hers.tls_cert, &his.admin_macaroon);
    both_refuse(home, &wrong, 2, "lnd_macaroon", "Use a macaroon that this LND made");
    let wrong = config(home, "certificate", &address, &his.tls_cert, &hers.admin_macaroon);
    both_refuse(home, &wrong, 2, "lnd_certificate", "Point tls_cert at");
    let nobody = config(home, "nobody", "127.0.0.1:1", &hers.tls_cert, &hers.admin_macaroon);
    both_refuse(home, &nobody, 4, "lnd_unreachable", "Check that lnd runs");

    // Channels: none, then one that only sends, seen from either side, opened with the least macaroon.
    let own = config(home, "ada-c", &address, &hers.tls_cert, &hers.admin_macaroon);
    both_warn(home, &own, "no_channel");
    let least = home.join("least.macaroon");
    bake(&tools, &ada, &PERMISSIONS, &least);
    ada.node.take().expect("runs").stop().await;
    let node = LndNode::start(&settings(&hers, &least), ada.folder()).await.expect("it suffices");
    let mut wallet = ada.process.wallet().await.expect("readable");
    btcd.pay(&wallet.new_address().await.expect("an address"), 20_000_000).expect("paid");
    until("the coins are there", async || node.on_chain_balance_sat().await.is_ok_and(|sat| sat > 0)).await;
    let request = ChannelRequest {
        node_id: ben.node().node_id().to_owned(),
        address: his.p2p.to_string(),
        capacity_sat: 5_000_000,
        push: Msat::ZERO,
    };
    node.open_channel(&request).await.expect("the least macaroon opens channels");
    until("the channel is usable", async || {
        node.channel_state(&request.node_id).await.ok() == Some(ChannelState::Usable)
            && ben.node().channel_state(node.node_id()).await.ok() == Some(ChannelState::Usable)
    })
    .await;
    node.stop().await;
    both_warn(home, &own, "too_little_inbound");
    let other = config(home, "ben-c", &his.rpc.to_string(), &his.tls_cert, &his.admin_macaroon);
    both_warn(home, &other, "too_little_outbound");

    // A wallet that was never made, one that is locked, and an LND that does not hear of the chain.
    let (new, waiting) = (home.join("new"), home.join("waiting"));
    let (of_new, of_waiting) = (files_in(&new), files_in(&waiting));
    ada.process.kill();
    let _new = lonely_lnd(&tools, &new, &of_new, &[]);
    let _waiting = lonely_lnd(&tools, &waiting, &of_waiting, &["--noseedbackup"]);
    let _locked = lonely_lnd(&tools, &home.join("ada"), &hers, &[]);
    for files in [&of_new, &of_waiting, &hers] {
        until("it listens", async || std::net::TcpStream::connect(files.rpc).is_ok()).await;
    }
    until("it has a macaroon", async || of_waiting.admin_macaroon.exists()).await;
    let none = config(home, "new-c", &of_new.rpc.to_string(), &of_new.tls_cert, &hers.admin_macaroon);
    let behind =
        config(home, "waiting-c", &of_waiting.rpc.to_string(), &of_waiting.tls_cert, &of_waiting.admin_macaroon);
    scope(|threads| {
        // These take half a minute: an LND may only just have been started.
        threads.spawn(|| both_refuse(home, &behind, 4, "lnd_not_synced", "chain backend"));
        both_refuse(home, &none, 2, "lnd_no_wallet", "lncli create");
        both_refuse(home, &own, 2, "lnd_locked", "lncli unlock");
        // Its chain backend has gone.
        btcd.stop();
        both_refuse(home, &other, 4, "lnd_no_chain", "chain backend");
    });
}
