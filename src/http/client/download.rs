//! Blobs, transcripts and aggregates. A blob is written beside its place, resumed after every interruption (of this process too), and
//! moved there once its hash is right.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use blake3::Hasher;
use reqwest::header::{CONTENT_RANGE, IF_RANGE, RANGE};
use reqwest::{Response, StatusCode, Url};
use tokio::fs::{self, File, OpenOptions};
use tokio::io::{AsyncReadExt as _, AsyncSeekExt as _, AsyncWriteExt as _};
use tokio::time::{sleep, timeout};

use super::transport::{Answer, Repeat, Tries, describe, is_passing_status, retry_after};
use super::{ClientError, CoordinatorClient, ROOT};
use crate::protocol::ids::{Blake3Hash, BountyId, RoundNumber};

/// An interrupted try that brought this many bytes doesn't count against the tries.
const PROGRESS_BYTES: u64 = 1_024 * 1_024;
/// Bytes read back from disk at a time.
const CHUNK_BYTES: usize = 256 * 1_024;

/// How far a download is, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    /// Here, those of earlier tries too.
    pub done_bytes: u64,
    /// In all.
    pub total_bytes: u64,
}

/// A failed try of a download.
enum Setback {
    /// Another try can go on from here.
    Passing(ClientError, Duration),
    /// No try will do better.
    Final(ClientError),
    /// All bytes came, and they are wrong.
    WrongBytes(Blake3Hash),
}

impl From<ClientError> for Setback {
    fn from(error: ClientError) -> Self {
        Setback::Final(error)
    }
}

impl CoordinatorClient {
    /// `GET /v1/rounds/{round}/transcript`: the signed bytes, not verified.
    pub async fn fetch_transcript(&self, round: RoundNumber) -> Result<Vec<u8>, ClientError> {
        self.fetch_statement(self.endpoint(&["rounds", &round.to_string(), "transcript"])?).await
    }

    /// `GET /v1/bounties/{id}/closing`: the signed bytes, not verified.
    pub async fn fetch_closing(&self, bounty: BountyId) -> Result<Vec<u8>, ClientError> {
        self.fetch_statement(self.url_of(&[ROOT, "bounties", &bounty.to_string(), "closing"])?).await
    }

    async fn fetch_statement(&self, url: Url) -> Result<Vec<u8>, ClientError> {
        let time = self.policy.time_for(self.policy.max_transcript_bytes);
        let request = || self.http.get(url.clone()).timeout(time);
        let answer = self.answer(request, Repeat::Freely, self.policy.max_transcript_bytes).await?;
        Ok(answer.success()?.body)
    }

    /// `GET /v1/rounds/{round}/aggregate` into the file `to`, if it has at most `max_bytes`. Its bytes are not verified: what they
    /// make is, by whoever uses them. Resumed as a blob is; `next_checkpoint` is what the round ended with. Returns the length.
    pub async fn fetch_aggregate(
        &self,
        round: RoundNumber,
        next_checkpoint: Blake3Hash,
        max_bytes: u64,
        to: &Path,
        progress: impl FnMut(Progress) + Send,
    ) -> Result<u64, ClientError> {
        let url = self.endpoint(&["rounds", &round.to_string(), "aggregate"])?;
        let max_bytes = max_bytes.min(self.policy.max_blob_bytes);
        let wanted = Wanted { url, tag: next_checkpoint, max_bytes, check: Check::Nothing };
        self.fetch(&wanted, to, progress).await
    }

    /// `GET /v1/blobs/{hash}` into the file `to`, unless that has the right bytes already. Until they are all there and
    /// verified they are in `to` with `.part` appended; what an earlier call left there is gone on from. Returns the length.
    pub async fn fetch_blob(
        &self,
        hash: Blake3Hash,
        to: &Path,
        progress: impl FnMut(Progress) + Send,
    ) -> Result<u64, ClientError> {
        if let Some((found, length)) = hash_file(to).await.map_err(|source| disk(to, source))?
            && found == hash
        {
            return Ok(length);
        }
        let url = self.endpoint(&["blobs", &hash.to_string()])?;
        let wanted = Wanted { url, tag: hash, max_bytes: self.policy.max_blob_bytes, check: Check::Digest };
        self.fetch(&wanted, to, progress).await
    }

