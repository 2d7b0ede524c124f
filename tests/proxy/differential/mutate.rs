//! Handshakes that no client should send: a valid one, with changes.

use proptest::{
    prelude::*,
    sample::{Index, select},
};

use crate::support::{HOST, KEY};

/// A placeholder for a session token issued by the proxy.
pub(super) const TOKEN: &str = "@token@";

/// A head, in the parts that mutations change.
#[derive(Clone, Debug)]
struct Draft {
    before: &'static str,
    method: String,
    target: String,
    version: String,
    lines: Vec<DraftLine>,
}

#[derive(Clone, Debug)]
struct DraftLine {
    name: Vec<u8>,
    between: Vec<u8>,
    value: Vec<u8>,
    end: &'static str,
}

/// One change to a head.
#[derive(Clone, Debug)]
enum Mutation {
    Before(&'static str),
    Method(&'static str),
    Target(String),
    Version(&'static str),
    Insert(Index, &'static str, String),
    Remove(Index),
    Duplicate(Index),
    Swap(Index, Index),
    Rename(Index, &'static str),
    Value(Index, String),
    Case(Index, u32),
    Punctuation(Index, u8),
    Between(Index, &'static str),
    Byte(Index, Index, u8),
    LineEnd(Index, &'static str),
    Many(usize, &'static str, &'static str),
    Long(Index, usize),
}

/// Names that a proxy treats specially, and others; like the other lists, in a few lines separated by `¦`.
const NAMES: [&str; 8] = [
    "Host¦Upgrade¦Connection¦Sec-WebSocket-Version¦Sec-WebSocket-Key¦Sec-WebSocket-Protocol¦",
    "Sec-WebSocket-Extensions¦Sec-WebSocket-Accept¦Cookie¦Origin¦TE¦Trailer¦Keep-Alive¦Proxy¦Proxy-Connection¦",
    "Proxy-Authorization¦HTTP2-Settings¦Content-Length¦Transfer-Encoding¦Expect¦Accept¦Authorization¦X-Private¦",
    "X-Token_2¦Date¦Set-Cookie¦Forwarded¦X-Forwarded-For¦X-Forwarded-Proto¦X-Forwarded-Host¦X-Forwarded-Port¦",
    "X-Forwarded-Ssl¦X-Forwarded-Prefix¦X-Forwarded¦X-Real-IP¦X_Real_IP¦X_Forwarded_For¦X-Forwarded_For¦",
    "X.Forwarded.For¦X-Scheme¦X-Url-Scheme¦X-Original-URL¦X-Rewrite-URL¦X-Original-Host¦True-Client-IP¦",
    "Front-End-Https¦CF-Connecting-IP¦Client-Cert¦X-Client-IP¦X-Envoy-External-Address¦Content_Length¦",
    "Transfer_Encoding¦Sec_WebSocket_Key¦X-Cluster-Client-IP",
];

/// Values that are significant in some field.
const VALUES: [&str; 9] = [
    "¦1¦a, b¦0¦5¦00¦+5¦5, 5¦chunked¦gzip, chunked¦identity¦100-continue¦trailers¦websocket¦WebSocket¦h2c¦",
    "h2c, websocket¦websocket/13¦,,websocket,¦Upgrade¦upgrade, close¦keep-alive, Upgrade¦close¦",
    "Upgrade, X-Private, X-Token_2¦Upgrade, Host, Cookie¦Upgrade, Sec-WebSocket-Key, Sec-WebSocket-Version¦",
    "Upgrade, X-Forwarded-For, X-Real-IP, Forwarded¦Upgrade, Content-Length, Transfer-Encoding¦",
    "Upgrade, é, X-Private¦13¦8¦13, 8¦AQIDBAUGBwgJCgsMDQ4PEC==¦dGhlIHNhbXBsZSBub25jZQ¦chat, superchat¦",
    r#"permessage-deflate¦sticky=forged¦a=1; sticky=@token@; b=2¦sticky="@token@"¦sticky=x; sticky=@token@¦"#,
    r#"a=1;;sticky =x¦evil¦evil, evil¦203.0.113.9, evil¦éevil, 127.0.0.1¦for=evil;proto=https¦for="evil¦https¦"#,
    "https, http¦chat.example.com:8080¦CHAT.example.com.¦other.example.com¦[::1]¦a b¦a@b¦chat.example.com:99999¦",
    "chat.example.com, evil¦public.example.com:8443",
];

/// Targets in all forms, and invalid ones.
const TARGETS: [&str; 6] = [
    "/¦/ws¦/admin¦/admin/x¦//admin¦/%61dmin¦/admin%2Fx¦/admin%2fx¦/%2Fadmin¦/adminx¦/pub/../admin¦/pub/./x¦",
    r#"/pub/%2e%2e/admin¦/pub/..;/admin¦/pub/%252e%252e/admin¦/pub/%c0%ae/x¦/a?x="<>`|{}¦/a"b¦/a<b>`c¦/a|b{c}^d¦/a\b¦"#,
    r"/a?b\c¦/?¦?x=1¦¦*¦a¦a/b¦/a#b¦/a?b#c¦#¦/é¦/a?é¦/%¦/%zz¦/a%00b¦/admin;x¦/a;b=c/d¦/a?u=http://b/c¦",
    r#"/a?u=http://b/"c¦http://chat.example.com¦http://chat.example.com/admin¦http://chat.example.com?x=1¦"#,
    r#"http://chat.example.com?x="1¦HTTP://chat.example.com/a?"b¦http://other.example.com/¦ftp://a/¦"#,
    "http://a@chat.example.com/¦http:///a¦chat.example.com:80",
];

/// One of the values in these lines.
fn one_of(lines: &'static [&'static str]) -> impl Strategy<Value = &'static str> {
    select(lines.iter().flat_map(|line| line.split_terminator('¦')).collect::<Vec<_>>())
}

fn text() -> impl Strategy<Value = String> {
    prop_oneof![4 => one_of(&VALUES).prop_map(str::to_owned), 1 => "[ -~\t\u{e9}]{0,12}"]
}

fn target() -> impl Strategy<Value = String> {
    let piece =
        select(vec!["/", "admin", ".", "..", "%2e", "%2F", "%25", ";", "?", "a", "%41", "//", "\"", "`", "\\", "&"]);
    prop_oneof![
        3 => one_of(&TARGETS).prop_map(str::to_owned),
        1 => prop::collection::vec(piece, 0..6).prop_map(|pieces| format!("/{}", pieces.concat())),
        1 => "/[!-~]{0,10}",
    ]
}

fn mutation() -> impl Strategy<Value = Mutation> {
    let line = any::<Index>;
    prop_oneof![
        1 => select(vec!["\r\n", "\n", "\r\n\r\n", " "]).prop_map(Mutation::Before),
        1 => select(vec!["POST", "HEAD", "get", "TRACE", "CONNECT", "OPTIONS", "G@T", "GET "]).prop_map(Mutation::Method),
        5 => target().prop_map(Mutation::Target),
        1 => select(vec!["HTTP/1.0", "HTTP/2.0", "HTTP/1.2", "http/1.1", "", " HTTP/1.1"]).prop_map(Mutation::Version),
        8 => (line(), one_of(&NAMES), text()).prop_map(|(at, name, value)| Mutation::Insert(at, name, value)),
        1 => line().prop_map(Mutation::Remove),
        2 => line().prop_map(Mutation::Duplicate),
        2 => (line(), line()).prop_map(|(one, other)| Mutation::Swap(one, other)),
        1 => (line(), one_of(&NAMES)).prop_map(|(at, name)| Mutation::Rename(at, name)),
        3 => (line(), text()).prop_map(|(at, value)| Mutation::Value(at, value)),
        2 => (line(), any::<u32>()).prop_map(|(at, mask)| Mutation::Case(at, mask)),
        2 => (line(), select(b"_.~!|^`'*+".to_vec())).prop_map(|(at, byte)| Mutation::Punctuation(at, byte)),
        1 => (line(), select(vec![":", ":  ", ":\t", " : ", ": \t ", "", ":\r\n ", "=", "::"]))
            .prop_map(|(at, between)| Mutation::Between(at, between)),
        1 => (line(), line(), any::<u8>()).prop_map(|(at, place, byte)| Mutation::Byte(at, place, byte)),
        1 => (line(), select(vec!["\n", "\r", " \r\n", "\t\r\n", "\r\n ", "\r\n\t", "\r\n\r\n", "", "\n\r\n"]))
            .prop_map(|(at, end)| Mutation::LineEnd(at, end)),
        1 => (1_usize..110, one_of(&NAMES), select(vec!["1", "evil"]))
            .prop_map(|(count, name, value)| Mutation::Many(count, name, value)),
        1 => (line(), select(vec![10, 500, 5000, 40_000])).prop_map(|(at, length)| Mutation::Long(at, length)),
    ]
}

impl Draft {
    fn good() -> Self {
        let line = |name: &str, value: &str| DraftLine {
            name: name.into(),
            between: b": ".to_vec(),
            value: value.into(),
            end: "\r\n",
        };
        let lines = vec![
            line("Host", HOST),
            line("Upgrade", "websocket"),
            line("Connection", "Upgrade"),
            line("Sec-WebSocket-Version", "13"),
            line("Sec-WebSocket-Key", KEY),
            line("X-Private", "1"),
        ];
        Self { before: "", method: "GET".into(), target: "/ws".into(), version: "HTTP/1.1".into(), lines }
    }

    fn apply(&mut self, mutation: Mutation) {
        match mutation {
            Mutation::Before(before) => self.before = before,
            Mutation::Method(method) => self.method = method.into(),
            Mutation::Target(target) => self.target = target,
            Mutation::Version(version) => self.version = version.into(),
            Mutation::Insert(at, name, value) => self.insert(at.index(self.lines.len() + 1), name, value.as_bytes()),
            Mutation::Many(count, name, value) => {
                (0..count).for_each(|_| self.insert(self.lines.len(), name, value.as_bytes()));
            }
            _ if self.lines.is_empty() => {}
            Mutation::Remove(at) => drop(self.lines.remove(at.index(self.lines.len()))),
            Mutation::Duplicate(at) => self.lines.push(self.lines[at.index(self.lines.len())].clone()),
            Mutation::Swap(one, other) => {
                let count = self.lines.len();
                self.lines.swap(one.index(count), other.index(count));
            }
            mutation => self.apply_to_line(mutation),
        }
    }

    fn insert(&mut self, at: usize, name: &str, value: &[u8]) {
        let line = DraftLine { name: name.into(), between: b": ".to_vec(), value: value.to_vec(), end: "\r\n" };
        self.lines.insert(at, line);
    }

    fn apply_to_line(&mut self, mutation: Mutation) {
        let count = self.lines.len();
        match mutation {
            Mutation::Rename(at, name) => self.lines[at.index(count)].name = name.into(),
            Mutation::Value(at, value) => self.lines[at.index(count)].value = value.into(),
            Mutation::Case(at, mask) => {
                for (index, byte) in self.lines[at.index(count)].name.iter_mut().enumerate() {
                    *byte ^= if byte.is_ascii_alphabetic() && mask >> (index % 32) & 1 == 1 { 0x20 } else { 0 };
                }
            }
            Mutation::Punctuation(at, with) => {
                for byte in &mut self.lines[at.index(count)].name {
                    *byte = if *byte == b'-' { with } else { *byte };
                }
            }
            Mutation::Between(at, between) => self.lines[at.index(count)].between = between.into(),
            Mutation::Byte(at, place, byte) => {
                let line = &mut self.lines[at.index(count)];
                let place = place.index(line.name.len() + line.value.len() + 2);
                match place.checked_sub(line.name.len() + 1) {
                    Some(place) => line.value.insert(place, byte),
                    None => line.name.insert(place, byte),
                }
            }
            Mutation::LineEnd(at, end) => self.lines[at.index(count)].end = end,
            Mutation::Long(at, length) => self.lines[at.index(count)].value.extend(std::iter::repeat_n(b'x', length)),
            _ => unreachable!("handled for the whole head"),
        }
    }

    /// The head as sent. Always terminated, so that nobody waits for the rest of it.
    fn bytes(&self) -> Vec<u8> {
        let first = format!("{}{} {} {}\r\n", self.before, self.method, self.target, self.version);
        let mut bytes = first.into_bytes();
        for DraftLine { name, between, value, end } in &self.lines {
            bytes.extend([name, between, value, end.as_bytes()].concat());
        }
        bytes.extend(b"\r\n\r\n");
        bytes
    }
}

/// The bytes of a head, and where to cut it.
pub(super) fn heads() -> impl Strategy<Value = (Vec<u8>, Index)> {
    (prop::collection::vec(mutation(), 0..5), any::<Index>()).prop_map(|(mutations, cut)| {
        let mut draft = Draft::good();
        for mutation in mutations {
            draft.apply(mutation);
        }
        (draft.bytes(), cut)
    })
}
