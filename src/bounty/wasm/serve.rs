//! The process in which a module runs. Owns the order of things there: everything is given up before a byte is read.

use std::io::{Read as _, Write as _};

use super::confined::NOT_HERE;
use super::{Task, engine};
use crate::bounty::sandbox::confine;

/// All that the process does: gives everything up, reads a task, writes what comes of it. Returns its exit code.
pub fn serve() -> u8 {
    match answer() {
        Some(()) => 0,
        None => NOT_HERE,
    }
}

fn answer() -> Option<()> {
    confine().ok()?;
    let mut input = Vec::new();
    std::io::stdin().lock().read_to_end(&mut input).ok()?;
    let task: Task = serde_json::from_slice(&input).ok()?;
    drop(input);
    let outcome = engine::run(&task).ok()?;
    let mut stdout = std::io::stdout().lock();
    stdout.write_all(&serde_json::to_vec(&outcome).ok()?).ok()?;
    stdout.flush().ok()
}
