//! The file: written beside its place, gone on with after every interruption, and moved there once it is whole.
//!
//! A beginning is only gone on with where the server's own entity tag or date says that it is of the same content.

use std::io;
use std::path::{Path, PathBuf};

use tokio::fs::{self, File, OpenOptions};
use tokio::io::{AsyncSeekExt as _, AsyncWriteExt as _};

use super::error::FetchError;
use super::store::{Begun, TokenStore};
use super::{FetchEvent, Request};
use crate::http::client::web::{Part, Reply, Rest};
use crate::protocol::ids::Blake3Hash;

/// A download into a file, as far as it is.
#[derive(Debug)]
pub(super) struct Download {
    output: PathBuf,
    part: PathBuf,
    url: String,
    /// The most bytes of it.
    most: u64,
    begun: Option<Begun>,
    have: u64,
}

/// What became of an answer's body.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Progress {
    /// All of it is in the part file.
    Whole,
    /// It broke off: what has come is kept.
    Broken(String),
}

impl Download {
    /// Looks at what an earlier try has left.
    pub(super) async fn open(store: &mut TokenStore, request: &Request) -> Result<Self, FetchError> {
        let (output, url) = (&request.output, request.url.as_str());
        let output = std::path::absolute(output).map_err(|source| disk(output, source))?;
        if fs::try_exists(&output).await.map_err(|source| disk(&output, source))? {
            return Err(FetchError::Exists(output));
        }
        let mut name = output.clone().into_os_string();
        name.push(".part");
        let part = PathBuf::from(name);
        let begun = store.begun(&output)?.filter(|begun| begun.url == url && begun.validator.is_some());
        let have = match begun {
            Some(_) => fs::metadata(&part).await.map_or(0, |metadata| metadata.len()),
            None => 0,
        };
        Ok(Self { output, part, url: url.to_owned(), most: request.max_bytes, begun, have })
    }

    /// Bytes that are here.
    pub(super) fn have(&self) -> u64 {
        self.have
    }

    /// What to ask for: nothing where the whole is to be sent.
    pub(super) fn rest(&self) -> Option<Rest<'_>> {
        let validator = self.begun.as_ref()?.validator.as_deref()?;
        (self.have > 0).then_some(Rest { from: self.have, validator })
    }

    /// Whether everything came before, and only the move is left.
    pub(super) fn is_whole(&self) -> bool {
        self.have > 0 && self.begun.as_ref().is_some_and(|begun| begun.total_bytes == Some(self.have))
    }

    /// Forgets what is here.
    pub(super) fn start_over(&mut self) {
        (self.begun, self.have) = (None, 0);
    }

    /// Writes the body of an answer with all of it (200) or its rest (206).
    pub(super) async fn take(
        &mut self,
        store: &mut TokenStore,
        mut reply: Reply,
        tell: &mut (impl FnMut(FetchEvent) + Send),
    ) -> Result<Progress, FetchError> {
        let part = reply.part();
        let known = self.begun.as_ref().and_then(|begun| begun.total_bytes);
        let total_bytes = match part {
            Some(Part { first, total }) if first == self.have && total.zip(known).is_none_or(|(a, b)| a == b) => {
                total.or(known)
            }
            Some(_) => return Err(FetchError::BadContent("it sends a part that was not asked for".into())),
            None => {
                self.have = 0;
                reply.content_length()
            }
        };
        if total_bytes.is_some_and(|total| total > self.most) {
            return Err(FetchError::BadContent(format!("it announces more than {} bytes", self.most)));
        }
        let mut file = self.open_part().await.map_err(|source| disk(&self.part, source))?;
        if part.is_none() {
            // Only now that the old beginning is gone: otherwise a crash in between would glue two contents together.
            let begun = Begun { url: self.url.clone(), validator: reply.validator().map(str::to_owned), total_bytes };
            store.begin_download(&self.output, &begun)?;
            self.begun = Some(begun);
        }
        let ended = loop {
            tell(FetchEvent::Progress { done_bytes: self.have, total_bytes });
            match reply.chunk().await {
                Ok(None) => break None,
                Ok(Some(chunk)) => {
                    let chunk = chunk.as_ref();
                    let after = self.have.saturating_add(chunk.len() as u64);
                    if after > total_bytes.unwrap_or(self.most) {
                        return Err(FetchError::BadContent("it sends more bytes than it announced".into()));
                    }
                    file.write_all(chunk).await.map_err(|source| disk(&self.part, source))?;
                    self.have = after;
                }
                Err(error) => break Some(error.to_string()),
            }
        };
        file.flush().await.map_err(|source| disk(&self.part, source))?;
        file.sync_all().await.map_err(|source| disk(&self.part, source))?;
        Ok(match ended {
            None if total_bytes.is_none_or(|total| total == self.have) => Progress::Whole,
            None => Progress::Broken(format!("the connection ended after {} bytes", self.have)),
            Some(reason) => Progress::Broken(reason),
        })
    }

    /// Moves the whole file to its place, if it is what it has to be. Otherwise it is thrown away.
    pub(super) async fn finish(self, store: &mut TokenStore, digest: Option<Blake3Hash>) -> Result<u64, FetchError> {
        if let Some(digest) = digest
            && Blake3Hash::of(&fs::read(&self.part).await.map_err(|source| disk(&self.part, source))?) != digest
        {
            store.end_download(&self.output)?;
            fs::remove_file(&self.part).await.map_err(|source| disk(&self.part, source))?;
            return Err(FetchError::BadContent("it is not what was asked for: its digest is another".into()));
        }
        if fs::try_exists(&self.output).await.map_err(|source| disk(&self.output, source))? {
            return Err(FetchError::Exists(self.output));
        }
        fs::rename(&self.part, &self.output).await.map_err(|source| disk(&self.output, source))?;
        if let Some(folder) = self.output.parent() {
            let synced = async { File::open(folder).await?.sync_all().await };
            synced.await.map_err(|source| disk(folder, source))?;
        }
        store.end_download(&self.output)?;
        Ok(self.have)
    }

    /// Opens the part file, cut to what is kept of it.
    async fn open_part(&self) -> io::Result<File> {
        let mut file = OpenOptions::new().create(true).write(true).truncate(false).open(&self.part).await?;
        file.set_len(self.have).await?;
        file.seek(io::SeekFrom::Start(self.have)).await?;
        Ok(file)
    }
}

fn disk(path: &Path, source: io::Error) -> FetchError {
    FetchError::Disk { path: path.to_owned(), source }
}
