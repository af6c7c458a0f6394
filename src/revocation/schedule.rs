//! When a list is looked for again.

use std::time::Duration;

use rand::{Rng, RngExt};

use crate::pki::{Crl, UnixTime};

/// After a first failure; doubled with each further one.
const FIRST_RETRY: Duration = Duration::from_secs(5);
const LONGEST_RETRY: Duration = Duration::from_secs(600);

/// How long until a list that is at hand is looked for again.
///
/// That is when its CA publishes the next one, if it says so, else after four fifths of its validity, but `longest` at most;
/// then earlier by up to a tenth, so that instances do not come as one. A list that is due and was not followed by another is
/// looked for again after a fiftieth of its validity.
pub(super) fn until_refresh(
    crl: &Crl,
    now: UnixTime,
    longest: Duration,
    random: &mut impl Rng,
) -> Duration {
    let (made, next) = (crl.this_update().as_secs(), crl.next_update().as_secs());
    let validity = next.saturating_sub(made);
    let published = crl
        .next_publish()
        .map(|at| at.as_secs())
        .filter(|at| *at < next);
    let due = published.unwrap_or_else(|| made.saturating_add(validity / 5 * 4));
    let left = due.saturating_sub(now.as_secs());
    let again = (validity / 50).clamp(1, 3600);
    let wait = Duration::from_secs(if left == 0 { again } else { left }).min(longest);
    wait.mul_f64(random.random_range(0.9..1.0))
}

/// How long until the next attempt after so many that failed, one at least; half of it to all of it.
pub(super) fn until_retry(failures: u32, random: &mut impl Rng) -> Duration {
    let doubled = FIRST_RETRY.saturating_mul(1 << failures.saturating_sub(1).min(16));
    doubled
        .min(LONGEST_RETRY)
        .mul_f64(random.random_range(0.5..1.0))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pki::issue::{Authority, Key, KeyAlgorithm, RevocationList, Validity};

    fn at(seconds: u64) -> UnixTime {
        UnixTime::since_unix_epoch(Duration::from_secs(1_800_000_000 + seconds))
    }

    #[test]
    fn a_list_is_looked_for_before_it_goes_stale_and_soon_again_when_it_is_due() {
        let key = Key::generate(KeyAlgorithm::EcdsaP256).unwrap();
        let validity = |from, to| Validity {
            not_before: at(from),
            not_after: at(to),
        };
        let ca = Authority::root("Root", key, validity(0, 1_000_000)).unwrap();
        let der = ca
            .revoke(&RevocationList::empty(1, validity(0, 100_000)))
            .unwrap();
        let crl = Crl::read(&der, &[ca.certificate().clone()]).unwrap();
        let mut random = rand::rng();
        let mut wait = |now, longest| {
            let wait = until_refresh(&crl, at(now), Duration::from_secs(longest), &mut random);
            wait.as_secs_f64()
        };
        for _ in 0..100 {
            assert!((72_000.0..80_000.0).contains(&wait(0, 1_000_000)));
            assert!((9_000.0..10_000.0).contains(&wait(70_000, 1_000_000)));
            assert!((900.0..1_000.0).contains(&wait(0, 1_000)));
            assert!((1_800.0..2_000.0).contains(&wait(90_000, 1_000_000)));
            assert!((1_800.0..2_000.0).contains(&wait(200_000, 1_000_000)));
        }
    }

    #[test]
    fn failures_make_the_wait_longer_up_to_an_end() {
        let mut random = rand::rng();
        for (failures, low, high) in [
            (1, 2.5, 5.0),
            (2, 5.0, 10.0),
            (9, 300.0, 600.0),
            (99, 300.0, 600.0),
        ] {
            let wait = until_retry(failures, &mut random).as_secs_f64();
            assert!((low..high).contains(&wait), "{failures}: {wait}");
        }
    }
}
