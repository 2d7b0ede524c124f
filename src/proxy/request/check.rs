//! Checks of every request before it is routed.

use http::{
    Method, Uri, Version,
    header::{CONNECTION, HOST, TRANSFER_ENCODING},
};

use super::refusal::Refusal;
use crate::{
    proxy::fields::{Fields, visible},
    table::NormalPath,
};

/// The maximum length of a head in bytes.
pub(crate) const MAX_HEAD: usize = 64 * 1024;
/// The maximum number of fields in a head.
pub(crate) const MAX_FIELDS: usize = 100;
/// The maximum length of a target in bytes, as in hyper and the `http` crate.
pub(crate) const MAX_TARGET: usize = 65_534;
/// The maximum number of options in `Connection`. Each is looked up once, so this bounds the cost of a head.
const MAX_CONNECTION_OPTIONS: usize = 64;

/// The parts of a target as sent (RFC 9112 §3.2).
#[derive(Clone, Copy, Debug)]
pub(crate) struct TargetParts<'a> {
    /// Present in the absolute form.
    pub scheme: Option<&'a str>,
    /// Present in the absolute form; the only part of the authority form.
    pub authority: Option<&'a str>,
    /// The path and query.
    pub path_and_query: &'a str,
}

impl<'a> From<&'a Uri> for TargetParts<'a> {
    fn from(uri: &'a Uri) -> Self {
        Self {
            scheme: uri.scheme_str(),
            authority: uri.authority().map(http::uri::Authority::as_str),
            path_and_query: uri.path_and_query().map_or("/", http::uri::PathAndQuery::as_str),
        }
    }
}

/// The target of a request that has been checked.
#[derive(Debug)]
pub(crate) struct Target<'a> {
    /// The host and port; absent if an HTTP/1.0 request names none.
    pub authority: Option<String>,
    /// Whether the authority is part of the target, which takes precedence over `Host`.
    pub is_absolute: bool,
    /// The path and query as sent.
    pub path_and_query: &'a str,
    /// The path for matching.
    pub path: NormalPath<'a>,
}

/// Checks a request's method, framing and target.
pub(crate) fn check<'a>(
    method: &Method,
    version: Version,
    target: TargetParts<'a>,
    fields: &impl Fields,
) -> Result<Target<'a>, Refusal> {
    match *method {
        Method::CONNECT => return Err(Refusal::Connect),
        Method::TRACE => return Err(Refusal::Trace),
        _ => {}
    }
    check_coding(version, fields)?;
    if fields.tokens(&CONNECTION).nth(MAX_CONNECTION_OPTIONS).is_some() {
        return Err(Refusal::ConnectionOptions);
    }
    let TargetParts { scheme, authority, path_and_query } = target;
    let is_absolute = match (scheme, authority) {
        (None, None) => false,
        (Some(scheme), Some(_)) if ["http", "https"].iter().any(|known| scheme.eq_ignore_ascii_case(known)) => true,
        (Some(_), Some(_)) => return Err(Refusal::Scheme),
        _ => return Err(Refusal::MalformedTarget),
    };
    let authority = self::authority(version, authority, fields)?;
    // After an authority, an empty path is the same as `/` (RFC 9110 §4.2.3).
    let path = path_and_query.split('?').next().filter(|path| !path.is_empty()).unwrap_or("/");
    Ok(Target { authority, is_absolute, path_and_query, path: NormalPath::parse(path)? })
}

/// The target's authority takes precedence, but Host is still required (RFC 9112 §3.2.2), except in HTTP/1.0.
fn authority(version: Version, of_target: Option<&str>, fields: &impl Fields) -> Result<Option<String>, Refusal> {
    match host(fields) {
        Ok(host) => Ok(Some(of_target.unwrap_or(host).to_owned())),
        Err(Refusal::NoHost) if version == Version::HTTP_10 => Ok(of_target.map(str::to_owned)),
        Err(refusal) => Err(refusal),
    }
}

fn host(fields: &impl Fields) -> Result<&str, Refusal> {
    let mut hosts = fields.lines(&HOST);
    let host = hosts.next().ok_or(Refusal::NoHost)?;
    if hosts.next().is_some() {
        return Err(Refusal::RepeatedHost);
    }
    visible(host).ok_or(Refusal::MalformedHost)
}

/// Allows a single `chunked` and nothing else (RFC 9112 §6.1): the proxy and the backend might interpret any other
/// coding differently.
fn check_coding(version: Version, fields: &impl Fields) -> Result<(), Refusal> {
    let mut codings = fields.lines(&TRANSFER_ENCODING);
    match (codings.next(), codings.next()) {
        (None, _) => Ok(()),
        (Some(coding), None) if version == Version::HTTP_11 && coding.eq_ignore_ascii_case(b"chunked") => Ok(()),
        _ => Err(Refusal::TransferCoding),
    }
}

