use super::*;
use crate::role::{Scheme, endpoints_of};

const MP: RoleId = RoleId::new(72_057_594_037_927_937);
const SUP: RoleId = RoleId::new(72_057_594_037_927_938);

fn role(id: RoleId, kind: Kind) -> RoleSettings {
    RoleSettings {
        id,
        kind,
        endpoints: endpoints_of(kind),
        connection_points: vec!["cp-1".to_owned()],
        root_host: None,
        via: false,
        client_certificate: CertificateFields::None,
        rate_per_address: None,
    }
}

fn web(id: u64, host: &str, name: &str) -> RoleSettings {
    RoleSettings {
        endpoints: vec![Endpoint {
            name: name.to_owned(),
            scheme: Scheme::Public,
            methods: vec![Method::GET],
            body_limit: 0,
            long_poll: false,
            sticky: false,
            websocket: false,
        }],
        root_host: Some(host.to_owned()),
        ..role(RoleId::new(id), Kind::Web)
    }
}

fn build(roles: Vec<RoleSettings>) -> Result<Routes, Vec<String>> {
    Routes::build("gw.example", roles, &Metrics::new())
}

fn found<'r>(routes: &'r Routes, host: &str, path: &str) -> Option<(&'r str, RoleId, Way)> {
    match routes.resolve(host, path)? {
        Route::Metadata => None,
        Route::Endpoint(published, way) => Some((&published.endpoint.name, published.role, way)),
    }
}

#[test]
fn a_request_is_resolved_by_prefix_role_and_endpoint_without_regard_to_case() {
    let routes = build(vec![
        role(MP, Kind::ManagementPoint),
        role(SUP, Kind::SoftwareUpdatePoint),
    ])
    .unwrap();
    let find = |path: &str| found(&routes, "gw.example", path);
    let mp = format!("/CCM_PROXY_mutualauth/{MP}");
    let sup = format!("/CCM_Proxy_ServerAuth/{SUP}");
    assert_eq!(
        find(&format!("{mp}/sms_mp/.sms_aut?MPLIST")),
        Some(("SMS_MP", MP, Way::Mutual))
    );
    assert_eq!(
        find(&format!("{mp}/CCM_System_TokenAuth/request")),
        Some(("CCM_System_TokenAuth", MP, Way::Mutual))
    );
    assert_eq!(
        find(&format!("{sup}/ClientWebService/client.asmx")),
        Some(("ClientWebService", SUP, Way::Server))
    );
}

#[test]
fn what_is_not_published_is_not_found() {
    let routes = build(vec![
        role(MP, Kind::ManagementPoint),
        web(5, "w.example", "a/b"),
    ])
    .unwrap();
    for path in [
        "/".to_owned(),
        format!("/CCM_Proxy_MutualAuth/{MP}"),
        format!("/CCM_Proxy_MutualAuth/{MP}/"),
        format!("/CCM_Proxy_MutualAuth/{MP}/CCM_Systems/x"),
        format!("/CCM_Proxy_MutualAuth/{MP}/CCM%5FSystem/x"),
        format!("/CCM_Proxy_MutualAuth/{SUP}/Content/x"),
        format!("/CCM_Proxy_MutualAuth//{MP}/SMS_MP"),
        format!("/x/CCM_Proxy_MutualAuth/{MP}/SMS_MP"),
        "/CCM_Proxy_MutualAuth/5/a/b".to_owned(),
        "/CCM_Proxy_MutualAuth/ServiceMetadata/x".to_owned(),
        "/ServiceMetadata".to_owned(),
        "/SMS_MP/x".to_owned(),
        "/a/b".to_owned(),
    ] {
        assert!(routes.resolve("gw.example", &path).is_none(), "{path}");
    }
    assert!(routes.resolve("w.example", "/a").is_none());
}

#[test]
fn the_service_metadata_is_found_under_both_prefixes() {
    let routes = build(vec![]).unwrap();
    for path in [
        "/CCM_Proxy_MutualAuth/ServiceMetadata",
        "/ccm_proxy_serverauth/servicemetadata?x=1",
        "/CCM_Proxy_ServerAuth/ServiceMetadata/",
    ] {
        assert!(
            matches!(routes.resolve("gw.example", path), Some(Route::Metadata)),
            "{path}"
        );
    }
}

#[test]
fn a_role_at_the_root_of_a_host_is_found_there_and_under_the_prefixes() {
    let mut mp = role(MP, Kind::ManagementPoint);
    mp.root_host = Some("mp.example".to_owned());
    let routes = build(vec![mp, web(5, "MP.example", "ccm_system/inner")]).unwrap();
    assert_eq!(
        found(&routes, "Mp.Example", "/CCM_System/request"),
        Some(("CCM_System", MP, Way::Root))
    );
    assert_eq!(
        found(&routes, "mp.example", "/ccm_system/Inner/x"),
        Some(("ccm_system/inner", RoleId::new(5), Way::Root))
    );
    assert!(found(&routes, "gw.example", "/CCM_System/request").is_none());
    assert!(found(&routes, "x", &format!("/CCM_Proxy_MutualAuth/{MP}/BGB")).is_some());
}

#[test]
fn every_fault_of_a_definition_is_reported() {
    let mut nameless = web(6, "w.example", "");
    nameless.endpoints.push(Endpoint {
        name: "/x".to_owned(),
        methods: vec![Method::TRACE],
        ..nameless.endpoints[0].clone()
    });
    let mut homeless = web(7, "w.example", "y/");
    homeless.root_host = None;
    let faults = build(vec![
        role(MP, Kind::ManagementPoint),
        role(MP, Kind::ManagementPoint),
        nameless,
        homeless,
        web(8, "v.example", "z"),
        web(9, "V.example", "Z"),
    ])
    .unwrap_err();
    assert_eq!(
        faults,
        [
            format!("role {MP} is there twice (each id once)"),
            "role 6: endpoint \"\" is not a path prefix (whole segments without a leading or trailing slash)".to_owned(),
            "role 6: endpoint \"/x\": the first segment is empty".to_owned(),
            "role 6: endpoint \"/x\": TRACE is never forwarded".to_owned(),
            "role 7: endpoint \"y/\" is not a path prefix (whole segments without a leading or trailing slash)".to_owned(),
            "role 7: kind \"web\" needs a host to be published at".to_owned(),
            "role 9: Z at https://V.example/ belongs to role 8 already".to_owned(),
        ]
    );
}
