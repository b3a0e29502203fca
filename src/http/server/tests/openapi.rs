//! docs/openapi.json says what the server does: the same paths and methods, and the same fields as the API's types.

use serde::Serialize;
use serde_json::{Value, json};

use super::{Served, serve, start};
use crate::http::server::handlers::OPENAPI;
use crate::http::server::routes::methods_and_paths;
use crate::http::server::{Limits, Services};
use crate::http::testing as sample;
use crate::http::testing::bounties;
use crate::protocol::api::{
    ApiError, BountyPhase, BountyView, ChannelOffer, ContributionState, ErrorBody, Phase, RegistrationView,
};
use crate::protocol::bounty::statements::SponsorAsk;
use crate::protocol::verdict::Verdict;

fn document() -> Value {
    serde_json::from_str(OPENAPI).expect("JSON")
}

#[test]
fn the_description_has_exactly_the_served_paths_and_methods() {
    let document = document();
    let paths = document["paths"].as_object().expect("paths");
    let mut described: Vec<(String, String)> = paths
        .iter()
        .flat_map(|(path, item)| item.as_object().expect("methods").keys().map(|m| (m.to_uppercase(), path.clone())))
        .collect();
    let mut served: Vec<(String, String)> =
        methods_and_paths().into_iter().map(|(method, path)| (method.to_string(), path.to_owned())).collect();
    described.sort();
    served.sort();
    assert_eq!(described, served);
}

#[test]
fn every_reference_leads_somewhere() {
    fn walk(document: &Value, value: &Value) {
        match value {
            Value::Object(map) => {
                if let Some(Value::String(reference)) = map.get("$ref") {
                    let found = document.pointer(reference.trim_start_matches('#'));
                    assert!(found.is_some(), "{reference} leads nowhere");
                }
                map.values().for_each(|value| walk(document, value));
            }
            Value::Array(list) => list.iter().for_each(|value| walk(document, value)),
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
        }
    }
    walk(&document(), &document());
}

#[test]
fn the_schemas_have_exactly_the_fields_of_the_types() {
    conforms("RunView", sample::run_view());
    conforms("RoundView", sample::round_view());
    conforms("SignedTranscript", sample::transcript());
    conforms("SignedPeerRegistration", sample::registration());
    conforms("SignedCommitment", sample::commitment());
    conforms("Ticket", sample::ticket());
    conforms("SignedInvoiceSubmission", sample::submission());
    conforms("Status", sample::status());
    let mut view = sample::contribution_view(ContributionState::Finished);
    conforms("ContributionView", &view);
    view.receipt = Some(sample::receipt());
    for outcome in sample::outcomes() {
        view.verdict = Some(Verdict::Training(sample::verdict(outcome)));
        conforms("ContributionView", &view);
    }
    conforms("BountyList", bounties::bounty_list(vec![bounties::bounty_view()]));
    let nothing_left = BountyView { why: Some("by its sponsor".into()), least_claim: None, ..bounties::bounty_view() };
    conforms("BountyView", BountyView { current_round: None, ..nothing_left });
    let request = bounties::post_request("cGFja2FnZQ==".into(), String::new());
    conforms("PostAnswer", bounties::post_answer(&request));
    conforms("PostRequest", request);
    let pay_back = SponsorAsk::PayBack { invoice: "lnbcrt1".into() };
    for ask in [SponsorAsk::Close, pay_back] {
        conforms("SignedSponsorRequest", bounties::sponsor_request(ask));
    }
    conforms("SignedBountyTranscript", bounties::bounty_transcript());
    conforms("SignedClosing", bounties::closing());
    for outcome in bounties::bounty_outcomes() {
        view.verdict = Some(Verdict::Bounty(bounties::bounty_verdict(outcome)));
        conforms("ContributionView", &view);
    }
    let error = ApiError { code: "a".into(), message: "b".into(), fix: "c".into() };
    conforms("ErrorBody", ErrorBody { error });
}

#[tokio::test]
async fn what_a_coordinator_says_of_itself_has_exactly_the_fields_of_its_schemas() {
    let nothing =
        Served { server: start(Services::default(), Limits::default()).await, ..serve(Limits::default()).await };
    for served in [serve(Limits::default()).await, nothing] {
        conforms("Description", served.get("/.well-known/ai.json").await.json());
        conforms("ServiceStatus", served.get("/status.json").await.json());
    }
}

