//! `--once`: one request of each kind through the whole chain, each judged by its status and its bytes.

mod payload;
mod step;

use std::time::Duration;

use bytes::Bytes;
use http::StatusCode;
use sha2::{Digest, Sha256};
use tokio::time::Instant;

use payload::{BOUNDARY, envelope, message};
use step::{Answerer, Step, Who};

use super::client::{Answer, Client};
use super::{MANAGEMENT_POINT, ROOT_NAME, SOFTWARE_UPDATE_POINT};
use crate::cli::builtin::{self, bits, content};

const POLICY: &str = "{10D2C5C4-6E5A-4B57-8E0B-1B7D6E4C1A01}.SHA256:5F70BF18A086007016E948B04AED3B82103A36BE\
A41755B6CDDFAF10ACE3C6EF";
const MESSAGE_LIMIT: usize = 32 << 20;
const CONTENT: &str = "Content/5F/kb5031455-8388608.cab";
const CONTENT_SIZE: u64 = 8_388_608;
const SOAP_ACTION: &str = "http://www.microsoft.com/SoftwareDistribution/Server/ClientWebService/";

/// One line of the table.
pub(super) struct Row {
    pub(super) request: &'static str,
    /// The status with its phrase, or nothing without an answer.
    pub(super) status: String,
    pub(super) time: Duration,
    /// What is not right; nothing if all is.
    pub(super) fault: Option<String>,
}

/// The three clients that ask.
pub(super) struct Clients {
    /// With a certificate that verifies.
    pub(super) trusted: Client,
    /// With none.
    pub(super) anonymous: Client,
    /// With one from a CA that is not trusted.
    pub(super) stranger: Client,
}

/// Which backends are the built-in ones, whose bodies are known.
#[derive(Clone, Copy)]
pub(super) struct Known {
    pub(super) management_point: bool,
    pub(super) software_update_point: bool,
}

/// Sends one request of each kind and returns a row for each.
pub(super) async fn run(clients: Clients, known: Known) -> Vec<Row> {
    let mut once = Once {
        clients,
        known,
        rows: Vec::new(),
    };
    once.reads().await;
    once.messages().await;
    once.upload().await;
    once.content().await;
    once.updates().await;
    once.others().await;
    once.refusals().await;
    once.rows
}

struct Once {
    clients: Clients,
    known: Known,
    rows: Vec<Row>,
}

impl Once {
    async fn step(&mut self, step: Step) -> Option<Answer> {
        self.step_with(step, |_| None).await
    }

    /// Sends a step, writes its row, and returns the answer if it is right.
    async fn step_with(
        &mut self,
        step: Step,
        judge: impl FnOnce(&Answer) -> Option<String>,
    ) -> Option<Answer> {
        let client = match step.who {
            Who::Trusted => &mut self.clients.trusted,
            Who::Anonymous => &mut self.clients.anonymous,
            Who::Stranger => &mut self.clients.stranger,
        };
        let known = match step.answerer {
            Answerer::Gateway => true,
            Answerer::ManagementPoint => self.known.management_point,
            Answerer::SoftwareUpdatePoint => self.known.software_update_point,
        };
        let began = Instant::now();
        let result = client.send(step.host, step.request.clone()).await;
        let time = began.elapsed();
        let (status, fault, answer) = match result {
            Ok(answer) => {
                let fault = step.fault_of(&answer, known).or_else(|| judge(&answer));
                let status = format!("{} {}", answer.status.as_u16(), phrase_of(&answer));
                (status.trim_end().to_owned(), fault, Some(answer))
            }
            Err(error) => (String::new(), Some(format!("{error:#}")), None),
        };
        let right = fault.is_none();
        self.rows.push(Row {
            request: step.title,
            status,
            time,
            fault,
        });
        answer.filter(|_| right)
    }

