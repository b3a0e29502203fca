//! Sockets: accepting them, bounding them, and closing them so that the last answer still arrives.

use std::collections::HashMap;
use std::future::poll_fn;
use std::io;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::{Service as _, service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, sleep_until, timeout};

use super::limits::{Limits, MAX_HEAD_BYTES, MAX_HEADERS};
use super::rate::Client;
use super::routes::{App, router};
use super::{Settings, Stop, TrustedProxies};
use crate::coordinator::handle::CoordinatorHandle;

/// How long, and for how many bytes, a closed connection is still read from: a reset would destroy the last answer.
const LINGER: Duration = Duration::from_secs(2);
const LINGER_BYTES: usize = 8 * 1_024 * 1_024;
/// The pause after the system refused a connection, for instance for want of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Serves until told to stop.
pub(super) async fn serve(
    listener: TcpListener,
    coordinator: Arc<dyn CoordinatorHandle>,
    settings: Settings,
    mut stopped: watch::Receiver<Stop>,
) {
    let Settings { limits, proxies } = settings;
    let proxies = Arc::new(proxies);
    let app = App::new(coordinator, limits);
    let router = router(app.clone());
    let open = Arc::new(OpenConnections::default());
    let mut connections = JoinSet::new();
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            Some(_) = connections.join_next() => continue,
            _ = stopped.changed() => break,
        };
        match accepted {
            Ok((stream, address)) => {
                // All of a proxy's connections may be in use at once, each for another client.
                let own_most = match proxies.contains(address.ip()) {
                    true => limits.connections,
                    false => limits.connections_per_address,
                };
                match open.enter(Client::of(address.ip()), limits.connections, own_most) {
                    Some(place) => {
                        let origin = Origin { connected: address.ip(), proxies: Arc::clone(&proxies) };
                        let serve = connection(stream, origin, router.clone(), limits, stopped.clone());
                        connections.spawn(async move {
                            serve.await;
                            drop(place);
                        });
                    }
                    None => tracing::debug!(%address, "too many connections"),
                }
            }
            Err(error) => {
                tracing::warn!(%error, "could not accept a connection");
                sleep(ACCEPT_PAUSE).await;
            }
        }
    }
    drop(listener);
    let finish = async {
        while connections.join_next().await.is_some() {}
        app.calls_ended().await;
    };
    if timeout(limits.stop_grace, finish).await.is_err() {
        tracing::info!("cut off what was still under way");
    }
    connections.shutdown().await;
}

/// How many connections each client has.
#[derive(Debug, Default)]
struct OpenConnections(Mutex<HashMap<Client, usize>>);

/// One connection's place among the open ones; leaving is by drop.
struct Place {
    open: Arc<OpenConnections>,
    client: Client,
}

impl OpenConnections {
    fn enter(self: &Arc<Self>, client: Client, most: usize, own_most: usize) -> Option<Place> {
        let mut counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let total: usize = counts.values().sum();
        let own = counts.get(&client).copied().unwrap_or(0);
        if total >= most || own >= own_most {
            return None;
        }
        counts.insert(client, own + 1);
        Some(Place { open: self.clone(), client })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut counts = self.open.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = counts.get_mut(&self.client) {
            *count -= 1;
            if *count == 0 {
                counts.remove(&self.client);
            }
        }
    }
}

/// Tells whose requests a connection carries.
struct Origin {
    connected: IpAddr,
    proxies: Arc<TrustedProxies>,
}

async fn connection(
    stream: TcpStream,
    origin: Origin,
    router: Router,
    limits: Limits,
    mut stopped: watch::Receiver<Stop>,
) {
    // Answers are small and latency matters more than a packet.
    let _ = stream.set_nodelay(true);
    let service = TowerToHyperService::new(router);
    let service = service_fn(move |mut request: hyper::Request<Incoming>| {
        let client = Client::of(origin.proxies.origin(origin.connected, request.headers()));
        request.extensions_mut().insert(client);
        Box::pin(service.call(request.map(Body::new)))
    });
    let moved = Arc::new(AtomicUsize::new(0));
    let mut connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(limits.header_read)
        .max_headers(MAX_HEADERS)
        .max_buf_size(MAX_HEAD_BYTES)
        .serve_connection(TokioIo::new(Counted { stream, moved: moved.clone() }), service);

    let end_of_life = Instant::now() + limits.connection_lifetime;
    let mut stall_check = Instant::now() + limits.stall;
    let mut stopping = Stop::No;
    loop {
        tokio::select! {
            ended = poll_fn(|cx| connection.poll_without_shutdown(cx)) => {
                if let Err(error) = ended {
                    tracing::debug!(%error, "a connection broke");
                }
                break;
            }
            // A dropped sender means the same as a stop.
            _ = stopped.changed(), if stopping == Stop::No => {
                stopping = Stop::Gracefully;
                Pin::new(&mut connection).graceful_shutdown();
            }
            () = sleep_until(end_of_life) => return,
            () = sleep_until(stall_check) => {
                if moved.swap(0, Ordering::Relaxed) == 0 {
                    return;
                }
                stall_check = Instant::now() + limits.stall;
            }
        }
    }
    let stream = connection.into_parts().io.into_inner().stream;
    let _ = timeout(LINGER, linger(stream)).await;
}

/// Ends our side, then reads what the client still sends until it ends its own.
async fn linger(mut stream: TcpStream) -> io::Result<()> {
    stream.shutdown().await?;
    let mut rest = vec![0; 16 * 1_024];
    let mut left = LINGER_BYTES;
    while left > 0 {
        match stream.read(&mut rest).await? {
            0 => break,
            read => left = left.saturating_sub(read),
        }
    }
    Ok(())
}

/// A stream that counts the bytes it moves, so that one that moves none can be told.
struct Counted {
    stream: TcpStream,
    moved: Arc<AtomicUsize>,
}

impl AsyncRead for Counted {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let read = Pin::new(&mut self.stream).poll_read(cx, buf);
        self.moved.fetch_add(buf.filled().len() - before, Ordering::Relaxed);
        read
    }
}

impl Counted {
    fn count(&self, written: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        if let Poll::Ready(Ok(bytes)) = written {
            self.moved.fetch_add(bytes, Ordering::Relaxed);
        }
        written
    }
}

impl AsyncWrite for Counted {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(cx, buf);
        self.count(written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write_vectored(cx, bufs);
        self.count(written)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
