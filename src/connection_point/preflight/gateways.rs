//! The verdicts about one address of one gateway.

use std::io;
use std::time::SystemTime;

use bytes::Bytes;
use http::{Response, StatusCode};
use rustls::AlertDescription;
use rustls_pki_types::ServerName;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::{Step, Verdict, timed, too_long, ways};
use crate::connection_point::dial::{Dialer, load_ca};
use crate::connection_point::settings::{GatewaySettings, Settings};
use crate::pki::Certificate;
use crate::tls::{GatewayCertificateError, Way, https_client};
use crate::tunnel::{HELLO_PATH, Hello, REFUSAL_PATH, Refused};

/// The largest hello or refusal that is read.
const NOTE_LIMIT: usize = 64 << 10;

/// Certificates and signatures of time bear this much.
const CLOCK_SKEW_S: i64 = 60;

pub(super) async fn check(
    settings: &Settings,
    gateway: &GatewaySettings,
    dialer: &Dialer,
    address: &str,
) -> Vec<Verdict> {
    let mut verdicts = Vec::new();
    let Some(tcp) = reach(settings, dialer, address, &mut verdicts).await else {
        return verdicts;
    };
    let Some(stream) = secure(gateway, dialer, address, tcp, &mut verdicts).await else {
        return verdicts;
    };
    verdicts.extend(clock(gateway, dialer, address).await);
    verdicts.push(authorisation(address, stream).await);
    verdicts
}

/// Name, TCP, and the outbound proxy where there is one.
async fn reach(
    settings: &Settings,
    dialer: &Dialer,
    address: &str,
    verdicts: &mut Vec<Verdict>,
) -> Option<TcpStream> {
    let (step, advice) = if settings.outbound_proxy.is_some() {
        (
            Step::OutboundProxy,
            "ask who runs the proxy to allow CONNECT to this address; check outbound-proxy and its user",
        )
    } else {
        resolve(address, verdicts).await?;
        (
            Step::Tcp,
            "let the firewall pass outbound TCP to this address; check the port in addresses",
        )
    };
    match timed(dialer.connect(address)).await {
        Some(Ok(tcp)) => {
            verdicts.push(Verdict::good(step, format!("{address} is reached")));
            Some(tcp)
        }
        Some(Err(error)) => {
            verdicts.push(Verdict::bad(step, error.to_string(), advice));
            None
        }
        None => {
            verdicts.push(Verdict::bad(step, too_long(address), advice));
            None
        }
    }
}

async fn resolve(address: &str, verdicts: &mut Vec<Verdict>) -> Option<()> {
    let advice = "check the name in addresses and the DNS servers of this machine";
    let found = timed(tokio::net::lookup_host(address)).await;
    let verdict = match found {
        Some(Ok(found)) => {
            let found: Vec<_> = found.map(|address| address.ip().to_string()).collect();
            Verdict::good(Step::Dns, format!("{address} is {}", found.join(", ")))
        }
        Some(Err(error)) => Verdict::bad(Step::Dns, format!("{address}: {error}"), advice),
        None => Verdict::bad(Step::Dns, too_long(address), advice),
    };
    let ok = verdict.ok;
    verdicts.push(verdict);
    ok.then_some(())
}

/// TLS by the first way that gets through.
async fn secure(
    gateway: &GatewaySettings,
    dialer: &Dialer,
    address: &str,
    first: TcpStream,
    verdicts: &mut Vec<Verdict>,
) -> Option<TlsStream<TcpStream>> {
    let mut tcp = Some(first);
    let mut faults = Vec::new();
    for way in ways(gateway.way) {
        let made = match tcp.take() {
            Some(tcp) => timed(dialer.tls(way, tcp)).await,
            None => timed(dialer.dial_by(way, address)).await,
        };
        let error = match made {
            Some(Ok(stream)) => {
                verdicts.push(Verdict::good(Step::Tls, identity_of(&stream, gateway)));
                verdicts.push(way_taken(way, &stream, &faults));
                return Some(stream);
            }
            Some(Err(error)) => error,
            None => io::Error::other(too_long("the TLS handshake")),
        };
        if let Some(certificate) = GatewayCertificateError::find(&error) {
            verdicts.push(not_the_gateway(certificate));
            return None;
        }
        faults.push(format!("{}: {error}", name_of(way)));
    }
    let advice = "something between here and the gateway breaks TLS or knows no tunnels: exempt this address from inspection, or try another way (way = \"server-name\", or a tunnel port of the gateway with way = \"port\")";
    verdicts.push(Verdict::bad(
        Step::Alpn,
        format!("{address}: {}", faults.join("; ")),
        advice,
    ));
    None
}

