//! Post-processing of the generated schema.

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::{
    JSON, JSONSchemaProps, JSONSchemaPropsOrArray, JSONSchemaPropsOrBool,
};
use serde_json::Value;

use super::status;

/// Finishes the schema of the whole object.
pub(super) fn finish(root: &mut JSONSchemaProps) {
    tidy(root);
    let Some(status) = root.properties.as_mut().and_then(|fields| fields.get_mut("status")) else { return };
    // The derive turns serde's defaults into schema defaults; a stored default would hide that no status was written
    // yet.
    for field in status.properties.iter_mut().flat_map(|fields| fields.values_mut()) {
        field.default = None;
    }
    status.default = Some(JSON(status::pending()));
}

/// Undoes what the derive generates for `Option`, recursively.
///
/// An optional field need not be nullable: the API server drops a `null` that the schema does not allow before it
/// validates. As generated, `null` would be stored, and CEL's `has` would find it.
fn tidy(schema: &mut JSONSchemaProps) {
    schema.nullable = None;
    schema.title = None;
    if let Some(values) = schema.enum_.as_mut() {
        values.retain(|JSON(value)| *value != Value::Null);
    }
    for field in schema.properties.iter_mut().flat_map(|fields| fields.values_mut()) {
        tidy(field);
    }
    match schema.items.as_mut() {
        Some(JSONSchemaPropsOrArray::Schema(items)) => tidy(items),
        Some(JSONSchemaPropsOrArray::Schemas(items)) => items.iter_mut().for_each(tidy),
        None => {}
    }
    if let Some(JSONSchemaPropsOrBool::Schema(values)) = schema.additional_properties.as_mut() {
        tidy(values);
    }
}
