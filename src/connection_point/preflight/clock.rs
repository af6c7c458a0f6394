//! The verdict about the clock: most certificate faults that come and go are clocks that differ.

use std::time::SystemTime;

use rustls_pki_types::ServerName;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_rustls::TlsConnector;

use super::{Step, Verdict, timed};
use crate::connection_point::dial::{Dialer, load_ca};
use crate::connection_point::settings::GatewaySettings;
use crate::tls::https_client;

/// Certificates and tokens bear this much.
const SKEW_S: i64 = 60;

/// The largest answer that is read.
const ANSWER_LIMIT: u64 = 64 << 10;

/// The gateway's clock, from the `Date` field (RFC 9110 §6.6.1) of any answer to a client without a certificate; no
/// verdict where it does not answer one.
pub(super) async fn check(
    gateway: &GatewaySettings,
    dialer: &Dialer,
    address: &str,
) -> Option<Verdict> {
    let date = timed(date_of(gateway, dialer, address)).await??;
    let now = time::OffsetDateTime::from(SystemTime::now());
    let ahead = (now - date.assume_utc()).whole_seconds();
    Some(if ahead.abs() <= SKEW_S {
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
    let _ = stream.take(ANSWER_LIMIT).read_to_end(&mut head).await;
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
