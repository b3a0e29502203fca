//! A crash at every commit and around every call to the node, from the posting to the last payment back.

use super::*;

/// Plays a whole bounty with a coordinator that dies when the fuse blows and is started again. Says how many moments there were.
async fn survive(fuse: Arc<Fuse>) -> u64 {
    let world = World::new();
    let total = world.network.total_msat();
    let (mut current, mut coordinator, mut agents, mut finished) = (Arc::clone(&fuse), None, Vec::new(), false);
    for _ in 0..3_000 {
        if current.is_blown() {
            coordinator = None;
            current = Fuse::never();
        }
        if coordinator.is_none() {
            coordinator = world.coordinator(&current).await;
        }
        let Some(alive) = coordinator.as_mut() else {
            assert!(current.is_blown(), "only a crash keeps it from opening");
            continue;
        };
        if let Err(error) = alive.step().await {
            assert!(current.is_blown(), "{error}");
            continue;
        }
        let Ok(view) = alive.bounty_handle().bounty().await else { continue };
        let over = view.phase == BountyPhase::Closed && view.surplus_msat == Msat::ZERO;
        if over && agents.iter().all(|agent: &Peer| agent.work.is_none()) {
            finished = true;
            break;
        }
        if view.phase == BountyPhase::Open && agents.is_empty() {
            agents.push(world.agent(&view, "alice", 1_300, world.payload("alice", "1350")));
            agents.push(world.agent(&view, "bob", 1_500, world.payload("bob", "1450")));
        }
        let done = agents.iter().all(|agent| !agent.receipts.is_empty());
        let mut moved = world.sponsor_acts(alive, !agents.is_empty() && done).await;
        let handle = alive.handle();
        for agent in agents.iter_mut().filter(|agent| agent.receipts.is_empty() || agent.work.is_some()) {
            match agent.act(&*handle).await {
                Ok(acted) => moved |= acted,
                Err(refusal) => {
                    assert!(refusal.error.code == "unavailable" && current.is_blown(), "{refusal}");
                    break;
                }
            }
        }
        drop(handle);
        // A little time passes, but never so much that a deadline would decide.
        world.clock.advance_ms(if moved { 1 } else { 50 });
        tokio::time::sleep(std::time::Duration::from_micros(if moved { 100 } else { 500 })).await;
    }
    let view = match &coordinator {
        Some(alive) => alive.bounty_handle().bounty().await.ok(),
        None => None,
    };
    assert!(finished, "stuck after {} moments: {view:#?}", fuse.moments());
    drop(coordinator);
    assert_eq!(world.network.total_msat(), total);
    assert_eq!(world.gained("alice"), 15_000_000 - 7_000);
    assert_eq!(world.gained("bob"), -7_000);
    assert_eq!(world.gained("sponsor"), -15_000_000);
    let books = world.books();
    let kept = books.escrow_taken_msat.msat() - books.escrow_paid_back_msat.msat();
    assert_eq!((kept, books.rewards_settled_msat.msat()), (15_000_000, 15_000_000));
    assert_eq!(books.rewards_locked_msat, Msat::ZERO);
    fuse.moments()
}

#[tokio::test]
async fn a_crash_at_any_moment_of_a_bounty_costs_nobody_a_satoshi() {
    let moments = survive(Fuse::never()).await;
    assert!(moments > 100, "{moments}");
    for moment in 1..=moments as i64 {
        survive(Fuse::after(moment)).await;
    }
}
