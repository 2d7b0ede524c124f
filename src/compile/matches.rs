//! The matches of a rule, read as claims.

use http::HeaderName;

use crate::{
    api::{Chosen, ConditionReason, HeaderMatch, PathMatch, QueryParamMatch, RouteMatch},
    choices::{Choice, PathMatchType, TextMatchType},
    table::{AmbiguousPath, Conditions, Expression, NormalPath, PathPattern, TextPattern, ValueCondition, ValueSource},
};

use super::verdict;

/// Why a match could not be read.
pub(super) struct UnreadableMatch {
    /// The field, below the match.
    pub(super) field: String,
    pub(super) reason: ConditionReason,
    pub(super) message: String,
}

/// The claims of those matches that can be read, each with the position of its match.
pub(super) fn claimed(matches: &[RouteMatch]) -> Vec<(usize, Conditions)> {
    read_all(matches).into_iter().filter_map(|(position, read)| Some((position, read.ok()?))).collect()
}

/// What each match claims, with its position.
pub(super) fn read_all(matches: &[RouteMatch]) -> Vec<(usize, Result<Conditions, UnreadableMatch>)> {
    match matches {
        [] => vec![(0, read(&RouteMatch::default()))],
        matches => matches.iter().map(read).enumerate().collect(),
    }
}

fn read(RouteMatch { path, headers, query_params, subprotocols }: &RouteMatch) -> Result<Conditions, UnreadableMatch> {
    let path = path.as_ref().map_or_else(|| Ok(PathPattern::prefix("/")), read_path)?;
    let headers = headers.iter().enumerate().map(|(position, header)| {
        read_header(header).map_err(|unclear| unclear.below(&format!("headers[{position}]")))
    });
    let parameters = query_params.iter().enumerate().map(|(position, parameter)| {
        read_parameter(parameter).map_err(|unclear| unclear.below(&format!("queryParams[{position}]")))
    });
    let values = headers.chain(parameters).collect::<Result<Vec<_>, _>>()?;
    let subprotocols = subprotocols.iter().map(|subprotocol| subprotocol.as_str().into());
    Ok(Conditions::new(path).with_values(values).with_subprotocols(subprotocols))
}

fn read_path(PathMatch { type_, value }: &PathMatch) -> Result<PathPattern, UnreadableMatch> {
    let read = |type_| match type_ {
        PathMatchType::PathPrefix => checked(value).map(PathPattern::prefix),
        PathMatchType::Exact => checked(value).map(PathPattern::exact),
        PathMatchType::RegularExpression => expression(value).map(PathPattern::Expression),
    };
    chosen(Some(type_)).and_then(read).map_err(|unclear| unclear.below("path"))
}

/// Checks that a request can have this path. The regular expressions of the schema do not reject everything.
fn checked(value: &str) -> Result<&str, UnreadableMatch> {
    let is_visible = |byte: u8| byte.is_ascii_graphic() && !matches!(byte, b'?' | b'#');
    if !value.starts_with('/') || !value.bytes().all(is_visible) {
        return Err(UnreadableMatch::invalid("value", format!("must be a path, got {value:?}")));
    }
    let normal = NormalPath::parse(value);
    normal
        .map(|_| value)
        .map_err(|AmbiguousPath| UnreadableMatch::invalid("value", format!("{AmbiguousPath}, got {value:?}")))
}

fn read_header(HeaderMatch { name, type_, value }: &HeaderMatch) -> Result<ValueCondition, UnreadableMatch> {
    let name = HeaderName::from_bytes(name.as_bytes());
    let name = name.map_err(|_| UnreadableMatch::invalid("name", "must be the name of a header field".into()))?;
    Ok(ValueCondition { source: ValueSource::Header(name), text: read_text(type_.as_ref(), value)? })
}

fn read_parameter(QueryParamMatch { name, type_, value }: &QueryParamMatch) -> Result<ValueCondition, UnreadableMatch> {
    let source = ValueSource::QueryParameter(name.as_str().into());
    Ok(ValueCondition { source, text: read_text(type_.as_ref(), value)? })
}

fn read_text(type_: Option<&Chosen<TextMatchType>>, value: &str) -> Result<TextPattern, UnreadableMatch> {
    match chosen(type_)? {
        TextMatchType::Exact => Ok(TextPattern::Exact(value.into())),
        TextMatchType::RegularExpression => expression(value).map(TextPattern::Expression),
    }
}

fn expression(value: &str) -> Result<Expression, UnreadableMatch> {
    Expression::parse(value).map_err(|error| UnreadableMatch::invalid("value", error.to_string()))
}

fn chosen<T: Choice>(written: Option<&Chosen<T>>) -> Result<T, UnreadableMatch> {
    Chosen::or_default(written).map_err(|value| UnreadableMatch {
        field: "type".into(),
        reason: ConditionReason::UnsupportedValue,
        message: verdict::unsupported(value),
    })
}

impl UnreadableMatch {
    fn invalid(field: &str, message: String) -> Self {
        Self { field: field.into(), reason: ConditionReason::Invalid, message }
    }

    /// The same for a field within another.
    fn below(self, parent: &str) -> Self {
        Self { field: format!("{parent}.{}", self.field), ..self }
    }
}
