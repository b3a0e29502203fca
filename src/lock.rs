//! One process per file: the lock that keeps a second process off a data folder. The system drops it when the process
//! ends, however it ends.

use std::fs::{File, TryLockError};
use std::time::Duration;

/// How long to wait for another process to let go: one that was just killed holds its locks until it is all gone,
/// which takes seconds on a busy machine.
const PATIENCE: Duration = Duration::from_secs(5);

/// How long between two tries.
const INTERVAL: Duration = Duration::from_millis(50);

/// Takes the lock for as long as `file` is open. Blocks for up to five seconds; `WouldBlock` if another process holds the
/// lock all that time.
pub fn lock(file: &File) -> Result<(), TryLockError> {
    for _ in 0..PATIENCE.as_millis() / INTERVAL.as_millis() {
        match file.try_lock() {
            Err(TryLockError::WouldBlock) => std::thread::sleep(INTERVAL),
            ended => return ended,
        }
    }
    file.try_lock()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lock_that_is_let_go_in_time_is_taken_and_one_that_is_held_on_to_is_not() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("lock");
        let open = || File::options().create(true).append(true).open(&path).expect("opened");
        let (first, second) = (open(), open());
        lock(&first).expect("nobody else has it");
        let waiting = std::thread::spawn(move || lock(&second).map(|()| second));
        std::thread::sleep(4 * INTERVAL);
        drop(first);
        let _held = waiting.join().expect("no panic").expect("taken once it was free");
        assert!(matches!(lock(&open()), Err(TryLockError::WouldBlock)));
    }
}
