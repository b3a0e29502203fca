//! What a coordinator says of itself to strangers: true, and only of what is served.

use std::collections::BTreeSet;
use std::sync::Arc;

use axum::http::Method;

use super::{Served, serve, start};
use crate::http::server::discovery::guide;
use crate::http::server::routes::methods_and_paths;
use crate::http::server::{Limits, Services};
use crate::http::testing as sample;
use crate::http::testing::FakeCoordinator;
use crate::http::testing::bounties::{FakeBoard, bounty_view};
use crate::protocol::amount::Msat;
use crate::protocol::api::{BountyPhase, BountyView, Phase};
use crate::protocol::discovery::{BountiesStatus, Description, ServiceStatus};

/// A training run, a board, both or neither.
fn every_kind() -> Vec<Services> {
    let mut kinds = Vec::new();
    for training in [true, false] {
        for board in [true, false] {
            kinds.push(Services {
                training: training.then(|| Arc::new(FakeCoordinator::new()) as _),
                board: board.then(|| Arc::new(FakeBoard::new()) as _),
            });
        }
    }
    kinds
}

async fn served(services: Services) -> Served {
    let server = start(services, Limits::default()).await;
    Served { fake: Arc::new(FakeCoordinator::new()), board: Arc::new(FakeBoard::new()), server }
}

/// Every word that is a path, without what stands around it.
fn paths_in(text: &str) -> BTreeSet<&str> {
    let words = text.split(|c: char| c.is_whitespace() || "`(),;\"".contains(c));
    words.map(|word| word.trim_end_matches(['.', ':'])).filter(|word| word.starts_with('/') && word.len() > 1).collect()
}

#[test]
fn the_guide_names_every_path_with_what_it_is_for_and_no_other() {
    let both = every_kind().remove(0);
    let (text, routes) = (guide(&both), methods_and_paths());
    for (method, path) in &routes {
        let line = text.lines().find_map(|line| line.strip_prefix(&format!("- {method} {path}: ")));
        assert!(line.is_some_and(|summary| summary.len() > 5), "{method} {path}: {line:?}");
    }
    for path in paths_in(&text) {
        assert!(routes.iter().any(|(_, served)| served == path), "{path} is not served");
    }
    assert!(text.lines().all(|line| line.len() <= 200));
}

#[tokio::test]
async fn whatever_is_named_is_there() {
    for services in every_kind() {
        let said = guide(&services);
        let served = served(services).await;
        let llms = served.get("/llms.txt").await;
        assert_eq!((llms.status, llms.header("content-type")), (200, "text/plain; charset=utf-8"));
        assert_eq!(llms.body, said.as_bytes());
        let description = String::from_utf8(served.get("/.well-known/ai.json").await.body).expect("UTF-8");
        for path in paths_in(&said).into_iter().chain(paths_in(&description)) {
            let answers_get =
                methods_and_paths().iter().any(|(method, served)| served == path && *method == Method::GET);
            if answers_get && !path.contains('{') {
                assert_eq!(served.get(path).await.status, 200, "{path}");
            }
        }
        served.server.stop().await;
    }
}

#[tokio::test]
async fn what_is_not_there_is_not_named() {
    let [both, training, board, neither]: [Services; 4] = every_kind().try_into().expect("four");
    assert!(guide(&both).contains("/v1/bounties") && guide(&both).contains("/v1/run"));
    assert!(guide(&board).contains("`l402t bounty submit`") && !guide(&training).contains("l402t bounty"));
    assert!(!guide(&training).contains("/v1/bounties") && !guide(&board).contains("/v1/run"));
    assert!(paths_in(&guide(&neither)).iter().all(|path| !path.starts_with("/v1/") || *path == "/v1/openapi.json"));
    let described: Description =
        serde_json::from_slice(&served(board).await.get("/.well-known/ai.json").await.body).expect("a description");
    assert_eq!((described.training, described.bounties.as_deref()), (None, Some("/v1/bounties")));
    assert_eq!(described.payment.chain.as_deref(), Some("regtest"));
}

#[tokio::test]
async fn the_status_says_what_there_is_to_do() {
    let status = serve(Limits::default()).await.get("/status.json").await;
    assert_eq!((status.status, status.header("cache-control")), (200, "no-store"));
    let status: ServiceStatus = serde_json::from_slice(&status.body).expect("a status");
    assert!(status.alive && status.version == env!("CARGO_PKG_VERSION"));
    assert_eq!(status.node_id, Some(sample::run_view().lightning.node_id));
    let training = status.training.expect("a run");
    assert_eq!((training.current_round, training.phase), (Some(sample::ROUND), Some(Phase::Committing)));
    let bounties = BountiesStatus { open: 1, on_offer_msat: Msat::new(75_000_000) };
    assert_eq!((status.bounties, status.now_ms), (Some(bounties), Some(sample::round_view().now_ms)));

    for services in every_kind() {
        let (training, board) = (services.training.is_some(), services.board.is_some());
        let status = served(services).await.get("/status.json").await;
        let status: ServiceStatus = serde_json::from_slice(&status.body).expect("a status");
        assert_eq!((status.training.is_some(), status.bounties.is_some()), (training, board));
        assert_eq!(status.network.is_some(), training || board);
    }
}

#[tokio::test]
async fn a_coordinator_without_a_bounty_yet_names_its_node() {
    let services = Services { training: None, board: Some(Arc::new(FakeBoard::empty())) };
    let served = served(services).await;
    let status: ServiceStatus = serde_json::from_slice(&served.get("/status.json").await.body).expect("a status");
    assert_eq!(status.bounties, Some(BountiesStatus::default()));
    assert_eq!((status.node_id, status.now_ms), (Some(sample::run_view().lightning.node_id), None));
}

#[test]
fn on_offer_is_what_open_bounties_have_left() {
    let of = |views: &[BountyView]| BountiesStatus::of(views);
    let open = bounty_view();
    let closed = BountyView { phase: BountyPhase::Closed, ..open.clone() };
    let won = BountyView { least_claim: None, ..open.clone() };
    assert_eq!(of(&[closed, won]), BountiesStatus::default());
    let more_than_there_is = BountyView { paid_msat: Msat::MAX_MONEY, ..open.clone() };
    assert_eq!(of(&[open.clone(), more_than_there_is]).on_offer_msat, Msat::new(75_000_000));
    assert_eq!(of(&[open.clone(), open]), BountiesStatus { open: 2, on_offer_msat: Msat::new(150_000_000) });
}
