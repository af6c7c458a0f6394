//! One place that a list is fetched from, and the loop that keeps what it brought fresh.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde::Serialize;
use tokio::sync::watch;
use tokio::time::Instant;
use tracing::{info, warn};

use super::schedule::{until_refresh, until_retry};
use super::{Key, Shared};
use crate::fetch::{self, Fetched, Validators};
use crate::metrics::{ByFetch, ByIssuer, Fetch};
use crate::pki::{Certificate, CertificateDer, Crl, CrlError, IssuerKey, UnixTime, read_crl_file};

/// A place that a list is fetched from.
pub(super) struct Target {
    pub(super) key: Key,
    /// Tried in turn until one answers.
    pub(super) urls: Vec<String>,
    /// The CA that signs; none for a URL of the settings, which any configured CA may.
    pub(super) issuer: Option<CertificateDer<'static>>,
    state: Mutex<State>,
    /// Attempts that have ended; closed by ending the target.
    attempts: watch::Sender<u32>,
    ended: watch::Sender<bool>,
}

/// The lists that a fetch brought, and what to ask with next time.
type Brought = (Vec<Arc<Crl>>, Validators);

#[derive(Default)]
struct State {
    crls: Vec<Arc<Crl>>,
    validators: Validators,
    failures: u32,
    last_error: Option<String>,
    next: Option<Instant>,
}

/// What is known of a target, for people.
#[derive(Clone, Debug, Serialize)]
pub struct TargetView {
    /// Where it is fetched from first.
    pub url: String,
    /// The issuers of what it brought; before that, the CA whose list it should bring, if one is known.
    pub issuers: Vec<String>,
    /// The short form of their keys.
    pub keys: Vec<String>,
    /// Attempts in a row that failed.
    pub failures: u32,
    /// Why the last one did.
    pub last_error: Option<String>,
    /// When it is tried next.
    pub next_attempt_s: Option<u64>,
}

impl Target {
    /// A URL of the settings.
    pub(super) fn of_settings(url: &str) -> Self {
        let key = Key {
            issuer: None,
            url: url.to_owned(),
        };
        Self::new(key, vec![url.to_owned()], None)
    }

    /// A distribution point of a verified certificate.
    pub(super) fn discovered(
        issuer_key: IssuerKey,
        issuer: CertificateDer<'static>,
        urls: Vec<String>,
    ) -> Self {
        let key = Key {
            issuer: Some(issuer_key),
            url: urls.first().cloned().unwrap_or_default(),
        };
        Self::new(key, urls, Some(issuer))
    }

    fn new(key: Key, urls: Vec<String>, issuer: Option<CertificateDer<'static>>) -> Self {
        Self {
            key,
            urls,
            issuer,
            state: Mutex::default(),
            attempts: watch::Sender::new(0),
            ended: watch::Sender::new(false),
        }
    }

    /// The same with what an earlier process fetched: it counts as tried, unless that is stale.
    pub(super) fn with_kept(self, crls: Vec<Arc<Crl>>, validators: Validators) -> Self {
        let mut state = self.state();
        (state.crls, state.validators) = (crls, validators);
        drop(state);
        if !self.is_stale(UnixTime::now()) {
            self.attempts.send_replace(1);
        }
        self
    }

    fn is_stale(&self, now: UnixTime) -> bool {
        let crls = self.crls();
        crls.is_empty() || crls.iter().any(|crl| crl.next_update() < now)
    }

    pub(super) fn crls(&self) -> Vec<Arc<Crl>> {
        self.state().crls.clone()
    }

    pub(super) fn is_tried(&self) -> bool {
        *self.attempts.borrow() > 0
    }

    /// Returns once the first attempt has ended.
    pub(super) async fn tried(&self) {
        let mut attempts = self.attempts.subscribe();
        // The sender is here: it does not close.
        let _ = attempts.wait_for(|attempts| *attempts > 0).await;
    }

    /// Ends its loop. Returns false, so that it can be dropped from a list in the same breath.
    pub(super) fn end(&self) -> bool {
        self.ended.send_replace(true);
        self.attempts.send_modify(|attempts| *attempts += 1);
        false
    }

    pub(super) fn view(&self) -> TargetView {
        let state = self.state();
        let brought = |what: fn(&Crl) -> String| state.crls.iter().map(|crl| what(crl)).collect();
        let wait = |next: Instant| next.saturating_duration_since(Instant::now()).as_secs();
        TargetView {
            url: self.key.url.clone(),
            issuers: match state.crls.is_empty() {
                true => self.wanted_of().into_iter().collect(),
                false => brought(|crl| crl.issuer().to_owned()),
            },
            keys: match &self.key.issuer {
                Some(key) => vec![key.short()],
                None => brought(|crl| crl.issuer_key().short()),
            },
            failures: state.failures,
            last_error: state.last_error.clone(),
            next_attempt_s: state.next.map(wait),
        }
    }

