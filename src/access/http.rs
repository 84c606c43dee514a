//! `POST /v1/reveal` and `/v1/approve`: for those who show a token of the OpenID provider.

use std::sync::Arc;

use axum::Router;
use axum::body::{Body, to_bytes};
use axum::extract::{Request, State};
use axum::http::header::{
    AUTHORIZATION, CACHE_CONTROL, CONTENT_TYPE, RETRY_AFTER, WWW_AUTHENTICATE,
};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use prometheus::IntCounterVec;
use serde::Deserialize;
use serde_json::json;

use super::{AccessError, Actor, Answer, Desk, Reveal, Revealed, TokenError, Verifier};
use crate::erasure::{Act, EraseError, Outcome, Registry, Wish, Wisher};

/// A request may be so large, in bytes.
const LARGEST: usize = 1 << 20;

const AWAY: &str = "the audit trail or the keys are away";

/// What the pages stand on.
pub struct Office {
    pub desk: Desk,
    pub verifier: Verifier,
    pub registry: Arc<Registry>,
    /// By outcome.
    pub values: IntCounterVec,
    pub erasures: IntCounterVec,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Approve {
    request: String,
}

/// The pages, on their own: they are merged with those that are served.
pub fn pages(office: Arc<Office>) -> Router {
    Router::new()
        .route("/v1/reveal", post(reveal))
        .route("/v1/approve", post(approve))
        .route("/v1/erase", post(|office, request| erasure(Act::Erase, office, request)))
        .route("/v1/hold", post(|office, request| erasure(Act::Hold, office, request)))
        .route("/v1/release", post(|office, request| erasure(Act::Release, office, request)))
        .with_state(office)
}

async fn reveal(State(office): State<Arc<Office>>, request: Request) -> Response {
    answer(office, request, |office, actor, asked: Reveal| {
        let revealed = office.desk.reveal(actor, &asked);
        match revealed {
            Ok(revealed) => {
                for answer in &revealed.answers {
                    office.values.with_label_values(&[answer.outcome.name()]).inc();
                }
                shown(&revealed)
            }
            Err(error) => refused(&error),
        }
    })
    .await
}

async fn approve(State(office): State<Arc<Office>>, request: Request) -> Response {
    answer(office, request, |office, actor, asked: Approve| {
        match office.desk.approve(actor, &asked.request) {
            Ok(Some(approval)) => page(StatusCode::OK, &json!({ "approval": approval })),
            Ok(None) => error(StatusCode::FORBIDDEN, "denied"),
            Err(error) => refused(&error),
        }
    })
    .await
}

async fn erasure(act: Act, office: State<Arc<Office>>, request: Request) -> Response {
    answer(office.0, request, move |office, actor, wish: Wish| {
        if let Err(error) = office.desk.admit(actor) {
            return refused(&error);
        }
        let by = Wisher { name: actor.name.clone(), by: actor.by.name() };
        if !office.registry.allows(&actor.roles) {
            return match office.registry.denied(&by) {
                Ok(()) => error(StatusCode::FORBIDDEN, "denied"),
                Err(away) => unwritten(&away),
            };
        }
        let outcome = match office.registry.ask(act, &wish, &by) {
            Ok(outcome) => outcome,
            Err(wrong @ (EraseError::Invalid(_) | EraseError::NoStore)) => {
                return error(StatusCode::BAD_REQUEST, &wrong.to_string());
            }
            Err(away) => return unwritten(&away),
        };
        let (status, state) = match &outcome {
            Outcome::Erasing { .. } => (StatusCode::ACCEPTED, "erasing"),
            Outcome::Already { done: false, .. } => (StatusCode::ACCEPTED, "erasing"),
            Outcome::Already { done: true, .. } => (StatusCode::OK, "erased"),
            Outcome::Held { .. } => (StatusCode::CONFLICT, "held"),
            Outcome::Changed { .. } if act == Act::Hold => (StatusCode::OK, "held"),
            Outcome::Changed { .. } => (StatusCode::OK, "released"),
            Outcome::TooLate { .. } => (StatusCode::CONFLICT, "erased"),
        };
        let counted = match &outcome {
            Outcome::Held { .. } => Some("held"),
            _ => (act == Act::Erase).then_some("requested"),
        };
        if let Some(counted) = counted {
            office.erasures.with_label_values(&[counted]).inc();
        }
        page(status, &json!({ "state": state, "receipt": outcome.receipt() }))
    })
    .await
}

fn unwritten(away: &EraseError) -> Response {
    tracing::error!("a person cannot be forgotten just now: {away}");
    error(StatusCode::SERVICE_UNAVAILABLE, AWAY)
}

/// Reads who asks, then what; then asks the desk, which waits for others.
async fn answer<T: for<'de> Deserialize<'de> + Send + 'static>(
    office: Arc<Office>,
    request: Request,
    ask: impl FnOnce(&Office, &Actor, T) -> Response + Send + 'static,
) -> Response {
    let (parts, body) = request.into_parts();
    let Some(token) = token(&parts.headers) else { return unauthorized(&office) };
    let at_desk = Arc::clone(&office);
    let actor = tokio::task::spawn_blocking(move || at_desk.verifier.actor(&token)).await;
    let actor = match actor {
        Ok(Ok(actor)) => actor,
        Ok(Err(away @ TokenError::Away(_))) => {
            tracing::error!("nobody can be let in: {away}");
            return error(StatusCode::SERVICE_UNAVAILABLE, "the OpenID provider is away");
        }
        Ok(Err(why)) => {
            tracing::warn!("a request is not let in: {why}");
            return unauthorized(&office);
        }
        Err(_) => return defect(),
    };
    let Ok(body) = to_bytes(body, LARGEST).await else {
        return error(StatusCode::PAYLOAD_TOO_LARGE, "a request of 1 MiB at most");
    };
    let asked: T = match serde_json::from_slice(&body) {
        Ok(asked) => asked,
        // serde's own words may quote what stands there.
        Err(wrong) => {
            let place =
                format!("no such request: line {}, column {}", wrong.line(), wrong.column());
            return error(StatusCode::BAD_REQUEST, &place);
        }
    };
    let answered = tokio::task::spawn_blocking(move || ask(&office, &actor, asked)).await;
    answered.unwrap_or_else(|_| defect())
}