    async fn reads(&mut self) {
        let aut = "SMS_MP/.sms_aut";
        let mplist = Step::new(
            "GET SMS_MP/.sms_aut?MPLIST2&CM1",
            MP,
            mutual(&format!("{aut}?MPLIST2&CM1")),
        );
        self.step(mplist.expect_body(builtin::MPLIST)).await;
        let cert = Step::new(
            "GET SMS_MP/.sms_aut?SITESIGNCERT",
            MP,
            mutual(&format!("{aut}?SITESIGNCERT")),
        );
        self.step(cert.expect_body(builtin::SITESIGNCERT)).await;
        let path = mutual(&format!("SMS_MP/.sms_pol?{POLICY}"));
        let policy = Step::new("GET SMS_MP/.sms_pol", MP, path);
        self.step(policy.expect_body(builtin::policy(POLICY))).await;
    }

    async fn messages(&mut self) {
        let small = "<Msg><Body Type=\"ByteRange\"/></Msg>".into();
        let large = content::bytes_at(0, MESSAGE_LIMIT - message(Bytes::new()).len());
        for (title, payload) in [
            ("CCM_POST CCM_System/request", small),
            ("CCM_POST CCM_System/request, 32 MiB", large),
        ] {
            let body = message(payload);
            let step = Step::new(title, MP, mutual("CCM_System/request"))
                .method("CCM_POST")
                .header(
                    "content-type",
                    &format!("multipart/mixed; boundary=\"{BOUNDARY}\""),
                )
                .send(body.clone())
                .expect_body(body);
            self.step(step).await;
        }
    }

    /// A whole upload: create-session, three fragments, close-session, and what has arrived.
    async fn upload(&mut self) {
        let path = mutual("CCM_Incoming/{0B7A1E2C-5A5F-4E0F-9E57-2D0B1C3A4D5E}.xml");
        let packet = |title, kind: &str| {
            Step::new(title, MP, path.clone())
                .method("BITS_POST")
                .header("bits-packet-type", kind)
        };
        let create = packet("BITS_POST CCM_Incoming, create session", "Create-Session")
            .header("bits-supported-protocols", bits::PROTOCOL);
        let Some(created) = self.step(create).await else {
            return;
        };
        let id = field(&created, "bits-session-id");
        let whole = content::bytes_at(77, 200_000);
        for range in [0..65_536, 65_536..131_072, 131_072..200_000] {
            let last = range.end - 1;
            let fragment = packet("BITS_POST CCM_Incoming, fragment", "Fragment")
                .header("bits-session-id", &id)
                .header(
                    "content-range",
                    &format!("bytes {}-{last}/200000", range.start),
                )
                .send(whole.slice(range.clone()));
            let expected = range.end.to_string();
            let judge = |answer: &Answer| {
                let got = field(answer, "bits-received-content-range");
                (got != expected)
                    .then(|| format!("{expected} bytes were expected to have come, {got} have"))
            };
            if self.step_with(fragment, judge).await.is_none() {
                return;
            }
        }
        let close = packet("BITS_POST CCM_Incoming, close session", "Close-Session");
        self.step(close.header("bits-session-id", &id)).await;
        let arrived = Step::new("GET CCM_Incoming, what has arrived", MP, path);
        let digest = bits::hex(&Sha256::digest(&whole));
        if self.known.management_point {
            self.step(arrived.expect_body(format!("200000 {digest}\r\n")))
                .await;
        }
    }

    async fn content(&mut self) {
        let step = |title| Step::new(title, SUP, server(CONTENT)).by(Who::Anonymous);
        let head = step("HEAD Content").method("HEAD").expect_body("");
        let length = |answer: &Answer| {
            let got = field(answer, "content-length");
            let expected = CONTENT_SIZE.to_string();
            (got != expected)
                .then(|| format!("Content-Length is \"{got}\", {expected} was expected"))
        };
        let judge_length = self.known.software_update_point;
        self.step_with(head, |answer| {
            judge_length.then(|| length(answer)).flatten()
        })
        .await;
        let name = CONTENT.rsplit('/').next().unwrap_or_default();
        let find = step("PROPFIND Content")
            .method("PROPFIND")
            .header("depth", "0")
            .expect_status(StatusCode::MULTI_STATUS)
            .expect_body(content::multistatus(
                &format!("/{CONTENT}"),
                name,
                CONTENT_SIZE,
            ));
        self.step(find).await;
        let single = step("GET Content, one range of 1 MiB")
            .header("range", "bytes=1048576-2097151")
            .expect_status(StatusCode::PARTIAL_CONTENT)
            .expect_body(content::bytes_at(1 << 20, 1 << 20));
        self.step(single).await;
        let ranges = [
            0..1000,
            4_194_304..4_259_840,
            CONTENT_SIZE - 10..CONTENT_SIZE,
        ];
        let multi = step("GET Content, three ranges")
            .header("range", "bytes=0-999,4194304-4259839,-10")
            .expect_status(StatusCode::PARTIAL_CONTENT)
            .expect_body(content::multipart(&ranges, CONTENT_SIZE));
        self.step(multi).await;
    }

