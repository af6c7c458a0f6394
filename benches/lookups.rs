//! What every request costs before a byte of it is forwarded: the path rule, the route, the header rules, the metrics.

#![allow(missing_docs, reason = "criterion's macros make the functions")]
#![allow(clippy::unwrap_used, reason = "in a test a panic is the report")]

use std::hint::black_box;
use std::net::IpAddr;
use std::time::Duration;

use criterion::{BatchSize, Criterion, criterion_group, criterion_main};
use http::{HeaderMap, HeaderName, HeaderValue};
use opencmg::message::headers::{self, CertificateFields, ClientConnection, Present, RequestId};
use opencmg::message::path;
use opencmg::metrics::{Finished, Metrics};
use opencmg::role::{Kind, RoleId, endpoints_of};
use opencmg::routing::{RoleSettings, Routes};

const HOST: &str = "gw.opencmg.test";
const SHORT: &str = "/CCM_Proxy_MutualAuth/72057594037927937/SMS_MP/.sms_aut?MPLIST";
const ESCAPED: &str = "/CCM_Proxy_MutualAuth/72057594037927937/CCM_Incoming/%7B0c5c3c2e-7a5b-4b8e-9f5d-2f1d2c3b4a59%7D/My%20File%20(1).xml";

// What the update agent and the ConfigMgr client send, and what somebody who tries may add.
const FIELDS: &[(&str, &str)] = &[
    ("host", HOST),
    ("user-agent", "ConfigMgr Messaging HTTP Sender"),
    (
        "content-type",
        "multipart/mixed; boundary=\"aAbBcCdDv1234567890VxXyYzZ\"",
    ),
    ("content-length", "4711"),
    ("accept", "*/*"),
    ("accept-encoding", "gzip, deflate"),
    ("date", "Mon, 09 Mar 2026 12:05:01 GMT"),
    ("connection", "Keep-Alive"),
    ("x-forwarded-for", "10.0.0.1"),
    ("client_cert", ":MIIB:"),
    ("opencmg-phrase", "forged"),
    ("cookie", "session=0123456789abcdef"),
];

fn routes(roles: u64) -> Routes {
    let role = |n: u64| RoleSettings {
        id: RoleId::new(72_057_594_037_927_937 + n),
        kind: Kind::ManagementPoint,
        endpoints: endpoints_of(Kind::ManagementPoint),
        connection_points: vec!["cp-1".to_owned()],
        root_host: Some(format!("mp-{n}.opencmg.test")),
        via: false,
        client_certificate: CertificateFields::None,
        rate_per_address: None,
    };
    Routes::build(HOST, (0..roles).map(role).collect(), &Metrics::new()).unwrap()
}

fn paths(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("path_check");
    group.bench_function("short", |b| b.iter(|| path::check(black_box(SHORT))));
    group.bench_function("escaped", |b| b.iter(|| path::check(black_box(ESCAPED))));
    group.finish();
}

fn resolve(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("resolve");
    for roles in [2, 100, 10_000] {
        let routes = routes(roles);
        assert!(routes.resolve(HOST, SHORT).is_some());
        group.bench_function(format!("prefix_{roles}_roles"), |b| {
            b.iter(|| routes.resolve(black_box(HOST), black_box(SHORT)).is_some());
        });
        let root = format!("mp-{}.opencmg.test", roles - 1);
        assert!(routes.resolve(&root, "/SMS_MP/.sms_aut").is_some());
        group.bench_function(format!("root_{roles}_roles"), |b| {
            b.iter(|| {
                routes
                    .resolve(black_box(&root), black_box("/SMS_MP/.sms_aut"))
                    .is_some()
            });
        });
    }
    group.finish();
}

fn header_rules(criterion: &mut Criterion) {
    let mut fields = HeaderMap::new();
    for (name, value) in FIELDS {
        fields.append(
            HeaderName::from_static(name),
            HeaderValue::from_static(value),
        );
    }
    let mut group = criterion.benchmark_group("headers");
    group.bench_function(format!("strip_request_{}_fields", FIELDS.len()), |b| {
        b.iter_batched(
            || fields.clone(),
            |mut fields| {
                let present = Present::of(&fields);
                headers::strip_request(&mut fields, present);
                fields
            },
            BatchSize::SmallInput,
        );
    });
    let (id, client) = (RequestId::random(), IpAddr::from([192, 0, 2, 1]));
    let mark = HeaderValue::from_static("0123456789abcdef");
    let connection = ClientConnection::new(7, client);
    group.bench_function(format!("rewrite_request_{}_fields", FIELDS.len()), |b| {
        b.iter_batched(
            || fields.clone(),
            |mut fields| {
                let present = Present::of(&fields);
                headers::strip_request(&mut fields, present);
                headers::continue_trace(&mut fields, present);
                connection.set_origin(&mut fields, &id);
                headers::set_role(&mut fields, RoleId::new(72_057_594_037_927_937));
                headers::set_service(&mut fields, None, &mark);
                fields
            },
            BatchSize::SmallInput,
        );
    });
    group.finish();
}

fn counting(criterion: &mut Criterion) {
    let endpoint = Metrics::new().endpoint(1, "SMS_MP");
    let finished = Finished {
        status: Some(200),
        reason: None,
        duration: Duration::from_millis(3),
    };
    let mut group = criterion.benchmark_group("metrics");
    group.bench_function("begin_and_finish", |b| {
        b.iter(|| {
            endpoint.begin();
            endpoint.finish(black_box(finished));
        });
    });
    group.finish();
}

criterion_group!(benches, paths, resolve, header_rules, counting);
criterion_main!(benches);