fn token(headers: &HeaderMap) -> Option<String> {
    let header = headers.get(AUTHORIZATION)?.to_str().ok()?;
    let (scheme, token) = header.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim().to_owned())
}

/// One answer as JSON text, the value in it as it was.
fn written(answer: &Answer, out: &mut Vec<u8>) {
    out.extend_from_slice(format!("{{\"outcome\":\"{}\"", answer.outcome.name()).as_bytes());
    if let Some(value) = &answer.value {
        out.extend_from_slice(b",\"value\":");
        out.extend_from_slice(value.expose());
    }
    if answer.unauthenticated {
        out.extend_from_slice(b",\"unauthenticated\":true");
    }
    out.push(b'}');
}

fn shown(revealed: &Revealed) -> Response {
    let mut body = b"{\"values\":[".to_vec();
    for (at, answer) in revealed.answers.iter().enumerate() {
        if at > 0 {
            body.push(b',');
        }
        written(answer, &mut body);
    }
    body.push(b']');
    if let Some(request) = &revealed.request {
        // Letters, digits, `-`, `_` and a dot.
        body.extend_from_slice(format!(",\"request\":\"{request}\"").as_bytes());
    }
    body.push(b'}');
    let denied = |answer: &Answer| {
        matches!(answer.outcome, super::Outcome::Denied | super::Outcome::NeedsApproval)
    };
    let status = match revealed.answers.iter().all(denied) {
        true => StatusCode::FORBIDDEN,
        false => StatusCode::OK,
    };
    with_headers(status, body)
}

fn with_headers(status: StatusCode, body: Vec<u8>) -> Response {
    let headers = [(CONTENT_TYPE, "application/json"), (CACHE_CONTROL, "no-store")];
    (status, headers, Body::from(body)).into_response()
}

fn page(status: StatusCode, body: &serde_json::Value) -> Response {
    with_headers(status, body.to_string().into_bytes())
}

fn error(status: StatusCode, what: &str) -> Response {
    page(status, &json!({ "error": what }))
}

fn defect() -> Response {
    error(StatusCode::INTERNAL_SERVER_ERROR, "a defect of veilstream")
}

fn unauthorized(office: &Office) -> Response {
    office.values.with_label_values(&["unauthorized"]).inc();
    let mut response = error(StatusCode::UNAUTHORIZED, "Authorization: Bearer TOKEN");
    response.headers_mut().insert(WWW_AUTHENTICATE, axum::http::HeaderValue::from_static("Bearer"));
    response
}

fn refused(why: &AccessError) -> Response {
    let status = match why {
        AccessError::Limited(_) => StatusCode::TOO_MANY_REQUESTS,
        AccessError::Invalid(_) | AccessError::Approval => StatusCode::BAD_REQUEST,
        AccessError::Away(_) => {
            tracing::error!("nothing is revealed: {why}");
            StatusCode::SERVICE_UNAVAILABLE
        }
    };
    let what = match why {
        AccessError::Away(_) => AWAY.to_owned(),
        _ => why.to_string(),
    };
    let mut response = error(status, &what);
    if let AccessError::Limited(wait) = why {
        response.headers_mut().insert(RETRY_AFTER, (wait.as_secs() + 1).into());
    }
    response
}
