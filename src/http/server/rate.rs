//! A token bucket for each client address, in a table that can't grow past a bound.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use super::limits::Rate;

/// Addresses that are told apart; past it, newcomers share one bucket until others have refilled.
const MAX_ADDRESSES: usize = 16_384;
/// A full table is searched for refilled buckets at most this often: the search takes time.
const SWEEP_EVERY: Duration = Duration::from_secs(1);
/// Buckets count in thousandths, so that slow rates refill smoothly.
const ONE: u64 = 1_000;

/// Whom a limit applies to: an IPv4 address, or an IPv6 /64 network, since its holder has all of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Client(IpAddr);

impl Client {
    /// The client at an address.
    pub(super) fn of(address: IpAddr) -> Self {
        match address.to_canonical() {
            v4 @ IpAddr::V4(_) => Self(v4),
            IpAddr::V6(v6) => Self(IpAddr::V6(Ipv6Addr::from_bits(v6.to_bits() & (u128::MAX << 64)))),
        }
    }
}

#[derive(Clone, Copy, Debug)]
struct Bucket {
    thousandths: u64,
    at: Instant,
}

#[derive(Debug)]
struct Table {
    buckets: HashMap<Client, Bucket>,
    shared: Bucket,
    swept: Instant,
}

/// Limits what each client does to a [`Rate`].
#[derive(Debug)]
pub(super) struct RateLimiter {
    rate: Rate,
    table: Mutex<Table>,
}

impl RateLimiter {
    pub(super) fn new(rate: Rate, now: Instant) -> Self {
        let full = Bucket { thousandths: u64::from(rate.burst) * ONE, at: now };
        Self { rate, table: Mutex::new(Table { buckets: HashMap::new(), shared: full, swept: now }) }
    }

    /// Takes one token, or says how long it takes until there is one.
    pub(super) fn take(&self, client: Client, now: Instant) -> Result<(), Duration> {
        let mut table = self.table();
        let bucket = self.bucket(&mut table, client, now);
        self.refill(bucket, now);
        match bucket.thousandths.checked_sub(ONE) {
            Some(left) => {
                bucket.thousandths = left;
                Ok(())
            }
            None => Err(self.wait_for(ONE - bucket.thousandths)),
        }
    }

    /// Returns a token that turned out not to be needed.
    pub(super) fn give_back(&self, client: Client, now: Instant) {
        let mut table = self.table();
        let bucket = self.bucket(&mut table, client, now);
        bucket.thousandths = bucket.thousandths.saturating_add(ONE).min(self.full());
    }

