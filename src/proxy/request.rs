//! What is checked of every request before it is routed.

use http::{
    Method, Uri, Version,
    header::{HOST, TRANSFER_ENCODING},
};

use super::{
    error::Refusal,
    fields::{Fields, visible},
};

/// Checks a request's framing and target, and gives the authority that it is for.
pub(super) fn check(method: &Method, version: Version, uri: &Uri, fields: &impl Fields) -> Result<String, Refusal> {
    if *method == Method::CONNECT {
        return Err(Refusal::Connect);
    }
    check_coding(version, fields)?;
    let host = host(fields);
    // The target's authority wins, but a Host there must still be (RFC 9112 §3.2.2); HTTP/1.0 has none.
    let authority = match (uri.scheme(), uri.authority()) {
        (Some(_), Some(authority)) => match host {
            Err(Refusal::NoHost) if version == Version::HTTP_10 => authority.to_string(),
            host => host.map(|_| authority.to_string())?,
        },
        (None, Some(_)) => return Err(Refusal::MalformedTarget),
        _ => host?.to_owned(),
    };
    check_path(uri.path())?;
    Ok(authority)
}

fn host(fields: &impl Fields) -> Result<&str, Refusal> {
    let mut hosts = fields.lines(&HOST);
    let host = hosts.next().ok_or(Refusal::NoHost)?;
    if hosts.next().is_some() {
        return Err(Refusal::RepeatedHost);
    }
    visible(host).ok_or(Refusal::MalformedHost)
}

/// One `chunked` and nothing else (RFC 9112 §6.1): any other coding is one that we and the backend may read
/// differently.
fn check_coding(version: Version, fields: &impl Fields) -> Result<(), Refusal> {
    let mut codings = fields.lines(&TRANSFER_ENCODING);
    match (codings.next(), codings.next()) {
        (None, _) => Ok(()),
        (Some(coding), None) if version == Version::HTTP_11 && coding.eq_ignore_ascii_case(b"chunked") => Ok(()),
        _ => Err(Refusal::TransferCoding),
    }
}

/// Refuses what a backend may read as another path than the one that was routed.
fn check_path(path: &str) -> Result<(), Refusal> {
    let ambiguous = |escape: &[u8]| {
        let escape: [u8; 2] = [escape[0].to_ascii_lowercase(), escape[1].to_ascii_lowercase()];
        matches!(&escape, b"2f" | b"5c" | b"00")
    };
    let bytes = path.as_bytes();
    let escapes = bytes.windows(3).filter(|window| window[0] == b'%');
    let mut escapes = escapes.map(|window| &window[1..]);
    if escapes.any(ambiguous) || bytes.contains(&b'\\') || bytes.contains(&0) {
        return Err(Refusal::AmbiguousPath);
    }
    if path.split('/').any(is_dots) { Err(Refusal::AmbiguousPath) } else { Ok(()) }
}

/// `.` or `..`, each dot as such or as `%2e`.
fn is_dots(segment: &str) -> bool {
    let undotted = |rest: &'_ str| -> Option<usize> {
        match rest.as_bytes() {
            [b'.', ..] => Some(1),
            [b'%', b'2', b'e' | b'E', ..] => Some(3),
            _ => None,
        }
    };
    let Some(first) = undotted(segment) else { return false };
    let rest = &segment[first..];
    rest.is_empty() || undotted(rest).is_some_and(|second| second == rest.len())
}

#[cfg(test)]
mod tests {
    use http::Request;
    use proptest::prelude::*;

    use super::*;

    fn checked(method: Method, target: &str, fields: &[(&str, &str)]) -> Result<String, Refusal> {
        let mut request = Request::builder().method(method).uri(target);
        for (name, value) in fields {
            request = request.header(*name, *value);
        }
        let request = request.body(()).unwrap();
        check(request.method(), request.version(), request.uri(), request.headers())
    }

    #[test]
    fn the_authority_is_that_of_the_target_else_of_host() {
        let get = |target, fields: &[(&str, &str)]| checked(Method::GET, target, fields);
        assert_eq!(get("/", &[("host", "a.example:80")]).unwrap(), "a.example:80");
        assert_eq!(get("http://b.example/", &[("host", "a.example")]).unwrap(), "b.example");
        assert_eq!(get("http://b.example/", &[]), Err(Refusal::NoHost));
        assert_eq!(get("/", &[]), Err(Refusal::NoHost));
        assert_eq!(get("/", &[("host", "a"), ("host", "a")]), Err(Refusal::RepeatedHost));
        assert_eq!(get("a.example:80", &[("host", "a")]), Err(Refusal::MalformedTarget));
        assert_eq!(checked(Method::CONNECT, "a.example:80", &[("host", "a")]), Err(Refusal::Connect));
    }

    #[test]
    fn ambiguous_paths_are_refused() {
        let bad = [
            "/.",
            "/..",
            "/a/../b",
            "/a/./b",
            "/%2e",
            "/%2E%2e/x",
            "/.%2e",
            "/%2e.",
            "/a%2fb",
            "/a%5Cb",
            "/a%00",
            "/%2F",
            "/a\\b",
        ];
        for path in bad {
            assert_eq!(check_path(path), Err(Refusal::AmbiguousPath), "{path}");
        }
        for path in
            ["/", "//", "/...", "/a.b", "/.well-known/x", "/%2e%2e%2e", "/..a", "/%25", "/%", "/%2", "*", "/a%2eb"]
        {
            assert_eq!(check_path(path), Ok(()), "{path}");
        }
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

    proptest! {
        #[test]
        fn no_path_makes_the_check_panic(path in "\\PC{0,40}") {
            let _ = check_path(&path);
        }
    }
}
