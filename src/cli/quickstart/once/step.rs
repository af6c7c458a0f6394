//! One request of `--once`, and what must come back.

use bytes::Bytes;
use http::header::{HeaderName, HeaderValue};
use http::{Method, Request, StatusCode};

use crate::cli::quickstart::GATEWAY_NAME;
use crate::cli::quickstart::client::Answer;

/// The client that asks.
#[derive(Clone, Copy)]
pub(super) enum Who {
    Trusted,
    Anonymous,
    Stranger,
}

#[derive(Clone, Copy)]
pub(super) enum Answerer {
    Gateway,
    ManagementPoint,
    SoftwareUpdatePoint,
}

/// What is sent, and what must come back.
pub(super) struct Step {
    pub(super) title: &'static str,
    pub(super) who: Who,
    pub(super) answerer: Answerer,
    pub(super) host: &'static str,
    pub(super) request: Request<Bytes>,
    pub(super) status: StatusCode,
    pub(super) body: Option<Bytes>,
}

impl Step {
    pub(super) fn new(title: &'static str, answerer: Answerer, path: String) -> Self {
        let mut request = Request::new(Bytes::new());
        // A path of this file always parses; one that did not would be refused and seen in the table.
        *request.uri_mut() = path.parse().unwrap_or_default();
        Self {
            title,
            who: Who::Trusted,
            answerer,
            host: GATEWAY_NAME,
            request,
            status: StatusCode::OK,
            body: None,
        }
    }

    pub(super) fn method(mut self, method: &str) -> Self {
        *self.request.method_mut() = method.parse().unwrap_or(Method::GET);
        self
    }

    pub(super) fn header(mut self, name: &'static str, value: &str) -> Self {
        if let Ok(value) = HeaderValue::from_str(value) {
            let name = HeaderName::from_static(name);
            self.request.headers_mut().insert(name, value);
        }
        self
    }

    pub(super) fn send(mut self, body: impl Into<Bytes>) -> Self {
        *self.request.body_mut() = body.into();
        self
    }

    pub(super) fn by(mut self, who: Who) -> Self {
        self.who = who;
        self
    }

    pub(super) fn expect_status(mut self, status: StatusCode) -> Self {
        self.status = status;
        self
    }

    pub(super) fn expect_body(mut self, body: impl Into<Bytes>) -> Self {
        self.body = Some(body.into());
        self
    }

    pub(super) fn fault_of(&self, answer: &Answer, known: bool) -> Option<String> {
        if answer.status != self.status {
            return Some(format!("{} was expected", self.status.as_u16()));
        }
        let body = self.body.as_ref().filter(|_| known)?;
        (answer.body != body).then(|| {
            let (got, expected) = (answer.body.len(), body.len());
            format!("the body differs ({got} bytes, {expected} were expected)")
        })
    }
}
