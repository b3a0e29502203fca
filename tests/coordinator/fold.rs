//! The log of events, folded by the state machine: what the stored rounds must be equal to.

use l402t::protocol::ids::UnixMs;
use l402t::protocol::round::{Event, Round, RoundRules, transition};
use l402t::protocol::statements::RoundOpening;
use l402t::store::database::Database;

/// The rounds as the event log tells them.
pub(crate) fn fold(db: &Database, rules: &RoundRules) -> Vec<Round> {
    walk(db, rules, |_, _, _, _| {})
}

/// The same; `visit` is told of every event of a round: when it was, what, and the round before and after it.
pub(crate) fn walk(
    db: &Database,
    rules: &RoundRules,
    mut visit: impl FnMut(UnixMs, &Event, &Round, &Round),
) -> Vec<Round> {
    let mut rounds: Vec<Round> = Vec::new();
    let take = |at: UnixMs, body: &str| {
        let mut record: serde_json::Value = serde_json::from_str(body).expect("JSON");
        let fields = record.as_object_mut().expect("an object");
        let kind = fields.remove("record").expect("a record");
        if kind == "round_opened" {
            let opening: RoundOpening = serde_json::from_value(fields["opening"].clone()).expect("an opening");
            let RoundOpening { round, opened_ms, commit_deadline_ms, upload_deadline_ms, .. } = opening;
            rounds.push(Round::open(round, opened_ms, commit_deadline_ms, upload_deadline_ms));
        } else if kind == "round" {
            let place = fields.remove("round").and_then(|round| round.as_u64()).expect("a round") as usize;
            let event = serde_json::from_value(record).expect("an event");
            let after = transition(&rounds[place], &event, at, rules).expect("legal then, legal now").0;
            visit(at, &event, &rounds[place], &after);
            rounds[place] = after;
        }
        Ok(())
    };
    l402t::store::events::replay(db.read(), take).expect("an unbroken log");
    rounds
}
