//! The request shapes of ConfigMgr and WSUS clients through gateway, tunnel and connection point, byte by byte.

use std::io;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Request, StatusCode};
use http_body_util::{BodyExt, StreamBody};
use hyper::body::Frame;
use opencmg::cli::builtin::{self, BuiltIn, Options, bits, content};
use sha2::{Digest, Sha256};

use crate::backend::{self, Backend};
use crate::client::{Answer, Body, Client, empty, full, get, read, spawn};
use crate::world::{
    HOST, MANAGEMENT_POINT, Plan, ROOT_HOST, World, eventually, mutual, server, within,
};

const MIB: usize = 1 << 20;

struct Site {
    world: World,
    management_point: BuiltIn,
    software_update_point: BuiltIn,
}

impl Site {
    async fn start() -> Self {
        Self::start_with(Plan::new()).await
    }

    async fn start_with(plan: Plan) -> Self {
        let management_point = BuiltIn::management_point(Options::default()).await.unwrap();
        let software_update_point = BuiltIn::software_update_point().await.unwrap();
        let plan = plan.connection_point(&management_point.url(), &software_update_point.url());
        Self {
            world: plan.start().await,
            management_point,
            software_update_point,
        }
    }

    async fn finish(self) {
        self.world.finish().await;
        self.management_point.stop().await;
        self.software_update_point.stop().await;
    }
}

fn request(method: &str, path: &str, fields: &[(&str, &str)], body: Body) -> Request<Body> {
    let mut request = Request::builder().method(method).uri(path);
    for (name, value) in fields {
        request = request.header(*name, *value);
    }
    request.body(body).unwrap()
}

fn assert_ok(answer: &Answer) {
    assert_eq!(answer.status, StatusCode::OK, "{answer:?}");
}

#[tokio::test]
async fn management_point_information_is_answered_over_both_protocols() {
    let site = Site::start().await;
    let client = site.world.client("pc-1");
    for (path, body) in [
        ("SMS_MP/.sms_aut?MPLIST2&CM1", builtin::MPLIST.to_owned()),
        (
            "SMS_MP/.sms_aut?SITESIGNCERT",
            builtin::SITESIGNCERT.to_owned(),
        ),
        (
            "sms_mp/.sms_pol?{A-1}.SHA256:0A0B",
            builtin::policy("{A-1}.SHA256:0A0B"),
        ),
    ] {
        let answer = client.get(&mutual(path)).await;
        assert_ok(&answer);
        assert_eq!(answer.body, body);
    }
    let mut h2 = client.connect_h2().await.unwrap();
    let path = mutual("SMS_MP/.sms_aut?MPLIST2&CM1");
    let answer = h2.send(client.addressed(get(&path))).await.unwrap();
    assert_ok(&answer);
    assert_eq!(answer.body, builtin::MPLIST);
    assert!(
        !answer
            .headers
            .keys()
            .any(|name| name.as_str().starts_with("opencmg-"))
    );
    site.finish().await;
}

#[tokio::test]
async fn a_ccm_post_keeps_its_multipart_body_also_one_of_32_mib() {
    let site = Site::start().await;
    let client = site.world.client("pc-1");
    let multipart = "--aAbBcCdDv1234567890VxXyYzZ\r\ncontent-type: text/plain; charset=UTF-16\r\n\r\n\
                     \u{feff}<Msg/>\0\r\n--aAbBcCdDv1234567890VxXyYzZ--";
    let kind = "multipart/mixed; boundary=\"aAbBcCdDv1234567890VxXyYzZ\"";
    let largest = content::bytes_at(0, 32 * MIB);
    for body in [Bytes::from(multipart), largest] {
        let post = request(
            "CCM_POST",
            &mutual("CCM_System/request"),
            &[("content-type", kind)],
            full(body.clone()),
        );
        let answer = client.send(post).await.unwrap();
        assert_ok(&answer);
        assert_eq!(answer.headers["content-type"], kind);
        assert_eq!(
            answer.headers["content-length"],
            body.len().to_string().as_str()
        );
        assert!(answer.body == body, "the body came back changed");
    }
    let too_large = content::bytes_at(0, 32 * MIB + 1);
    let post = request(
        "CCM_POST",
        &mutual("CCM_System/request"),
        &[],
        full(too_large),
    );
    let mut connection = client.connect().await.unwrap();
    let refused = connection.start(client.addressed(post)).await;
    if let Ok(response) = refused {
        assert_eq!(response.status(), StatusCode::PAYLOAD_TOO_LARGE);
    }
    site.finish().await;
}