    async fn fetch(
        &self,
        wanted: &Wanted,
        to: &Path,
        mut progress: impl FnMut(Progress) + Send,
    ) -> Result<u64, ClientError> {
        let part = part_path(to);
        let (mut tries, mut wrong) = (Tries::new(&self.policy), 0);
        loop {
            let before = length_of(&part).await;
            let setback = match self.fetch_rest(wanted, &part, &mut progress).await {
                Ok(length) => {
                    fs::rename(&part, to).await.map_err(|source| disk(to, source))?;
                    return Ok(length);
                }
                Err(setback) => setback,
            };
            let (error, asked_wait) = match setback {
                Setback::Final(error) => return Err(error),
                Setback::Passing(error, wait) => (error, wait),
                Setback::WrongBytes(got) => {
                    wrong += 1;
                    fs::remove_file(&part).await.map_err(|source| disk(&part, source))?;
                    let (url, expected) = (self.url().into(), wanted.tag);
                    let error = ClientError::WrongBytes { url, expected, got, times: wrong };
                    if wrong >= self.policy.wrong_downloads {
                        return Err(error);
                    }
                    (error, Duration::ZERO)
                }
            };
            if length_of(&part).await >= before.saturating_add(PROGRESS_BYTES) {
                tries = Tries::new(&self.policy);
            }
            let Some(wait) = tries.next_wait(asked_wait) else { return Err(error) };
            tracing::info!(url = %wanted.url, %error, wait_ms = wait.as_millis(), "a download was interrupted, going on");
            sleep(wait).await;
        }
    }

    /// One try: what is missing of the part file, then its hash.
    async fn fetch_rest(
        &self,
        wanted: &Wanted,
        part: &Path,
        progress: &mut (impl FnMut(Progress) + Send),
    ) -> Result<u64, Setback> {
        let (mut hasher, have) = hash_part(part).await.map_err(|source| disk(part, source))?;
        let mut request = self.http.get(wanted.url.clone());
        if have > 0 {
            request = request.header(RANGE, format!("bytes={have}-")).header(IF_RANGE, format!("\"{}\"", wanted.tag));
        }
        let passing = |error| Setback::Passing(error, Duration::ZERO);
        let response = request.send().await.map_err(|error| passing(self.transport_error(&error)))?;
        let (start, total) = match self.body_span(&response, have)? {
            Span::Body { start, total } => (start, total),
            Span::Nothing => return wanted.verified(&hasher, have),
            Span::None => return Err(self.refusal(response).await),
        };
        if total > wanted.max_bytes {
            return Err(ClientError::TooLarge { url: wanted.url.to_string(), limit_bytes: wanted.max_bytes }.into());
        }
        if start == 0 {
            hasher = Hasher::new();
        }
        let done = self.append(response, part, start, total, &mut hasher, progress).await?;
        wanted.verified(&hasher, done)
    }

    /// Writes the body to the part file from `start` on, and hashes it.
    async fn append(
        &self,
        mut response: Response,
        part: &Path,
        start: u64,
        total: u64,
        hasher: &mut Hasher,
        progress: &mut (impl FnMut(Progress) + Send),
    ) -> Result<u64, Setback> {
        let write_error = |source| ClientError::Disk { path: part.to_owned(), source };
        let mut file = open_part(part, start).await.map_err(write_error)?;
        let mut done = start;
        // A server that sends a byte now and then never stalls, and yet never ends.
        let too_slow = sleep(self.policy.time_for(total - start));
        tokio::pin!(too_slow);
        let ended = loop {
            progress(Progress { done_bytes: done, total_bytes: total });
            let chunk = tokio::select! {
                chunk = response.chunk() => chunk,
                () = &mut too_slow => break Some("the coordinator sends too slowly".to_owned()),
            };
            match chunk {
                Ok(None) => break None,
                Ok(Some(chunk)) => {
                    let after = done.saturating_add(chunk.len() as u64);
                    if after > total {
                        break Some("more bytes than announced".to_owned());
                    }
                    hasher.update(&chunk);
                    file.write_all(&chunk).await.map_err(write_error)?;
                    done = after;
                }
                Err(error) => break Some(describe(&error)),
            }
        };
        file.flush().await.map_err(write_error)?;
        file.sync_all().await.map_err(write_error)?;
        let reason = match ended {
            None if done == total => return Ok(done),
            None => format!("the connection ended after {done} of {total} bytes"),
            Some(reason) => reason,
        };
        let error = ClientError::Interrupted { url: self.url().into(), reason };
        Err(Setback::Passing(error, Duration::ZERO))
    }

