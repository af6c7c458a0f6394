use super::*;

fn map(fields: &[(&str, &str)]) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for (name, value) in fields {
        let name: HeaderName = name.parse().unwrap();
        headers.append(name, HeaderValue::from_bytes(value.as_bytes()).unwrap());
    }
    headers
}

fn stripped(fields: &[(&str, &str)]) -> HeaderMap {
    let mut headers = map(fields);
    let present = Present::of(&headers);
    strip_request(&mut headers, present);
    headers
}

#[test]
fn names_that_we_or_other_proxies_set_are_removed_from_clients_in_every_spelling() {
    let names = "
        cf-connecting-ip cf-access-authenticated-user-email client-cert client_cert client-cert-chain
        client_cert-chain client-ip fastly-client-ip forwarded forwarded-for front-end-https opencmg-role
        opencmg_role opencmg-anything proxy proxy-client-ip proxy-status proxy_status remote-user
        remote_addr ssl-client-cert ssl_client_s_dn ssl-client-verify true-client-ip wl-proxy-client-ip
        x-amzn-mtls-clientcert-leaf x-amzn-oidc-identity x-appengine-user-ip x-arr-clientcert x_arr_ssl
        x-auth-request-user x-azure-clientip x-client-cert x-client-certificate x-client-ip
        x-cluster-client-ip x-envoy-external-address x-forwarded x-forwarded-for x_forwarded_for
        x-forwarded_proto x-goog-authenticated-user-email x-goog-iap-jwt-assertion x-host x-http-method
        x-http-method-override x-method-override x-ms-client-principal x-ms-client-principal-name
        x-original-host x-original-method x-original-uri x-original-url x_original_url x-originating-ip
        x-real-ip x_real_ip x-remote-addr x-remote-user x-request-id x_request_id x-rewrite-url x-scheme
        x-ssl-client-verify x-tls-client-cert x-url-scheme content_length transfer_encoding transfer.encoding
        proxy_authorization proxy!connection keep_alive x.forwarded.for x!forwarded!for x~real~ip opencmg.role
        client'cert http2|settings";
    for name in names.split_whitespace() {
        assert!(stripped(&[(name, "x")]).is_empty(), "{name}");
    }
}

#[test]
fn fields_of_configmgr_and_of_the_message_pass() {
    let fields = [
        ("ccmclientid", "GUID:1"),
        ("ccmclientidsignature", "ab"),
        ("ccmclienttimestamp", "2026"),
        ("range", "bytes=0-1"),
        ("authorization", "Bearer x"),
        ("content-length", "5"),
        ("content-type", "multipart/mixed"),
        ("bits-packet-type", "Create-Session"),
        ("expect", "100-continue"),
        ("depth", "1"),
        ("ms-cv", "x"),
        ("proxy-x", "x"),
        ("soapaction", "x"),
        ("traceparent", "x"),
        ("translate", "f"),
        ("x-forwarde", "x"),
        ("x-ms-version", "x"),
        ("x-requested-with", "x"),
        ("x-ssl", "x"),
    ];
    assert_eq!(stripped(&fields), map(&fields));
}

#[test]
fn fields_of_the_connection_are_removed() {
    let headers = stripped(&[
        ("connection", "keep-alive, X-Private"),
        ("close", "x"),
        ("keep-alive", "timeout=5"),
        ("proxy-connection", "keep-alive"),
        ("proxy-authorization", "Basic x"),
        ("transfer-encoding", "chunked"),
        ("upgrade", "websocket"),
        ("x-private", "1"),
        ("te", "gzip"),
    ]);
    assert!(headers.is_empty(), "{headers:?}");
}

#[test]
fn a_connection_field_cannot_nominate_what_the_message_depends_on() {
    let fields = [
        ("host", "h"),
        ("content-length", "5"),
        ("authorization", "x"),
        ("cookie", "a=b"),
    ];
    let mut all = fields.to_vec();
    all.push(("connection", "Host, Content-Length, Authorization, Cookie"));
    assert_eq!(stripped(&all), map(&fields));

    let mut headers = map(&[("connection", "X-Request-Id, x_request_id")]);
    write_out(
        &origin(&RequestId::random(), "192.0.2.7"),
        &mut headers,
        "gw",
    );
    strip(&mut headers, suspects::contain, is_hop_by_hop);
    assert!(headers.contains_key("x-request-id"));
}

