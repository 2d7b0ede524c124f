//! The fields of a head (RFC 9110 §5), in either of two forms: hyper's map, or the lines of a head as received. A proxy
//! treats fields in the same way in both.

pub(crate) mod protected;

use std::borrow::Cow;

use http::{HeaderMap, HeaderName, HeaderValue};

/// Fields that can be read and changed, however they are stored. Names are case-insensitive.
pub(crate) trait Fields {
    /// The values of a field, one for each line.
    fn lines<'a>(&'a self, name: &'a HeaderName) -> impl Iterator<Item = &'a [u8]>;

    /// Removes all lines of a field.
    fn remove(&mut self, name: &HeaderName);

    /// Keeps the lines whose names `keep` accepts, in any case. It is called at least once for each name.
    fn retain(&mut self, keep: impl FnMut(&str) -> bool);

    /// Adds a line, unless the value contains control characters, which are not allowed.
    fn add(&mut self, name: HeaderName, value: impl Into<Cow<'static, [u8]>>);

    /// Makes this the only line of a field, in place of the first existing one. If the value contains control
    /// characters, only removes the field.
    fn set(&mut self, name: HeaderName, value: impl Into<Cow<'static, [u8]>>);

    /// Whether the field is present.
    fn has(&self, name: &HeaderName) -> bool {
        self.lines(name).next().is_some()
    }

    /// The value of a field that occurs exactly once.
    fn only<'a>(&'a self, name: &'a HeaderName) -> Option<&'a [u8]> {
        let mut lines = self.lines(name);
        let first = lines.next()?;
        lines.next().is_none().then_some(first)
    }

    /// The elements of a list field. Skips elements that are not visible ASCII, without affecting others, and empty
    /// ones (RFC 9110 §5.6.1.2).
    fn tokens<'a>(&'a self, name: &'a HeaderName) -> impl Iterator<Item = &'a str> {
        let elements = self.lines(name).flat_map(|line| line.split(|byte| *byte == b','));
        elements.map(<[u8]>::trim_ascii).filter(|element| !element.is_empty()).filter_map(visible)
    }

    /// Whether a list field has an element, in any case. A version (`websocket/13`) does not count.
    fn has_token(&self, name: &HeaderName, token: &str) -> bool {
        self.tokens(name).any(|there| there.eq_ignore_ascii_case(token))
    }
}

/// Where the empty line after a head ends.
pub(crate) fn end_of_head(bytes: &[u8]) -> Option<usize> {
    let mut lines = 0;
    loop {
        lines += bytes[lines..].iter().position(|byte| *byte == b'\n')? + 1;
        match &bytes[lines..] {
            [b'\n', ..] => return Some(lines + 1),
            [b'\r', b'\n', ..] => return Some(lines + 2),
            _ => {}
        }
    }
}

/// The text of a value if it is visible ASCII, like [`HeaderValue::to_str`].
pub(crate) fn visible(value: &[u8]) -> Option<&str> {
    let is_visible = value.iter().all(|byte| matches!(byte, b' '..=b'~' | b'\t'));
    if is_visible { str::from_utf8(value).ok() } else { None }
}

impl Fields for HeaderMap {
    fn lines<'a>(&'a self, name: &'a HeaderName) -> impl Iterator<Item = &'a [u8]> {
        self.get_all(name).iter().map(HeaderValue::as_bytes)
    }

    fn remove(&mut self, name: &HeaderName) {
        HeaderMap::remove(self, name);
    }

    fn retain(&mut self, mut keep: impl FnMut(&str) -> bool) {
        let unwanted: Vec<HeaderName> = self.keys().filter(|name| !keep(name.as_str())).cloned().collect();
        for name in unwanted {
            HeaderMap::remove(self, name);
        }
    }

    fn add(&mut self, name: HeaderName, value: impl Into<Cow<'static, [u8]>>) {
        if let Ok(value) = HeaderValue::from_bytes(&value.into()) {
            self.append(name, value);
        }
    }

    fn set(&mut self, name: HeaderName, value: impl Into<Cow<'static, [u8]>>) {
        match HeaderValue::from_bytes(&value.into()) {
            Ok(value) => drop(self.insert(name, value)),
            Err(_) => drop(HeaderMap::remove(self, name)),
        }
    }

    fn has(&self, name: &HeaderName) -> bool {
        self.contains_key(name)
    }
}

/// The lines of a head as received, in order and with the case of their names; added lines come last.
#[derive(Debug, Default)]
pub(crate) struct Lines<'a>(Vec<Line<'a>>);

#[derive(Debug)]
struct Line<'a> {
    name: Name<'a>,
    value: Cow<'a, [u8]>,
}

#[derive(Debug)]
enum Name<'a> {
    Sent(&'a str),
    Ours(HeaderName),
}

impl Name<'_> {
    fn as_str(&self) -> &str {
        match self {
            Self::Sent(sent) => sent,
            Self::Ours(ours) => ours.as_str(),
        }
    }
}