#[cfg(test)]
mod tests {
    use http::Request;

    use super::*;

    fn checked(method: Method, target: &str, fields: &[(&str, &str)]) -> Result<Option<String>, Refusal> {
        checked_in(Version::HTTP_11, method, target, fields)
    }

    fn checked_in(
        version: Version,
        method: Method,
        target: &str,
        fields: &[(&str, &str)],
    ) -> Result<Option<String>, Refusal> {
        let mut request = Request::builder().method(method).uri(target);
        for (name, value) in fields {
            request = request.header(*name, *value);
        }
        let request = request.body(()).unwrap();
        check(request.method(), version, request.uri().into(), request.headers()).map(|target| target.authority)
    }

    #[test]
    fn the_authority_is_that_of_the_target_else_of_host() {
        let get = |target, fields: &[(&str, &str)]| checked(Method::GET, target, fields);
        assert_eq!(get("/", &[("host", "a.example:80")]), Ok(Some("a.example:80".into())));
        assert_eq!(get("http://b.example/", &[("host", "a.example")]), Ok(Some("b.example".into())));
        assert_eq!(get("http://b.example/", &[]), Err(Refusal::NoHost));
        assert_eq!(get("/", &[]), Err(Refusal::NoHost));
        assert_eq!(get("/", &[("host", "a"), ("host", "a")]), Err(Refusal::RepeatedHost));
        assert_eq!(get("a.example:80", &[("host", "a")]), Err(Refusal::MalformedTarget));
    }

    #[test]
    fn requests_in_an_older_version_need_not_name_a_host() {
        let get = |target, fields: &[(&str, &str)]| checked_in(Version::HTTP_10, Method::GET, target, fields);
        assert_eq!(get("/", &[]), Ok(None));
        assert_eq!(get("/", &[("host", "a")]), Ok(Some("a".into())));
        assert_eq!(get("http://b.example/", &[]), Ok(Some("b.example".into())));
        assert_eq!(get("/", &[("host", "a"), ("host", "a")]), Err(Refusal::RepeatedHost));
    }

    #[test]
    fn methods_and_schemes_that_are_not_for_a_reverse_proxy_are_refused() {
        let host = &[("host", "a")];
        assert_eq!(checked(Method::CONNECT, "a.example:80", host), Err(Refusal::Connect));
        assert_eq!(checked(Method::TRACE, "/", host), Err(Refusal::Trace));
        for target in ["ftp://a/", "ws://a/", "gopher://a/"] {
            assert_eq!(checked(Method::GET, target, host), Err(Refusal::Scheme), "{target}");
        }
        assert!(checked(Method::GET, "HTTPS://a/", host).is_ok());
    }

    #[test]
    fn the_number_of_connection_options_is_limited() {
        let named =
            |count: usize| checked(Method::GET, "/", &[("host", "a"), ("connection", &vec!["z"; count].join(","))]);
        assert!(named(MAX_CONNECTION_OPTIONS).is_ok());
        assert_eq!(named(MAX_CONNECTION_OPTIONS + 1), Err(Refusal::ConnectionOptions));
        let lines = vec![("connection", "z"); MAX_CONNECTION_OPTIONS + 1];
        assert_eq!(
            checked(Method::GET, "/", &[&[("host", "a")], &lines[..]].concat()),
            Err(Refusal::ConnectionOptions)
        );
    }

    #[test]
    fn only_the_path_of_a_target_is_normalised() {
        let uri: Uri = "/%61//b?x=//../%61".parse().unwrap();
        let fields = http::HeaderMap::from_iter([(HOST, "a".parse().unwrap())]);
        let target = check(&Method::GET, Version::HTTP_11, (&uri).into(), &fields).unwrap();
        assert_eq!((target.path.as_str(), target.path_and_query), ("/a/b", "/%61//b?x=//../%61"));
        let uri: Uri = "http://a?x".parse().unwrap();
        assert_eq!(check(&Method::GET, Version::HTTP_11, (&uri).into(), &fields).unwrap().path.as_str(), "/");
        let uri: Uri = "/a/../b".parse().unwrap();
        let refused = check(&Method::GET, Version::HTTP_11, (&uri).into(), &fields).map(|_| ());
        assert_eq!(refused, Err(Refusal::AmbiguousPath(crate::table::AmbiguousPath)));
    }

    #[test]
    fn one_chunked_is_the_only_coding() {
        let get = |codings: &[&str]| {
            let mut fields = vec![("host", "a")];
            fields.extend(codings.iter().map(|coding| ("transfer-encoding", *coding)));
            checked(Method::POST, "/", &fields)
        };
        assert!(get(&["Chunked"]).is_ok());
        for codings in [&["gzip, chunked"][..], &["chunked, chunked"], &["chunked", "chunked"], &["identity"], &[""]] {
            assert_eq!(get(codings), Err(Refusal::TransferCoding), "{codings:?}");
        }
    }
}