#[test]
fn the_enumerations_have_exactly_the_values_of_the_types() {
    let phases = [Phase::Committing, Phase::Uploading, Phase::Judging, Phase::Closed];
    enumerates("Phase", &phases);
    use ContributionState::{Finished, Locked, Locking, Settling, Ticketed, Uploaded};
    enumerates("ContributionState", &[Ticketed, Locking, Locked, Uploaded, Settling, Finished]);
    use BountyPhase::{AwaitingEscrow, Checking, Closed, Closing, Open, Refused};
    enumerates("BountyPhase", &[AwaitingEscrow, Checking, Open, Closing, Closed, Refused]);
    enumerates("ChannelOffer", &[ChannelOffer::Usable, ChannelOffer::Opening, ChannelOffer::BringYourOwn]);
    conforms("RegistrationView", RegistrationView { channel: ChannelOffer::Usable });
}

#[test]
fn a_value_with_another_shape_does_not_conform() {
    let mut run = serde_json::to_value(sample::run_view()).expect("JSON");
    run["lightning"]["extra"] = json!(1);
    assert!(check(&document(), &json!({"$ref": "#/components/schemas/RunView"}), &run).is_err());
}

#[test]
fn only_what_a_type_leaves_out_may_be_left_out() {
    let document = document();
    let schemas = document["components"]["schemas"].as_object().expect("schemas");
    let optional = schemas.iter().flat_map(|(name, schema)| {
        let required = schema["required"].as_array().cloned().unwrap_or_default();
        let fields = schema["properties"].as_object().into_iter().flat_map(|fields| fields.keys().cloned());
        fields.filter(move |field| !required.contains(&json!(field))).map(move |field| format!("{name}.{field}"))
    });
    assert_eq!(optional.collect::<Vec<_>>(), ["Closing.reruns", "Commitment.claim"]);
}

fn enumerates<T: Serialize>(schema: &str, values: &[T]) {
    let listed = &document()["components"]["schemas"][schema]["enum"];
    assert_eq!(listed, &serde_json::to_value(values).expect("JSON"), "{schema}");
}

fn conforms(schema: &str, value: impl Serialize) {
    let value = serde_json::to_value(value).expect("JSON");
    let reference = json!({"$ref": format!("#/components/schemas/{schema}")});
    if let Err(error) = check(&document(), &reference, &value) {
        panic!("{schema}: {error}");
    }
}

/// The part of JSON Schema that the description uses.
fn check(document: &Value, schema: &Value, value: &Value) -> Result<(), String> {
    if let Some(reference) = schema["$ref"].as_str() {
        let target = document.pointer(reference.trim_start_matches('#')).ok_or(format!("no {reference}"))?;
        return check(document, target, value);
    }
    for part in schema["allOf"].as_array().into_iter().flatten() {
        check(document, part, value)?;
    }
    if let Some(choices) = schema["oneOf"].as_array() {
        let fitting = choices.iter().filter(|choice| check(document, choice, value).is_ok()).count();
        return if fitting == 1 { Ok(()) } else { Err(format!("{fitting} of the choices fit {value}")) };
    }
    if let Some(listed) = schema["enum"].as_array() {
        return if listed.contains(value) { Ok(()) } else { Err(format!("{value} is not listed")) };
    }
    match (schema["type"].as_str(), value) {
        (Some("object"), Value::Object(fields)) => check_fields(document, schema, fields),
        (Some("array"), Value::Array(items)) => {
            items.iter().try_for_each(|item| check(document, &schema["items"], item))
        }
        (Some("string"), Value::String(_)) | (Some("boolean"), Value::Bool(_)) | (Some("null"), Value::Null) => Ok(()),
        (Some("integer"), Value::Number(number)) if !number.is_f64() => Ok(()),
        (None, _) if schema["allOf"].is_array() => Ok(()),
        (expected, _) => Err(format!("{value} is not {expected:?}")),
    }
}

fn check_fields(document: &Value, schema: &Value, fields: &serde_json::Map<String, Value>) -> Result<(), String> {
    let Some(properties) = schema["properties"].as_object() else { return Ok(()) };
    for name in schema["required"].as_array().into_iter().flatten().filter_map(Value::as_str) {
        fields.get(name).ok_or(format!("the type has no field {name}"))?;
    }
    for (name, value) in fields {
        let property = properties.get(name).ok_or(format!("the schema has no field {name}"))?;
        check(document, property, value).map_err(|error| format!("{name}: {error}"))?;
    }
    Ok(())
}
