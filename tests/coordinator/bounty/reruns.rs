//! What was paid for is scored once more when the bounty closes.

use super::*;

#[tokio::test]
async fn a_change_that_scores_less_later_keeps_its_reward_and_is_named_by_the_closing() {
    let world = World::new();
    let mut coordinator = world.coordinator(&Fuse::never()).await.expect("taken on");
    world.play(&mut coordinator, &mut [], false, |view| view.phase == BountyPhase::Open).await;
    assert_eq!(world.submit(&mut coordinator, "alice", 1_300, "1350").await, reached(15_000));
    assert_eq!(world.submit(&mut coordinator, "bob", 1_500, "1555 fades").await, reached(10_000));
    let paid_back = |view: &BountyView| view.phase == BountyPhase::Closed && view.surplus_msat == Msat::ZERO;
    world.play(&mut coordinator, &mut [], true, paid_back).await;

    let fee = FEE_SAT as i64 * 1_000;
    assert_eq!(world.gained("bob"), 10_000_000 - fee, "paid is paid");
    let closing = coordinator.bounty_handle().closing().await.expect("opened");
    let closing = Signed::<Closing>::from_bytes(&closing).expect("canonical");
    let scores =
        |scores: Vec<Option<Score>>| scores.into_iter().map(|score| score.map(Score::units)).collect::<Vec<_>>();
    assert_eq!(scores(closing.body.evaluations.iter().map(|one| one.score).collect()), [Some(1_350), Some(1_555)]);
    assert_eq!(scores(closing.body.reruns.iter().map(|one| one.score).collect()), [Some(1_350), Some(1_455)]);
    let different = world.replay(&closing).expect_err("it has no one score");
    assert_eq!(different.field, "rounds[1].contributions[0].evaluation");
    assert!(different.problem.ends_with("the change is not stable"), "{different}");
}
