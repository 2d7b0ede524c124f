//! Reads what reaches a backend, with a parser that tolerates nothing (RFC 9112) and with one that folds names (CGI).

/// A request head that follows every rule.
#[derive(Debug)]
pub(super) struct StrictHead {
    pub(super) method: String,
    pub(super) target: Vec<u8>,
    /// Names in lower case.
    pub(super) fields: Vec<(String, Vec<u8>)>,
}

/// Fields that must not be repeated.
const SINGLE: [&str; 8] = [
    "connection",
    "content-length",
    "host",
    "transfer-encoding",
    "upgrade",
    "x-forwarded-for",
    "x-forwarded-proto",
    "forwarded",
];

/// Fields that backends trust as set by a proxy, as listed in `docs/`; all of `x-forwarded-*` belongs here too.
const TRUSTED: [&str; 18] = [
    "cf-connecting-ip",
    "client-cert",
    "client-cert-chain",
    "fastly-client-ip",
    "forwarded",
    "front-end-https",
    "true-client-ip",
    "x-client-ip",
    "x-cluster-client-ip",
    "x-envoy-external-address",
    "x-forwarded",
    "x-original-forwarded-for",
    "x-original-host",
    "x-original-url",
    "x-real-ip",
    "x-rewrite-url",
    "x-scheme",
    "x-url-scheme",
];

/// Fields of the connection and of the handshake, which nothing may imitate.
const OURS: [&str; 7] = [
    "content-length",
    "transfer-encoding",
    "sec-websocket-key",
    "sec-websocket-version",
    "sec-websocket-protocol",
    "sec-websocket-extensions",
    "proxy-authorization",
];

impl StrictHead {
    /// Parses a head, including its empty line.
    pub(super) fn parse(head: &[u8]) -> Result<Self, String> {
        let text = head.strip_suffix(b"\r\n\r\n").ok_or("no empty line at the end")?;
        let mut lines = split_lines(text).into_iter();
        let first = lines.next().ok_or("no first line")?;
        let [method, target, version] = first.split(|byte| *byte == b' ').collect::<Vec<_>>()[..] else {
            return Err(format!("first line {:?}", String::from_utf8_lossy(first)));
        };
        if method.is_empty() || !method.iter().copied().all(is_token) || version != b"HTTP/1.1" {
            return Err(format!("first line {:?}", String::from_utf8_lossy(first)));
        }
        if target.is_empty() || target.iter().any(|byte| *byte <= b' ' || matches!(byte, b'#' | 0x7f)) {
            return Err(format!("target {:?}", String::from_utf8_lossy(target)));
        }
        let fields = lines.map(field).collect::<Result<Vec<_>, _>>()?;
        let head = Self { method: String::from_utf8_lossy(method).into_owned(), target: target.to_vec(), fields };
        head.check()?;
        Ok(head)
    }

    /// The values of a field.
    pub(super) fn all(&self, name: &str) -> Vec<&[u8]> {
        self.fields.iter().filter(|(there, _)| there == name).map(|(_, value)| &value[..]).collect()
    }

    fn check(&self) -> Result<(), String> {
        for name in SINGLE {
            if self.all(name).len() > 1 {
                return Err(format!("{name} is repeated"));
            }
        }
        if self.all("host").len() != 1 || self.all("host")[0].is_empty() {
            return Err("Host is missing or empty".into());
        }
        let lengths = self.all("content-length");
        if lengths.iter().any(|length| length.is_empty() || !length.iter().all(u8::is_ascii_digit)) {
            return Err("Content-Length is not a number".into());
        }
        if self.all("transfer-encoding").iter().any(|coding| *coding != b"chunked") {
            return Err("Transfer-Encoding is not chunked".into());
        }
        if lengths.len() + self.all("transfer-encoding").len() > 1 {
            return Err("the body is framed in two ways".into());
        }
        self.check_handshake()
    }

