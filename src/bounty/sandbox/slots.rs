//! Places for boxes: so many at one time, each, where this process is root, with a user id that no other box has, in any
//! process of this machine.

use std::fs::{self, DirBuilder, File, Permissions, TryLockError};
use std::num::NonZero;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _, chown};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::{BoxError, SandboxUnavailable};

/// Ids for the boxes of all processes of this machine.
pub(super) const IDS: u32 = 64;

/// Less is root's and the system's own.
const LEAST_ID: u32 = 1_000;

/// How often to look whether another process has let an id go, once all are taken.
const INTERVAL: Duration = Duration::from_millis(50);

/// The places.
#[derive(Debug)]
pub(super) struct Slots {
    ids: Ids,
    free: Mutex<u32>,
    freed: Condvar,
}

/// Who runs the boxes.
#[derive(Debug)]
enum Ids {
    /// This process's own user.
    Own,
    /// One of [`IDS`] users from the first on, whose copies and locks are in the folder.
    Each { first: u32, folder: PathBuf },
}

/// One place, until it is dropped.
#[derive(Debug)]
pub(super) struct Slot<'a> {
    slots: &'a Slots,
    own_name: String,
    id: Option<Id>,
}

/// An id that no other box has.
#[derive(Debug)]
struct Id {
    uid: u32,
    /// Empty at first; only root and the box's user can look into it.
    folder: PathBuf,
    /// Held while the id is.
    _lock: File,
}

impl Slots {
    /// For root, ids from `first` on, with locks and copies in `folder`; for anybody else, their own.
    pub(super) fn new(count: NonZero<u32>, first: u32, folder: &Path) -> Result<Self, SandboxUnavailable> {
        let ids = if rustix::process::geteuid().is_root() {
            if first < LEAST_ID || first.checked_add(IDS).is_none() {
                return Err(SandboxUnavailable::new(
                    format!("boxes can't run under {IDS} ids from {first} on"),
                    format!("Choose ids from {LEAST_ID} on that nobody has"),
                ));
            }
            own_folder(folder).map_err(|why| {
                SandboxUnavailable::new(
                    format!("boxes can't be prepared in {}: {why}", folder.display()),
                    "Make it a folder of root's that only root can write to",
                )
            })?;
            Ids::Each { first, folder: folder.to_owned() }
        } else {
            Ids::Own
        };
        Ok(Self { ids, free: Mutex::new(count.get()), freed: Condvar::new() })
    }

    /// Waits for a place.
    pub(super) fn take(&self) -> Result<Slot<'_>, BoxError> {
        let mut free = self.free();
        while *free == 0 {
            free = self.freed.wait(free).unwrap_or_else(PoisonError::into_inner);
        }
        *free -= 1;
        drop(free);
        let mut slot = Slot { slots: self, own_name: own_name("box"), id: None };
        if let Ids::Each { first, folder } = &self.ids {
            while slot.id.is_none() {
                slot.id = free_id(*first, folder)?;
                if slot.id.is_none() {
                    std::thread::sleep(INTERVAL);
                }
            }
        }
        Ok(slot)
    }

    fn free(&self) -> MutexGuard<'_, u32> {
        self.free.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Slot<'_> {
    /// The id that the box runs under; `None` if it is this process's own.
    pub(super) fn uid(&self) -> Option<u32> {
        self.id.as_ref().map(|id| id.uid)
    }

    /// Where copies for the box go; `None` if the box can read what this process can.
    pub(super) fn folder(&self) -> Option<&Path> {
        self.id.as_ref().map(|id| id.folder.as_path())
    }

    /// A name that no other running box on this machine has.
    pub(super) fn name(&self) -> String {
        match self.uid() {
            Some(uid) => format!("l402t-box-{uid}"),
            None => self.own_name.clone(),
        }
    }
}

impl Drop for Slot<'_> {
    fn drop(&mut self) {
        // What can't be removed now is removed before the id's next use, or that use fails.
        if let Some(id) = &self.id {
            let _ = fs::remove_dir_all(&id.folder);
        }
        *self.slots.free() += 1;
        self.slots.freed.notify_one();
    }
}

/// A name for something of this process that nothing else on this machine has: two sandboxes of one process would
/// otherwise end each other's boxes.
pub(super) fn own_name(what: &str) -> String {
    static TAKEN: AtomicU64 = AtomicU64::new(0);
    format!("l402t-{what}-{}-{}", std::process::id(), TAKEN.fetch_add(1, Ordering::Relaxed))
}

/// An id that nobody has, if there is one.
fn free_id(first: u32, folder: &Path) -> Result<Option<Id>, BoxError> {
    for uid in first..first + IDS {
        let path = folder.join(format!("{uid}.lock"));
        let lock = File::options().create(true).append(true).mode(0o600).open(&path);
        let lock = lock.map_err(BoxError::os(format!("open {}", path.display())))?;
        match lock.try_lock() {
            Ok(()) => {
                let own = folder.join(uid.to_string());
                prepare(&own, uid).map_err(BoxError::os(format!("prepare {}", own.display())))?;
                return Ok(Some(Id { uid, folder: own, _lock: lock }));
            }
            Err(TryLockError::WouldBlock) => {}
            Err(TryLockError::Error(error)) => return Err(BoxError::os(format!("lock {}", path.display()))(error)),
        }
    }
    Ok(None)
}

/// Makes the folder of all slots. Everybody may pass through it, nobody else may see or change what is in it.
fn own_folder(folder: &Path) -> Result<(), String> {
    DirBuilder::new().recursive(true).mode(0o711).create(folder).map_err(|error| error.to_string())?;
    let found = fs::symlink_metadata(folder).map_err(|error| error.to_string())?;
    if !found.is_dir() || found.uid() != 0 || found.mode() & 0o022 != 0 {
        return Err("somebody else can change it".to_owned());
    }
    fs::set_permissions(folder, Permissions::from_mode(0o711)).map_err(|error| error.to_string())
}

/// Makes a slot's own folder, without what a killed process left there.
fn prepare(folder: &Path, uid: u32) -> std::io::Result<()> {
    match fs::remove_dir_all(folder) {
        Ok(()) => {}
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    DirBuilder::new().mode(0o700).create(folder)?;
    chown(folder, None, Some(uid))?;
    fs::set_permissions(folder, Permissions::from_mode(0o750))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn boxes_of_two_sandboxes_in_one_process_have_names_of_their_own() {
        let slots = || Slots { ids: Ids::Own, free: Mutex::new(1), freed: Condvar::new() };
        let (one, other) = (slots(), slots());
        let (one, other) = (one.take().expect("free"), other.take().expect("free"));
        assert_ne!(one.name(), other.name());
    }
}