#[tokio::test]
async fn a_bits_upload_keeps_to_one_backend_of_two() {
    let [one, two] = [
        BuiltIn::management_point(Options::default()).await.unwrap(),
        BuiltIn::management_point(Options::default()).await.unwrap(),
    ];
    let plan = Plan::new()
        .connection_point(&one.url(), &one.url())
        .connection_point(&two.url(), &two.url());
    let world = plan.start().await;
    for name in ["pc-1", "pc-2"] {
        let before = [one.requests(), two.requests()];
        upload(&world.client(name), name).await;
        let untouched = [one.requests(), two.requests()]
            .iter()
            .zip(before)
            .filter(|(after, before)| **after == *before)
            .count();
        assert_eq!(untouched, 1, "one backend has had all of it");
    }
    world.finish().await;
    one.stop().await;
    two.stop().await;
}

async fn upload(client: &Client, name: &str) {
    let path = mutual(&format!("CCM_Incoming/{name}-inventory"));
    let packet = async |kind: &str, fields: &[(&str, &str)], body: Bytes| -> HeaderMap {
        let mut all = vec![("bits-packet-type", kind)];
        all.extend_from_slice(fields);
        // Every packet comes on a connection of its own, as after a change of network.
        let answer = client
            .send(request("BITS_POST", &path, &all, full(body)))
            .await
            .unwrap();
        assert_ok(&answer);
        answer.headers
    };
    let protocols = [("bits-supported-protocols", bits::PROTOCOL)];
    let created = packet("Create-Session", &protocols, Bytes::new()).await;
    let session = created["bits-session-id"].to_str().unwrap().to_owned();
    let whole = content::bytes_at(7, 5 * MIB / 2);
    for start in (0..whole.len()).step_by(MIB) {
        let end = (start + MIB).min(whole.len());
        let range = format!("bytes {start}-{}/{}", end - 1, whole.len());
        let fields = [
            ("bits-session-id", session.as_str()),
            ("content-range", range.as_str()),
        ];
        let headers = packet("Fragment", &fields, whole.slice(start..end)).await;
        assert_eq!(
            headers["bits-received-content-range"],
            end.to_string().as_str()
        );
    }
    packet(
        "Close-Session",
        &[("bits-session-id", &session)],
        Bytes::new(),
    )
    .await;
    let stored = client.get(&path).await;
    let expected = format!("{} {}\r\n", whole.len(), bits::hex(&Sha256::digest(&whole)));
    assert_eq!(stored.body, expected, "{stored:?}");
}

#[tokio::test]
async fn an_early_large_answer_comes_whole_while_the_upload_goes_on() {
    let large = content::bytes_at(3, 8 * MIB);
    let backend = Backend::start({
        let large = large.clone();
        // It answers at once and takes the body while its answer is on the way.
        move |request: Request<hyper::body::Incoming>| {
            let large = large.clone();
            async move {
                spawn(async { drop(request.into_body().collect().await) });
                backend::answer(409, large)
            }
        }
    })
    .await;
    let plan = Plan::new().connection_point(&backend.url(), &backend.url());
    let world = plan.start().await;
    let client = world.client("pc-1");
    let post = request(
        "CCM_POST",
        &mutual("CCM_System/request"),
        &[],
        full(content::bytes_at(0, 32 * MIB)),
    );
    let answer = within(Duration::from_secs(30), "the answer", client.send(post)).await;
    let answer = answer.unwrap();
    assert_eq!(
        (answer.status, answer.phrase.as_str()),
        (StatusCode::CONFLICT, "CMGConnector_Conflict")
    );
    assert!(answer.body == large, "{} bytes came", answer.body.len());
    eventually("nothing is left of the request", async || {
        let gateway = &world.gateways[0];
        gateway.metric("opencmg_requests_in_flight", "").await == 0.0 && backend.open() == 0
    })
    .await;
    world.finish().await;
}

