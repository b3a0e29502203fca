//! A peer that was away for some rounds, as a process, with real nodes: it goes on from the checkpoint that it has, by the
//! coordinator's aggregates; where one is damaged it says so and downloads the whole checkpoint.
#![cfg(all(feature = "embedded", feature = "torch"))]

use std::path::Path;

use serde_json::Value;

use crate::live::{Live, coordinator, prepare};
use crate::{home, l402t};

fn peer(home: &Path, data: &str, url: &str, rounds: &str) -> Live {
    let mut command = l402t(home);
    command.args(["peer", "--data", data, "--json", "--threads", "1", "--coordinator", url, "--rounds", rounds]);
    Live::start(&mut command)
}

fn number(event: &Value, name: &str) -> u64 {
    event[name].as_u64().unwrap_or_else(|| panic!("no {name} in {event}"))
}

#[test]
fn a_peer_that_missed_rounds_goes_on_by_aggregates_and_says_so() {
    let home = home();
    let home = home.path();
    prepare(home);
    // Any gain is paid, so that checkpoints change.
    let config = std::fs::read_to_string(home.join("c.toml")).expect("read");
    std::fs::write(home.join("c.toml"), config.replace("rounds = 4", "rounds = 5").replace("4294967295", "1"))
        .expect("written");
    let mut service = coordinator(home, "127.0.0.1:0");
    let url = service.wait_for("listening")["url"].as_str().expect("a URL").to_owned();
    let address = url.strip_prefix("http://").expect("http").to_owned();

    // Round 0, then away.
    peer(home, "away", &url, "1").wait_for("finished");
    // Rounds 1 and 2.
    peer(home, "there", &url, "2").wait_for("finished");
    service.kill();
    let mut service = coordinator(home, &address);
    service.wait_for("listening");

    let mut back = peer(home, "away", &url, "1");
    let caught_up = back.wait_for("caught_up");
    assert_eq!((number(&caught_up, "round"), number(&caught_up, "from_round")), (3, 0), "{caught_up}");
    assert!((1..=3).contains(&number(&caught_up, "aggregates")), "{caught_up}");
    assert!(number(&caught_up, "aggregate_bytes") < number(&caught_up, "checkpoint_bytes") / 2, "{caught_up}");
    let verdict = back.wait_for("verdict");
    assert_eq!((number(&verdict, "round"), verdict["outcome"].as_str()), (3, Some("accepted")), "{verdict}");
    back.wait_for("finished");

    // The last round that the other peer needs is damaged on the coordinator's disk.
    let path = home.join("c/aggregates/3.l4ag");
    let mut aggregate = std::fs::read(&path).expect("kept");
    let last = aggregate.len() - 1;
    aggregate[last] ^= 1;
    std::fs::write(&path, aggregate).expect("damaged");
    let mut there = peer(home, "there", &url, "1");
    let not_caught_up = there.wait_for("not_caught_up");
    assert!(not_caught_up["reason"].as_str().expect("a reason").contains("aggregate of round 3"), "{not_caught_up}");
    assert_eq!(number(&there.wait_for("verdict"), "round"), 4);
    there.wait_for("finished");
    service.wait_for("run_finished");
}