#[test]
fn te_keeps_trailers_only_and_cookie_crumbs_are_joined() {
    let headers = stripped(&[
        ("te", "gzip, Trailers"),
        ("cookie", "a=1"),
        ("cookie", "b=2"),
    ]);
    assert_eq!(headers["te"], "trailers");
    assert_eq!(headers.get_all("cookie").iter().count(), 1);
    assert_eq!(headers["cookie"], "a=1; b=2");
}

#[test]
fn a_backend_cannot_speak_in_our_fields() {
    let mut headers = map(&[
        ("opencmg-phrase", "x"),
        ("opencmg_reason", "x"),
        ("connection", "close, x-a"),
        ("x-a", "1"),
        ("x-request-id", "theirs"),
        ("proxy-status", "theirs"),
        ("etag", "\"1\""),
        ("trailer", "x"),
    ]);
    strip_backend(&mut headers);
    assert_eq!(headers, map(&[("etag", "\"1\""), ("trailer", "x")]));
}

#[test]
fn a_client_hears_our_word_in_our_refusals_and_of_trailers_if_it_takes_them() {
    let all = &[
        ("x-request-id", "1"),
        ("proxy-status", "1"),
        ("trailer", "x"),
    ];
    for (our_word, trailers, kept) in [
        (true, true, &all[..]),
        (true, false, &all[..2]),
        (false, true, &all[2..]),
        (false, false, &[]),
    ] {
        let mut headers = map(all);
        headers.insert(&PHRASE, HeaderValue::from_static("x"));
        strip_response(&mut headers, Passing { our_word, trailers });
        assert_eq!(headers, map(kept));
    }
}

/// What a connection point reads of what a gateway has set.
fn origin(id: &RequestId, client: &str) -> Origin {
    let mut headers = HeaderMap::new();
    let connection = ClientConnection::new(7, client.parse().unwrap());
    connection.set_origin(&mut headers, id);
    let value = &headers["opencmg-origin"];
    assert!(value.is_sensitive(), "it would fill a tunnel's table");
    Origin::take(&mut headers).unwrap()
}

fn write_out(origin: &Origin, headers: &mut HeaderMap, host: &str) {
    let present = Present::of(headers);
    origin.write_out(headers, host, present);
}

#[test]
fn a_request_id_is_ours_always() {
    let mut headers = map(&[("x-request-id", "theirs")]);
    let id = RequestId::random();
    write_out(&origin(&id, "192.0.2.7"), &mut headers, "gw");
    assert_eq!(headers["x-request-id"], id.as_str());
    assert_eq!(id.as_str().len(), 32);
    assert!(id.as_str().bytes().all(|b| b.is_ascii_hexdigit()));
    assert_ne!(RequestId::random(), id);
}

#[test]
fn an_origin_says_what_the_gateway_put_into_it() {
    let connection = ClientConnection::new(7, [192, 0, 2, 7].into());
    let id = connection.request_id();
    assert_ne!(connection.request_id(), id);
    let said = origin(&id, "2001:db8::1");
    assert_eq!((said.id, said.connection()), (id, "0000000000000007"));
    for broken in ["", "x", &id.as_str()[1..], &format!("{}x", id.as_str())] {
        let mut headers = map(&[("opencmg-origin", broken)]);
        assert_eq!(Origin::take(&mut headers), None, "{broken}");
    }
    let mut headers = HeaderMap::new();
    let mut short = map(&[("opencmg-origin", &format!("{} 7", id.as_str()))]);
    write_out(&Origin::take(&mut short).unwrap(), &mut headers, "gw");
    assert_eq!(headers["x-request-id"], id.as_str());
}