#[tokio::test]
async fn content_is_read_with_head_propfind_and_ranges() {
    let site = Site::start().await;
    let client = site.world.anonymous();
    let path = server("Content/AB/update-1048576.cab");
    let head = client
        .send(request("HEAD", &path, &[], empty()))
        .await
        .unwrap();
    assert_ok(&head);
    assert_eq!(head.headers["content-length"], "1048576");
    assert_eq!(head.headers["accept-ranges"], "bytes");
    assert!(head.body.is_empty());

    let listing = client
        .send(request("PROPFIND", &path, &[("depth", "0")], empty()))
        .await
        .unwrap();
    assert_eq!(listing.status, StatusCode::MULTI_STATUS);
    let inside = "/Content/AB/update-1048576.cab";
    assert_eq!(
        listing.body,
        content::multistatus(inside, "update-1048576.cab", 1 << 20)
    );

    let part = client
        .send(request(
            "GET",
            &path,
            &[("range", "bytes=100-299")],
            empty(),
        ))
        .await
        .unwrap();
    assert_eq!(part.status, StatusCode::PARTIAL_CONTENT);
    assert_eq!(part.headers["content-range"], "bytes 100-299/1048576");
    assert_eq!(part.body, content::bytes_at(100, 200));

    let ranges = request(
        "GET",
        &path,
        &[("range", "bytes=0-9,1000-1999,-16")],
        empty(),
    );
    let parts = client.send(ranges).await.unwrap();
    assert_eq!(parts.status, StatusCode::PARTIAL_CONTENT);
    let kind = format!("multipart/byteranges; boundary={}", content::BOUNDARY);
    assert_eq!(parts.headers["content-type"], kind.as_str());
    let ranges = [0..10, 1000..2000, (1 << 20) - 16..1 << 20];
    assert_eq!(parts.body, content::multipart(&ranges, 1 << 20));

    let beyond = client
        .send(request(
            "GET",
            &path,
            &[("range", "bytes=1048576-")],
            empty(),
        ))
        .await
        .unwrap();
    assert_eq!(beyond.status, StatusCode::RANGE_NOT_SATISFIABLE);
    assert_eq!(beyond.phrase, "CMGConnector_RangeNotSatisfiable");
    site.finish().await;
}

#[tokio::test]
async fn a_wsus_scan_needs_no_token_and_no_certificate_and_its_100_is_the_backends() {
    let site = Site::start().await;
    for (name, client) in [
        ("none", site.world.anonymous()),
        ("unrelated", site.world.client("stranger")),
    ] {
        for (path, action) in [
            ("ClientWebService/client.asmx", "SyncUpdates"),
            (
                "SimpleAuthWebService/SimpleAuth.asmx",
                "GetAuthorizationCookie",
            ),
        ] {
            let body = Bytes::from(format!(
                "<soap:Envelope>{}</soap:Envelope>",
                "x".repeat(50_000)
            ));
            let action = format!("\"http://www.microsoft.com/SoftwareDistribution/{action}\"");
            let fields = [
                ("expect", "100-continue"),
                ("soapaction", action.as_str()),
                ("content-type", "text/xml; charset=utf-8"),
            ];
            let post = request("POST", &server(path), &fields, full(body.clone()));
            let answer = client.send(post).await.unwrap();
            assert_eq!(answer.status, StatusCode::OK, "{name}: {answer:?}");
            assert_eq!(answer.body, builtin::soap_answer(&action, &body));
        }
    }
    site.finish().await;
}

#[tokio::test]
async fn a_long_poll_outlives_every_time_out_while_a_thousand_others_flow() {
    let short = "[proxy]\nidle-timeout = \"1s\"\nbody-grace = \"1s\"\nhead-timeout = \"1s\"\n";
    let site = Site::start_with(Plan::new().gateway(short)).await;
    let client = site.world.client("pc-1");
    let poll = spawn({
        let client = client.clone();
        async move {
            let body = full("<BgbRequest/>");
            let poll = request("POST", &mutual("BGB/handler.ashx?hold=5s"), &[], body);
            let answer = within(Duration::from_secs(30), "the poll", client.send(poll))
                .await
                .unwrap();
            assert_ok(&answer);
            assert_eq!(answer.body, "<BgbResponse Type=\"NoTask\"/>\r\n");
        }
    });
    let path = mutual("SMS_MP/.sms_aut?MPLIST2&CM1");
    let other = site.world.client("pc-2");
    let flows = (0..10).map(async |_| {
        let mut connection = other.connect().await.unwrap();
        for _ in 0..100 {
            assert_ok(&connection.send(other.addressed(get(&path))).await.unwrap());
        }
    });
    futures_util::future::join_all(flows).await;
    assert!(
        !poll.is_finished(),
        "the poll was answered while it should wait"
    );
    poll.await.unwrap();
    site.finish().await;
}