impl Line<'_> {
    /// Whether the line has this name, which must be in lower case. Called many times for each head, and rarely true.
    #[inline]
    fn is(&self, name: &str) -> bool {
        let own = self.name.as_str();
        own.len() == name.len() && own.eq_ignore_ascii_case(name)
    }
}

impl<'a> Lines<'a> {
    /// The fields found by a parser.
    pub(crate) fn new(parsed: &[httparse::Header<'a>]) -> Self {
        // Room for the fields that a proxy adds.
        let mut lines = Vec::with_capacity(parsed.len() + 8);
        lines.extend(parsed.iter().map(|field| Line { name: Name::Sent(field.name), value: field.value.into() }));
        Self(lines)
    }

    /// Writes them after a first line, and ends the head.
    pub(crate) fn write(&self, head: &mut Vec<u8>) {
        for Line { name, value } in &self.0 {
            match name {
                Name::Sent(name) => head.extend_from_slice(name.as_bytes()),
                Name::Ours(name) => push_title_case(head, name.as_str()),
            }
            head.extend_from_slice(b": ");
            head.extend_from_slice(value);
            head.extend_from_slice(b"\r\n");
        }
        head.extend_from_slice(b"\r\n");
    }
}

impl Lines<'_> {
    /// Converts them to a map, whose names are in lower case, and to the names as sent.
    pub(crate) fn into_map(self) -> (HeaderMap, NameCases) {
        let (mut map, mut cases) = (HeaderMap::with_capacity(self.0.len()), Vec::new());
        for Line { name, value } in self.0 {
            let parsed = HeaderName::from_bytes(name.as_str().as_bytes());
            let (Ok(parsed), Ok(value)) = (parsed, HeaderValue::from_bytes(&value)) else { continue };
            map.append(parsed, value);
            if let Name::Sent(sent) = name {
                cases.push(sent.into());
            }
        }
        (map, NameCases(cases))
    }
}

/// Field names in the case in which they were sent.
#[derive(Clone, Debug, Default)]
pub(crate) struct NameCases(Vec<Box<str>>);

impl NameCases {
    /// Writes a name as it was sent, or else as the RFCs spell it.
    fn push(&self, head: &mut Vec<u8>, name: &str) {
        match self.0.iter().find(|sent| sent.eq_ignore_ascii_case(name)) {
            Some(sent) => head.extend_from_slice(sent.as_bytes()),
            None => push_title_case(head, name),
        }
    }

    /// Writes the lines of a map.
    pub(crate) fn write(&self, head: &mut Vec<u8>, fields: &HeaderMap) {
        for (name, value) in fields {
            self.push(head, name.as_str());
            for part in [b": ", value.as_bytes(), b"\r\n"] {
                head.extend_from_slice(part);
            }
        }
    }
}

/// Whether [`HeaderValue::from_bytes`] accepts a value.
fn is_value(value: &[u8]) -> bool {
    value.iter().all(|byte| matches!(byte, b'\t' | b' '..=b'~' | 0x80..))
}

/// Writes the name of an added field as the RFCs spell it.
fn push_title_case(head: &mut Vec<u8>, name: &str) {
    let rest = name.strip_prefix("sec-websocket-");
    if rest.is_some() {
        head.extend_from_slice(b"Sec-WebSocket-");
    }
    let mut starts = true;
    for byte in rest.unwrap_or(name).bytes() {
        head.push(if starts { byte.to_ascii_uppercase() } else { byte });
        starts = byte == b'-';
    }
}

impl Fields for Lines<'_> {
    fn lines<'a>(&'a self, name: &'a HeaderName) -> impl Iterator<Item = &'a [u8]> {
        let name = name.as_str();
        self.0.iter().filter(move |line| line.is(name)).map(|line| &*line.value)
    }

    fn remove(&mut self, name: &HeaderName) {
        let name = name.as_str();
        self.0.retain(|line| !line.is(name));
    }

    fn retain(&mut self, mut keep: impl FnMut(&str) -> bool) {
        self.0.retain(|line| keep(line.name.as_str()));
    }

    fn add(&mut self, name: HeaderName, value: impl Into<Cow<'static, [u8]>>) {
        let value = value.into();
        if is_value(&value) {
            self.0.push(Line { name: Name::Ours(name), value });
        }
    }

    fn set(&mut self, name: HeaderName, value: impl Into<Cow<'static, [u8]>>) {
        let Some(first) = self.0.iter().position(|line| line.is(name.as_str())) else { return self.add(name, value) };
        let value = value.into();
        if !is_value(&value) {
            return self.remove(&name);
        }
        self.0[first].value = value;
        let mut index = 0..;
        self.0.retain(|line| index.next() <= Some(first) || !line.is(name.as_str()));
    }
}

#[cfg(test)]
mod tests {
    use http::header::{ACCEPT, COOKIE, HOST, SEC_WEBSOCKET_ACCEPT, UPGRADE};
    use proptest::prelude::*;

