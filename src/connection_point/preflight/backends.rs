//! The verdicts about one backend.

use bytes::Bytes;
use http::{Request, StatusCode};
use http_body_util::Empty;
use hyper::ext::ReasonPhrase;

use super::{Step, Verdict, timed, too_long};
use crate::allowance::Allowance;
use crate::backend::{Backend, Failure, Terms};
use crate::forward::RoleSettings;
use crate::metrics::Metrics;
use crate::reason::Reason;
use crate::role::Kind;
use crate::tasks::Tasks;

pub(super) async fn check(role: &RoleSettings) -> Vec<Verdict> {
    let settings = &role.backend;
    let tasks = Tasks::new();
    let (metrics, allowance) = (Metrics::new(), Allowance::default());
    let backend = Backend::<Empty<Bytes>>::build(settings.clone(), &metrics, &tasks, &allowance);
    let name = format!("role {} at {}", settings.id, settings.url);
    let backend = match backend {
        Ok(backend) => backend,
        Err(faults) => {
            let bad = |fault| {
                let what = format!("role {}: {fault}", settings.id);
                Verdict::bad(Step::Files, what, "mend the file or its key")
            };
            return faults.into_iter().map(bad).collect();
        }
    };
    let connected = match timed(backend.probe()).await {
        Some(Ok(())) => Verdict::good(Step::Backend, format!("{name} is reached")),
        Some(Err(failure)) => unreachable(&name, &failure),
        None => Verdict::bad(Step::Backend, too_long(&name), UNREACHABLE),
    };
    let ok = connected.ok;
    let mut verdicts = vec![connected];
    if ok {
        verdicts.push(ask(&name, role, &backend).await);
    }
    drop(backend);
    tasks.abort();
    verdicts
}

const UNREACHABLE: &str = "check url, the firewall, and that the server runs";

fn unreachable(name: &str, failure: &Failure) -> Verdict {
    let advice = if failure.reason == Reason::BackendCertificate {
        "check ca, certificate-name and name-check, or renew the server's certificate"
    } else {
        UNREACHABLE
    };
    Verdict::bad(Step::Backend, format!("{name}: {}", failure.detail), advice)
}

/// Asks something harmless, to see whether the server then wants a certificate.
async fn ask(name: &str, role: &RoleSettings, backend: &Backend<Empty<Bytes>>) -> Verdict {
    let settings = &role.backend;
    let path = match settings.kind {
        Kind::ManagementPoint => "/SMS_MP/.sms_aut?MPLIST",
        Kind::SoftwareUpdatePoint => "/ClientWebService/client.asmx",
        Kind::Web => "/",
    };
    let uri = format!("{}{path}", settings.url.prefix());
    let step = Step::BackendCertificate;
    let mut request = Request::new(Empty::new());
    match uri.parse() {
        Ok(uri) => *request.uri_mut() = uri,
        Err(_) => return Verdict::bad(step, format!("{name}: {uri} is no path"), "check url"),
    }
    let shown = settings.certificate.is_some();
    let answer = match timed(backend.send(request, Terms::default())).await {
        Some(Ok(answer)) => answer,
        Some(Err(failure))
            if settings.url.is_https() && failure.reason == Reason::BackendBroken =>
        {
            let what = format!(
                "{name} closes the connection once it has read the path: {}",
                failure.detail
            );
            return Verdict::bad(step, what, advice(shown));
        }
        Some(Err(failure)) => {
            return Verdict::bad(step, format!("{name}: {}", failure.detail), UNREACHABLE);
        }
        None => return Verdict::bad(step, too_long(name), "see why the server does not answer"),
    };
    let phrase = answer.extensions().get::<ReasonPhrase>();
    let phrase = phrase.map(|phrase| String::from_utf8_lossy(phrase.as_bytes()).into_owned());
    let phrase = phrase.unwrap_or_default();
    let about_certificates = phrase.to_ascii_lowercase().contains("certificate");
    if answer.status() == StatusCode::FORBIDDEN && (about_certificates || settings.url.is_https()) {
        let what = format!("{name} answers {path} with 403 {phrase}");
        return Verdict::bad(step, what, advice(shown));
    }
    let shown = if shown {
        ", the client certificate at hand"
    } else {
        ""
    };
    Verdict::good(
        step,
        format!("{name} answers {path} with {}{shown}", answer.status()),
    )
}

fn advice(shown: bool) -> &'static str {
    if shown {
        "the server does not accept the client certificate: check its CA and usage, and the server's CRL check"
    } else {
        "the server asks for a client certificate after it has read the path: set certificate and key of this role"
    }
}