#[tokio::test]
async fn a_gibibyte_each_way_costs_no_more_memory_than_16_mib() {
    const GIB: u64 = 1 << 30;
    let sink = Backend::start(async |request: Request<hyper::body::Incoming>| {
        let (mut digest, mut length, mut body) = (Sha256::new(), 0, request.into_body());
        while let Some(frame) = body.frame().await {
            let data = frame.unwrap().into_data().unwrap();
            length += data.len();
            digest.update(&data);
        }
        backend::answer(200, format!("{length} {}", bits::hex(&digest.finalize())))
    })
    .await;
    let source = BuiltIn::software_update_point().await.unwrap();
    let plan = Plan::new()
        .connection_point(&sink.url(), &source.url())
        .tunnels(1);
    let world = plan.start().await;
    let client = world.client("pc-1");
    download(&client, 16 << 20).await;
    put(&client, 16 << 20).await;
    let nodes = [&world.gateways[0], &world.connection_points[0]];
    let before = nodes.map(|node| node.memory_kib("VmHWM"));
    download(&client, GIB).await;
    put(&client, GIB).await;
    for (node, before) in nodes.iter().zip(before) {
        let after = node.memory_kib("VmHWM");
        // Windows and allocator slack grow a little with a longer run; a buffered body would be 1 GiB.
        let allowed = before + 24 * 1024;
        assert!(
            after <= allowed,
            "{}: {before} KiB, then {after} KiB",
            node.name
        );
    }
    world.finish().await;
    source.stop().await;
}

async fn download(client: &Client, size: u64) {
    let path = server(&format!("Content/x-{size}.cab"));
    let mut connection = client.connect().await.unwrap();
    let response = connection
        .start(client.addressed(get(&path)))
        .await
        .unwrap();
    assert_eq!(response.status(), StatusCode::OK);
    let (mut body, mut at) = (response.into_body(), 0);
    while let Some(frame) = body.frame().await {
        let data = frame.unwrap().into_data().unwrap();
        assert!(
            data == content::bytes_at(at, data.len()),
            "changed after byte {at}"
        );
        at += data.len() as u64;
    }
    assert_eq!(at, size);
}

async fn put(client: &Client, size: u64) {
    let chunk = content::bytes_at(0, MIB);
    let mut digest = Sha256::new();
    (0..size / MIB as u64).for_each(|_| digest.update(&chunk));
    let frames = (0..size / MIB as u64).map(move |_| io::Result::Ok(Frame::data(chunk.clone())));
    let body = BodyExt::boxed(StreamBody::new(futures_util::stream::iter(frames)));
    let length = size.to_string();
    let put = request(
        "PUT",
        &mutual("CCM_Incoming/big"),
        &[("content-length", &length)],
        body,
    );
    let answer = client.send(put).await.unwrap();
    assert_ok(&answer);
    assert_eq!(
        answer.body,
        format!("{size} {}", bits::hex(&digest.finalize()))
    );
}

#[tokio::test]
async fn the_same_management_point_is_published_at_the_root_of_a_host_name() {
    let site = Site::start().await;
    let client = site.world.client("pc-1").named(ROOT_HOST);
    let answer = client.get("/sms_mp/.sms_aut?MPLIST2&CM1").await;
    assert_ok(&answer);
    assert_eq!(answer.body, builtin::MPLIST);
    let anonymous = site.world.anonymous().named(ROOT_HOST);
    let refused = anonymous.get("/sms_mp/.sms_aut?MPLIST2&CM1").await;
    assert_eq!(refused.status, StatusCode::FORBIDDEN);
    assert_eq!(refused.phrase, "CMGService_ClientCertificateMissing");
    site.finish().await;
}