    /// Which bytes of the blob the answer has.
    fn body_span(&self, response: &Response, have: u64) -> Result<Span, ClientError> {
        let bad = |what: &str| ClientError::BadAnswer { url: response.url().to_string(), what: what.into() };
        match response.status() {
            StatusCode::OK => {
                let total = response.content_length().ok_or_else(|| bad("a blob without a length"))?;
                Ok(Span::Body { start: 0, total })
            }
            StatusCode::PARTIAL_CONTENT => {
                let range = response.headers().get(CONTENT_RANGE).and_then(|value| value.to_str().ok());
                match range.and_then(parse_content_range) {
                    Some((first, total)) if first == have => Ok(Span::Body { start: first, total }),
                    _ => Err(bad("a part that was not asked for")),
                }
            }
            // Everything was here before: only the hash is left to be checked.
            StatusCode::RANGE_NOT_SATISFIABLE if have > 0 => Ok(Span::Nothing),
            _ => Ok(Span::None),
        }
    }

    async fn refusal(&self, response: Response) -> Setback {
        let (status, wait) = (response.status(), retry_after(&response).unwrap_or_default());
        let read = timeout(self.policy.request, Answer::read(response, self.policy.max_json_bytes)).await;
        let error = match read.map(|answer| answer.and_then(Answer::success)) {
            Ok(Ok(_)) => ClientError::BadAnswer { url: self.url().into(), what: format!("status {status} for a blob") },
            Ok(Err(error)) => error,
            Err(_) => ClientError::Interrupted { url: self.url().into(), reason: "no answer in time".into() },
        };
        if is_passing_status(status) { Setback::Passing(error, wait) } else { Setback::Final(error) }
    }
}

enum Span {
    /// From `start` to the end, `total`.
    Body { start: u64, total: u64 },
    /// There is nothing after what is here.
    Nothing,
    /// Not a blob's bytes.
    None,
}

/// What a download is to bring.
struct Wanted {
    url: Url,
    /// The content's ETag, so that two contents are never joined.
    tag: Blake3Hash,
    max_bytes: u64,
    check: Check,
}

/// How the bytes are known to be right.
enum Check {
    /// Their digest is the tag.
    Digest,
    /// Not here.
    Nothing,
}

impl Wanted {
    fn verified(&self, hasher: &Hasher, length: u64) -> Result<u64, Setback> {
        let got = Blake3Hash::from_bytes(*hasher.finalize().as_bytes());
        match self.check {
            Check::Digest if got != self.tag => Err(Setback::WrongBytes(got)),
            Check::Digest | Check::Nothing => Ok(length),
        }
    }
}

/// `bytes first-last/total` with `last` the last byte there is: the first byte and the total.
fn parse_content_range(value: &str) -> Option<(u64, u64)> {
    let (range, total) = value.strip_prefix("bytes ")?.split_once('/')?;
    let (first, last) = range.split_once('-')?;
    let (first, last, total): (u64, u64, u64) = (first.parse().ok()?, last.parse().ok()?, total.parse().ok()?);
    (first <= last && last.checked_add(1)? == total).then_some((first, total))
}

fn part_path(to: &Path) -> PathBuf {
    let mut name = to.as_os_str().to_owned();
    name.push(".part");
    name.into()
}

fn disk(path: &Path, source: io::Error) -> ClientError {
    ClientError::Disk { path: path.to_owned(), source }
}

async fn length_of(path: &Path) -> u64 {
    fs::metadata(path).await.map_or(0, |metadata| metadata.len())
}

/// Opens the part file, cut to `start` bytes.
async fn open_part(part: &Path, start: u64) -> io::Result<File> {
    if let Some(folder) = part.parent() {
        fs::create_dir_all(folder).await?;
    }
    let mut file = OpenOptions::new().create(true).write(true).truncate(false).open(part).await?;
    file.set_len(start).await?;
    file.seek(io::SeekFrom::Start(start)).await?;
    Ok(file)
}

/// The hash so far and the length of what is there.
async fn hash_part(path: &Path) -> io::Result<(Hasher, u64)> {
    let (mut hasher, mut length) = (Hasher::new(), 0);
    let mut file = match File::open(path).await {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok((hasher, 0)),
        Err(error) => return Err(error),
    };
    let mut chunk = vec![0; CHUNK_BYTES];
    loop {
        match file.read(&mut chunk).await? {
            0 => return Ok((hasher, length)),
            read => {
                hasher.update(&chunk[..read]);
                length += read as u64;
            }
        }
    }
}

/// A whole file's hash and length; `None` if there is no such file.
async fn hash_file(path: &Path) -> io::Result<Option<(Blake3Hash, u64)>> {
    if !fs::try_exists(path).await? {
        return Ok(None);
    }
    let (hasher, length) = hash_part(path).await?;
    Ok(Some((Blake3Hash::from_bytes(*hasher.finalize().as_bytes()), length)))
}
