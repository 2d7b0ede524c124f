//! The regular expressions of the schema's rules, for both CEL and Rust, which share RE2's syntax.

/// RFC 1123 §2.1, as Kubernetes applies it to labels; the length is limited separately.
pub(super) const DNS_LABEL: &str = "^[a-z0-9]([-a-z0-9]*[a-z0-9])?$";
/// The name of a Secret.
pub(super) const SECRET_NAME: &str = "^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$";
/// A host, or all hosts below one.
pub(super) const HOSTNAME: &str =
    "^([*][.])?([a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?[.])*[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$";
/// An IP address, which is not a valid hostname.
pub(super) const ADDRESS: &str = "^([*][.])?[0-9.]+$";
/// One to four pairs of a number of at most five digits and a unit (GEP-2257).
pub(super) const DURATION: &str = "^([0-9]{1,5}(h|m|s|ms)){1,4}$";
/// A path, possibly with a query or fragment.
pub(super) const PATH: &str = "^/[!-~]*$";
/// A NUL in a path.
pub(super) const NUL: &str = "(?i)(%00|%c0%80)";
/// A dot segment in a path, as far as an affordable regular expression can tell; compiling a route checks more closely.
pub(super) const DOT_SEGMENT: &str = "(?i)(/|%2f|%5c)([.]|%(25)?2e|%c0%ae){1,2}(;|%3b|/|%2f|%5c|$)";
/// An escaped slash or backslash in a path.
pub(super) const ESCAPED_SLASH: &str = "%(2[fF]|5[cC])";
/// RFC 9110 §5.6.2: a token, as names of cookies, header fields and subprotocols are; without the apostrophe, which would
/// end a string in CEL.
pub(super) const TOKEN: &str = "^[-!#$%&*+.^_`|~0-9A-Za-z]+$";
/// RFC 6265 §4.1.1.
pub(super) const COOKIE_PATH: &str = "^/[!-:<-~]*$";
/// An IPv4 or IPv6 network, as far as an affordable regular expression can tell; compiling a route checks more closely.
pub(super) const NETWORK: &str = "^(([0-9]{1,3}[.]){3}[0-9]{1,3}/([0-9]|[12][0-9]|3[0-2])|\
    [0-9a-fA-F:.]*:[0-9a-fA-F:.]*/([0-9]|[1-9][0-9]|1[01][0-9]|12[0-8]))$";
/// What no value of a header field has (RFC 9110 §5.5): a space at either end, or what is not visible ASCII.
pub(super) const NOT_IN_HEADER_VALUE: &str = "^ | $|[^ -~]";
