//! Watches the condition `Programmed`, for benchmarks, without polling or repeated requests.

use futures::StreamExt;
use kube::{
    Api, Client,
    runtime::watcher::{self, Event, watcher},
};
use switchyard::api::WebSocketRoute;
use tokio::sync::{mpsc, oneshot};

/// The routes reported as programmed, by name, each with the generation, on each change of their status from now on.
pub async fn programmed(client: &Client, namespace: &str) -> mpsc::UnboundedReceiver<(String, i64)> {
    let (sender, receiver) = mpsc::unbounded_channel();
    let api = Api::<WebSocketRoute>::namespaced(client.clone(), namespace);
    let (listed, listing) = oneshot::channel();
    super::spawn(async move {
        let (mut events, mut listed) = (watcher(api, watcher::Config::default()).boxed(), Some(listed));
        while let Some(event) = events.next().await {
            match event.expect("the API server is running") {
                Event::Apply(route) => drop(generation(&route).map(|told| sender.send(told))),
                Event::InitDone => drop(listed.take().map(|listed| listed.send(()))),
                _ => {}
            }
        }
    });
    listing.await.expect("there is a list");
    receiver
}

fn generation(route: &WebSocketRoute) -> Option<(String, i64)> {
    let conditions = &route.status.as_ref()?.conditions;
    let programmed = conditions.iter().find(|one| one.type_ == "Programmed" && one.status == "True")?;
    Some((route.metadata.name.clone()?, programmed.observed_generation?))
}
