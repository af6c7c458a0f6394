//! What trust costs: verifying a chain with its CRLs, a look into a CRL, reading one, and putting another in force while connections live.

#![allow(missing_docs, reason = "criterion's macros make the functions")]
#![allow(clippy::unwrap_used, reason = "in a test a panic is the report")]
#![allow(
    clippy::print_stdout,
    reason = "a figure that criterion has no place for"
)]

use std::alloc::System;
use std::hint::black_box;
use std::sync::Arc;

use criterion::{Criterion, criterion_group, criterion_main};
use opencmg::identity::{Settings, Trust};
use opencmg::metrics::Metrics;
use opencmg::pki::issue::{Authority, Key, KeyAlgorithm, Leaf, RevocationList, Validity};
use opencmg::pki::{
    Anchors, Certificate, CertificateDer, Crl, CrlSet, IssuerKey, Limits, Listed, Policy,
    Revocation, Serial, UnixTime, Usage,
};
use stats_alloc::{INSTRUMENTED_SYSTEM, Region, StatsAlloc};

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

const ENTRIES: [usize; 4] = [0, 2_000, 100_000, 1_000_000];
const LIVE: usize = 10_000;

fn days(days: u64) -> Validity {
    Validity::days(UnixTime::now(), days)
}

/// A root, an issuing CA and one client.
struct World {
    root: Authority,
    issuing: Authority,
    client: Vec<CertificateDer<'static>>,
}

impl World {
    fn new(algorithm: KeyAlgorithm) -> Self {
        let key = || Key::generate(algorithm).unwrap();
        let root = Authority::root("Root", key(), days(100)).unwrap();
        let issuing = root.intermediate("Issuing", key(), days(100)).unwrap();
        let client = client(&issuing, algorithm);
        Self {
            root,
            issuing,
            client,
        }
    }

    fn anchors(&self) -> Anchors {
        let [root, issuing] = [&self.root, &self.issuing].map(|ca| ca.certificate().clone());
        Anchors::build(&[root], &[issuing], Limits::default()).unwrap()
    }

    fn crls(&self, entries: usize, number: u64) -> Arc<CrlSet> {
        let crls = [
            read(&self.root, &list(&self.root, 0, 1)),
            read(&self.issuing, &list(&self.issuing, entries, number)),
        ];
        Arc::new(CrlSet::new(crls, UnixTime::now()))
    }
}

fn client(issuing: &Authority, algorithm: KeyAlgorithm) -> Vec<CertificateDer<'static>> {
    let key = Key::generate(algorithm).unwrap();
    issuing
        .issue(&Leaf::client("pc-1", days(9)), &key)
        .unwrap()
        .chain
}

/// A list of serial numbers of 16 bytes, as CAs give them, in an order that tells nothing.
fn list(ca: &Authority, entries: usize, number: u64) -> Vec<u8> {
    let serial = |n: usize| {
        let mixed = (n as u128).wrapping_mul(0x9e37_79b9_7f4a_7c15_f39c_c060_5ced_c835);
        format!("{:032x}", mixed >> 2 | 1 << 125)
    };
    let list = RevocationList {
        revoked: (0..entries).map(serial).collect(),
        ..RevocationList::empty(number, days(7))
    };
    ca.revoke(&list).unwrap()
}

fn read(ca: &Authority, der: &[u8]) -> Arc<Crl> {
    Arc::new(Crl::read(der, &[ca.certificate().clone()]).unwrap())
}

fn chain(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("chain");
    for (name, algorithm) in [
        ("ecdsa_p256", KeyAlgorithm::EcdsaP256),
        ("rsa_2048", KeyAlgorithm::Rsa2048),
    ] {
        let world = World::new(algorithm);
        let (anchors, now) = (world.anchors(), UnixTime::now());
        let with = Revocation::new(Policy::default(), world.crls(2_000, 1));
        for (checked, revocation) in [("without_crls", Revocation::off()), ("with_crls", with)] {
            group.bench_function(format!("{name}_{checked}"), |b| {
                b.iter(|| {
                    let client = black_box(&world.client);
                    anchors
                        .verify(client, Usage::Client, now, &revocation)
                        .unwrap()
                });
            });
        }
    }
    group.finish();
}

