//! Calls to LND: one HTTP/2 connection, a limit on every call, and answers sorted by what they mean for us.
//!
//! A call that got no answer is [`Trouble::NoAnswer`], never a refusal: LND may have done what was asked.

use std::error::Error;
use std::future::Future;
use std::time::Duration;

use fedimint_tonic_lnd::invoicesrpc::invoices_client::InvoicesClient;
use fedimint_tonic_lnd::lnrpc::lightning_client::LightningClient;
use fedimint_tonic_lnd::routerrpc::router_client::RouterClient;
use fedimint_tonic_lnd::staterpc::{GetStateRequest, GetStateResponse};
use fedimint_tonic_lnd::tonic::client::Grpc;
use fedimint_tonic_lnd::tonic::codec::ProstCodec;
use fedimint_tonic_lnd::tonic::codegen::InterceptedService;
use fedimint_tonic_lnd::tonic::codegen::http::Uri;
use fedimint_tonic_lnd::tonic::codegen::http::uri::PathAndQuery;
use fedimint_tonic_lnd::tonic::metadata::{Ascii, MetadataValue};
use fedimint_tonic_lnd::tonic::service::Interceptor;
use fedimint_tonic_lnd::tonic::transport::{Channel, Endpoint};
use fedimint_tonic_lnd::tonic::{Code, Request, Response, Status, Streaming};
use fedimint_tonic_lnd::verrpc::versioner_client::VersionerClient;
use secrecy::ExposeSecret;

use super::LndError;
use super::settings::Settings;
use super::tls::{self, Connector};
use crate::ln::LnError;

/// Most time that an ordinary call may take.
pub(super) const CALL_LIMIT: Duration = Duration::from_secs(15);
/// Most time for a call that waits for another node.
pub(super) const SLOW_CALL_LIMIT: Duration = Duration::from_secs(60);
/// Most time for TCP and TLS.
const CONNECT_LIMIT: Duration = Duration::from_secs(10);
/// A connection that is silent for so long is asked whether it lives, and given up after so long.
const PING_EVERY: Duration = Duration::from_secs(30);
const PING_LIMIT: Duration = Duration::from_secs(10);

/// How the words about a call that took too long begin.
pub(super) const TIMED_OUT: &str = "no answer to";

/// Lets every request carry the macaroon.
#[derive(Clone, Debug)]
pub(super) struct Macaroon(MetadataValue<Ascii>);

impl Interceptor for Macaroon {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        request.metadata_mut().insert("macaroon", self.0.clone());
        Ok(request)
    }
}

type Authorized = InterceptedService<Channel, Macaroon>;

/// A connection to LND, made when it is first used and again whenever it breaks. Clones share it.
#[derive(Clone)]
pub(super) struct Client {
    service: Authorized,
    origin: Uri,
    connector: Connector,
    address: String,
}

impl Client {
    /// Nothing is connected yet.
    pub(super) fn new(settings: &Settings) -> Result<Self, LndError> {
        let connector = Connector::new(settings)?;
        let mut value = MetadataValue::try_from(settings.macaroon_hex()?.expose_secret())
            .map_err(|_| LndError::Setting { name: "macaroon", reason: "it can't be sent".into() })?;
        value.set_sensitive(true);
        let wrong = |reason: String| LndError::Setting { name: "address", reason };
        let origin: Uri = format!("https://{}", settings.address)
            .parse()
            .map_err(|error| wrong(format!("{:?} is not host:port ({error})", settings.address)))?;
        // Plain for tonic: the connector speaks TLS itself.
        let endpoint = Endpoint::from_shared(format!("http://{}", settings.address))
            .map_err(|error| wrong(error.to_string()))?
            .origin(origin.clone())
            .connect_timeout(CONNECT_LIMIT)
            .http2_keep_alive_interval(PING_EVERY)
            .keep_alive_timeout(PING_LIMIT);
        let channel = endpoint.connect_with_connector_lazy(connector.clone());
        let service = InterceptedService::new(channel, Macaroon(value));
        Ok(Self { service, origin, connector, address: settings.address.clone() })
    }

    pub(super) fn address(&self) -> &str {
        &self.address
    }

    /// Connects once, to say plainly what is in the way.
    pub(super) async fn try_connection(&self) -> Result<(), LndError> {
        let unreachable = |reason: String| LndError::Unreachable { address: self.address.clone(), reason };
        match tokio::time::timeout(CONNECT_LIMIT, self.connector.clone().connect()).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(error)) if tls::is_wrong_certificate(&error) => {
                Err(LndError::WrongCertificate { address: self.address.clone() })
            }
            Ok(Err(error)) => Err(unreachable(error.to_string())),
            Err(_) => Err(unreachable(format!("no connection within {} s", CONNECT_LIMIT.as_secs()))),
        }
    }

    pub(super) fn lightning(&self) -> LightningClient<Authorized> {
        LightningClient::with_origin(self.service.clone(), self.origin.clone())
    }

    pub(super) fn invoices(&self) -> InvoicesClient<Authorized> {
        InvoicesClient::with_origin(self.service.clone(), self.origin.clone())
    }

    pub(super) fn router(&self) -> RouterClient<Authorized> {
        RouterClient::with_origin(self.service.clone(), self.origin.clone())
    }

    pub(super) fn versioner(&self) -> VersionerClient<Authorized> {
        VersionerClient::with_origin(self.service.clone(), self.origin.clone())
    }

    /// Whether the wallet is open. Asked by hand: LND serves this under another package than the client crate says.
    pub(super) async fn wallet_state(&self) -> Result<Response<GetStateResponse>, Status> {
        let mut grpc = Grpc::with_origin(self.service.clone(), self.origin.clone());
        grpc.ready().await.map_err(|error| Status::unavailable(error.to_string()))?;
        let path = PathAndQuery::from_static("/lnrpc.State/GetState");
        grpc.unary(Request::new(GetStateRequest {}), path, ProstCodec::default()).await
    }
}

