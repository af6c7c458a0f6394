//! Whether a verified path may be believed: what the CRLs in force say of its certificates, and what the policy makes of it.

mod policy;

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rustls_pki_types::{CertificateDer, UnixTime};

use super::name::print_time;
use super::{Certificate, CertificateFault, Crl, CrlSet, IssuerKey, Listed, Serial};
use crate::reason::Reason;
use crate::units::print_duration;

pub use policy::{Depth, Doubt, Policy};

/// How many issuers without a CRL are remembered with the time since when; beyond it there is no grace.
const MAX_UNKNOWN: usize = 1024;

/// One certificate of a path with the CA that issued it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Issued {
    /// What to call it.
    pub title: String,
    /// Its serial number.
    pub serial: Option<Serial>,
    /// Whether it is a CA's.
    pub is_ca: bool,
    /// The URLs of its CRL, of any scheme.
    pub points: Vec<String>,
    /// The name of its issuer.
    pub issuer: String,
    /// The key that signed it.
    pub issuer_key: IssuerKey,
}

impl Issued {
    pub(super) fn new(facts: &Certificate, issuer: &Certificate) -> Self {
        Self {
            title: facts.title().trim_matches('"').to_owned(),
            serial: facts.number,
            is_ca: facts.is_ca,
            points: facts.crl_points.clone(),
            issuer: issuer.subject.clone(),
            issuer_key: IssuerKey::of(issuer),
        }
    }
}

/// A CRL that is not at hand, and where it may be found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// Whose CRL.
    pub issuer_key: IssuerKey,
    /// The certificate of the CA, which was verified.
    pub issuer: CertificateDer<'static>,
    /// Where a certificate that it issued says that it is, which was verified but for its status.
    pub urls: Vec<String>,
}

/// Who is told of CRLs that are wanted. Called within verification: it must not wait.
pub type WantedFn = Arc<dyn Fn(Wanted) + Send + Sync>;

/// What the CRLs and the policy make of a path.
#[derive(Debug)]
pub struct Judgement {
    /// Whether the path may be believed; until when this holds, if it ends by itself.
    pub verdict: Result<Option<UnixTime>, CertificateFault>,
    /// Which certificates of the path no CRL speaks of that is in force.
    pub uncertain: Vec<usize>,
    /// What the lists say of each certificate that was looked up, in the order of the path.
    pub listed: Vec<Listed>,
}

/// The policy and the CRLs in force. Clones share the memory of what was missing since when.
#[derive(Clone)]
pub struct Revocation {
    policy: Policy,
    crls: Arc<CrlSet>,
    missing_since: Arc<Mutex<HashMap<IssuerKey, UnixTime>>>,
    wanted: Option<WantedFn>,
}

impl fmt::Debug for Revocation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Revocation")
            .field("policy", &self.policy)
            .finish_non_exhaustive()
    }
}

impl Revocation {
    /// No CRL is looked at.
    pub fn off() -> Self {
        let policy = Policy {
            check: false,
            ..Policy::default()
        };
        Self::new(policy, Arc::default())
    }

    /// A policy with its CRLs.
    pub fn new(policy: Policy, crls: Arc<CrlSet>) -> Self {
        Self {
            policy,
            crls,
            missing_since: Arc::default(),
            wanted: None,
        }
    }

    /// The same, and CRLs that are not at hand are told.
    pub fn telling(mut self, wanted: WantedFn) -> Self {
        self.wanted = Some(wanted);
        self
    }

    /// The same with other CRLs. An issuer that had none and has one now gets a new grace if it is missed again; one that had
    /// some, of which none speaks of a certificate, does not get it anew with each that follows.
    pub fn with_crls(&self, crls: Arc<CrlSet>) -> Self {
        let comes = |issuer: &IssuerKey| crls.has(issuer) && !self.crls.has(issuer);
        self.missing_since().retain(|issuer, _| !comes(issuer));
        Self {
            crls,
            ..self.clone()
        }
    }

    /// The same with another policy.
    pub fn with_policy(&self, policy: Policy) -> Self {
        Self {
            policy,
            ..self.clone()
        }
    }

    /// The CRLs in force.
    pub fn crls(&self) -> &Arc<CrlSet> {
        &self.crls
    }

    /// What is asked of a path.
    pub fn policy(&self) -> &Policy {
        &self.policy
    }

    /// Judges a path that is verified otherwise, from its leaf on.
    pub fn judge(&self, path: &[Issued], now: UnixTime) -> Judgement {
        let mut judgement = Judgement {
            verdict: Ok(None),
            uncertain: Vec::new(),
            listed: Vec::new(),
        };
        if !self.policy.check {
            return judgement;
        }
        let looked_up = match self.policy.depth {
            Depth::Leaf => path.get(..1).unwrap_or_default(),
            Depth::Chain => path,
        };
        for (index, issued) in looked_up.iter().enumerate() {
            let listed = match &issued.serial {
                Some(serial) => {
                    let (key, is_ca) = (issued.issuer_key, issued.is_ca);
                    let crls = &self.crls;
                    crls.look_up(key, serial, is_ca, &issued.points, now)
                }
                None => Listed::Unknown,
            };
            if matches!(listed, Listed::Unknown | Listed::Stale(_)) {
                judgement.uncertain.push(index);
            }
            // The first certificate at fault is told, and the rest only looked at for what is wanted.
            if let Ok(until) = judgement.verdict {
                let ends = self.end_of(issued, &listed, now);
                judgement.verdict = ends.map(|end| earliest(until, end));
            }
            judgement.listed.push(listed);
        }
        judgement
    }