    /// Whether there is anywhere to fetch from.
    pub(super) fn has_place(&self) -> bool {
        !self.urls.is_empty()
    }

    /// The CA that it is counted by: the one whose list it should bring or brought first; nobody's before that is known.
    pub(super) fn label(&self) -> ByIssuer {
        let brought = self.crls();
        let first = brought.first();
        let key = self
            .key
            .issuer
            .or_else(|| first.map(|crl| crl.issuer_key()));
        ByIssuer {
            issuer: first
                .map(|crl| crl.issuer().to_owned())
                .or_else(|| self.wanted_of())
                .unwrap_or_default(),
            key: key.map(|key| key.short()).unwrap_or_default(),
        }
    }

    /// The CA whose list a distribution point should bring.
    fn wanted_of(&self) -> Option<String> {
        let facts = Certificate::parse(self.issuer.as_ref()?).ok()?;
        Some(facts.subject)
    }

    /// Fetches, and again before what was fetched goes stale, until the target ends.
    pub(super) async fn keep_fresh(&self, shared: &Arc<Shared>) {
        let mut ended = self.ended.subscribe();
        // What an earlier process left without a word on which list it is may not be the last that it had.
        let is_sure = !self.is_stale(UnixTime::now()) && self.known() != Validators::default();
        let mut wait = match is_sure {
            true => self.until_next(shared),
            false => Duration::ZERO,
        };
        loop {
            let next = Instant::now() + wait;
            self.state().next = Some(next);
            tokio::select! {
                biased;
                _ = ended.wait_for(|ended| *ended) => return,
                () = tokio::time::sleep_until(next) => {}
            }
            tokio::select! {
                biased;
                _ = ended.wait_for(|ended| *ended) => return,
                () = self.attempt(shared) => {}
            }
            wait = self.until_next(shared);
        }
    }

    fn until_next(&self, shared: &Shared) -> Duration {
        let state = self.state();
        let (now, longest) = (UnixTime::now(), shared.settings.load().refresh);
        let random = &mut rand::rng();
        match state.failures {
            0 => {
                let waits = state
                    .crls
                    .iter()
                    .map(|crl| until_refresh(crl, now, longest, random));
                waits.min().unwrap_or(longest)
            }
            failures => until_retry(failures, random),
        }
    }

    /// Fetches once, and puts in force what it brought.
    async fn attempt(&self, shared: &Arc<Shared>) {
        let outcome = match shared.slots.acquire().await {
            Ok(_slot) => self.fetch(shared).await,
            Err(_) => return,
        };
        let counted = match &outcome {
            Ok(Some(_)) => Fetch::Changed,
            Ok(None) => Fetch::Unchanged,
            Err(_) => Fetch::Failed,
        };
        let label = ByFetch { outcome: counted };
        shared.metrics.crl_fetches.get_or_create(&label).inc();
        let changed = self.note(outcome);
        if changed {
            shared.publish().await;
        }
        shared.count_failing();
        self.attempts
            .send_modify(|attempts| *attempts = attempts.saturating_add(1));
    }

    /// Writes down how an attempt went; returns whether another list is there.
    fn note(&self, outcome: Result<Option<Brought>, String>) -> bool {
        let mut state = self.state();
        let changed = match outcome {
            Ok(Some((crls, validators))) => {
                for crl in &crls {
                    let (url, entries) = (&self.key.url, crl.entries());
                    info!(url, entries, "fetched {}", crl.title());
                }
                (state.crls, state.validators) = (crls, validators);
                true
            }
            Ok(None) => false,
            Err(error) => {
                let issuer = self.wanted_of();
                warn!(url = self.key.url, issuer, error, "a CRL cannot be fetched");
                state.failures = state.failures.saturating_add(1);
                state.last_error = Some(error);
                return false;
            }
        };
        (state.failures, state.last_error) = (0, None);
        changed
    }

    /// Whether nobody has had use for what it brought since long, as where its CA is gone.
    pub(super) fn is_long_stale(&self, now: UnixTime) -> bool {
        const LONG_S: u64 = 30 * 86_400;
        let ends = self
            .crls()
            .into_iter()
            .map(|crl| crl.next_update().as_secs());
        ends.max()
            .is_none_or(|end| end.saturating_add(LONG_S) < now.as_secs())
    }

    pub(super) fn is_failing(&self) -> bool {
        self.state().failures > 0
    }

