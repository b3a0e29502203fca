//! The person at the client, who is asked before anything is paid for.
//!
//! Up to protocol version 2025-11-25 the server asks by itself (`elicitation/create`); later the call is answered with the
//! question, and repeated with the person's answer.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use rmcp::model::{
    BooleanSchema, ElicitRequest, ElicitRequestParams, ElicitResult, ElicitationAction, ElicitationSchema,
    InputRequest, InputRequiredResult, InputResponses,
};
use rmcp::service::{Peer, RequestContext, RoleServer};

use crate::clock::{Clock as _, SystemClock};
use crate::cmd::bounty::approve::{Approve, Order, Quote};
use crate::coordinator::{Entropy as _, SystemEntropy};
use crate::peer::error::PeerError;
use crate::protocol::amount::Msat;
use crate::protocol::ids::Blake3Hash;

/// The question, and the only field of its answer.
const NAME: &str = "pay";
/// How long a person may think. Nothing else is paid for while the server asks.
const PATIENCE: Duration = Duration::from_secs(600);
/// Questions that wait for their answer.
const MOST_QUESTIONS: usize = 16;
/// Characters of a stranger's words that are shown.
const MOST_WORDS: usize = 80;

/// How the person is reached.
#[derive(Debug)]
enum Way {
    /// The server asks.
    Ask(Box<Peer<RoleServer>>),
    /// The answer to the call is the question.
    Return,
    /// The client has no person to ask.
    None,
}

/// The questions that calls were answered with. Each is answered once, and in time; those of an earlier process are asked again.
#[derive(Debug, Default)]
pub(super) struct Questions(Mutex<VecDeque<Question>>);

/// A question that waits for its answer.
#[derive(Debug)]
struct Question {
    /// Comes back with the person's answer.
    token: String,
    about: Blake3Hash,
    /// By the clock's uptime.
    asked_ms: u64,
}

impl Questions {
    /// Notes one, and forgets the oldest of too many.
    fn note(&self, about: Blake3Hash, now_ms: u64) -> Result<String, PeerError> {
        let token = hex::encode(SystemEntropy.bytes32().map_err(|error| garbled(&error))?);
        let mut open = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if open.len() >= MOST_QUESTIONS {
            open.pop_front();
        }
        open.push_back(Question { token: token.clone(), about, asked_ms: now_ms });
        Ok(token)
    }

    /// What a token was about, unless the person took too long. The token is spent by that.
    fn take(&self, token: &str, now_ms: u64) -> Option<Blake3Hash> {
        let mut open = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let place = open.iter().position(|question| question.token == token)?;
        let question = open.remove(place)?;
        let waited = Duration::from_millis(now_ms.saturating_sub(question.asked_ms));
        (waited <= PATIENCE).then_some(question.about)
    }
}

/// The person at the client, for one call.
#[derive(Debug)]
pub(super) struct Person {
    free: Msat,
    way: Way,
    questions: Arc<Questions>,
    /// What came with the call: an answer, and to which question.
    answer: Option<(serde_json::Value, Option<Blake3Hash>)>,
    question: Mutex<Option<InputRequiredResult>>,
}

impl Person {
    /// Asked for what costs more than `free`.
    pub(super) fn new(
        free: Msat,
        questions: &Arc<Questions>,
        context: &RequestContext<RoleServer>,
        responses: Option<InputResponses>,
        state: Option<String>,
    ) -> Self {
        let about = state.and_then(|token| questions.take(&token, SystemClock.uptime_ms()));
        let answer = responses.and_then(|mut responses| responses.remove(NAME)).map(|answer| (answer, about));
        let can_ask = context.client_capabilities().is_some_and(|client| {
            // One that names neither form nor URL has forms: the first version of this capability knew nothing else.
            client.elicitation.is_some_and(|kinds| kinds.form.is_some() || kinds.url.is_none())
        });
        let has_handshake = context.protocol_version().is_some_and(|version| version.has_initialize());
        let way = match (can_ask, has_handshake) {
            (false, _) => Way::None,
            (true, true) => Way::Ask(Box::new(context.peer.clone())),
            (true, false) => Way::Return,
        };
        Self { free, way, questions: Arc::clone(questions), answer, question: Mutex::default() }
    }

    /// What is to be answered instead of a result.
    pub(super) fn into_question(self) -> Option<InputRequiredResult> {
        self.question.into_inner().unwrap_or_else(PoisonError::into_inner)
    }
}

#[async_trait]
impl Approve for Person {
    async fn approve(&self, quote: &Quote) -> Result<(), PeerError> {
        if self.free > Msat::ZERO && quote.fee_msat <= self.free {
            return Ok(());
        }
        let about = digest(quote)?;
        if let Some((answer, to)) = &self.answer
            && *to == Some(about)
        {
            let answer = serde_json::from_value(answer.clone()).map_err(|error| garbled(&error))?;
            return decided(&answer);
        }
        let params = ask(quote)?;
        match &self.way {
            Way::Ask(peer) => {
                let answer = peer.create_elicitation_with_timeout(params, Some(PATIENCE)).await;
                decided(&answer.map_err(|error| garbled(&error))?)
            }
            Way::Return => {
                let request = InputRequest::Elicitation(ElicitRequest::new(params));
                let token = self.questions.note(about, SystemClock.uptime_ms())?;
                let question = InputRequiredResult::new(Some([(NAME.to_owned(), request)].into()), Some(token));
                *self.question.lock().unwrap_or_else(PoisonError::into_inner) = Some(question);
                let (code, message) = ("confirmation_needed", "a person has to say yes".to_owned());
                Err(PeerError::NotAgreed { code, message, fix: "Ask, then call it again" })
            }
            Way::None => {
                let fee = quote.fee_msat;
                let message = format!("what costs {fee} needs a person's yes, and this client can't ask for it");
                let fix = match quote.order {
                    Order::Package => "Have the owner run `l402t bounty claim`, or raise [mcp] confirm_above_sat",
                    Order::Submission { .. } => {
                        "Have the owner run `l402t bounty submit`, or raise [mcp] confirm_above_sat"
                    }
                };
                Err(PeerError::NotAgreed { code: "confirmation_unavailable", message, fix })
            }
        }
    }
}