fn name_of(way: Way) -> &'static str {
    match way {
        Way::Alpn => "by ALPN",
        Way::ServerName => "by server name",
        Way::Port => "by port",
    }
}

fn way_taken(way: Way, stream: &TlsStream<TcpStream>, faults: &[String]) -> Verdict {
    let alpn = stream.get_ref().1.alpn_protocol().unwrap_or_default();
    let alpn = match std::str::from_utf8(alpn) {
        Ok(text) if !text.is_empty() => text.to_owned(),
        Ok(_) => "none".to_owned(),
        Err(_) => alpn.iter().map(|byte| format!("{byte:02x}")).collect(),
    };
    let mut verdict = Verdict::good(
        Step::Alpn,
        format!("the tunnel is taken {} (ALPN {alpn})", name_of(way)),
    );
    if !faults.is_empty() {
        verdict.advice = format!(
            "{}; way = \"server-name\" saves the attempt",
            faults.join("; ")
        );
    }
    verdict
}

fn identity_of(stream: &TlsStream<TcpStream>, gateway: &GatewaySettings) -> String {
    let leaf = stream.get_ref().1.peer_certificates();
    let leaf = leaf.and_then(|chain| Certificate::parse(chain.first()?).ok());
    let (title, issuer) = leaf.map_or_else(Default::default, |leaf| (leaf.title(), leaf.issuer));
    format!(
        "{} shows the certificate {title} of \"{issuer}\"",
        gateway.name
    )
}

/// The wrong certificate: the issuer tells who stands in between.
fn not_the_gateway(error: &GatewayCertificateError) -> Verdict {
    let advice = if error.unknown_issuer {
        format!(
            "\"{}\" is none of the configured CAs: it inspects TLS on the way (exempt {} from inspection), or ca names the wrong file",
            error.issuer, error.service_name
        )
    } else if error.detail.contains("xpired") || error.detail.contains("alid yet") {
        "check this machine's clock, then the gateway's certificate".to_owned()
    } else {
        "check name of [[gateway]] against the names in the gateway's certificate".to_owned()
    };
    Verdict::bad(Step::Tls, error.to_string(), advice)
}

/// The gateway's clock, from the `Date` field (RFC 9110 §6.6.1) of any answer to a client without a certificate; no
/// verdict where it does not answer one.
async fn clock(gateway: &GatewaySettings, dialer: &Dialer, address: &str) -> Option<Verdict> {
    let date = timed(date_of(gateway, dialer, address)).await??;
    let now = time::OffsetDateTime::from(SystemTime::now());
    let ahead = (now - date.assume_utc()).whole_seconds();
    Some(if ahead.abs() <= CLOCK_SKEW_S {
        Verdict::good(
            Step::Clock,
            format!("differs by {ahead} s from the gateway's"),
        )
    } else {
        Verdict::bad(
            Step::Clock,
            format!("differs by {ahead} s from the gateway's"),
            "set this machine's clock by NTP",
        )
    })
}

async fn date_of(
    gateway: &GatewaySettings,
    dialer: &Dialer,
    address: &str,
) -> Option<time::PrimitiveDateTime> {
    let ca = load_ca(gateway, &mut Vec::new());
    let config = https_client(&ca, None).ok()?;
    let name = ServerName::try_from(gateway.name.clone()).ok()?;
    let tcp = dialer.connect(address).await.ok()?;
    let mut stream = TlsConnector::from(config).connect(name, tcp).await.ok()?;
    let request = format!(
        "GET /CCM_Proxy_MutualAuth/ServiceMetadata HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n\r\n",
        gateway.name
    );
    stream.write_all(request.as_bytes()).await.ok()?;
    let mut head = Vec::new();
    // A gateway that closes without a word of TLS has still sent its answer.
    let _ = stream.take(NOTE_LIMIT as u64).read_to_end(&mut head).await;
    let head = String::from_utf8_lossy(&head).into_owned();
    let date = head.lines().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        name.eq_ignore_ascii_case("date").then(|| value.trim())
    })?;
    let format = time::macros::format_description!(
        "[weekday repr:short], [day] [month repr:short] [year] [hour]:[minute]:[second] GMT"
    );
    time::PrimitiveDateTime::parse(date, format).ok()
}

