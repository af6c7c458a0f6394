//! The verdicts about one address of one gateway.

use std::io;

use tokio::net::TcpStream;

use super::{Step, Verdict, authorisation, clock, timed, too_long, ways};
use crate::connection_point::dial::{Dialer, Stream, own_name};
use crate::connection_point::settings::{GatewaySettings, Settings};
use crate::pki::Certificate;
use crate::tls::{GatewayCertificateError, Way};

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
    verdicts.extend(clock::check(gateway, dialer, address).await);
    let name = own_name(settings).unwrap_or_default();
    verdicts.push(authorisation::check(address, &name, stream).await);
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
) -> Option<Stream> {
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

fn way_taken(way: Way, stream: &Stream, faults: &[String]) -> Verdict {
    let alpn = stream.get_ref().1.alpn_protocol().unwrap_or_default();
    let alpn = match std::str::from_utf8(alpn) {
        Ok("") => "none".to_owned(),
        Ok(text) if text.is_ascii() => text.to_owned(),
        Ok(_) | Err(_) => alpn.iter().map(|byte| format!("{byte:02x}")).collect(),
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

fn identity_of(stream: &Stream, gateway: &GatewaySettings) -> String {
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