    /// Tells which CRLs are wanted for a path; `issuers` are the certificates above each of it.
    pub(super) fn tell(
        &self,
        judgement: &Judgement,
        path: &[Issued],
        issuers: &[CertificateDer<'_>],
    ) {
        let Some(wanted) = &self.wanted else { return };
        for index in &judgement.uncertain {
            let (Some(issued), Some(issuer)) = (path.get(*index), issuers.get(*index)) else {
                continue;
            };
            if !issued.points.is_empty() {
                wanted(Wanted {
                    issuer_key: issued.issuer_key,
                    issuer: issuer.clone().into_owned(),
                    urls: issued.points.clone(),
                });
            }
        }
    }

    /// Until when a certificate may be believed.
    fn end_of(
        &self,
        issued: &Issued,
        listed: &Listed,
        now: UnixTime,
    ) -> Result<Option<UnixTime>, CertificateFault> {
        match listed {
            Listed::Revoked(crl) => Err(revoked(issued, crl)),
            Listed::Good(crl) | Listed::Stale(crl) => match self.policy.stale {
                Doubt::Allow => Ok(None),
                Doubt::Deny if now <= crl.next_update() => Ok(Some(crl.next_update())),
                Doubt::Deny => Err(stale(issued, crl, None)),
                Doubt::Grace => {
                    let end = after(crl.next_update(), self.policy.grace);
                    let over = now > end;
                    let fault = || stale(issued, crl, Some(self.policy.grace));
                    (!over).then_some(Some(end)).ok_or_else(fault)
                }
            },
            Listed::Unknown => match self.policy.unknown {
                Doubt::Allow => Ok(None),
                Doubt::Deny => Err(self.unknown(issued, "")),
                Doubt::Grace => {
                    let since = self.missing(issued.issuer_key, now);
                    let end = since.map(|since| after(since, self.policy.grace));
                    let over = format!(" for {}", print_duration(self.policy.grace));
                    end.filter(|end| now <= *end)
                        .map(Some)
                        .ok_or_else(|| self.unknown(issued, &over))
                }
            },
        }
    }

    fn unknown(&self, issued: &Issued, since: &str) -> CertificateFault {
        let points = match issued.points.is_empty() {
            true => "it names no distribution point".to_owned(),
            false => format!("it names {}", issued.points.join(", ")),
        };
        let mut pending = self.crls.pending().iter();
        let pending = pending.find(|crl| crl.issuer_key() == issued.issuer_key);
        let pending = pending.map(|crl| format!("; {} is from the future", crl.title()));
        CertificateFault {
            reason: Reason::RevocationUnknown,
            which: issued.title.clone(),
            detail: format!(
                "may be revoked: no CRL of its issuer \"{}\" that speaks of it has been at hand{since} ({points}{})",
                issued.issuer,
                pending.unwrap_or_default()
            ),
            crl_of: Some(issued.issuer_key),
        }
    }

    /// Since when the CRL of an issuer is missing; none if that cannot be remembered.
    fn missing(&self, issuer: IssuerKey, now: UnixTime) -> Option<UnixTime> {
        let mut missing = self.missing_since();
        if missing.len() >= MAX_UNKNOWN && !missing.contains_key(&issuer) {
            return None;
        }
        Some(*missing.entry(issuer).or_insert(now))
    }

    fn missing_since(&self) -> std::sync::MutexGuard<'_, HashMap<IssuerKey, UnixTime>> {
        let lock = self.missing_since.lock();
        lock.unwrap_or_else(PoisonError::into_inner)
    }
}

fn earliest(one: Option<UnixTime>, other: Option<UnixTime>) -> Option<UnixTime> {
    match (one, other) {
        (Some(one), Some(other)) => Some(one.min(other)),
        (one, other) => one.or(other),
    }
}

fn after(start: UnixTime, wait: Duration) -> UnixTime {
    UnixTime::since_unix_epoch(Duration::from_secs(start.as_secs()).saturating_add(wait))
}

fn revoked(issued: &Issued, crl: &Crl) -> CertificateFault {
    let serial = issued.serial.map(|serial| serial.to_string());
    CertificateFault {
        reason: Reason::CertificateRevoked,
        which: issued.title.clone(),
        detail: format!(
            "was revoked: its serial number {} is on {}",
            serial.unwrap_or_default(),
            crl.title()
        ),
        crl_of: None,
    }
}

fn stale(issued: &Issued, crl: &Crl, grace: Option<Duration>) -> CertificateFault {
    let grace = grace.map(|grace| format!(", and the grace of {} is over", print_duration(grace)));
    CertificateFault {
        reason: Reason::CrlStale,
        which: issued.title.clone(),
        detail: format!(
            "may be revoked: {} should have been followed by another at {}{}",
            crl.title(),
            print_time(crl.next_update()),
            grace.unwrap_or_default()
        ),
        crl_of: Some(issued.issuer_key),
    }
}

#[cfg(test)]
mod tests;
