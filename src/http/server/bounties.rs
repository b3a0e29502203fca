//! The paths that only bounties have. What a bounty has in common with a training run is in [`super::handlers`].

use axum::extract::{Extension, Request, State};
use axum::http::{HeaderMap, StatusCode};
use tokio::task::spawn_blocking;
use tokio::time::Instant;

use super::content;
use super::extract::{PathParam, SignedBody, declared_length, read_body, require_content_type, require_length};
use super::failure::Failure;
use super::handlers::{Answer, credentials, json};
use super::limits::MAX_POSTING_BYTES;
use super::rate::Client;
use super::routes::App;
use crate::coordinator::handle::PackageAnswer;
use crate::protocol::api::PostRequest;
use crate::protocol::bounty::statements::SponsorRequest;
use crate::protocol::ids::BountyId;

pub(super) async fn list(State(app): State<App>) -> Answer {
    let board = app.services.need_board()?;
    Ok(json(app.call(async move { board.list().await }).await?))
}

pub(super) async fn post(State(app): State<App>, Extension(client): Extension<Client>, request: Request) -> Answer {
    let board = app.services.need_board()?;
    require_content_type(request.headers(), "application/json")?;
    require_length(request.headers(), MAX_POSTING_BYTES)?;
    // Refused or not, it has to be read to its end: nothing is given back.
    app.postings.take(client, Instant::now()).map_err(Failure::too_many_requests)?;
    let length = declared_length(request.headers()).unwrap_or(MAX_POSTING_BYTES);
    let memory = app.reserve_posting(length)?;
    let body = read_body(request.into_body(), length, |read| app.limits.posting_time(read)).await?;
    let read = spawn_blocking(move || serde_json::from_slice::<PostRequest>(&body)).await;
    let posting = read.map_err(|_| Failure::internal("reading a posting panicked"))?.map_err(|error| {
        // It may quote the body.
        let what: String = error.to_string().chars().take(200).collect();
        let fix = "compare the body with /v1/openapi.json";
        Failure::new(StatusCode::BAD_REQUEST, "malformed_body", format!("not a posting: {what}"), fix)
    })?;
    let posted = async move {
        let answer = board.post(posting).await;
        drop(memory);
        answer
    };
    Ok(json(app.call(posted).await?))
}

pub(super) async fn bounty(State(app): State<App>, PathParam(id): PathParam<BountyId>) -> Answer {
    let bounty = app.services.need_bounty(&id)?;
    Ok(json(app.call(async move { bounty.bounty().await }).await?))
}

pub(super) async fn package(
    State(app): State<App>,
    Extension(client): Extension<Client>,
    PathParam(id): PathParam<BountyId>,
    headers: HeaderMap,
) -> Answer {
    let bounty = app.services.need_bounty(&id)?;
    let credentials = credentials(&headers);
    let answer = async move { bounty.package(credentials).await };
    match app.call_sold(client, answer, |answer| matches!(answer, PackageAnswer::PaymentRequired(_))).await? {
        PackageAnswer::File(file) => content::file(&file.path, file.hash, content::REVALIDATE, &headers).await,
        PackageAnswer::PaymentRequired(challenge) => {
            Err(Failure::payment_required(&challenge, "a bounty's package has a price"))
        }
    }
}

pub(super) async fn closing(State(app): State<App>, PathParam(id): PathParam<BountyId>, headers: HeaderMap) -> Answer {
    let bounty = app.services.need_bounty(&id)?;
    content::bytes(app.call(async move { bounty.closing().await }).await?, &headers).await
}

pub(super) async fn sponsor(
    State(app): State<App>,
    PathParam(id): PathParam<BountyId>,
    SignedBody(request): SignedBody<SponsorRequest>,
) -> Answer {
    let bounty = app.services.need_bounty(&id)?;
    Ok(json(app.call(async move { bounty.sponsor(request).await }).await?))
}
