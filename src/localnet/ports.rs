//! Ports for programs that have to be told one, and keep it over restarts.

use std::net::{Ipv4Addr, TcpListener};
use std::sync::atomic::{AtomicU16, Ordering};

use super::LocalnetError;

/// Below the range from which Linux takes the ports of outgoing connections (32768 and up): a port of that range could be
/// taken by any connection while the program that owns it is down for a restart.
const FIRST: u16 = 20_000;
const LAST: u16 = 32_000;

/// Where this process looks next, so that two programs that start at once aren't given the same port.
static NEXT: AtomicU16 = AtomicU16::new(0);

/// A port on 127.0.0.1 that nothing listens on now and that this process hasn't given out lately.
pub(super) fn free() -> Result<u16, LocalnetError> {
    let span = LAST - FIRST;
    // Processes that start together begin far apart: 7919 is a prime.
    let offset = (std::process::id().wrapping_mul(7_919) % u32::from(span)) as u16;
    for _ in 0..span {
        let place = (offset + NEXT.fetch_add(1, Ordering::Relaxed) % span) % span;
        let port = FIRST + place;
        if TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok() {
            return Ok(port);
        }
    }
    Err(LocalnetError::NoPort { first: FIRST, last: LAST })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_port_is_given_out_twice_in_a_row_or_while_it_is_in_use() {
        let first = free().expect("a port");
        let held = TcpListener::bind((Ipv4Addr::LOCALHOST, first)).expect("it is free");
        let more: Vec<u16> = (0..20).map(|_| free().expect("a port")).collect();
        assert!(!more.contains(&first));
        drop(held);
    }
}
