//! Sockets: accepting them, bounding them, and closing them so that the last answer still arrives.

use std::cmp::Reverse;
use std::collections::{BTreeMap, HashMap};
use std::future::poll_fn;
use std::io;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
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
use tokio::sync::{Notify, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, sleep_until, timeout};

use super::limits::{Limits, MAX_HEAD_BYTES, MAX_HEADERS};
use super::rate::Client;
use super::routes::{App, router};
use super::{Services, Settings, Stop, TrustedProxies};

/// How long, and for how many bytes, a closed connection is still read from: a reset would destroy the last answer.
const LINGER: Duration = Duration::from_secs(2);
const LINGER_BYTES: usize = 8 * 1_024 * 1_024;
/// A connection that answers nothing and has sent nothing for so long may be given up for a newcomer.
const IDLE_MS: u64 = 1_000;
/// The pause after the system refused a connection, for instance for want of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Serves until told to stop.
pub(super) async fn serve(
    listener: TcpListener,
    services: Services,
    settings: Settings,
    mut stopped: watch::Receiver<Stop>,
) {
    let Settings { limits, proxies } = settings;
    let proxies = Arc::new(proxies);
    let app = App::new(services, limits);
    let router = router(app.clone());
    let open = OpenConnections::new();
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
                        connections.spawn(connection(stream, origin, place, router.clone(), limits, stopped.clone()));
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

/// The open connections: how many each client has, and which could be given up for a newcomer.
#[derive(Debug)]
struct OpenConnections {
    since: Instant,
    table: Mutex<Table>,
}

#[derive(Debug, Default)]
struct Table {
    counts: HashMap<Client, usize>,
    /// In the order in which they came.
    all: BTreeMap<u64, (Client, Arc<Activity>)>,
    next: u64,
}

/// What a connection does.
#[derive(Debug, Default)]
struct Activity {
    /// Requests being answered.
    busy: AtomicUsize,
    /// Bytes moved since they were last looked at.
    moved: AtomicUsize,
    /// When it last sent something, or was opened, in milliseconds since the server's start.
    sent_ms: AtomicU64,
    give_up: Notify,
}

/// One connection's place among the open ones; leaving is by drop.
struct Place {
    open: Arc<OpenConnections>,
    id: u64,
    activity: Arc<Activity>,
}

impl OpenConnections {
    fn new() -> Arc<Self> {
        Arc::new(Self { since: Instant::now(), table: Mutex::default() })
    }

    fn now_ms(&self) -> u64 {
        u64::try_from(self.since.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    /// A place, if the client may have one more. Where all are taken, an idle connection gives its own up: whoever holds
    /// many open and asks for nothing must not keep others out.
    fn enter(self: &Arc<Self>, client: Client, most: usize, own_most: usize) -> Option<Place> {
        let now_ms = self.now_ms();
        let mut table = self.table.lock().unwrap_or_else(PoisonError::into_inner);
        if table.counts.get(&client).is_some_and(|own| *own >= own_most) {
            return None;
        }
        if table.all.len() >= most {
            let idle = table.idlest(now_ms)?;
            if let Some(activity) = table.leave(idle) {
                activity.give_up.notify_one();
            }
        }
        let (id, activity) = (table.next, Arc::new(Activity::default()));
        activity.sent_ms.store(now_ms, Ordering::Relaxed);
        table.next += 1;
        table.all.insert(id, (client, Arc::clone(&activity)));
        *table.counts.entry(client).or_insert(0) += 1;
        Some(Place { open: Arc::clone(self), id, activity })
    }
}

impl Table {
    /// The oldest idle connection of the client that has the most.
    fn idlest(&self, now_ms: u64) -> Option<u64> {
        let idle = self.all.iter().filter(|(_, (_, activity))| {
            activity.busy.load(Ordering::Relaxed) == 0
                && now_ms.saturating_sub(activity.sent_ms.load(Ordering::Relaxed)) >= IDLE_MS
        });
        let most = idle.max_by_key(|(id, (client, _))| (self.counts.get(client).copied(), Reverse(**id)));
        most.map(|(id, _)| *id)
    }

    /// Takes a connection off, once.
    fn leave(&mut self, id: u64) -> Option<Arc<Activity>> {
        let (client, activity) = self.all.remove(&id)?;
        if let Some(count) = self.counts.get_mut(&client) {
            *count -= 1;
            if *count == 0 {
                self.counts.remove(&client);
            }
        }
        Some(activity)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.open.table.lock().unwrap_or_else(PoisonError::into_inner).leave(self.id);
    }
}

/// A request being answered, for as long as this lives.
struct Busy(Arc<Activity>);

impl Busy {
    fn with(activity: &Arc<Activity>) -> Self {
        activity.busy.fetch_add(1, Ordering::Relaxed);
        Self(Arc::clone(activity))
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.busy.fetch_sub(1, Ordering::Relaxed);
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
    place: Place,
    router: Router,
    limits: Limits,
    mut stopped: watch::Receiver<Stop>,
) {
    // Answers are small and latency matters more than a packet.
    let _ = stream.set_nodelay(true);
    let service = TowerToHyperService::new(router);
    let (served, activity) = (Arc::clone(&place.activity), Arc::clone(&place.activity));
    let service = service_fn(move |mut request: hyper::Request<Incoming>| {
        let client = Client::of(origin.proxies.origin(origin.connected, request.headers()));
        request.extensions_mut().insert(client);
        let (busy, answer) = (Busy::with(&served), service.call(request.map(Body::new)));
        Box::pin(async move {
            let answer = answer.await;
            drop(busy);
            answer
        })
    });
    let mut connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(limits.header_read)
        .max_headers(MAX_HEADERS)
        .max_buf_size(MAX_HEAD_BYTES)
        .serve_connection(TokioIo::new(Counted { stream, place }), service);

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
            () = activity.give_up.notified() => return,
            () = sleep_until(stall_check) => {
                if activity.moved.swap(0, Ordering::Relaxed) == 0 {
                    return;
                }
                stall_check = Instant::now() + limits.stall;
            }
        }
    }
    // It keeps its place until it is closed.
    let Counted { stream, place: _place } = connection.into_parts().io.into_inner();
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
    place: Place,
}

impl AsyncRead for Counted {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let read = Pin::new(&mut self.stream).poll_read(cx, buf);
        self.place.activity.moved.fetch_add(buf.filled().len() - before, Ordering::Relaxed);
        read
    }
}

impl Counted {
    fn count(&self, written: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        if let Poll::Ready(Ok(bytes)) = written {
            let Place { open, activity, .. } = &self.place;
            activity.moved.fetch_add(bytes, Ordering::Relaxed);
            activity.sent_ms.store(open.now_ms(), Ordering::Relaxed);
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