/// Why a call did not give what was asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Trouble {
    /// Nothing, or not in time. LND may have done it.
    NoAnswer(String),
    /// There is no such invoice or payment.
    NotFound,
    /// There is one already.
    AlreadyExists,
    /// The macaroon is not enough for this method.
    Denied(&'static str),
    /// LND won't.
    Refused(String),
}

impl From<Trouble> for LnError {
    fn from(trouble: Trouble) -> Self {
        match trouble {
            Trouble::NoAnswer(why) => LnError::Unavailable(why),
            Trouble::NotFound => LnError::Refused("it knows of no such thing".into()),
            Trouble::AlreadyExists => LnError::Refused("there is one already".into()),
            Trouble::Denied(method) => {
                let what = format!("the macaroon does not allow {method}; make a new one as docs/lnd.md says");
                LnError::Refused(what)
            }
            Trouble::Refused(why) => LnError::Refused(why),
        }
    }
}

/// Waits for an answer, but not longer than `limit`.
pub(super) async fn call<T>(
    method: &'static str,
    limit: Duration,
    answer: impl Future<Output = Result<Response<T>, Status>>,
) -> Result<T, Trouble> {
    match tokio::time::timeout(limit, answer).await {
        Ok(Ok(response)) => Ok(response.into_inner()),
        Ok(Err(status)) => Err(sort(method, &status)),
        Err(_) => Err(Trouble::NoAnswer(format!("{TIMED_OUT} {method} within {} s", limit.as_secs()))),
    }
}

/// The first message of a stream. The stream is dropped: LND goes on with what it was told.
pub(super) async fn first<T>(
    method: &'static str,
    answer: impl Future<Output = Result<Response<Streaming<T>>, Status>>,
) -> Result<T, Trouble> {
    let message = async {
        let mut stream = answer.await?.into_inner();
        let message = stream.message().await?;
        message.map(Response::new).ok_or_else(|| Status::unavailable("the stream ended before its first message"))
    };
    call(method, CALL_LIMIT, message).await
}

/// LND answers nearly everything with the code Unknown and a text, so the texts have to be looked at.
pub(super) fn sort(method: &'static str, status: &Status) -> Trouble {
    let text = status.message();
    let no_answer = || Trouble::NoAnswer(format!("{method}: {}", describe(status)));
    // Only what went wrong on this side has a source: tonic makes it from the transport's error.
    if status.source().is_some() {
        return no_answer();
    }
    match status.code() {
        Code::NotFound => Trouble::NotFound,
        Code::AlreadyExists => Trouble::AlreadyExists,
        Code::PermissionDenied | Code::Unauthenticated => Trouble::Denied(method),
        Code::Unavailable
        | Code::DeadlineExceeded
        | Code::Cancelled
        | Code::Aborted
        | Code::Internal
        | Code::DataLoss
        | Code::ResourceExhausted => no_answer(),
        Code::Ok
        | Code::Unknown
        | Code::InvalidArgument
        | Code::FailedPrecondition
        | Code::OutOfRange
        | Code::Unimplemented => {
            let says = |part: &str| text.contains(part);
            if says("permission denied") {
                Trouble::Denied(method)
            } else if says("unable to locate invoice") {
                Trouble::NotFound
            } else if [
                "wallet locked",
                "starting up",
                "shutting down",
                "waiting to start",
                "not yet ready",
                "server is still in the process",
            ]
            .into_iter()
            .any(says)
            {
                no_answer()
            } else {
                Trouble::Refused(format!("{method}: {text}"))
            }
        }
    }
}

/// The innermost reason: what is around it says little.
fn describe(status: &Status) -> String {
    let mut reason: Option<&dyn Error> = status.source();
    while let Some(inner) = reason.and_then(Error::source) {
        reason = Some(inner);
    }
    reason.map_or_else(|| status.message().to_owned(), ToString::to_string)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_that_says_nothing_about_the_order_is_no_refusal() {
        for status in [
            Status::unavailable("x"),
            Status::deadline_exceeded("x"),
            Status::cancelled("x"),
            Status::internal("x"),
            Status::unknown("wallet locked, unlock it to enable full RPC access"),
            Status::unknown("the RPC server is in the process of starting up, but not yet ready to accept calls"),
            Status::unknown("routerrpc server shutting down"),
            Status::from_error(Box::new(std::io::Error::from(std::io::ErrorKind::ConnectionReset))),
        ] {
            assert!(matches!(sort("Pay", &status), Trouble::NoAnswer(_)), "{status:?}");
        }
    }

    #[test]
    fn what_lnd_says_in_words_is_understood() {
        assert_eq!(sort("Pay", &Status::unknown("permission denied")), Trouble::Denied("Pay"));
        assert_eq!(sort("Settle", &Status::unknown("unable to locate invoice")), Trouble::NotFound);
        assert_eq!(sort("Track", &Status::not_found("payment isn't initiated")), Trouble::NotFound);
        assert_eq!(sort("Pay", &Status::already_exists("payment is in transition")), Trouble::AlreadyExists);
        let refused = sort("Settle", &Status::unknown("invoice still open"));
        assert_eq!(refused, Trouble::Refused("Settle: invoice still open".into()));
    }

    #[tokio::test]
    async fn a_call_that_takes_too_long_has_no_answer() {
        let never = std::future::pending::<Result<Response<()>, Status>>();
        let answer = call("Pay", Duration::from_millis(1), never).await;
        assert!(matches!(answer, Err(Trouble::NoAnswer(why)) if why.contains("Pay")));
    }
}