#[tokio::test]
async fn service_metadata_is_answered_by_the_gateway_itself() {
    let site = Site::start().await;
    let before = site.management_point.requests();
    for (client, prefix) in [
        (site.world.client("pc-1"), "CCM_Proxy_MutualAuth"),
        (site.world.anonymous(), "CCM_Proxy_ServerAuth"),
    ] {
        let answer = client.get(&format!("/{prefix}/ServiceMetadata")).await;
        assert_ok(&answer);
        let json: serde_json::Value = serde_json::from_slice(&answer.body).unwrap();
        assert!(json.to_string().contains(HOST), "{json}");
    }
    assert_eq!(site.management_point.requests(), before);
    site.finish().await;
}

#[tokio::test]
async fn what_is_not_published_is_answered_by_the_gateway_and_never_forwarded() {
    let site = Site::start().await;
    let client = site.world.client("pc-1");
    for (path, status, phrase) in [
        ("/".to_owned(), 404, "CMGService_UnknownEndpoint"),
        (
            mutual("CCM_Systems/request"),
            404,
            "CMGService_UnknownEndpoint",
        ),
        (
            mutual("AdminService/wmi"),
            404,
            "CMGService_UnknownEndpoint",
        ),
        (
            "/CCM_Proxy_MutualAuth/1/SMS_MP/x".to_owned(),
            404,
            "CMGService_UnknownEndpoint",
        ),
        (mutual("SMS_MP/../CCM_STS"), 400, "CMGService_BadPath"),
        (
            mutual("SMS_MP/%2e%2e/AdminService"),
            400,
            "CMGService_BadPath",
        ),
        (
            mutual("SMS_MP/%252e%252e/AdminService"),
            400,
            "CMGService_BadPath",
        ),
        (mutual("SMS_MP/a%5cb"), 400, "CMGService_BadPath"),
    ] {
        let answer = client.get(&path).await;
        assert_eq!(
            (answer.status.as_u16(), answer.phrase.as_str()),
            (status, phrase),
            "{path}"
        );
    }
    let answer = client
        .send(request("DELETE", &mutual("SMS_MP/x"), &[], empty()))
        .await
        .unwrap();
    assert_eq!(answer.status, StatusCode::METHOD_NOT_ALLOWED);
    assert!(answer.headers["allow"].to_str().unwrap().contains("GET"));
    assert_eq!(site.management_point.requests(), 0);
    site.finish().await;
}

#[tokio::test]
async fn a_token_endpoint_refuses_until_tokens_are_built() {
    let site = Site::start().await;
    let path = format!("/CCM_Proxy_ServerAuth/{MANAGEMENT_POINT}/CCM_STS");
    let answer = site.world.anonymous().get(&path).await;
    assert_eq!(answer.status, StatusCode::UNAUTHORIZED);
    assert_eq!(answer.phrase, "CMGService_Invalid_Token");
    site.finish().await;
}

#[tokio::test]
async fn sockets_to_a_backend_follow_the_requests_in_flight_not_the_clients() {
    let gate = std::sync::Arc::new(tokio::sync::Semaphore::new(0));
    let backend = Backend::start({
        let gate = gate.clone();
        move |_| {
            let gate = gate.clone();
            async move {
                gate.acquire().await.unwrap().forget();
                backend::answer(200, "done")
            }
        }
    })
    .await;
    let plan = Plan::new().connection_point(&backend.url(), &backend.url());
    let world = plan.start().await;
    let client = world.client("pc-1");
    let mut idle = Vec::new();
    for _ in 0..50 {
        idle.push(client.connect().await.unwrap());
    }
    let idle_sockets = backend.open();
    assert!(
        idle_sockets <= 2,
        "idle clients cost {idle_sockets} sockets"
    );
    let (path, mut polls) = (mutual("SMS_MP/x"), Vec::new());
    for mut connection in idle.drain(..30) {
        let request = client.addressed(get(&path));
        polls.push(spawn(async move {
            let response = connection.start(request).await.unwrap();
            assert_ok(&read(response).await.unwrap());
        }));
    }
    eventually("30 requests wait", async || backend.seen() >= 30).await;
    let held = backend.open();
    assert!((30..=32).contains(&held), "30 requests cost {held} sockets");
    gate.add_permits(30);
    for poll in polls {
        poll.await.unwrap();
    }
    world.finish().await;
}
