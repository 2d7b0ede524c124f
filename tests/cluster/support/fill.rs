//! Many objects at once, for benchmarks.

use futures::{StreamExt, TryStreamExt, stream};
use kube::{Api, Client, api::PostParams, core::NamespaceResourceScope};
use serde_json::Value;

const AT_ONCE: usize = 16;

/// Creates objects of one kind; panics if the API server rejects one.
pub async fn create<K>(client: &Client, namespace: &str, objects: impl Iterator<Item = Value>)
where
    K: kube::Resource<DynamicType = (), Scope = NamespaceResourceScope>
        + serde::de::DeserializeOwned
        + serde::Serialize
        + Clone
        + std::fmt::Debug,
{
    let api = Api::<K>::namespaced(client.clone(), namespace);
    let params = PostParams::default();
    let created = stream::iter(objects).map(|object| {
        let (api, params) = (&api, &params);
        async move { api.create(params, &serde_json::from_value(object).expect("it is a valid object")).await }
    });
    created.buffer_unordered(AT_ONCE).try_for_each(|_| async { Ok(()) }).await.expect("the API server accepts it");
}
