//! Places for boxes: so many at one time, each, where this process is root, with a user id that no other box has, in any
//! process of this machine.

use std::fs::{self, DirBuilder, File, Permissions};
use std::num::NonZero;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _, chown};
use std::path::{Path, PathBuf};
use std::sync::{Condvar, Mutex, PoisonError};
use std::time::Duration;

use super::{BoxError, SandboxUnavailable};

/// Less is root's and the system's own.
const LEAST_ID: u32 = 1_000;

/// How often to look whether another process has let a slot go.
const INTERVAL: Duration = Duration::from_millis(50);

/// The places.
#[derive(Debug)]
pub(super) struct Slots {
    ids: Ids,
    free: Mutex<Vec<u32>>,
    freed: Condvar,
}

/// Who runs the boxes.
#[derive(Debug)]
enum Ids {
    /// This process's own user.
    Own,
    /// Slot n is user `first` + n, whose copies and lock are in the folder.
    Each { first: u32, folder: PathBuf },
}

/// One place, until it is dropped.
#[derive(Debug)]
pub(super) struct Slot<'a> {
    slots: &'a Slots,
    number: u32,
    /// Held while the slot is.
    _lock: Option<File>,
    /// Empty at first; only root and the slot's user can look into it.
    folder: Option<PathBuf>,
}

impl Slots {
    /// For root, ids from `first` on, with locks and copies in `folder`; for anybody else, their own.
    pub(super) fn new(count: NonZero<u32>, first: u32, folder: &Path) -> Result<Self, SandboxUnavailable> {
        let ids = if rustix::process::geteuid().is_root() {
            if first < LEAST_ID || first.checked_add(count.get()).is_none() {
                return Err(SandboxUnavailable::new(
                    format!("boxes can't run under {count} ids from {first} on"),
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
        let free = Mutex::new((0..count.get()).rev().collect());
        Ok(Self { ids, free, freed: Condvar::new() })
    }

    /// Waits for a place.
    pub(super) fn take(&self) -> Result<Slot<'_>, BoxError> {
        let mut free = self.free.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            // From the end: the lowest ones first.
            for at in (0..free.len()).rev() {
                let Some((lock, folder)) = self.claim(free[at])? else { continue };
                let number = free.remove(at);
                return Ok(Slot { slots: self, number, _lock: lock, folder });
            }
            (free, _) = self.freed.wait_timeout(free, INTERVAL).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// `None` if another process has it.
    fn claim(&self, number: u32) -> Result<Option<(Option<File>, Option<PathBuf>)>, BoxError> {
        let Ids::Each { first, folder } = &self.ids else { return Ok(Some((None, None))) };
        let uid = first + number;
        let lock_path = folder.join(format!("{uid}.lock"));
        let lock = File::options().create(true).append(true).mode(0o600).open(&lock_path);
        let lock = lock.map_err(BoxError::os(format!("open {}", lock_path.display())))?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(fs::TryLockError::WouldBlock) => return Ok(None),
            Err(fs::TryLockError::Error(error)) => {
                return Err(BoxError::os(format!("lock {}", lock_path.display()))(error));
            }
        }
        let own = folder.join(uid.to_string());
        prepare(&own, uid).map_err(BoxError::os(format!("prepare {}", own.display())))?;
        Ok(Some((Some(lock), Some(own))))
    }
}

impl Slot<'_> {
    /// The id that the box runs under; `None` if it is this process's own.
    pub(super) fn uid(&self) -> Option<u32> {
        match &self.slots.ids {
            Ids::Own => None,
            Ids::Each { first, .. } => Some(first + self.number),
        }
    }

    /// Where copies for the box go; `None` if the box can read what this process can.
    pub(super) fn folder(&self) -> Option<&Path> {
        self.folder.as_deref()
    }

    /// A name that no other running box on this machine has.
    pub(super) fn name(&self) -> String {
        match self.uid() {
            Some(uid) => format!("l402t-box-{uid}"),
            None => format!("l402t-box-{}-{}", std::process::id(), self.number),
        }
    }
}

impl Drop for Slot<'_> {
    fn drop(&mut self) {
        // What can't be removed now is removed before the slot's next use, or that use fails.
        if let Some(folder) = &self.folder {
            let _ = fs::remove_dir_all(folder);
        }
        self.slots.free.lock().unwrap_or_else(PoisonError::into_inner).push(self.number);
        self.slots.freed.notify_one();
    }
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