    /// The lists and what to ask with next time; none if those at hand still hold.
    async fn fetch(&self, shared: &Arc<Shared>) -> Result<Option<Brought>, String> {
        let limits = shared.limits();
        let mut faults = Vec::new();
        if !self.has_place() {
            if self
                .key
                .issuer
                .is_some_and(|issuer| shared.has_brought(issuer))
            {
                return Ok(None);
            }
            faults.push("no certificate names a place over plain HTTP: give the CRL in trust.revocation.crls or urls".to_owned());
        }
        for url in &self.urls {
            // What one place said of its body means nothing to another.
            let known = match *url == self.key.url {
                true => self.known(),
                false => Validators::default(),
            };
            match fetch::get(&limits, url, &known).await {
                Ok(Fetched::Unchanged) if known != Validators::default() => return Ok(None),
                Ok(Fetched::Unchanged) => {
                    faults.push(format!(
                        "{url} was answered with 304, though nothing was known"
                    ));
                }
                Ok(Fetched::Changed { body, validators }) => {
                    let validators = match *url == self.key.url {
                        true => validators,
                        false => Validators::default(),
                    };
                    match self.take(shared, body, &validators).await {
                        Ok(crls) => return Ok(Some((crls, validators))),
                        Err(error) => faults.push(format!("{url} {error}")),
                    }
                }
                Err(error) => faults.push(format!("{url} {error}")),
            }
        }
        Err(faults.join("; "))
    }

    /// Checks what was fetched and keeps it over restarts; off the threads that serve, since it may be large.
    async fn take(
        &self,
        shared: &Arc<Shared>,
        body: fetch::Body,
        validators: &Validators,
    ) -> Result<Vec<Arc<Crl>>, String> {
        let at_hand = self.state().crls.clone();
        let issuers = match &self.issuer {
            Some(issuer) => vec![issuer.clone()],
            None => shared.authorities.load().to_vec(),
        };
        let (key, urls, issuer) = (self.key.clone(), self.urls.clone(), self.issuer.clone());
        let (shared, validators) = (Arc::clone(shared), validators.clone());
        let taken = tokio::task::spawn_blocking(move || {
            let crls = read(&body, &key, &issuers, UnixTime::now())?;
            let older = |crl: &Arc<Crl>| at_hand.iter().find(|own| is_older(crl, own)).cloned();
            if let Some((crl, own)) = crls.iter().find_map(|crl| Some((crl, older(crl)?))) {
                return Err(format!(
                    "brought {}, which is older than {}",
                    crl.title(),
                    own.title()
                ));
            }
            shared
                .cache
                .keep(&key, &urls, issuer.as_ref(), &body, &validators);
            Ok(crls)
        });
        taken.await.unwrap_or_else(|error| Err(error.to_string()))
    }

    /// What to ask with for what is at hand.
    fn known(&self) -> Validators {
        let state = self.state();
        match state.crls.is_empty() {
            true => Validators::default(),
            false => state.validators.clone(),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Reads the lists of a body that was had for a key. Those of a kind that is passed over do no harm beside one that is not,
/// nor, at a URL of the settings, do those of a CA that is not known, as in a file.
pub(super) fn read(
    body: &[u8],
    key: &Key,
    issuers: &[CertificateDer<'static>],
    now: UnixTime,
) -> Result<Vec<Arc<Crl>>, String> {
    let lists = read_crl_file(body).map_err(|error| error.to_string())?;
    let (mut crls, mut passed_over) = (Vec::new(), Vec::new());
    for der in lists {
        match Crl::read(&der, issuers) {
            Ok(crl) if !crl.has_come(now) => {
                return Err(format!("brought {}, which is in the future", crl.title()));
            }
            Ok(crl) => crls.push(Arc::new(crl)),
            Err(error) if error.is_skipped() => passed_over.push(error),
            Err(error @ CrlError::UnknownIssuer(_)) if key.issuer.is_none() => {
                passed_over.push(error);
            }
            Err(error) => return Err(error.to_string()),
        }
    }
    match passed_over.first() {
        first if crls.is_empty() => Err(first.unwrap_or(&CrlError::Empty).to_string()),
        None => Ok(crls),
        Some(first) => {
            // One line, however many there are: nobody has signed for them.
            let (url, count) = (&key.url, passed_over.len());
            info!(url, count, "CRLs are passed over: one {first}");
            Ok(crls)
        }
    }
}

/// Whether a list is an older one of the same issuer: somebody replays it, or a mirror lags behind.
fn is_older(crl: &Crl, own: &Crl) -> bool {
    crl.is_of_scope(own) && own.is_newer_than(crl)
}
