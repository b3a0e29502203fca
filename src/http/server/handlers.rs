//! One function for each path: read the request, ask the coordinator, write the answer.

use std::sync::Arc;

use axum::Json;
use axum::extract::{Extension, Request, State};
use axum::http::header::{AUTHORIZATION, CACHE_CONTROL, CONTENT_TYPE};
use axum::http::{HeaderMap, HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use serde::Serialize;

use super::content;
use super::extract::{
    PathParam, RoundParam, SignedBody, Target, declared_length, read_body, require_content_type, require_length,
};
use super::failure::Failure;
use super::rate::Client;
use super::routes::App;
use crate::coordinator::handle::TicketAnswer;
use crate::protocol::ids::{Blake3Hash, ContributionId};
use crate::protocol::l402::find_credentials;
use crate::protocol::statements::{Commitment, InvoiceSubmission, PeerRegistration};

/// The committed description of the API.
pub(super) const OPENAPI: &str = include_str!("../../../docs/openapi.json");

pub(super) type Answer = Result<Response, Failure>;

pub(super) async fn run(State(app): State<App>, Target(run): Target) -> Answer {
    Ok(json(app.call(async move { run.run().await }).await?))
}

pub(super) async fn current_round(State(app): State<App>, Target(run): Target) -> Answer {
    Ok(json(app.call(async move { run.round(None).await }).await?))
}

pub(super) async fn round(
    State(app): State<App>,
    Target(run): Target,
    PathParam(RoundParam(round)): PathParam<RoundParam>,
) -> Answer {
    Ok(json(app.call(async move { run.round(Some(round)).await }).await?))
}

pub(super) async fn transcript(
    State(app): State<App>,
    Target(run): Target,
    PathParam(RoundParam(round)): PathParam<RoundParam>,
    headers: HeaderMap,
) -> Answer {
    let bytes = app.call(async move { run.transcript(round).await }).await?;
    content::bytes(bytes, &headers).await
}

pub(super) async fn aggregate(
    State(app): State<App>,
    Target(run): Target,
    PathParam(RoundParam(round)): PathParam<RoundParam>,
    headers: HeaderMap,
) -> Answer {
    let found = app.call(async move { run.aggregate(round).await }).await?;
    content::file(&found.path, found.next_checkpoint, content::REVALIDATE, &headers).await
}

pub(super) async fn blob(
    State(app): State<App>,
    Target(run): Target,
    PathParam(hash): PathParam<Blake3Hash>,
    headers: HeaderMap,
) -> Answer {
    let path = app.call(async move { run.blob(hash).await }).await?;
    content::file(&path, hash, content::FOR_EVER, &headers).await
}

pub(super) async fn register(
    State(app): State<App>,
    Target(run): Target,
    SignedBody(registration): SignedBody<PeerRegistration>,
) -> Answer {
    Ok(json(app.call(async move { run.register(registration).await }).await?))
}

pub(super) async fn ticket(
    State(app): State<App>,
    Target(run): Target,
    Extension(client): Extension<Client>,
    PathParam(RoundParam(round)): PathParam<RoundParam>,
    headers: HeaderMap,
    SignedBody(commitment): SignedBody<Commitment>,
) -> Answer {
    let credentials = credentials(&headers);
    let answer = async move { run.ticket(round, commitment, credentials).await };
    match app.call_sold(client, answer, |answer| matches!(answer, TicketAnswer::PaymentRequired(_))).await? {
        TicketAnswer::Ticket(ticket) => Ok(json(*ticket)),
        TicketAnswer::PaymentRequired(challenge) => {
            Err(Failure::payment_required(&challenge, "a ticket costs the submission fee"))
        }
    }
}

/// What a request shows to have been paid.
pub(super) fn credentials(headers: &HeaderMap) -> Option<String> {
    let texts: Vec<_> =
        headers.get_all(AUTHORIZATION).iter().map(|value| String::from_utf8_lossy(value.as_bytes())).collect();
    find_credentials(texts.iter().map(|text| &**text)).map(str::to_owned)
}

pub(super) async fn invoices(
    State(app): State<App>,
    Target(run): Target,
    PathParam(contribution): PathParam<ContributionId>,
    SignedBody(submission): SignedBody<InvoiceSubmission>,
) -> Answer {
    Ok(json(app.call(async move { run.submit_invoices(contribution, submission).await }).await?))
}

pub(super) async fn payload(
    State(app): State<App>,
    Target(run): Target,
    PathParam(contribution): PathParam<ContributionId>,
    request: Request,
) -> Answer {
    require_content_type(request.headers(), "application/octet-stream")?;
    let asked = Arc::clone(&run);
    let allowance = app.call(async move { asked.upload_allowance(contribution).await }).await?;
    require_length(request.headers(), allowance)?;
    if declared_length(request.headers()).is_some_and(|length| length < allowance) {
        return Err(wrong_length(allowance));
    }
    let _memory = app.reserve_upload(allowance)?;
    let payload = read_body(request.into_body(), allowance, |_| app.limits.upload_time(allowance)).await?;
    if payload.len() as u64 != allowance {
        return Err(wrong_length(allowance));
    }
    Ok(json(app.call(async move { run.upload(contribution, payload).await }).await?))
}

pub(super) async fn contribution(
    State(app): State<App>,
    Target(run): Target,
    PathParam(contribution): PathParam<ContributionId>,
) -> Answer {
    Ok(json(app.call(async move { run.contribution(contribution).await }).await?))
}

pub(super) async fn status(State(app): State<App>, Target(run): Target) -> Answer {
    Ok(json(app.call(async move { run.status().await }).await?))
}

pub(super) async fn openapi() -> Answer {
    let content_type = (CONTENT_TYPE, HeaderValue::from_static("application/json"));
    Ok(([content_type], OPENAPI).into_response())
}

fn wrong_length(committed_bytes: u64) -> Failure {
    Failure::new(
        StatusCode::BAD_REQUEST,
        "payload_length",
        format!("the payload does not have the {committed_bytes} bytes that were committed to"),
        "send exactly the bytes whose hash and length the commitment names",
    )
}

/// 200 with a body that changes, so it isn't to be stored.
pub(super) fn json(body: impl Serialize) -> Response {
    ([(CACHE_CONTROL, HeaderValue::from_static("no-store"))], Json(body)).into_response()
}
