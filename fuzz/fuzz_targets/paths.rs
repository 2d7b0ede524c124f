//! Paths of requests: however a common backend interprets an accepted path, the result stays below the matched prefix.
#![no_main]

#[allow(dead_code)]
#[rustfmt::skip]
#[path = "../../src/table/expression.rs"]
mod expression;
#[allow(dead_code)]
#[rustfmt::skip]
#[path = "../../src/table/normal_path.rs"]
mod normal_path;
#[allow(dead_code)]
#[rustfmt::skip]
#[path = "../../src/table/path.rs"]
mod path;

mod backends;

use expression::Expression;
use libfuzzer_sys::fuzz_target;
use normal_path::NormalPath;
use path::{PathMap, PathPattern};

fuzz_target!(|input: &[u8]| {
    let Ok(sent) = str::from_utf8(input) else { return };
    // Only valid paths of a head.
    if !sent.starts_with('/') || sent.bytes().any(|byte| byte <= b' ' || matches!(byte, b'?' | b'#' | 0x7f)) {
        return;
    }
    let Ok(normal) = NormalPath::parse(sent) else { return };
    assert_eq!(
        NormalPath::parse(normal.as_str()).map(|again| again.as_str().to_owned()),
        Ok(normal.as_str().to_owned())
    );
    let text = normal.as_str();
    let ends = sent.match_indices('/').map(|(slash, _)| slash).chain([sent.len()]);
    for prefix in ends.filter(|end| *end > 0).map(|end| &sent[..end]) {
        let PathPattern::Prefix(pattern) = PathPattern::prefix(prefix) else { unreachable!("it is a prefix") };
        let mut map = PathMap::default();
        *map.entry_of_prefix(&pattern) = ();
        assert_eq!(map.prefixes(text).count(), 1, "{prefix} covers {text}");
        for (name, backend) in backends::ALL {
            let (seen, below) = (backend(sent.as_bytes()), backend(prefix.as_bytes()));
            assert!(
                seen.starts_with(&below),
                "{name} leaves {prefix}: {sent} is {:?}",
                seen.iter().map(|segment| String::from_utf8_lossy(segment)).collect::<Vec<_>>()
            );
        }
    }
});
