//! From host and path to the published endpoint.
//!
//! [`Routes`] is one immutable snapshot of what the service definition publishes; a look-up compares whole path
//! segments without regard to case and allocates nothing. Nothing that is not in it is ever forwarded. Rank 5: used by
//! `proxy`; no I/O, no clock.

mod rate;

use std::collections::HashSet;
use std::sync::Arc;

use http::{HeaderValue, Method};

pub use self::rate::AddressRate;
use crate::message::headers::CertificateFields;
use crate::message::path;
use crate::metrics::{EndpointMetrics, Metrics};
use crate::role::{ByRoleId, Endpoint, Kind, RoleId};

/// The last segment of the path that the gateway answers itself, under both prefixes.
const METADATA: &str = "ServiceMetadata";

/// One role as the service definition publishes it.
#[derive(Clone, Debug)]
pub struct RoleSettings {
    /// Its id; unique in the service.
    pub id: RoleId,
    /// Its kind.
    pub kind: Kind,
    /// Its endpoints, of the kind or overridden.
    pub endpoints: Vec<Endpoint>,
    /// The connection points that may serve it.
    pub connection_points: Vec<String>,
    /// The host name at whose root it is published as well; kind `web` is published there alone.
    pub root_host: Option<String>,
    /// Whether requests carry `Via`.
    pub via: bool,
    /// What requests tell of the client's certificate.
    pub client_certificate: CertificateFields,
    /// Requests a second from one address to endpoints of the scheme `backend`, with a burst of ten seconds' worth.
    pub rate_per_address: Option<u32>,
}

/// One endpoint of one role, with what the request path needs of both.
#[derive(Debug)]
pub struct Published {
    /// The role's id.
    pub role: RoleId,
    /// The role's kind.
    pub kind: Kind,
    /// The endpoint.
    pub endpoint: Endpoint,
    /// Whether requests carry `Via`.
    pub via: bool,
    /// What requests tell of the client's certificate.
    pub client_certificate: CertificateFields,
    /// The rate per address, where the role has one.
    pub rate: Option<Arc<AddressRate>>,
    /// Where its requests are counted.
    pub metrics: Arc<EndpointMetrics>,
}

/// How a request came to its endpoint, which decides what it must prove.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// Under `CCM_Proxy_MutualAuth`: a verified certificate.
    Mutual,
    /// Under `CCM_Proxy_ServerAuth`: the endpoint's scheme.
    Server,
    /// At the root of a host name: the endpoint's scheme, where a verified certificate stands for a token.
    Root,
}

/// Where a request goes.
#[derive(Clone, Copy, Debug)]
pub enum Route<'r> {
    /// The gateway itself answers what it is.
    Metadata,
    /// A published endpoint.
    Endpoint(&'r Arc<Published>, Way),
}

/// Everything that is published, as one snapshot.
#[derive(Debug, Default)]
pub struct Routes {
    service_name: String,
    mark: Option<HeaderValue>,
    // Endpoints with more segments come first, so that the first match is the closest.
    roles: ByRoleId<Vec<Arc<Published>>>,
    roots: Vec<(String, Vec<Arc<Published>>)>,
}

impl Routes {
    /// Builds the snapshot and the metric handles of its endpoints.
    ///
    /// # Errors
    /// Every fault, worded for an administrator: a role id twice, an endpoint name that is not whole segments, is there
    /// twice or lists a method that is never forwarded, a `web` role without a host, two roles in one place.
    pub fn build(
        service_name: &str,
        roles: Vec<RoleSettings>,
        metrics: &Metrics,
    ) -> Result<Self, Vec<String>> {
        let mut faults = Vec::new();
        let mut routes = Self {
            service_name: service_name.to_owned(),
            mark: HeaderValue::from_str(service_name).ok(),
            ..Self::default()
        };
        for role in roles {
            faults.extend(faults_of(&role));
            let published = publish(&role, metrics);
            if let Some(host) = &role.root_host {
                routes.publish_at(host, &published, &mut faults);
            }
            if role.kind != Kind::Web && routes.roles.insert(role.id, published).is_some() {
                faults.push(format!("role {} is there twice (each id once)", role.id));
            }
        }
        faults.is_empty().then_some(routes).ok_or(faults)
    }

    /// The name of the service.
    pub fn service_name(&self) -> &str {
        &self.service_name
    }

    /// The name as the value that marks requests which came through.
    pub fn mark(&self) -> Option<&HeaderValue> {
        self.mark.as_ref()
    }

