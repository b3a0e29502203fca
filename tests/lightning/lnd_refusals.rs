//! What is said when an LND can't be used, by a real one: one test, because a start takes seconds.

use std::path::Path;
use std::process::Command;

use l402t::ln::lnd::{LndError, LndNode, PERMISSIONS, Settings};
use l402t::ln::{ChannelRequest, Lightning, LnError, PaymentStatus};
use l402t::localnet::Tools;
use l402t::protocol::amount::Msat;
use secrecy::SecretSlice;

use crate::bench::{Bench, LIMITS, hold, preimage, request, settled, until};
use crate::lnd::{Side, settings, start, tools};

/// Has lncli make a macaroon that allows these methods.
pub(crate) fn bake(tools: &Tools, side: &Side, methods: &[&str], to: &Path) {
    let files = side.process.files();
    let status = Command::new(tools.folder().join("lncli"))
        .arg(format!("--rpcserver={}", files.rpc))
        .arg(format!("--tlscertpath={}", files.tls_cert.display()))
        .arg(format!("--macaroonpath={}", files.admin_macaroon.display()))
        .args(["--network=regtest", "bakemacaroon", "--save_to"])
        .arg(to)
        .args(methods.iter().map(|method| format!("uri:{method}")))
        .output()
        .expect("lncli runs");
    assert!(status.status.success(), "{}", String::from_utf8_lossy(&status.stderr));
}

async fn refusal(settings: &Settings, folder: &Path) -> LndError {
    match LndNode::start(settings, folder).await {
        Ok(_) => panic!("it was not refused"),
        Err(error) => error,
    }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs btcd and lnd: ./x regtest test"]
async fn what_is_in_the_way_is_named_and_the_least_macaroon_suffices() {
    let (tools, mut bench) = (tools(), start().await);
    let root = tempfile::tempdir().expect("a folder");
    let (mine, theirs) = (bench.peer.process.files().clone(), bench.coordinator.process.files().clone());
    let good = settings(&mine, &mine.admin_macaroon);

    let error = refusal(&settings(&mine, &theirs.admin_macaroon), &root.path().join("a")).await;
    assert!(matches!(error, LndError::WrongMacaroon(_)), "{error}");
    let other = Settings { tls_cert: settings(&theirs, &theirs.admin_macaroon).tls_cert, ..good.clone() };
    let error = refusal(&other, &root.path().join("a")).await;
    assert!(matches!(error, LndError::WrongCertificate { .. }), "{error}");
    let nobody = Settings { address: "127.0.0.1:1".into(), ..good.clone() };
    let error = refusal(&nobody, &root.path().join("a")).await;
    assert!(matches!(error, LndError::Unreachable { .. }), "{error}");
    let nonsense = Settings { macaroon: SecretSlice::from(b"nonsense".to_vec()), ..good.clone() };
    let error = refusal(&nonsense, &root.path().join("a")).await;
    assert!(matches!(error, LndError::Setting { name: "macaroon", .. }), "{error}");
    assert!(!root.path().join("a").exists(), "nothing was written");

    // A folder that was used with one node is not for another.
    let error = refusal(&good, bench.coordinator.folder()).await;
    assert!(matches!(error, LndError::AnotherNode { .. }), "{error}");

    // One permission less is named; all of them suffice for everything.
    let path = root.path().join("l402t.macaroon");
    for (place, left_out) in PERMISSIONS.iter().enumerate() {
        let less: Vec<&str> = PERMISSIONS.iter().copied().filter(|method| method != left_out).collect();
        let path = root.path().join(format!("less-{place}.macaroon"));
        bake(&tools, &bench.peer, &less, &path);
        let error = refusal(&settings(&mine, &path), &root.path().join("a")).await;
        assert!(matches!(&error, LndError::NotAllowed(missing) if missing == &[*left_out]), "{left_out}: {error}");
    }
    for side in [&mut bench.coordinator, &mut bench.peer] {
        bake(&tools, side, &PERMISSIONS, &path);
        side.node.take().expect("runs").stop().await;
        let least = settings(side.process.files(), &path);
        let node = LndNode::start(&least, side.folder()).await.expect("it suffices");
        side.node = Some(std::sync::Arc::new(node));
    }
    let (preimage, _) = hold(&bench, 1, 2_000_000).await;
    bench.peer().settle(preimage).await.expect("taken");
    settled(&bench, preimage, 2_000_000).await;
    too_little(&bench).await;

    bench.stop().await;
}

/// What LND says when there is too little of something.
async fn too_little(bench: &crate::lnd::Lnd) {
    let (coordinator, peer) = (bench.coordinator(), bench.peer());
    let other = coordinator.info().await.expect("up");
    // The peer has no coins on chain, and its channel is the coordinator's.
    let stranger = ChannelRequest {
        node_id: format!("02{}", "79be667ef9dcbbac55a06295ce870b07029bfcdb2dce28d959f2815b16f81798"),
        address: "127.0.0.1:1".into(),
        capacity_sat: 1_000_000,
        push: Msat::ZERO,
    };
    let error = peer.open_channel(&stranger).await.expect_err("nobody is there");
    assert!(matches!(&error, LnError::Unavailable(why) if why.contains("can't reach node")), "{error}");
    let known = ChannelRequest { node_id: other.node_id, address: other.address.expect("advertised"), ..stranger };
    peer.open_channel(&known).await.expect("there is one already");
    // More than the peer was pushed.
    let invoice = coordinator.create_invoice(&request(2_000_000_000)).await.expect("made");
    peer.pay(&invoice.bolt11, LIMITS).await.expect("taken");
    let mut reason = String::new();
    until("it has failed", async || match peer.payment(invoice.payment_hash).await {
        Ok(PaymentStatus::Failed { reason: why, .. }) => {
            reason = why;
            true
        }
        _ => false,
    })
    .await;
    assert!(reason.contains("can't send that much"), "{reason}");
    let (_, unknown) = preimage(2);
    assert!(matches!(peer.cancel(unknown).await, Err(LnError::UnknownHash(_))));
}
