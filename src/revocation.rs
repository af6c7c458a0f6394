//! CRLs that are fetched: found, refreshed before they go stale, kept over restarts.
//!
//! A [`Refresher`] has a *target* for each URL of the settings, for each distribution point of the configured
//! intermediates, and for each of certificates that were verified but for their status ([`Refresher::want`]). One task
//! per target fetches, however many clients wait for it; what it brings is checked against the key of its CA and
//! told to whoever composes the trust. Rank 4.

mod cache;
mod schedule;
mod settings;
mod target;

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio::sync::Semaphore;
use tokio::time::{Instant, timeout_at};
use tracing::{debug, info, warn};

use self::cache::Cache;
use self::target::Target;
use crate::fetch::Limits;
use crate::metrics::Metrics;
use crate::pki::{CertificateDer, Crl, IssuerKey, UnixTime, Wanted, leads_to};
use crate::tasks::Tasks;

pub use self::settings::{Local, Settings};
pub use self::target::TargetView;

/// How many places are fetched from. A company has a handful of CAs; what is beyond is a mistake, or somebody's.
const MAX_TARGETS: usize = 256;

/// How many places of one CA: its certificates name one or two, and what one names may not crowd out the others.
const MAX_OF_ISSUER: usize = 16;

/// How many fetches run at once: each may hold a list in memory.
const FETCHES: usize = 8;

/// Called when what is fetched has changed; returns when it is in force. Called off the threads that serve.
pub type PublishFn = Box<dyn Fn() + Send + Sync>;

/// Fetches CRLs and keeps them fresh. Clones are handles on the same one.
#[derive(Clone)]
pub struct Refresher(Arc<Shared>);

impl fmt::Debug for Refresher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Refresher").finish_non_exhaustive()
    }
}

/// What the tasks of all targets share.
struct Shared {
    settings: ArcSwap<Settings>,
    proxy: Option<crate::fetch::Url>,
    /// The CAs of the settings, which may sign what a URL of the settings brings.
    authorities: ArcSwap<Vec<CertificateDer<'static>>>,
    cache: Cache,
    targets: Mutex<HashMap<Key, Arc<Target>>>,
    slots: Semaphore,
    tasks: Tasks,
    metrics: Metrics,
    publish: OnceLock<PublishFn>,
}

/// What a target is known by: the CA whose list it brings, if that is known before, and its first URL.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Key {
    issuer: Option<IssuerKey>,
    url: String,
}

/// What the settings want, whoever comes.
#[derive(Clone, Debug, Default)]
pub struct Configured {
    /// The CAs of the settings.
    pub authorities: Vec<CertificateDer<'static>>,
    /// What the configured intermediates name.
    pub wanted: Vec<Wanted>,
}