/// What the gateway says first in a tunnel.
async fn authorisation(address: &str, stream: TlsStream<TcpStream>) -> Verdict {
    let step = Step::Authorisation;
    match timed(first_words(stream)).await {
        Some(Ok(Words::Hello(hello))) => Verdict::good(
            step,
            format!(
                "{address}: instance {} of {} takes this connection point",
                hello.instance.index, hello.service
            ),
        ),
        Some(Ok(Words::Refused(refused))) => {
            let advice = if refused.permanent {
                "add this connection point's name to service.toml ([[connection-point]])"
            } else {
                "wait and try again"
            };
            let what = format!("{address}: the gateway refuses: {}", refused.reason);
            Verdict::bad(step, what, advice)
        }
        Some(Err(error)) => {
            let advice = "make the certificate anew with `opencmg connection-point-certificate` and the service's connection-point CA";
            Verdict::bad(step, format!("{address}: {}", word(&error)), advice)
        }
        None => Verdict::bad(
            step,
            too_long(address),
            "the peer speaks TLS and no tunnel: check that addresses name a gateway",
        ),
    }
}

/// A TLS alert says what the gateway does not like.
fn word(error: &h2::Error) -> String {
    let tls = error
        .get_io()
        .and_then(|io| io.get_ref()?.downcast_ref::<rustls::Error>());
    if let Some(rustls::Error::AlertReceived(alert)) = tls {
        let why = if *alert == AlertDescription::UnknownCA {
            "its certificate does not chain to the service's connection-point CA"
        } else if *alert == AlertDescription::CertificateExpired {
            "its certificate has expired"
        } else {
            "its certificate is not accepted"
        };
        return format!("the gateway refuses this connection point: {why} (TLS alert {alert:?})");
    }
    if error.reason() == Some(h2::Reason::NO_ERROR) {
        return "the gateway closed the tunnel without a word".to_owned();
    }
    format!("the tunnel ended before the gateway said hello: {error}")
}

enum Words {
    Hello(Hello),
    Refused(Refused),
}

async fn first_words(stream: TlsStream<TcpStream>) -> Result<Words, h2::Error> {
    let mut tunnel: h2::server::Connection<_, Bytes> = h2::server::handshake(stream).await?;
    let gone = || h2::Error::from(h2::Reason::NO_ERROR);
    loop {
        let (request, mut respond) = tunnel.accept().await.ok_or_else(gone)??;
        let path = request.uri().path().to_owned();
        let note = {
            let read = read_note(request.into_body());
            tokio::pin!(read);
            // The body comes only while the connection is driven; nothing else is expected on it.
            tokio::select! {
                biased;
                note = &mut read => note?,
                other = tunnel.accept() => match other {
                    Some(Ok(_)) | None => return Err(gone()),
                    Some(Err(error)) => return Err(error),
                },
            }
        };
        let mut answer = Response::new(());
        if path == HELLO_PATH
            && let Ok(hello) = serde_json::from_slice(&note)
        {
            return Ok(Words::Hello(hello));
        }
        if path == REFUSAL_PATH
            && let Ok(refused) = serde_json::from_slice(&note)
        {
            return Ok(Words::Refused(refused));
        }
        *answer.status_mut() = StatusCode::NOT_FOUND;
        respond.send_response(answer, true)?;
    }
}

async fn read_note(mut body: h2::RecvStream) -> Result<Vec<u8>, h2::Error> {
    let mut note = Vec::new();
    while let Some(data) = body.data().await {
        let data = data?;
        body.flow_control().release_capacity(data.len())?;
        note.extend_from_slice(&data);
        if note.len() > NOTE_LIMIT {
            break;
        }
    }
    Ok(note)
}
