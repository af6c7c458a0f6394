//! How CRLs of files and fetched ones become part of the clients' trust.

use std::cmp::Reverse;
use std::collections::HashSet;
use std::sync::Arc;

use tracing::warn;

use super::{Core, Definition};
use crate::metrics::{ByIssuer, Metrics};
use crate::pki::{Anchors, Crl, CrlSet, Depth, Revocation, UnixTime};
use crate::revocation::{Configured, Refresher};

/// Puts the definition's settings in force and makes the first revocation of its clients.
pub(super) fn begin(
    refresher: &Refresher,
    definition: &Definition,
    anchors: &Anchors,
    metrics: &Metrics,
) -> Revocation {
    refresher.apply(&definition.fetching, configured(definition, anchors));
    let crls = in_force(refresher, definition);
    tell_crls(&crls, metrics);
    let teller = refresher.clone();
    let revocation = Revocation::new(definition.revocation.clone(), crls);
    revocation.telling(Arc::new(move |wanted| teller.want(wanted)))
}

impl Core {
    /// Puts the clients' CAs, the policy and the CRLs of a definition in force, as one where more than the CRLs changed.
    pub(super) fn apply_trust(&self, anchors: Anchors, next: &Definition, current: &Definition) {
        let configured = configured(next, &anchors);
        self.refresher.apply(&next.fetching, configured);
        let crls = in_force(&self.refresher, next);
        tell_crls(&crls, &self.metrics);
        let is_same = next.anchors == current.anchors
            && next.intermediates == current.intermediates
            && next.revocation == current.revocation;
        if is_same {
            self.clients.replace_crls(crls);
        } else {
            let revocation = self.clients.revocation().with_crls(crls);
            let policy = next.revocation.clone();
            self.clients
                .replace_all(anchors, revocation.with_policy(policy));
        }
    }

    /// Puts what was fetched in force.
    pub(super) fn apply_fetched(&self) {
        // Held throughout, so that this and a change of the definition follow each other.
        let current = self.lock();
        let crls = in_force(&self.refresher, &current);
        tell_crls(&crls, &self.metrics);
        self.clients.replace_crls(crls);
        self.look_at_expiry(&current);
    }
}

impl Core {
    /// Puts CRLs in force whose time has come.
    pub(super) async fn apply_due(self: &Arc<Self>) {
        let core = Arc::clone(self);
        let applied = tokio::task::spawn_blocking(move || core.apply_fetched());
        if let Err(error) = applied.await {
            warn!(%error, "CRLs whose time has come could not be put in force");
        }
    }
}

/// A definition with the CRLs of the one before that stay in force, since what follows them is from the future.
pub(super) fn with_what_stays(
    next: Arc<Definition>,
    current: &Definition,
    now: UnixTime,
) -> Arc<Definition> {
    let pending = next.crls.iter().filter(|crl| !crl.has_come(now));
    let stays = |crl: &&Arc<Crl>| {
        pending.clone().any(|other| other.is_of_scope(crl)) && !next.crls.contains(crl)
    };
    let staying: Vec<_> = current.crls.iter().filter(stays).cloned().collect();
    if staying.is_empty() {
        return next;
    }
    let mut definition = Definition::clone(&next);
    definition.notes.extend(
        staying
            .iter()
            .map(|crl| format!("{} stays in force until then", crl.title())),
    );
    definition.crls.extend(staying);
    Arc::new(definition)
}

/// The CRLs that are known to be stale, so that each is told once.
#[derive(Debug, Default)]
pub(super) struct Stale(HashSet<String>);

impl Stale {
    /// Logs each CRL in force that has gone stale since the last look.
    pub(super) fn tell(&mut self, crls: &CrlSet, now: UnixTime) {
        let stale = crls.iter().filter(|crl| crl.next_update() < now);
        let stale: HashSet<_> = stale.map(|crl| crl.title()).collect();
        for title in stale.difference(&self.0) {
            warn!("{title} is stale: it should have been followed by another");
        }
        self.0 = stale;
    }
}

/// The CRLs of files and those that were fetched.
fn in_force(refresher: &Refresher, definition: &Definition) -> Arc<CrlSet> {
    let crls = definition.crls.iter().cloned().chain(refresher.crls());
    Arc::new(CrlSet::new(crls, UnixTime::now()))
}

fn configured(definition: &Definition, anchors: &Anchors) -> Configured {
    let authorities = definition.anchors.iter().chain(&definition.intermediates);
    let wanted = match definition.revocation.depth {
        Depth::Chain => anchors.wanted(),
        Depth::Leaf => Vec::new(),
    };
    Configured {
        authorities: authorities.cloned().collect(),
        wanted,
    }
}

/// Tells the metrics of the CRLs in force; of several of one key, of different scopes, the one that goes stale first.
fn tell_crls(crls: &CrlSet, metrics: &Metrics) {
    metrics.crl_made.clear();
    metrics.crl_due.clear();
    metrics.crl_entries.clear();
    let mut crls: Vec<_> = crls.iter().collect();
    crls.sort_by_key(|crl| Reverse(crl.next_update()));
    for crl in crls {
        let labels = label(crl);
        let seconds = |time: UnixTime| i64::try_from(time.as_secs()).unwrap_or(i64::MAX);
        metrics
            .crl_made
            .get_or_create(&labels)
            .set(seconds(crl.this_update()));
        metrics
            .crl_due
            .get_or_create(&labels)
            .set(seconds(crl.next_update()));
        let entries = i64::try_from(crl.entries()).unwrap_or(i64::MAX);
        metrics.crl_entries.get_or_create(&labels).inc_by(entries);
    }
}

fn label(crl: &Crl) -> ByIssuer {
    ByIssuer {
        issuer: crl.issuer().to_owned(),
        key: crl.issuer_key().short(),
    }
}
