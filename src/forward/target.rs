//! Where a request goes by the connection point's own file: role, endpoint, internal path.

use http::uri::PathAndQuery;
use http::{HeaderMap, Method, Uri};

use crate::message::refusal::Refusal;
use crate::message::{headers, path};
use crate::reason::Reason;
use crate::role::{ByRoleId, Endpoint, RoleId};

/// Where a request goes.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Target<'p> {
    /// The role.
    pub(super) role: RoleId,
    /// The number of the endpoint within its role.
    pub(super) endpoint: usize,
    /// What stands before the endpoint outside: the prefix with the role id, or nothing at the root of a host.
    pub(super) outside: &'p str,
    /// The rest with its query, from the endpoint on, byte for byte as it came.
    pub(super) rest: &'p str,
}

/// The endpoints of each published role, those with more segments first.
#[derive(Debug, Default)]
pub(super) struct Catalogue(ByRoleId<Vec<Endpoint>>);

impl Catalogue {
    /// Adds a role.
    pub(super) fn add(&mut self, role: RoleId, mut endpoints: Vec<Endpoint>) {
        let segments = |endpoint: &Endpoint| endpoint.name.split('/').count();
        endpoints.sort_by_key(|endpoint| std::cmp::Reverse(segments(endpoint)));
        self.0.insert(role, endpoints);
    }

    /// The endpoints of a role, in the order of [`Target::endpoint`].
    pub(super) fn endpoints(&self, role: RoleId) -> &[Endpoint] {
        self.0.get(&role).map_or(&[], Vec::as_slice)
    }

    /// Finds where a request goes. The path names the role, or at the root of a host the gateway does.
    ///
    /// # Errors
    /// [`Reason::BadPath`] by the rule that the gateway applies, too; [`Reason::UnknownRole`] for a role, endpoint or
    /// method that this connection point's own file does not publish.
    pub(super) fn resolve<'p>(
        &self,
        method: &Method,
        uri: &'p Uri,
        fields: &HeaderMap,
    ) -> Result<Target<'p>, Refusal> {
        let whole = uri.path_and_query().map_or("/", PathAndQuery::as_str);
        path::check(whole).map_err(|bad| Refusal::new(Reason::BadPath).detail(bad.to_string()))?;
        let (role, outside, rest) = match path::external(whole) {
            Some(external) => (external.role, external.base, external.rest),
            None => (named_role(fields)?, "", whole),
        };
        let unknown = |what: String| Refusal::new(Reason::UnknownRole).detail(what);
        let Some(endpoints) = self.0.get(&role) else {
            return Err(unknown(format!("role {role} is not published here")));
        };
        let found = endpoints
            .iter()
            .position(|endpoint| path::strip_prefix(rest, &endpoint.name).is_some());
        let Some(endpoint) = found else {
            let what = format!("role {role} publishes no endpoint for this path");
            return Err(unknown(what));
        };
        if !endpoints[endpoint].allows(method) {
            let name = &endpoints[endpoint].name;
            let what = format!("{method} is not published for {name} of role {role}");
            return Err(unknown(what));
        }
        Ok(Target {
            role,
            endpoint,
            outside,
            rest,
        })
    }
}

fn named_role(fields: &HeaderMap) -> Result<RoleId, Refusal> {
    let named = fields
        .get(&headers::ROLE)
        .and_then(|value| value.to_str().ok());
    named.and_then(RoleId::parse).ok_or_else(|| {
        let what = "neither the path nor the gateway names a role";
        Refusal::new(Reason::UnknownRole).detail(what)
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_in_result, reason = "tests may panic")]
mod tests {
    use super::*;
    use crate::role::{Kind, endpoints_of};

    fn catalogue() -> Catalogue {
        let mut catalogue = Catalogue::default();
        catalogue.add(RoleId::new(5), endpoints_of(Kind::ManagementPoint));
        catalogue
    }

    fn resolve(method: &str, path: &str, role: Option<&str>) -> Result<(String, String), Reason> {
        let mut fields = HeaderMap::new();
        if let Some(role) = role {
            fields.insert(&headers::ROLE, role.parse().unwrap());
        }
        let uri: Uri = path.parse().unwrap();
        let catalogue = catalogue();
        let method = method.parse().unwrap();
        let target = catalogue
            .resolve(&method, &uri, &fields)
            .map_err(|refusal| refusal.reason)?;
        let name = &catalogue.endpoints(target.role)[target.endpoint].name;
        Ok((name.clone(), target.rest.to_owned()))
    }

    #[test]
    fn the_rest_of_the_path_is_byte_exact_under_both_prefixes_and_at_the_root() {
        let rest = "/sms_MP/.sms_pol?{0E38}.SHA256:AB%2f&x=..";
        let found = Ok(("SMS_MP".to_owned(), rest.to_owned()));
        for base in ["/CCM_Proxy_MutualAuth/5", "/ccm_proxy_SERVERAUTH/5"] {
            assert_eq!(resolve("GET", &format!("{base}{rest}"), None), found);
        }
        assert_eq!(resolve("GET", rest, Some("5")), found);
    }

    #[test]
    fn only_roles_endpoints_and_methods_of_the_own_file_are_forwarded() {
        let unknown = Err(Reason::UnknownRole);
        assert_eq!(
            resolve("GET", "/CCM_Proxy_MutualAuth/6/SMS_MP/x", None),
            unknown
        );
        assert_eq!(
            resolve("GET", "/CCM_Proxy_MutualAuth/5/AdminService/x", None),
            unknown
        );
        assert_eq!(
            resolve("GET", "/CCM_Proxy_MutualAuth/5/SMS_MPx", None),
            unknown
        );
        assert_eq!(
            resolve("DELETE", "/CCM_Proxy_MutualAuth/5/SMS_MP/x", None),
            unknown
        );
        assert_eq!(resolve("GET", "/SMS_MP/x", None), unknown);
        assert_eq!(resolve("GET", "/SMS_MP/x", Some("6")), unknown);
        assert_eq!(resolve("GET", "/CCM_Proxy_MutualAuth/5/", None), unknown);
    }

    #[test]
    fn the_path_rule_is_repeated() {
        let bad = Err(Reason::BadPath);
        for path in ["/SMS_MP/../admin", "/SMS_MP/%2e%2e/admin", "/SMS_MP/a%5cb"] {
            let outside = format!("/CCM_Proxy_MutualAuth/5{path}");
            assert_eq!(resolve("GET", &outside, None), bad, "{path}");
            assert_eq!(resolve("GET", path, Some("5")), bad, "{path}");
        }
    }
}