    async fn updates(&mut self) {
        for (title, path, action) in [
            (
                "POST ClientWebService, Expect: 100-continue",
                "ClientWebService/client.asmx",
                "SyncUpdates",
            ),
            (
                "POST SimpleAuthWebService, Expect: 100-continue",
                "SimpleAuthWebService/SimpleAuth.asmx",
                "GetAuthorizationCookie",
            ),
        ] {
            let action = format!("\"{SOAP_ACTION}{action}\"");
            let body = Bytes::from(envelope());
            let step = Step::new(title, SUP, server(path))
                .by(Who::Anonymous)
                .method("POST")
                .header("content-type", "text/xml; charset=utf-8")
                .header("soapaction", &action)
                .header("expect", "100-continue")
                .send(body.clone())
                .expect_body(builtin::soap_answer(&action, &body));
            let judge = |answer: &Answer| {
                (!answer.continued).then(|| "no 100 came before the answer".to_owned())
            };
            self.step_with(step, judge).await;
        }
    }

    async fn others(&mut self) {
        if self.known.management_point {
            let poll = Step::new(
                "POST BGB, held for 500 ms",
                MP,
                mutual("BGB/handler.ashx?hold=500ms"),
            );
            self.step(poll.method("POST").send("<BgbRequest/>")).await;
        }
        let mut root = Step::new(
            "GET SMS_MP/.sms_aut at the root of its own host",
            MP,
            "/SMS_MP/.sms_aut?MPLIST2&CM1".to_owned(),
        )
        .expect_body(builtin::MPLIST);
        root.host = ROOT_NAME;
        self.step(root).await;
        let metadata = "/CCM_Proxy_ServerAuth/ServiceMetadata".to_owned();
        let metadata = Step::new("GET ServiceMetadata", Answerer::Gateway, metadata);
        self.step(metadata.by(Who::Anonymous)).await;
    }

    async fn refusals(&mut self) {
        let path = || mutual("SMS_MP/.sms_aut?MPLIST2&CM1");
        for (title, who) in [
            ("GET without a certificate is refused", Who::Anonymous),
            (
                "GET with a certificate of a foreign CA is refused",
                Who::Stranger,
            ),
        ] {
            let step = Step::new(title, Answerer::Gateway, path())
                .by(who)
                .expect_status(StatusCode::FORBIDDEN);
            let judge = |answer: &Answer| {
                let named = answer.phrase.starts_with("CMGService_ClientCertificate");
                (!named).then(|| format!("the phrase is \"{}\"", answer.phrase))
            };
            self.step_with(step, judge).await;
        }
    }
}

const MP: Answerer = Answerer::ManagementPoint;
const SUP: Answerer = Answerer::SoftwareUpdatePoint;

fn mutual(rest: &str) -> String {
    format!("/CCM_Proxy_MutualAuth/{MANAGEMENT_POINT}/{rest}")
}

fn server(rest: &str) -> String {
    format!("/CCM_Proxy_ServerAuth/{SOFTWARE_UPDATE_POINT}/{rest}")
}

fn field(answer: &Answer, name: &str) -> String {
    let value = answer
        .headers
        .get(name)
        .and_then(|value| value.to_str().ok());
    value.unwrap_or_default().to_owned()
}

fn phrase_of(answer: &Answer) -> &str {
    if answer.phrase.is_empty() {
        answer.status.canonical_reason().unwrap_or_default()
    } else {
        &answer.phrase
    }
}
