//! kill -9 of whole processes with real nodes: a peer right after each step of a contribution, a coordinator before and
//! after its verdicts. (Every single moment is the simulator's: tests/simulator/matrix.rs.)
#![cfg(all(feature = "embedded", feature = "torch"))]

use std::path::Path;

use serde_json::Value;

use crate::live::{Live, coordinator, ledger, prepare};
use crate::{home, l402t};

/// What the peer is killed right after, one a round.
const STEPS: [&str; 4] = ["ticket", "locked", "uploaded", "verdict"];
/// What the coordinator is killed right after, one a round that follows.
const VERDICTS: [&str; 2] = ["round_judging", "round_closed"];
const FEE_MSAT: u64 = 1_000;

fn honest_peer(home: &Path, url: &str) -> Live {
    let mut command = l402t(home);
    command.args(["peer", "--data", "p", "--json", "--threads", "1", "--coordinator", url]);
    Live::start(&mut command)
}

#[test]
fn whatever_is_killed_is_paid_once_and_both_books_agree() {
    let home = home();
    let home = home.path();
    prepare(home);
    let rounds = STEPS.len() + VERDICTS.len();
    // Any gain is paid, so that there is money to be lost.
    let config = std::fs::read_to_string(home.join("c.toml")).expect("read");
    let config = config.replace("rounds = 4", &format!("rounds = {rounds}")).replace("4294967295", "1");
    std::fs::write(home.join("c.toml"), config).expect("written");

    let mut service = coordinator(home, "127.0.0.1:0");
    let url = service.wait_for("listening")["url"].as_str().expect("a URL").to_owned();
    let address = url.strip_prefix("http://").expect("http").to_owned();
    for step in STEPS {
        let mut peer = honest_peer(home, &url);
        peer.wait_for(step);
        peer.kill();
    }
    let mut peer = honest_peer(home, &url);
    for step in VERDICTS {
        service.wait_for(step);
        service.kill();
        service = coordinator(home, &address);
        service.wait_for("listening");
    }
    let finished = peer.wait_for("finished");
    assert_eq!(peer.child.wait().expect("it ends").code(), Some(0), "{finished}");
    service.wait_for("run_finished");
    assert_eq!(service.interrupt(), Some(0));

    let (theirs, ours) = (ledger(home, "c"), ledger(home, "p"));
    let number = |value: &Value, name: &str| value["totals"][name].as_u64().unwrap_or_else(|| panic!("{name}"));
    assert_eq!(number(&theirs, "fees_received_msat"), rounds as u64 * FEE_MSAT, "one fee a round: {ours}");
    assert_eq!(number(&ours, "fees_msat"), rounds as u64 * FEE_MSAT);
    assert!(number(&ours, "received_msat") > 0, "{ours}");
    assert_eq!(number(&theirs, "rewards_settled_msat"), number(&ours, "received_msat"));
    assert_eq!(number(&theirs, "rewards_locked_msat"), 0);
    assert_eq!(finished["unfinished"], 0, "{finished}");
}