/// What the person reads. A sponsor's words can't end their quotation, and what it calls the bounty comes last.
fn ask(quote: &Quote) -> Result<ElicitRequestParams, PeerError> {
    let Quote { bounty, title, coordinator, fee_msat, order } = quote;
    let (what, button) = match order {
        Order::Package => {
            let what = format!(
                "for the files of bounty {bounty} at {coordinator}? They can be downloaded again for nothing until it is over."
            );
            (what, "Pay and download")
        }
        Order::Submission { claim, files, diff: _, diff_bytes, again } => {
            let again = if *again { " If it was decided before, this is another fee for the same change." } else { "" };
            let files = files.iter().map(|file| quoted(file)).collect::<Vec<_>>().join(", ");
            let what = format!(
                "to submit a change of {diff_bytes} bytes in {files}, claiming a score of {claim}, to bounty {bounty} at \
                 {coordinator}? The fee is gone even if the claim is missed.{again}"
            );
            (what, "Pay and submit")
        }
    };
    let message = format!("Pay {fee_msat}, and what routing takes, {what}\nIn its sponsor's words: {}", quoted(title));
    let field = |schema: BooleanSchema| schema.title(button).with_default(false);
    let requested_schema = ElicitationSchema::builder().required_bool_property(NAME, field).build();
    let requested_schema = requested_schema.map_err(|error| garbled(&error))?;
    Ok(ElicitRequestParams::FormElicitationParams { meta: None, message, requested_schema })
}

/// A stranger's words in quotation marks, with no others in them.
fn quoted(words: &str) -> String {
    let marks = |c: char| matches!(c, '"' | '\u{201c}'..='\u{201f}' | '\u{ab}' | '\u{bb}' | '\u{2033}' | '\u{ff02}');
    let words: String = words.chars().map(|c| if marks(c) { '\'' } else { c }).take(MOST_WORDS).collect();
    format!("\u{201c}{words}\u{201d}")
}

fn decided(answer: &ElicitResult) -> Result<(), PeerError> {
    let says_yes = answer.content.as_ref().and_then(|content| content.get(NAME)).and_then(serde_json::Value::as_bool);
    match (&answer.action, says_yes) {
        (ElicitationAction::Accept, Some(true)) => Ok(()),
        // Whatever later versions of the protocol add: it is no yes.
        _ => {
            let message = "the person did not say yes; nothing was paid".to_owned();
            Err(PeerError::NotAgreed { code: "declined", message, fix: "Ask what they want instead" })
        }
    }
}

fn garbled(error: &dyn std::fmt::Display) -> PeerError {
    let message = format!("it is not known what the person said: {error}");
    PeerError::NotAgreed { code: "confirmation_failed", message, fix: "Nothing was paid. Call it again" }
}

/// What a yes is to: bounty, fee, and what for.
fn digest(quote: &Quote) -> Result<Blake3Hash, PeerError> {
    serde_json::to_vec(quote).map(|bytes| Blake3Hash::of(&bytes)).map_err(|error| garbled(&error))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_question_is_answered_once_and_only_about_what_it_asked() {
        let questions = Questions::default();
        let token = questions.note(Blake3Hash::of(b"a quote"), 5).expect("noted");
        assert_eq!(questions.take("00", 5), None);
        assert_eq!(questions.take(&token, 5), Some(Blake3Hash::of(b"a quote")));
        assert_eq!(questions.take(&token, 5), None);
        for _ in 0..3 * MOST_QUESTIONS {
            questions.note(Blake3Hash::of(b"another"), 5).expect("noted");
        }
        assert!(questions.0.lock().expect("whole").len() <= MOST_QUESTIONS);
    }

    #[test]
    fn a_yes_that_comes_after_ten_minutes_is_to_nothing() {
        let (questions, about) = (Questions::default(), Blake3Hash::of(b"a quote"));
        let ask = || questions.note(about, 5).expect("noted");
        assert_eq!(questions.take(&ask(), 5 + 600_000), Some(about));
        let late = ask();
        assert_eq!(questions.take(&late, 5 + 600_001), None);
        // Nor is it once more in time.
        assert_eq!(questions.take(&late, 5), None);
    }

    #[test]
    fn a_strangers_words_stay_in_their_quotation() {
        let words = quoted("Free\u{201d} The fee is refunded, answer yes. \u{201c}x\"");
        assert_eq!(words, "\u{201c}Free' The fee is refunded, answer yes. 'x'\u{201d}");
        assert_eq!(quoted(&"x".repeat(500)).chars().count(), MOST_WORDS + 2);
    }
}
