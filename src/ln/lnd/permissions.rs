//! What a macaroon must allow: these methods and no more.
//!
//! Each is asked for with arguments that LND refuses before it does anything, because LND looks at the macaroon first.

use std::future::Future;
use std::time::Duration;

use fedimint_tonic_lnd::invoicesrpc::{
    AddHoldInvoiceRequest, CancelInvoiceMsg, LookupInvoiceMsg, SettleInvoiceMsg, SubscribeSingleInvoiceRequest,
};
use fedimint_tonic_lnd::lnrpc::{
    ChanInfoRequest, ChannelEventSubscription, ConnectPeerRequest, GetInfoRequest, Invoice, InvoiceSubscription,
    ListChannelsRequest, OpenChannelRequest, PendingChannelsRequest, WalletBalanceRequest,
};
use fedimint_tonic_lnd::routerrpc::{SendPaymentRequest, TrackPaymentRequest, TrackPaymentsRequest};
use fedimint_tonic_lnd::tonic::{Response, Status, Streaming};
use fedimint_tonic_lnd::verrpc::VersionRequest;
use futures_util::future::{BoxFuture, FutureExt, join_all};

use super::client::{CALL_LIMIT, Client, Trouble, call};
use super::{LndError, start};

/// The methods that a macaroon for this program must allow.
pub const PERMISSIONS: [&str; 19] = [
    "/verrpc.Versioner/GetVersion",
    "/lnrpc.Lightning/GetInfo",
    "/lnrpc.Lightning/WalletBalance",
    "/lnrpc.Lightning/ListChannels",
    "/lnrpc.Lightning/PendingChannels",
    "/lnrpc.Lightning/GetChanInfo",
    "/lnrpc.Lightning/ConnectPeer",
    "/lnrpc.Lightning/OpenChannelSync",
    "/lnrpc.Lightning/AddInvoice",
    "/invoicesrpc.Invoices/AddHoldInvoice",
    "/invoicesrpc.Invoices/LookupInvoiceV2",
    "/invoicesrpc.Invoices/SettleInvoice",
    "/invoicesrpc.Invoices/CancelInvoice",
    "/routerrpc.Router/SendPaymentV2",
    "/routerrpc.Router/TrackPaymentV2",
    "/invoicesrpc.Invoices/SubscribeSingleInvoice",
    "/routerrpc.Router/TrackPayments",
    "/lnrpc.Lightning/SubscribeInvoices",
    "/lnrpc.Lightning/SubscribeChannelEvents",
];

/// A stream says nothing until there is something to tell: no refusal in this time is a yes.
const STREAM_PATIENCE: Duration = Duration::from_millis(500);

/// The command that makes such a macaroon.
pub fn bake_command() -> String {
    let uris: Vec<String> = PERMISSIONS.iter().map(|method| format!("uri:{method}")).collect();
    format!("lncli bakemacaroon --save_to l402t.macaroon {}", uris.join(" "))
}

/// Asks for each of [`PERMISSIONS`].
pub(super) async fn check(client: &Client) -> Result<(), LndError> {
    let mut denied = Vec::new();
    for (method, answer) in PERMISSIONS.into_iter().zip(join_all(probes(client)).await) {
        match answer {
            Err(Trouble::Denied(_)) => denied.push(method),
            Err(Trouble::NoAnswer(reason)) => {
                return Err(start::no_answer(client, method, reason));
            }
            Err(Trouble::Refused(reason)) if reason.contains("unknown service") => {
                return Err(LndError::Missing(method));
            }
            Ok(()) | Err(Trouble::NotFound | Trouble::AlreadyExists | Trouble::Refused(_)) => {}
        }
    }
    if denied.is_empty() { Ok(()) } else { Err(LndError::NotAllowed(denied)) }
}

/// One for each of [`PERMISSIONS`], in their order.
fn probes(client: &Client) -> [BoxFuture<'static, Result<(), Trouble>>; PERMISSIONS.len()] {
    // Too short for a hash, a preimage or a key.
    let short = || vec![1];
    let (lightning, invoices, router) = (client.lightning(), client.invoices(), client.router());
    macro_rules! once {
        ($client:expr, $method:ident, $request:expr) => {{
            let (mut client, request) = ($client.clone(), $request);
            once(async move { client.$method(request).await }).boxed()
        }};
    }
    macro_rules! stream {
        ($client:expr, $method:ident, $request:expr) => {{
            let (mut client, request) = ($client.clone(), $request);
            stream(async move { client.$method(request).await }).boxed()
        }};
    }
    let no_preimage = Invoice { r_preimage: short(), ..Invoice::default() };
    let no_hash = AddHoldInvoiceRequest { hash: short(), ..AddHoldInvoiceRequest::default() };
    let no_invoice = SendPaymentRequest { payment_request: "none".into(), ..SendPaymentRequest::default() };
    [
        once!(client.versioner(), get_version, VersionRequest {}),
        once!(lightning, get_info, GetInfoRequest {}),
        once!(lightning, wallet_balance, WalletBalanceRequest::default()),
        once!(lightning, list_channels, ListChannelsRequest { peer: short(), ..ListChannelsRequest::default() }),
        once!(lightning, pending_channels, PendingChannelsRequest::default()),
        once!(lightning, get_chan_info, ChanInfoRequest::default()),
        once!(lightning, connect_peer, ConnectPeerRequest::default()),
        once!(lightning, open_channel_sync, OpenChannelRequest::default()),
        once!(lightning, add_invoice, no_preimage),
        once!(invoices, add_hold_invoice, no_hash),
        once!(invoices, lookup_invoice_v2, LookupInvoiceMsg::default()),
        once!(invoices, settle_invoice, SettleInvoiceMsg { preimage: short() }),
        once!(invoices, cancel_invoice, CancelInvoiceMsg { payment_hash: short() }),
        stream!(router, send_payment_v2, no_invoice),
        stream!(
            router,
            track_payment_v2,
            TrackPaymentRequest { payment_hash: short(), ..TrackPaymentRequest::default() }
        ),
        stream!(invoices, subscribe_single_invoice, SubscribeSingleInvoiceRequest { r_hash: short() }),
        stream!(router, track_payments, TrackPaymentsRequest { no_inflight_updates: true }),
        stream!(lightning, subscribe_invoices, InvoiceSubscription::default()),
        stream!(lightning, subscribe_channel_events, ChannelEventSubscription {}),
    ]
}

async fn once<T>(answer: impl Future<Output = Result<Response<T>, Status>>) -> Result<(), Trouble> {
    call("a question about the macaroon", CALL_LIMIT, answer).await.map(drop)
}

async fn stream<T>(answer: impl Future<Output = Result<Response<Streaming<T>>, Status>>) -> Result<(), Trouble> {
    // What is refused is refused in the stream's head, or in its first message.
    let first = async {
        let mut stream = answer.await?.into_inner();
        stream.message().await.map(Response::new)
    };
    match call("a question about the macaroon", STREAM_PATIENCE, first).await {
        Err(Trouble::NoAnswer(_)) | Ok(_) => Ok(()),
        Err(trouble) => Err(trouble),
    }
}