fn lookup(criterion: &mut Criterion) {
    let world = World::new(KeyAlgorithm::EcdsaP256);
    let ca = &world.issuing;
    let key = IssuerKey::of(&Certificate::parse(ca.certificate()).unwrap());
    let serial: Serial = Certificate::parse(&world.client[0])
        .unwrap()
        .number
        .unwrap();
    let now = UnixTime::now();
    let mut group = criterion.benchmark_group("crl");
    for entries in ENTRIES {
        let der = list(ca, entries, 1);
        let region = Region::new(ALLOCATOR);
        let crl = read(ca, &der);
        let heap = region.change();
        if entries == ENTRIES[3] {
            let kept = heap.bytes_allocated.saturating_sub(heap.bytes_deallocated);
            let calls = heap.allocations + heap.reallocations;
            println!(
                "crl/memory_{entries}_entries: {kept} B kept, {calls} allocations while it was read"
            );
            group.sample_size(10);
            group.bench_function(format!("read_{entries}_entries"), |b| {
                b.iter(|| read(ca, black_box(&der)));
            });
            group.sample_size(100);
        }
        let set = CrlSet::new([crl], now);
        group.bench_function(format!("lookup_{entries}_entries"), |b| {
            b.iter(|| {
                let listed = set.look_up(key, black_box(&serial), false, &[], now);
                assert!(matches!(listed, Listed::Good(_)));
            });
        });
    }
    group.finish();
}

fn swap(criterion: &mut Criterion) {
    let world = World::new(KeyAlgorithm::EcdsaP256);
    let sets = [1, 2].map(|number| world.crls(2_000, number));
    let trust = Trust::with_settings(
        world.anchors(),
        Revocation::new(Policy::default(), Arc::clone(&sets[0])),
        Usage::Client,
        Metrics::new(),
        Settings::default(),
    );
    // A hundred clients with a hundred connections each: what differs between them is looked at, what is the same is shared.
    let clients: Vec<_> = (0..100)
        .map(|_| client(&world.issuing, KeyAlgorithm::EcdsaP256))
        .collect();
    let live: Vec<_> = (0..LIVE)
        .map(|n| trust.admit(&clients[n % clients.len()]))
        .collect();
    assert_eq!(trust.live(), LIVE);
    let mut group = criterion.benchmark_group("swap");
    group.sample_size(20);
    let mut n = 0;
    group.bench_function(format!("crls_{LIVE}_concerned"), |b| {
        b.iter(|| {
            n += 1;
            trust.replace_crls(Arc::clone(&sets[n % 2]))
        });
    });
    let anchors = world.anchors();
    group.bench_function(format!("anchors_{LIVE}_concerned"), |b| {
        b.iter(|| trust.replace(anchors.clone()));
    });
    let other = Authority::root(
        "Other",
        Key::generate(KeyAlgorithm::EcdsaP256).unwrap(),
        days(9),
    );
    let other = other.unwrap();
    let others = [1, 2].map(|number| {
        let crls = sets[0].iter().cloned();
        let crls = crls.chain([read(&other, &list(&other, 10, number))]);
        Arc::new(CrlSet::new(crls, UnixTime::now()))
    });
    trust.replace_crls(Arc::clone(&others[0]));
    group.bench_function(format!("crls_none_of_{LIVE}_concerned"), |b| {
        b.iter(|| {
            n += 1;
            trust.replace_crls(Arc::clone(&others[n % 2]))
        });
    });
    group.finish();
    drop(live);
}

criterion_group!(benches, chain, lookup, swap);
criterion_main!(benches);
