//! The contract over the simulated network.

use std::sync::Arc;

use l402t::ln::Lightning;
use l402t::ln::simulated::{Faults, Network};
use l402t::protocol::amount::Msat;

use crate::bench::{Bench, CAPACITY_SAT, PUSH};

struct Simulated {
    network: Network,
    total: Msat,
}

async fn start() -> Simulated {
    let network = Network::new(1, Faults::NONE);
    network.channel("coordinator", "peer", Msat::from_sat(CAPACITY_SAT).expect("small"), PUSH);
    Simulated { total: network.total_msat(), network }
}

impl Bench for Simulated {
    fn coordinator(&self) -> Arc<dyn Lightning> {
        self.network.node("coordinator")
    }

    fn peer(&self) -> Arc<dyn Lightning> {
        self.network.node("peer")
    }

    async fn peer_down(&mut self) {
        self.network.crash("peer");
    }

    async fn peer_up(&mut self) {
        self.network.restart("peer");
    }

    async fn restart_coordinator(&mut self) {
        self.network.crash("coordinator");
        self.network.restart("coordinator");
    }

    async fn mine(&mut self, blocks: u32) {
        self.network.mine(blocks);
    }

    fn slots(&self) -> u32 {
        483
    }

    async fn stop(&mut self) {
        assert_eq!(self.network.total_msat(), self.total, "no msat was made or lost");
    }
}

use crate::contract::contract;

crate::contract::scenarios!(contract, start);

#[tokio::test]
async fn a_route_that_costs_more_than_the_limit_is_not_taken() {
    let mut bench = start().await;
    bench.network.channel("peer", "far", Msat::from_sat(CAPACITY_SAT).expect("small"), PUSH);
    bench.total = bench.network.total_msat();
    let (payer, payee) = (bench.coordinator(), bench.network.node("far"));
    // What a node of the simulated network takes for passing a payment on.
    let fee = Msat::new(1_000);
    crate::contract::a_route_that_costs_more_than_the_limit_is_not_taken(&*payer, &*payee, fee).await;
    bench.stop().await;
}
