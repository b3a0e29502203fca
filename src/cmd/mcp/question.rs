//! The person at the client, who is asked before a submission is paid for.
//!
//! Up to protocol version 2025-11-25 the server asks by itself (`elicitation/create`); later the call is answered with the
//! question, and repeated with the person's answer.

use std::sync::{Mutex, PoisonError};

use async_trait::async_trait;
use rmcp::model::{
    ElicitRequest, ElicitRequestParams, ElicitResult, ElicitationAction, ElicitationSchema, InputRequest,
    InputRequiredResult, InputResponses,
};
use rmcp::service::{Peer, RequestContext, RoleServer};

use crate::cmd::Failure;
use crate::cmd::bounty::approve::{Approve, Quote};
use crate::protocol::amount::Msat;
use crate::protocol::ids::Blake3Hash;

/// The question, and the only field of its answer.
const NAME: &str = "submit";

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

/// The person at the client, for one call.
#[derive(Debug)]
pub(super) struct Person {
    free: Msat,
    way: Way,
    responses: Option<InputResponses>,
    state: Option<String>,
    question: Mutex<Option<InputRequiredResult>>,
}

impl Person {
    /// Asked for what costs more than `free`.
    pub(super) fn new(
        free: Msat,
        context: &RequestContext<RoleServer>,
        responses: Option<InputResponses>,
        state: Option<String>,
    ) -> Self {
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
        Self { free, way, responses, state, question: Mutex::default() }
    }

    /// What is to be answered instead of a result.
    pub(super) fn into_question(self) -> Option<InputRequiredResult> {
        self.question.into_inner().unwrap_or_else(PoisonError::into_inner)
    }
}

#[async_trait]
impl Approve for Person {
    async fn approve(&self, quote: &Quote) -> Result<(), Failure> {
        if quote.fee_msat <= self.free {
            return Ok(());
        }
        // An answer belongs to the question that it was given to.
        let digest = digest(quote)?;
        if self.state.as_deref() == Some(&digest)
            && let Some(answer) = self.responses.as_ref().and_then(|responses| responses.get(NAME))
        {
            let answer = serde_json::from_value(answer.clone()).map_err(|error| garbled(&error))?;
            return decided(&answer);
        }
        let params = ask(quote)?;
        match &self.way {
            Way::Ask(peer) => {
                let answer = peer.create_elicitation(params).await;
                decided(&answer.map_err(|error| garbled(&error))?)
            }
            Way::Return => {
                let request = InputRequest::Elicitation(ElicitRequest::new(params));
                let question = InputRequiredResult::new(Some([(NAME.to_owned(), request)].into()), Some(digest));
                *self.question.lock().unwrap_or_else(PoisonError::into_inner) = Some(question);
                Err(Failure::usage("confirmation_needed", "a person has to say yes", "Ask, then call it again"))
            }
            Way::None => {
                let message = format!(
                    "a submission that costs {} needs a person's yes, and this client can't ask for it",
                    quote.fee_msat
                );
                let fix = "Have the owner run `l402t bounty submit`, or raise [mcp] confirm_above_sat";
                Err(Failure::usage("confirmation_unavailable", message, fix))
            }
        }
    }
}

/// What the person reads.
fn ask(quote: &Quote) -> Result<ElicitRequestParams, Failure> {
    let Quote { bounty, title, coordinator, claim, fee_msat, diff_bytes } = quote;
    let message = format!(
        "Pay {fee_msat} (and what routing takes) to submit a change of {diff_bytes} bytes, claiming a score of {claim}, to bounty \
         {bounty} at {coordinator}? Its sponsor calls it: \u{201c}{title}\u{201d}. The fee is gone even if the claim is missed."
    );
    let field = |schema: rmcp::model::BooleanSchema| schema.title("Pay and submit").with_default(false);
    let requested_schema = ElicitationSchema::builder().required_bool_property(NAME, field).build();
    let requested_schema = requested_schema.map_err(|error| Failure::bug(format_args!("a form: {error}")))?;
    Ok(ElicitRequestParams::FormElicitationParams { meta: None, message, requested_schema })
}

fn decided(answer: &ElicitResult) -> Result<(), Failure> {
    let says_yes = answer.content.as_ref().and_then(|content| content.get(NAME)).and_then(serde_json::Value::as_bool);
    match (&answer.action, says_yes) {
        (ElicitationAction::Accept, Some(true)) => Ok(()),
        // Whatever later versions of the protocol add: it is no yes.
        _ => Err(Failure::usage(
            "declined",
            "the person did not say yes; nothing was paid",
            "Ask what they want instead",
        )),
    }
}

fn garbled(error: &dyn std::fmt::Display) -> Failure {
    let message = format!("the client did not say what the person answered: {error}");
    Failure::remote("confirmation_failed", message, "Nothing was paid. Call it again")
}

fn digest(quote: &Quote) -> Result<String, Failure> {
    let bytes = serde_json::to_vec(quote).map_err(|error| Failure::bug(format_args!("a quote: {error}")))?;
    Ok(Blake3Hash::of(&bytes).to_string())
}