    /// Checks that an upgrade is as specified in RFC 6455 §4.1, and has no body.
    fn check_handshake(&self) -> Result<(), String> {
        if self.all("upgrade").is_empty() {
            return Ok(());
        }
        let expected = [("upgrade", "websocket"), ("connection", "Upgrade"), ("sec-websocket-version", "13")];
        let is_whole = expected.iter().all(|(name, value)| self.all(name) == [value.as_bytes()]);
        let is_framed = ["content-length", "transfer-encoding", "expect", "trailer", "te"];
        let is_framed = is_framed.iter().any(|name| !self.all(name).is_empty());
        if !is_whole || is_framed || self.method != "GET" || self.all("sec-websocket-key").len() != 1 {
            return Err("not a handshake of RFC 6455".into());
        }
        Ok(())
    }

    /// Checks that nothing that a client sent, marked with `evil`, has a name that backends trust, however they fold
    /// it. A trusted proxy may use those names, but not others that look the same.
    pub(super) fn check_folded(&self, is_trusted: bool) -> Result<(), String> {
        for (name, value) in &self.fields {
            let folded = fold(name);
            let is_named = |known: &&str| fold(known) == folded;
            let trusted = TRUSTED.iter().any(is_named) || folded.starts_with("X_FORWARDED_");
            let is_plain = name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-');
            if (trusted || OURS.iter().any(is_named)) && !is_plain {
                return Err(format!("{name} imitates another field"));
            }
            if trusted && !is_trusted && value.windows(4).any(|window| window == b"evil") {
                return Err(format!("{name} is the client's own"));
            }
        }
        Ok(())
    }
}

/// The variable into which CGI turns a name (RFC 3875 §4.1.18).
fn fold(name: &str) -> String {
    name.chars().map(|char| if char.is_ascii_alphanumeric() { char.to_ascii_uppercase() } else { '_' }).collect()
}

fn split_lines(text: &[u8]) -> Vec<&[u8]> {
    let mut lines = Vec::new();
    let mut rest = text;
    while let Some(end) = rest.windows(2).position(|window| window == b"\r\n") {
        lines.push(&rest[..end]);
        rest = &rest[end + 2..];
    }
    lines.push(rest);
    lines
}

fn field(line: &[u8]) -> Result<(String, Vec<u8>), String> {
    let wrong = || format!("field line {:?}", String::from_utf8_lossy(line));
    let colon = line.iter().position(|byte| *byte == b':').ok_or_else(wrong)?;
    let (name, value) = (&line[..colon], line[colon + 1..].trim_ascii());
    if name.is_empty() || !name.iter().copied().all(is_token) || !value.iter().copied().all(is_value) {
        return Err(wrong());
    }
    Ok((String::from_utf8_lossy(name).to_ascii_lowercase(), value.to_vec()))
}

/// RFC 9110 §5.6.2.
fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

/// RFC 9110 §5.5.
fn is_value(byte: u8) -> bool {
    matches!(byte, b'\t' | b' '..=b'~' | 0x80..)
}

#[test]
fn the_strict_parser_takes_a_good_head_and_nothing_else() {
    let good = "GET /a?b HTTP/1.1\r\nHost: a\r\nX_B: \u{e9}\r\n\r\n";
    assert!(StrictHead::parse(good.as_bytes()).unwrap().check_folded(false).is_ok());
    let changes = [
        (" HTTP/1.1", " HTTP/1.0"),
        ("GET ", "GET  "),
        ("a\r\n", "a\n"),
        ("a\r\n", "a\r"),
        ("a\r\n", "a\r\n b\r\n"),
        ("a\r\n", "a\r\nHost: a\r\n"),
        ("Host", "Hos"),
        ("Host:", "Host :"),
        ("X_B: ", "Content-Length: 5\r\nTransfer-Encoding: chunked\r\nX: "),
        ("X_B: ", "Upgrade: websocket\r\nX: "),
        ("/a?b", "/a\u{1}"),
    ];
    for (from, to) in changes {
        let head = good.replacen(from, to, 1);
        assert!(StrictHead::parse(head.as_bytes()).is_err(), "{head:?}");
    }
    for (name, trusted) in
        [("X_Real-IP", false), ("X-Forwarded_Any", false), ("Content_Length", false), ("X-Real-IP", true)]
    {
        let head = good.replace("X_B: \u{e9}", &format!("{name}: evil"));
        let head = StrictHead::parse(head.as_bytes()).unwrap();
        assert!(head.check_folded(false).is_err(), "{name}");
        assert_eq!(head.check_folded(true).is_ok(), trusted, "{name}");
    }
}
