//! One request on one connection: out, interim answers, and the head of the answer.

use std::error::Error;
use std::future::poll_fn;
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response, StatusCode, request};
use http_body::Body;
use hyper::body::Incoming;
use hyper::client::conn::TrySendError;
use tokio::time::Instant;

use super::Failure;
use super::lease::Lease;
use super::loan::{Loan, RequestBody};
use crate::message::body::BodyError;
use crate::reason::Reason;

/// How long our own `Expect: 100-continue` holds a body back from a server that ignores it.
const CONTINUE_TIME: Duration = Duration::from_secs(5);

/// Called when the server has said `100 Continue`.
pub type OnContinue = Arc<dyn Fn() + Send + Sync>;

/// What one exchange goes by.
pub(super) struct Course<'e, B> {
    /// The body, if there is one.
    pub(super) loan: Option<&'e Loan<B>>,
    /// Whether the body waits for the server's 100.
    pub(super) held_back: bool,
    /// How long the head of the answer may take once the request is out; none for long polls.
    pub(super) response_timeout: Option<Duration>,
    /// How long the server may take nothing of the body before.
    pub(super) progress_timeout: Duration,
    /// What to do at the server's 100.
    pub(super) on_continue: Option<OnContinue>,
}

/// How an exchange ended before the head of an answer.
#[derive(Debug)]
pub(super) enum Broken {
    /// Nothing of the request was written; its head comes back.
    Unsent(Box<request::Parts>, String),
    /// The connection broke; what the server has seen of the request is unknown.
    Lost(String),
    /// There is no sense in trying again.
    Final(Failure),
}

impl From<Broken> for Failure {
    fn from(broken: Broken) -> Self {
        match broken {
            Broken::Unsent(_, detail) | Broken::Lost(detail) => {
                Self::new(Reason::BackendBroken, detail)
            }
            Broken::Final(failure) => failure,
        }
    }
}

type Answered<B> = Result<Response<Incoming>, TrySendError<Request<RequestBody<B>>>>;

/// Sends a request at once; the future waits for the head of its answer.
pub(super) fn exchange<'e, B>(
    lease: &'e mut Lease<B>,
    mut request: Request<RequestBody<B>>,
    course: Course<'e, B>,
) -> impl Future<Output = Result<Response<Incoming>, Broken>> + Send + use<'e, B>
where
    B: Body<Data = Bytes> + Unpin + Send + 'static,
    B::Error: Into<BodyError>,
{
    if course.held_back || course.on_continue.is_some() {
        hear_interim_answers(&mut request, &course);
    }
    let started = Instant::now();
    let answer = lease.sender().try_send_request(request);
    answered(lease, answer, started, course)
}

/// Waits for the head of the answer to a request that was `started`.
async fn answered<B>(
    lease: &mut Lease<B>,
    answer: impl Future<Output = Answered<B>>,
    started: Instant,
    course: Course<'_, B>,
) -> Result<Response<Incoming>, Broken>
where
    B: Body<Data = Bytes> + Unpin + Send + 'static,
    B::Error: Into<BodyError>,
{
    let mut answer = pin!(answer);
    let mut held_until = course.held_back.then(|| started + CONTINUE_TIME);
    loop {
        let deadline = course.deadline(started);
        let next = earliest(held_until, deadline);
        let answer_in_time = poll_fn(|cx| {
            if let Poll::Ready(answer) = lease.poll_driven(cx, |cx| answer.as_mut().poll(cx)) {
                return Poll::Ready(Some(answer));
            }
            match next {
                Some(next) => lease.timer().poll_until(next, cx).map(|()| None),
                None => Poll::Pending,
            }
        });
        if let Some(answer) = answer_in_time.await {
            return answer.map_err(|mut error| {
                let unsent = error.take_message();
                course.broken(unsent, &error.into_error())
            });
        }
        let now = Instant::now();
        if held_until.is_some_and(|until| until <= now) {
            held_until = None;
            course.open();
        }
        // The body may have made progress since the timer was set.
        if course
            .deadline(started)
            .is_some_and(|deadline| deadline <= now)
        {
            let detail = match course.takes_body() {
                true => format!("no byte of the body taken in {:?}", course.progress_timeout),
                false => format!(
                    "no answer in {:?}",
                    course.response_timeout.unwrap_or_default()
                ),
            };
            return Err(Broken::Final(Failure::new(Reason::BackendTimeout, detail)));
        }
    }
}

fn hear_interim_answers<B>(request: &mut Request<RequestBody<B>>, course: &Course<'_, B>)
where
    B: Body<Data = Bytes> + Unpin + Send + 'static,
{
    let open = course.loan.map(Loan::opener);
    let on_continue = course.on_continue.clone();
    hyper::ext::on_informational(request, move |answer| {
        if answer.status() != StatusCode::CONTINUE {
            return;
        }
        if let Some(open) = &open {
            open();
        }
        if let Some(on_continue) = &on_continue {
            on_continue();
        }
    });
}

impl<B> Course<'_, B>
where
    B: Body<Data = Bytes> + Unpin + Send + 'static,
    B::Error: Into<BodyError>,
{
    /// When the head of the answer must have come: counted from the last sign of life of the request. A client of
    /// HTTP/1.1 that leaves while nothing of its body is taken goes unnoticed: what is left of its request ends here.
    fn deadline(&self, started: Instant) -> Option<Instant> {
        let timeout = match self.takes_body() {
            true => Some(self.progress_timeout),
            false => self.response_timeout,
        };
        let sent = self
            .loan
            .map_or(started, |loan| loan.progress().max(started));
        timeout.map(|timeout| sent + timeout)
    }

    /// Whether the server has not had all of the body yet.
    fn takes_body(&self) -> bool {
        self.loan.is_some_and(|loan| !loan.is_ended())
    }

    fn open(&self) {
        if let Some(loan) = self.loan {
            loan.open();
        }
    }

    fn broken(&self, unsent: Option<Request<RequestBody<B>>>, error: &hyper::Error) -> Broken {
        if let Some(fault) = self.loan.and_then(Loan::fault) {
            return Broken::Final(Failure::new(fault.reason, fault.detail));
        }
        let detail = chain(error);
        if let Some(unsent) = unsent {
            Broken::Unsent(Box::new(unsent.into_parts().0), detail)
        } else if error.is_parse() {
            Broken::Final(Failure::new(Reason::BackendProtocol, detail))
        } else {
            Broken::Lost(detail)
        }
    }
}

/// An error with its causes, outermost first.
pub(super) fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(next) = cause {
        text = format!("{text}: {next}");
        cause = next.source();
    }
    text
}

fn earliest(a: Option<Instant>, b: Option<Instant>) -> Option<Instant> {
    a.into_iter().chain(b).min()
}
