//! Liveness: any received byte is life; silence is answered with a PING, and more silence is the end.

use h2::{Ping, PingPong};
use tokio::time::{sleep, timeout};

use super::io::Pulse;
use super::settings::Wire;

/// Returns once the peer has been silent for [`Wire::silence`] and has then not answered a PING within
/// [`Wire::answer`]. The connection must be polled meanwhile.
///
/// # Cancel safety
/// Safe, but a PING that was under way is forgotten.
pub(super) async fn silent(pulse: Pulse, mut pings: PingPong, wire: Wire) {
    loop {
        let silence = pulse.silence();
        if silence < wire.silence {
            sleep(wire.silence - silence).await;
            continue;
        }
        let asked = pulse.mark();
        // An error means that the PING before is still on its way: its answer is waited for all the same, since
        // what counts is whether a byte comes.
        if pings.send_ping(Ping::opaque()).is_ok() {
            let answer = std::future::poll_fn(|cx| pings.poll_pong(cx));
            let _ = timeout(wire.answer, answer).await;
        } else {
            sleep(wire.answer).await;
        }
        if !pulse.heard_since(asked) {
            return;
        }
    }
}
