//! The verdict about authorisation: what the gateway says first in a tunnel, hello or refusal.

use bytes::Bytes;
use http::{Response, StatusCode};

use super::{Step, Verdict, timed, too_long};
use crate::connection_point::alert;
use crate::connection_point::dial::Stream;
use crate::tunnel::{HELLO_PATH, Hello, REFUSAL_PATH, Refused};

/// The largest hello or refusal that is read.
const NOTE_LIMIT: usize = 64 << 10;

/// What the gateway says first in a tunnel to the connection point of this name.
pub(super) async fn check(address: &str, name: &str, stream: Stream) -> Verdict {
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
                format!(
                    "list it in the gateway's service.toml: [[connection-point]] name = \"{name}\""
                )
            } else {
                "wait and try again".to_owned()
            };
            let what = format!(
                "{address}: the gateway refuses \"{name}\": {}",
                refused.reason
            );
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
    if let Some(what) = error.get_io().and_then(alert::explain) {
        return what;
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

async fn first_words(stream: Stream) -> Result<Words, h2::Error> {
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