    use super::*;

    fn lines<'a>(fields: &[(&'a str, &'a str)]) -> Lines<'a> {
        let fields = fields.iter().map(|(name, value)| httparse::Header { name, value: value.as_bytes() });
        Lines::new(&fields.collect::<Vec<_>>())
    }

    fn written(lines: &Lines<'_>) -> String {
        let mut head = Vec::new();
        lines.write(&mut head);
        String::from_utf8(head).unwrap()
    }

    #[test]
    fn a_head_ends_with_an_empty_line() {
        assert_eq!(end_of_head(b"HTTP/1.1 101 x\r\nA: b\r\n\r\nframes"), Some(24));
        assert_eq!(end_of_head(b"HTTP/1.1 101 x\nA: b\n\nframes"), Some(21));
        for part in [&b""[..], b"HTTP/1.1 101 x\r\n", b"HTTP/1.1 101 x\r\n\r"] {
            assert_eq!(end_of_head(part), None);
        }
    }

    #[test]
    fn lines_stay_as_received_and_added_ones_come_last() {
        let mut fields = lines(&[("hOsT", "a"), ("X-B", "1"), ("x-b", "2"), ("Accept", "*/*")]);
        fields.set(HOST, b"b");
        fields.remove(&ACCEPT);
        fields.add(UPGRADE, b"websocket");
        fields.add(SEC_WEBSOCKET_ACCEPT, b"x");
        let head = "hOsT: b\r\nX-B: 1\r\nx-b: 2\r\nUpgrade: websocket\r\nSec-WebSocket-Accept: x\r\n\r\n";
        assert_eq!(written(&fields), head);
    }

    #[test]
    fn no_value_adds_a_second_line() {
        for value in [&b"a\r\nX-Evil: 1"[..], b"a\nb", b"\0", b"\x7f"] {
            let mut fields = lines(&[("Cookie", "a=1")]);
            fields.add(UPGRADE, value.to_vec());
            fields.set(COOKIE, value.to_vec());
            assert_eq!(written(&fields), "\r\n", "{value:?}");
        }
    }

    #[test]
    fn a_bad_byte_invalidates_only_its_element() {
        let mut map = HeaderMap::new();
        map.append(ACCEPT, HeaderValue::from_bytes(b"a, \xff, b").unwrap());
        assert!(map.tokens(&ACCEPT).eq(["a", "b"]));
    }

    #[derive(Clone, Debug)]
    enum FieldChange {
        Add(&'static str, &'static str),
        Set(&'static str, &'static str),
        Remove(&'static str),
        Retain(&'static str),
    }

    fn change() -> impl Strategy<Value = FieldChange> {
        let name = || prop::sample::select(vec!["host", "cookie", "x-a", "accept"]);
        let value = || prop::sample::select(vec!["", "1", "a, B", "\u{e9}", "a\nb"]);
        prop_oneof![
            (name(), value()).prop_map(|(name, value)| FieldChange::Add(name, value)),
            (name(), value()).prop_map(|(name, value)| FieldChange::Set(name, value)),
            name().prop_map(FieldChange::Remove),
            name().prop_map(FieldChange::Retain),
        ]
    }

    fn apply(fields: &mut impl Fields, change: &FieldChange) {
        let name = |name: &'static str| HeaderName::from_static(name);
        match change {
            FieldChange::Add(field, value) => fields.add(name(field), value.as_bytes()),
            FieldChange::Set(field, value) => fields.set(name(field), value.as_bytes()),
            FieldChange::Remove(field) => fields.remove(&name(field)),
            FieldChange::Retain(field) => fields.retain(|name| !name.eq_ignore_ascii_case(field)),
        }
    }

    proptest! {
        #[test]
        fn both_forms_hold_the_same_after_the_same_changes(
            sent in prop::collection::vec((prop::sample::select(vec!["Host", "COOKIE", "x-A", "Accept"]), "[ -~]{0,6}"), 0..6),
            changes in prop::collection::vec(change(), 0..8),
        ) {
            let sent: Vec<_> = sent.iter().map(|(name, value)| (*name, value.as_str())).collect();
            let mut map = HeaderMap::new();
            for (name, value) in &sent {
                map.append(name.parse::<HeaderName>().unwrap(), HeaderValue::from_str(value).unwrap());
            }
            let mut lines = lines(&sent);
            for change in &changes {
                apply(&mut map, change);
                apply(&mut lines, change);
            }
            for name in ["host", "cookie", "x-a", "accept"].map(HeaderName::from_static) {
                let (ours, theirs): (Vec<_>, Vec<_>) = (lines.lines(&name).collect(), map.lines(&name).collect());
                prop_assert_eq!(ours, theirs, "{}", name);
                prop_assert!(lines.tokens(&name).eq(map.tokens(&name)));
                prop_assert_eq!(lines.has(&name), Fields::has(&map, &name));
                prop_assert_eq!(lines.only(&name), map.only(&name));
            }
        }
    }
}