#[test]
fn a_valid_traceparent_is_continued_under_a_new_parent() {
    let trace = "0af7651916cd43dd8448eb211c80319c";
    for sent in [
        format!("00-{trace}-b7ad6b7169203331-01"),
        format!("cc-{trace}-b7ad6b7169203331-01-what-comes"),
    ] {
        let mut headers = map(&[("traceparent", &sent), ("tracestate", "v=1")]);
        let present = Present::of(&headers);
        continue_trace(&mut headers, present);
        write_out(
            &origin(&RequestId::random(), "192.0.2.7"),
            &mut headers,
            "gw",
        );
        let value = headers["traceparent"].to_str().unwrap();
        assert_eq!(value.len(), 55);
        assert!(value.starts_with(&format!("00-{trace}-")), "{value}");
        assert!(
            value.ends_with("-01") && !value.contains("b7ad6b7169203331"),
            "{value}"
        );
        assert_eq!(headers["tracestate"], "v=1");
    }
}

#[test]
fn a_missing_or_invalid_traceparent_begins_a_new_trace() {
    let good = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    for sent in [
        vec![],
        vec!["00-00000000000000000000000000000000-b7ad6b7169203331-01"],
        vec!["00-0af7651916cd43dd8448eb211c80319c-0000000000000000-01"],
        vec!["ff-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"],
        vec!["00-0AF7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"],
        vec!["00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01-more"],
        vec!["00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331"],
        vec![good, good],
    ] {
        let id = RequestId::random();
        let mut headers = map(&[("tracestate", "v=1")]);
        for value in &sent {
            headers.append(&TRACEPARENT, HeaderValue::from_str(value).unwrap());
        }
        let present = Present::of(&headers);
        continue_trace(&mut headers, present);
        write_out(&origin(&id, "192.0.2.7"), &mut headers, "gw");
        let (trace, parent) = (id.as_str(), &id.as_str()[16..]);
        assert_eq!(headers["traceparent"], format!("00-{trace}-{parent}-00"));
        assert_eq!(headers.get_all("traceparent").iter().count(), 1);
        assert!(!headers.contains_key("tracestate"));
    }
}

#[test]
fn forwarded_tells_what_we_saw() {
    for (client, host, expected) in [
        (
            "192.0.2.7",
            "gw:8443",
            "for=192.0.2.7;host=\"gw:8443\";proto=https",
        ),
        (
            "::ffff:192.0.2.7",
            "gw",
            "for=192.0.2.7;host=\"gw\";proto=https",
        ),
        (
            "2001:db8::1",
            "gw",
            "for=\"[2001:db8::1]\";host=\"gw\";proto=https",
        ),
    ] {
        let mut headers = map(&[("forwarded", "for=theirs")]);
        write_out(&origin(&RequestId::random(), client), &mut headers, host);
        assert_eq!(headers["forwarded"], expected);
    }
}

#[test]
fn via_is_there_only_where_the_role_wants_it() {
    let mut headers = map(&[("via", "1.1 other")]);
    set_via(&mut headers, true, http::Version::HTTP_2);
    let values: Vec<_> = headers.get_all("via").iter().collect();
    assert_eq!(values, ["1.1 other", "2 opencmg"]);
    set_via(&mut headers, false, http::Version::HTTP_2);
    assert!(headers.is_empty());
}

#[test]
fn certificate_fields_follow_the_roles_setting() {
    let chain = vec![Bytes::from_static(b"leaf"), Bytes::from_static(b"ca")];
    let fields = ClientCertFields::new("CN=J\u{fc}rgen \"x\"".to_owned(), chain);
    let set = |wanted| {
        let mut headers = HeaderMap::new();
        fields.set(&mut headers, wanted);
        headers
    };
    assert!(set(CertificateFields::None).is_empty());
    let subject = set(CertificateFields::Subject);
    assert_eq!(
        subject["client-cert-subject"],
        "%\"CN=J%c3%bcrgen %22x%22\""
    );
    assert_eq!(subject.len(), 1);
    let leaf = set(CertificateFields::Leaf);
    assert_eq!(leaf["client-cert"], ":bGVhZg==:");
    assert_eq!(leaf.len(), 1);
    let chain = set(CertificateFields::Chain);
    assert_eq!(chain["client-cert"], ":bGVhZg==:");
    assert_eq!(chain["client-cert-chain"], ":Y2E=:");
}
