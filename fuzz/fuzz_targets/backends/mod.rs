//! How common backends read a path, in simple code: each returns the segments of what it serves.

type Segments = Vec<Vec<u8>>;
type Backend = fn(&[u8]) -> Segments;

pub const ALL: [(&str, Backend); 9] = [
    ("no decoding", clean),
    ("Go, nginx: decoded once", |path| clean(&decode(path))),
    ("Node: resolved, then decoded and resolved again", |path| clean(&decode(&join(&clean(path))))),
    ("Tomcat: parameters removed, then decoded", |path| clean(&backslashes(&decode(&without_parameters(path))))),
    ("decoded, then parameters removed", |path| clean(&without_parameters(&decode(path)))),
    ("decoded twice, with backslashes", |path| clean(&backslashes(&decode(&decode(path))))),
    ("WHATWG URL", url),
    ("WHATWG URL, decoded before", |path| url(&decode(path))),
    ("overlong UTF-8", |path| clean(&shortened(&decode(path)))),
];

/// Resolves dot segments and drops empty ones.
fn clean(path: &[u8]) -> Segments {
    resolve(path, |segment| segment.to_vec())
}

fn resolve(path: &[u8], read: impl Fn(&[u8]) -> Vec<u8>) -> Segments {
    let mut segments = Vec::new();
    for segment in path.split(|byte| *byte == b'/') {
        match &read(segment)[..] {
            b"" | b"." => {}
            b".." => drop(segments.pop()),
            _ => segments.push(segment.to_vec()),
        }
    }
    segments
}

fn join(segments: &[Vec<u8>]) -> Vec<u8> {
    segments.iter().flat_map(|segment| [b"/", &segment[..]].concat()).collect()
}

fn decode(path: &[u8]) -> Vec<u8> {
    let mut decoded = Vec::new();
    let mut index = 0;
    while index < path.len() {
        let digits = path.get(index + 1..index + 3).and_then(|digits| str::from_utf8(digits).ok());
        let digits = digits.filter(|digits| digits.bytes().all(|byte| byte.is_ascii_hexdigit()));
        match digits.and_then(|digits| u8::from_str_radix(digits, 16).ok()).filter(|_| path[index] == b'%') {
            Some(byte) => {
                decoded.push(byte);
                index += 3;
            }
            None => {
                decoded.push(path[index]);
                index += 1;
            }
        }
    }
    decoded
}

fn without_parameters(path: &[u8]) -> Vec<u8> {
    let segments = path.split(|byte| *byte == b'/');
    let names = segments.map(|segment| segment.split(|byte| *byte == b';').next().unwrap_or_default());
    names.collect::<Vec<_>>().join(&b'/')
}

fn backslashes(path: &[u8]) -> Vec<u8> {
    path.iter().map(|byte| if *byte == b'\\' { b'/' } else { *byte }).collect()
}

/// The path state of <https://url.spec.whatwg.org/#path-state>: tabs and line ends are removed before it.
fn url(text: &[u8]) -> Segments {
    let text: Vec<u8> = text.iter().copied().filter(|byte| !b"\t\n\r".contains(byte)).collect();
    let path = text.split(|byte| b"?#".contains(byte)).next().unwrap_or_default();
    let dots = |segment: &[u8]| match &segment.to_ascii_lowercase()[..] {
        b"%2e" => b".".to_vec(),
        b".%2e" | b"%2e." | b"%2e%2e" => b"..".to_vec(),
        _ => segment.to_vec(),
    };
    resolve(&backslashes(path), dots)
}

/// Decodes two and three bytes of UTF-8 without rejecting overlong forms.
fn shortened(path: &[u8]) -> Vec<u8> {
    let mut short = Vec::new();
    let mut rest = path;
    while let [first, behind @ ..] = rest {
        let (byte, used) = match *rest {
            [0xc0 | 0xc1, second @ 0x80..=0xbf, ..] => (first << 6 | second & 0x3f, 2),
            [0xe0, second @ 0x80..=0x81, third @ 0x80..=0xbf, ..] => (second << 6 | third & 0x3f, 3),
            _ => (*first, 1),
        };
        short.push(byte);
        rest = &behind[used - 1..];
    }
    short
}
