//! What a peer's node holds is guarded for as long as a peer's process lives, with or without a coordinator. Real nodes,
//! on a chain that is the test's own.
#![cfg(feature = "embedded")]

use std::path::Path;
use std::time::Duration;

use l402t::ln::regtest::RegtestChain;
use l402t::protocol::hold::GIVE_BACK_MARGIN_BLOCKS;

use crate::live::{Live, coordinator, prepare};
use crate::{home, l402t};

/// No receipt comes before the coordinator is gone, and peers soon give up.
fn configure(home: &Path, chain: &str) {
    prepare(home);
    let chain = format!("[lightning.chain]\nkind = \"regtest_rpc\"\naddress = \"{chain}\"\n");
    let run = std::fs::read_to_string(home.join("c.toml")).expect("read");
    let run = run.replace("close_at_contributions = 1", "close_at_contributions = 0");
    std::fs::write(home.join("c.toml"), format!("{run}{chain}")).expect("written");
    std::fs::write(home.join("p.toml"), format!("[peer]\ngive_up_after_s = 2\n{chain}")).expect("written");
}

fn peer(home: &Path, url: &str) -> Live {
    let mut command = l402t(home);
    command.args([
        "peer",
        "--config",
        "p.toml",
        "--data",
        "p",
        "--json",
        "--behaviour",
        "garbage",
        "--coordinator",
        url,
    ]);
    Live::start(&mut command)
}

#[test]
fn a_peer_without_a_coordinator_gives_back_what_it_holds_before_its_node_would() {
    let home = home();
    let home = home.path();
    let mut chain = RegtestChain::open(&home.join("chain")).expect("made");
    let address = chain.serve(0).expect("served");
    chain.automine(Duration::from_millis(100)).expect("mines");
    configure(home, &address.to_string());

    let mut service = coordinator(home, "127.0.0.1:0");
    let url = service.wait_for("listening")["url"].as_str().expect("a URL").to_owned();
    let mut first = peer(home, &url);
    let locked = first.wait_for("locked");
    service.kill();
    // It gives the round up, and stays for what it holds.
    let guarding = first.wait_for("guarding");
    assert_eq!(guarding["amount_msat"], locked["locked_msat"], "{guarding}");
    let expiry_height = |name: &str| guarding[name].as_u64().expect("known") as u32;
    first.kill();

    // At its next start nobody answers, either.
    let mut second = peer(home, &url);
    second.wait_for("waiting");
    for end in [expiry_height("first_expiry_height"), expiry_height("last_expiry_height")] {
        chain.mine((end - GIVE_BACK_MARGIN_BLOCKS).saturating_sub(chain.height())).expect("mined");
        loop {
            let given_back = second.wait_for("given_back");
            let at = |name: &str| given_back[name].as_u64().expect("a height");
            assert!(at("height") < at("expiry_height"), "{given_back}");
            if at("expiry_height") == u64::from(end) {
                break;
            }
        }
    }
    // Nothing is held any more: now it may give up.
    assert_eq!(second.child.wait().expect("it ends").code(), Some(3));
}