    /// Finds where a request goes; `None` if nothing is published there.
    ///
    /// `host` is the request's host without its port; `path` passed [`path::check`] and may carry its query.
    pub fn resolve(&self, host: &str, path: &str) -> Option<Route<'_>> {
        if let Some(external) = path::external(path) {
            let found = closest(self.roles.get(&external.role)?, external.rest)?;
            let way = match external.mutual {
                true => Way::Mutual,
                false => Way::Server,
            };
            return Some(Route::Endpoint(found, way));
        }
        if is_metadata(path) {
            return Some(Route::Metadata);
        }
        let mut roots = self.roots.iter();
        let (_, published) = roots.find(|(name, _)| name.eq_ignore_ascii_case(host))?;
        closest(published, path).map(|found| Route::Endpoint(found, Way::Root))
    }

    fn publish_at(&mut self, host: &str, published: &[Arc<Published>], faults: &mut Vec<String>) {
        let at = match self
            .roots
            .iter()
            .position(|(name, _)| name.eq_ignore_ascii_case(host))
        {
            Some(at) => at,
            None => {
                self.roots.push((host.to_owned(), Vec::new()));
                self.roots.len() - 1
            }
        };
        let there = &mut self.roots[at].1;
        for new in published {
            let name = &new.endpoint.name;
            match there
                .iter()
                .find(|old| old.endpoint.name.eq_ignore_ascii_case(name))
            {
                Some(old) => faults.push(format!(
                    "role {}: {name} at https://{host}/ belongs to role {} already",
                    new.role, old.role
                )),
                None => there.push(Arc::clone(new)),
            }
        }
        sort(there);
    }
}

fn publish(role: &RoleSettings, metrics: &Metrics) -> Vec<Arc<Published>> {
    let rate = role
        .rate_per_address
        .map(|rate| Arc::new(AddressRate::new(rate)));
    let one = |endpoint: &Endpoint| {
        Arc::new(Published {
            role: role.id,
            kind: role.kind,
            endpoint: endpoint.clone(),
            via: role.via,
            client_certificate: role.client_certificate,
            rate: rate.clone(),
            metrics: metrics.endpoint(role.id, &endpoint.name),
        })
    };
    let mut published: Vec<_> = role.endpoints.iter().map(one).collect();
    sort(&mut published);
    published
}

fn sort(published: &mut [Arc<Published>]) {
    published.sort_by_key(|one| std::cmp::Reverse(one.endpoint.name.len()));
}

fn closest<'r>(published: &'r [Arc<Published>], rest: &str) -> Option<&'r Arc<Published>> {
    published
        .iter()
        .find(|one| path::strip_prefix(rest, &one.endpoint.name).is_some())
}

fn is_metadata(path: &str) -> bool {
    [path::MUTUAL_AUTH, path::SERVER_AUTH]
        .into_iter()
        .filter_map(|prefix| path::strip_prefix(path, prefix))
        .filter_map(|rest| path::strip_prefix(rest, METADATA))
        .any(|rest| matches!(path::without_query(rest), "" | "/"))
}

fn faults_of(role: &RoleSettings) -> Vec<String> {
    let mut faults = Vec::new();
    let mut names = HashSet::new();
    for endpoint in &role.endpoints {
        let (id, name) = (role.id, &endpoint.name);
        let whole = !name.is_empty() && !name.contains(['?', '%', ';']) && !name.ends_with('/');
        if let Err(fault) = path::check(&format!("/{name}")) {
            faults.push(format!("role {id}: endpoint \"{name}\": {fault}"));
        } else if !whole {
            faults.push(format!(
                "role {id}: endpoint \"{name}\" is not a path prefix \
                 (whole segments without a leading or trailing slash)"
            ));
        }
        if !names.insert(name.to_ascii_lowercase()) {
            faults.push(format!("role {id}: endpoint \"{name}\" is there twice"));
        }
        let never = [Method::CONNECT, Method::TRACE];
        for method in never.iter().filter(|method| endpoint.allows(method)) {
            faults.push(format!(
                "role {id}: endpoint \"{name}\": {method} is never forwarded"
            ));
        }
    }
    if role.kind == Kind::Web && role.root_host.is_none() {
        let id = role.id;
        faults.push(format!(
            "role {id}: kind \"web\" needs a host to be published at"
        ));
    }
    faults
}

#[cfg(test)]
mod tests;