    fn bucket<'a>(&self, table: &'a mut Table, client: Client, now: Instant) -> &'a mut Bucket {
        if table.buckets.len() >= MAX_ADDRESSES && !table.buckets.contains_key(&client) {
            if now.duration_since(table.swept) >= SWEEP_EVERY {
                table.swept = now;
                table.buckets.retain(|_, bucket| {
                    self.refill(bucket, now);
                    bucket.thousandths < self.full()
                });
            }
            if table.buckets.len() >= MAX_ADDRESSES {
                return &mut table.shared;
            }
        }
        table.buckets.entry(client).or_insert(Bucket { thousandths: self.full(), at: now })
    }

    fn refill(&self, bucket: &mut Bucket, now: Instant) {
        let elapsed_ms = u64::try_from(now.duration_since(bucket.at).as_millis()).unwrap_or(u64::MAX);
        let gained = elapsed_ms.saturating_mul(u64::from(self.rate.per_minute)) / 60;
        // Nothing gained yet: keep the old time, so that frequent looks don't lose fractions.
        if gained > 0 {
            bucket.thousandths = bucket.thousandths.saturating_add(gained).min(self.full());
            bucket.at = now;
        }
    }

    fn wait_for(&self, thousandths: u64) -> Duration {
        let per_minute = u64::from(self.rate.per_minute.max(1));
        Duration::from_millis((thousandths * 60).div_ceil(per_minute))
    }

    fn full(&self) -> u64 {
        u64::from(self.rate.burst) * ONE
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        // Counters stay usable whatever happened to another holder.
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::server::Limits;

    const RATE: Rate = Rate { burst: 2, per_minute: 60 };

    fn client(n: u32) -> Client {
        Client::of(IpAddr::V4(n.into()))
    }

    #[test]
    fn a_burst_is_served_then_one_a_second() {
        let start = Instant::now();
        let limiter = RateLimiter::new(RATE, start);
        assert_eq!(limiter.take(client(1), start), Ok(()));
        assert_eq!(limiter.take(client(1), start), Ok(()));
        assert_eq!(limiter.take(client(1), start), Err(Duration::from_secs(1)));
        assert_eq!(limiter.take(client(2), start), Ok(()), "another client has its own");
        for tenth in 1..10 {
            assert!(limiter.take(client(1), start + Duration::from_millis(tenth * 100)).is_err());
        }
        assert_eq!(limiter.take(client(1), start + Duration::from_secs(1)), Ok(()));
    }

    #[test]
    fn looking_often_does_not_slow_a_slow_rate_down() {
        let start = Instant::now();
        let limiter = RateLimiter::new(Rate { burst: 1, per_minute: 6 }, start);
        assert_eq!(limiter.take(client(1), start), Ok(()));
        let served = (1..=10_000).filter(|ms| limiter.take(client(1), start + Duration::from_millis(*ms)).is_ok());
        assert_eq!(served.collect::<Vec<_>>(), [10_000]);
    }

    #[test]
    fn a_token_given_back_can_be_taken_again_but_never_overfills() {
        let start = Instant::now();
        let limiter = RateLimiter::new(RATE, start);
        limiter.give_back(client(1), start);
        for _ in 0..2 {
            assert_eq!(limiter.take(client(1), start), Ok(()));
        }
        assert!(limiter.take(client(1), start).is_err());
        limiter.give_back(client(1), start);
        assert_eq!(limiter.take(client(1), start), Ok(()));
    }

    #[test]
    fn the_table_is_bounded_and_newcomers_share_until_others_refill() {
        let start = Instant::now();
        let limiter = RateLimiter::new(RATE, start);
        for n in 0..MAX_ADDRESSES as u32 {
            assert_eq!(limiter.take(client(n), start), Ok(()));
        }
        let newcomers = 1_000_000..1_000_010;
        let served = newcomers.clone().filter(|n| limiter.take(client(*n), start).is_ok()).count();
        assert_eq!(served, RATE.burst as usize, "newcomers share one bucket");
        assert_eq!(limiter.table().buckets.len(), MAX_ADDRESSES);
        let later = start + Duration::from_secs(5);
        assert!(newcomers.into_iter().all(|n| limiter.take(client(n), later).is_ok()));
    }

    #[test]
    fn a_million_requests_a_minute_get_the_rate_and_leave_one_bucket() {
        let start = Instant::now();
        let rate = Limits::default().challenges;
        let limiter = RateLimiter::new(rate, start);
        let served = (0..1_000_000u64)
            .filter(|nth| limiter.take(client(1), start + Duration::from_micros(nth * 60)).is_ok())
            .count() as u64;
        assert!(served <= u64::from(rate.burst + rate.per_minute), "{served}");
        assert!(
            served * 10 >= 9 * u64::from(rate.burst + rate.per_minute),
            "{served}: a hasty client gets its own too"
        );
        assert_eq!(limiter.table().buckets.len(), 1);
    }

    #[test]
    fn a_million_addresses_a_minute_leave_a_bounded_table() {
        let start = Instant::now();
        let limiter = RateLimiter::new(Limits::default().challenges, start);
        for nth in 0..1_000_000u32 {
            let _ = limiter.take(client(nth), start + Duration::from_micros(u64::from(nth) * 60));
        }
        assert!(limiter.table().buckets.len() <= MAX_ADDRESSES);
    }

    #[test]
    fn an_ipv6_network_is_one_client_and_a_mapped_address_is_its_ipv4_one() {
        let of = |text: &str| Client::of(text.parse().expect("an address"));
        assert_eq!(of("2001:db8::1"), of("2001:db8::ffff:1"));
        assert_ne!(of("2001:db8::1"), of("2001:db8:0:1::1"));
        assert_eq!(of("::ffff:192.0.2.1"), of("192.0.2.1"));
    }
}