/// The lists that a gateway keeps on disk, for a look from outside: nothing is fetched, written or taken off.
pub fn kept(local: &Local, authorities: &[CertificateDer<'static>]) -> Vec<Arc<Crl>> {
    let targets = Cache::new(local.cache.clone()).load(authorities);
    targets.iter().flat_map(Target::crls).collect()
}

impl Refresher {
    /// Starts with the lists that an earlier process left in the cache. Its tasks belong to `tasks`.
    ///
    /// Reads files; nothing is fetched before [`Refresher::start`].
    pub fn new(local: Local, metrics: Metrics, tasks: Tasks) -> Self {
        Self(Arc::new(Shared {
            settings: ArcSwap::from_pointee(Settings::off()),
            proxy: local.proxy,
            authorities: ArcSwap::default(),
            cache: Cache::new(local.cache),
            targets: Mutex::default(),
            slots: Semaphore::new(FETCHES),
            tasks,
            metrics,
            publish: OnceLock::new(),
        }))
    }

    /// Begins to fetch, and tells `publish` of what it brings. Later calls change nothing.
    pub fn start(&self, publish: PublishFn) {
        if self.0.publish.set(publish).is_ok() {
            let targets: Vec<_> = self.0.targets().values().cloned().collect();
            for target in targets {
                self.spawn(target);
            }
        }
    }

    /// Puts settings in force: targets that nothing wants end, new ones begin.
    pub fn apply(&self, settings: &Settings, configured: Configured) {
        let shared = &self.0;
        let before = shared.settings.swap(Arc::new(settings.clone()));
        shared.authorities.store(Arc::new(configured.authorities));
        let is_kept = |key: &Key| match key.issuer {
            None => settings.fetches() && settings.urls.contains(&key.url),
            Some(_) => settings.fetches() && settings.discover,
        };
        if settings.fetches() && !before.fetches() {
            self.restore(&is_kept);
        }
        let mut targets = shared.targets();
        let trusted = trusted(&targets, &shared.authorities.load());
        targets.retain(|key, target| {
            let is_trusted = key.issuer.is_none() || trusted.contains(key);
            if !is_trusted && settings.fetches() {
                shared.cache.forget(target);
            }
            // One without a place waits for what the settings may bring now.
            (is_kept(key) && is_trusted && target.has_place()) || target.end()
        });
        drop(targets);
        shared.count_failing();
        if !settings.fetches() {
            return;
        }
        for url in &settings.urls {
            self.add(Target::of_settings(url));
        }
        for wanted in configured.wanted {
            // Whose list a file brings needs no place.
            if wanted.urls.iter().any(|url| is_http(url)) {
                self.want(wanted);
            }
        }
    }

    /// Takes up a list that a path lacks. Does not wait.
    pub fn want(&self, wanted: Wanted) {
        let settings = self.0.settings.load();
        if settings.discover && settings.fetches() {
            let urls: Vec<_> = wanted.urls.into_iter().filter(|url| is_http(url)).collect();
            if urls.is_empty() && self.has_target_of(wanted.issuer_key) {
                return;
            }
            self.add(Target::discovered(wanted.issuer_key, wanted.issuer, urls));
        }
    }

    fn has_target_of(&self, issuer: IssuerKey) -> bool {
        let targets = self.0.targets();
        targets.keys().any(|key| key.issuer == Some(issuer))
    }

    /// The lists that were fetched, of all targets.
    pub fn crls(&self) -> Vec<Arc<Crl>> {
        let targets = self.0.targets();
        targets.values().flat_map(|target| target.crls()).collect()
    }

    /// Waits until everything that may bring the list of an issuer has been tried once, or the deadline passes. Returns
    /// whether there was anything to wait for that came in time.
    ///
    /// # Cancel safety
    /// Safe.
    pub async fn tried(&self, issuer: IssuerKey, deadline: Instant) -> bool {
        let untried = self.untried(issuer);
        if untried.is_empty() {
            return false;
        }
        let all = async {
            for target in untried {
                target.tried().await;
            }
        };
        timeout_at(deadline, all).await.is_ok()
    }

    /// Whether something that may bring the list of an issuer is being asked for the first time.
    pub fn awaits(&self, issuer: IssuerKey) -> bool {
        !self.untried(issuer).is_empty()
    }

    fn untried(&self, issuer: IssuerKey) -> Vec<Arc<Target>> {
        let targets = self.0.targets();
        let may_bring = |key: &Key| key.issuer.is_none_or(|of| of == issuer);
        let untried = targets
            .iter()
            .filter(|(key, target)| may_bring(key) && !target.is_tried());
        untried.map(|(_, target)| Arc::clone(target)).collect()
    }

    /// How long a client's first request may wait for a list that is fetched for the first time.
    pub fn hold(&self) -> Duration {
        self.0.settings.load().hold
    }

    /// Ends every fetch and its task, for good.
    pub fn stop(&self) {
        self.apply(&Settings::off(), Configured::default());
    }

    /// What is fetched, for people.
    pub fn view(&self) -> Vec<TargetView> {
        let targets = self.0.targets();
        let mut views: Vec<_> = targets.values().map(|target| target.view()).collect();
        views.sort_by(|a, b| a.url.cmp(&b.url));
        views
    }

    /// Takes what an earlier process left.
    fn restore(&self, is_kept: &dyn Fn(&Key) -> bool) {
        let authorities = self.0.authorities.load();
        for target in self.0.cache.load(&authorities) {
            if is_kept(&target.key) && !target.is_long_stale(UnixTime::now()) {
                self.add(target);
            } else {
                self.0.cache.forget(&target);
            }
        }
    }

    fn add(&self, target: Target) {
        let mut targets = self.0.targets();
        if targets.contains_key(&target.key) {
            return;
        }
        let is_of_same = |key: &&Key| key.issuer.is_some() && key.issuer == target.key.issuer;
        let of_same = targets.keys().filter(is_of_same).count();
        if targets.len() >= MAX_TARGETS || of_same >= MAX_OF_ISSUER {
            drop(targets);
            let url = target.key.url;
            debug!(
                url,
                "a CRL is not fetched: {MAX_TARGETS} are already, or {MAX_OF_ISSUER} of its CA"
            );
            return;
        }
        match target.has_place() {
            true => info!(url = target.key.url, "a CRL is fetched from here on"),
            false => debug!("a CRL is missing that no certificate names a place of"),
        }
        let target = Arc::new(target);
        targets.insert(target.key.clone(), Arc::clone(&target));
        drop(targets);
        if self.0.publish.get().is_some() {
            self.spawn(target);
        }
    }

    fn spawn(&self, target: Arc<Target>) {
        let shared = Arc::clone(&self.0);
        self.0
            .tasks
            .spawn(async move { target.keep_fresh(&shared).await });
    }
}

/// Whether a distribution point is a place that is fetched from.
fn is_http(url: &str) -> bool {
    url.get(..5)
        .is_some_and(|scheme| scheme.eq_ignore_ascii_case("http:"))
}

/// The targets of CAs that lead to those of the settings, also over one another.
fn trusted(
    targets: &HashMap<Key, Arc<Target>>,
    authorities: &[CertificateDer<'static>],
) -> HashSet<Key> {
    let mut known = authorities.to_vec();
    let mut trusted = HashSet::new();
    loop {
        let before = trusted.len();
        for (key, target) in targets {
            if let Some(issuer) = &target.issuer
                && !trusted.contains(key)
                && leads_to(issuer, &known)
            {
                known.push(issuer.clone());
                trusted.insert(key.clone());
            }
        }
        if trusted.len() == before {
            return trusted;
        }
    }
}

impl Shared {
    fn targets(&self) -> MutexGuard<'_, HashMap<Key, Arc<Target>>> {
        self.targets.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn limits(&self) -> Limits {
        Limits {
            proxy: self.proxy.clone(),
            ..self.settings.load().limits.clone()
        }
    }

    fn count_failing(&self) {
        // Within the lock, so that two at once do not both count.
        let targets = self.targets();
        self.metrics.crl_fetches_failing.clear();
        for target in targets.values().filter(|target| target.is_failing()) {
            let gauge = &self.metrics.crl_fetches_failing;
            gauge.get_or_create(&target.label()).inc();
        }
    }

    /// Whether any place brought a list of an issuer.
    fn has_brought(&self, issuer: IssuerKey) -> bool {
        let targets = self.targets();
        let mut brought = targets.values().flat_map(|target| target.crls());
        brought.any(|crl| crl.issuer_key() == issuer)
    }

    /// Tells that what is fetched has changed, and returns when it is in force.
    async fn publish(self: &Arc<Self>) {
        let shared = Arc::clone(self);
        let told = tokio::task::spawn_blocking(move || {
            if let Some(publish) = shared.publish.get() {
                publish();
            }
        });
        if let Err(error) = told.await {
            warn!(%error, "fetched CRLs could not be put in force");
        }
    }
}
